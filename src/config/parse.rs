//! Every key with its reader: the text of a configuration becomes a [`Config`].
//!
//! *Invariants*
//! 1. A key that is left out keeps its default; `[[routes]]`, once given, replace the shipped table.
//! 2. Everything is read and checked before the first mistake is told.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue};

use super::check;
use super::default;
use super::env::Settings;
use super::fault::{ConfigErrors, Fault, Place, Warning};
use super::section::Section;
use super::syntax;
use super::value;
use super::walk::Walk;
use super::{
    Admin, Breaker, Cache, CachePolicy, Caller, Concurrency, Config, Invalidates, Lane, Limits,
    Listen, Log, NamedUpstream, Rate, Route, Secrets, Shutdown, Upstream,
};

/// Reads and checks `text`; `files` checks the files that the configuration names.
pub(super) fn parse(
    file: &str,
    text: &str,
    env: impl IntoIterator<Item = (String, String)>,
    files: impl FnOnce(&Config, &mut Walk<'_>),
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let env: Vec<(String, String)> = env.into_iter().collect();
    let (settings, refused) = Settings::parse(&env);
    let (table, garbled) = DeTable::parse_recoverable(text);
    let mut walk = Walk::new(file, text, &settings);
    for error in &garbled {
        walk.garbled(error);
    }
    for (variable, fault) in refused {
        walk.fault(variable, &Place::Variable(variable.to_owned()), fault);
    }
    if garbled.is_empty() && !table.get_ref().values().any(|value| has_key(value.get_ref())) {
        let remedy = "start from the shipped config.toml; to run on its values, keep one key of it";
        walk.fault("", &Place::File, Fault::new("no key stands in it", remedy));
    }
    let config = config(Section::root(&mut walk, table.get_ref()));
    check::check(&config, &mut walk);
    files(&config, &mut walk);
    walk.end().map(|warnings| (config, warnings))
}

pub(super) fn config(mut root: Section<'_, '_>) -> Config {
    let cache = cache(root.section("cache"));
    let config = Config {
        listen: listen(root.section("listen")),
        admin: admin(root.section("admin")),
        caller: caller(root.section("caller")),
        secrets: secrets(root.section("secrets")),
        limits: limits(root.section("limits")),
        upstream: upstream(root.section("upstream")),
        upstreams: upstreams(root.section("upstreams")),
        log: log(root.section("log")),
        shutdown: shutdown(root.section("shutdown")),
        routes: routes(&mut root, &cache.policy),
        cache,
    };
    root.close();
    config
}

fn listen(mut section: Section<'_, '_>) -> Listen {
    let mut listen = Listen::default();
    section.read("address", &mut listen.address, value::filled(value::list(syntax::address)));
    section.read("reuse_port", &mut listen.reuse_port, value::flag);
    section.read("handover", &mut listen.handover, syntax::path);
    section.read("via", &mut listen.via, syntax::via);
    section.read("tls_certificate_file", &mut listen.tls_certificate_file, syntax::path);
    section.read("tls_key_file", &mut listen.tls_key_file, syntax::path);
    section.read("tls_client_ca_file", &mut listen.tls_client_ca_file, syntax::path);
    section.read("http2", &mut listen.http2, value::choice);
    section.read("trusted", &mut listen.trusted, value::list(syntax::network));
    section.read("proxy_protocol", &mut listen.proxy_protocol, value::flag);
    section.read("connections", &mut listen.connections, value::count(1..=1_000_000));
    section.read(
        "connections_per_peer",
        &mut listen.connections_per_peer,
        value::count(0..=1_000_000),
    );
    section.read("requests", &mut listen.requests, value::count(0..=10_000_000));
    section.read(
        "connection_requests",
        &mut listen.connection_requests,
        value::count(0..=1_000_000_000),
    );
    section.read("connection_age", &mut listen.connection_age, value::wait);
    section.read("streams", &mut listen.streams, value::count(1..=10_000));
    section.read("control_frames", &mut listen.control_frames, value::count(1..=1_000_000));
    section.read("target_size", &mut listen.target_size, value::size(256..=60 * KIB));
    section.read("fields", &mut listen.fields, value::count(10..=10_000));
    section.read("head_size", &mut listen.head_size, value::size(8 * KIB..=1024 * KIB));
    section.read("head", &mut listen.head, value::timeout);
    section.read("idle", &mut listen.idle, value::timeout);
    section.read("body", &mut listen.body, value::timeout);
    section.read("write", &mut listen.write, value::timeout);
    section.close();
    listen
}

fn admin(mut section: Section<'_, '_>) -> Admin {
    let mut admin = Admin::default();
    section.read("address", &mut admin.address, syntax::address_or_off);
    section.read("token_file", &mut admin.token_file, syntax::path);
    section.read("hosts", &mut admin.hosts, value::list(syntax::host));
    section.close();
    admin
}

fn caller(mut section: Section<'_, '_>) -> Caller {
    let mut caller = Caller::default();
    section.read("key_file", &mut caller.key_file, syntax::path);
    section.close();
    caller
}

fn cache(mut section: Section<'_, '_>) -> Cache {
    let mut cache = Cache::default();
    section.read("max_bytes", &mut cache.max_bytes, value::size(0..=TIB));
    policy(&mut section, &mut cache.policy);
    section.close();
    cache
}

/// The keys that `[cache]` and `[routes.cache]` have in common.
fn policy(section: &mut Section<'_, '_>, policy: &mut CachePolicy) {
    section.read("ttl", &mut policy.ttl, value::window);
    section.read("negative_ttl", &mut policy.negative_ttl, value::window);
    section.read("jitter", &mut policy.jitter, value::percent);
    section.read("max_ttl", &mut policy.max_ttl, value::lifetime);
    section.read("stale_while_revalidate", &mut policy.stale_while_revalidate, value::window);
    section.read("stale_if_error", &mut policy.stale_if_error, value::window);
    section.read("keep", &mut policy.keep, value::window);
    section.read("store_no_store", &mut policy.store_no_store, value::flag);
    section.read("request_directives", &mut policy.request_directives, value::flag);
    section.read("heuristic", &mut policy.heuristic, value::flag);
    section.read("targeted", &mut policy.targeted, value::list(syntax::field));
    section.read("store_set_cookie", &mut policy.store_set_cookie, value::flag);
}

fn secrets(mut section: Section<'_, '_>) -> Secrets {
    let mut secrets = Secrets::default();
    section.read("names", &mut secrets.names, value::list(syntax::secret_name));
    section.read("objects", &mut secrets.objects, value::list(syntax::secret_name));
    section.close();
    secrets
}

fn limits(mut section: Section<'_, '_>) -> Limits {
    let mut limits = Limits::default();
    section.group("caller", "off", RATE, &mut limits.caller, rate);
    section.group("caller_upstream", "off", RATE, &mut limits.caller_upstream, rate);
    section.group("peer", "off", RATE, &mut limits.peer, rate);
    section.group("lane", "off", LANE, &mut limits.lane, lane);
    section.read("keys", &mut limits.keys, value::count(1..=10_000_000));
    section.read("request_body", &mut limits.request_body, value::size(0..=GIB));
    section.close();
    limits
}

fn rate(section: &mut Section<'_, '_>) -> Option<Rate> {
    let per_second = section.require("per_second", RATE, value::count(1..=1_000_000));
    let burst = section.require("burst", RATE, value::count(1..=1_000_000));
    Some(Rate { per_second: per_second?, burst: burst? })
}

fn lane(section: &mut Section<'_, '_>) -> Option<Lane> {
    let in_flight = section.require("in_flight", LANE, value::count(1..=1_000_000));
    let wait = section.require("wait", LANE, value::wait);
    Some(Lane { in_flight: in_flight?, wait: wait? })
}

fn upstream(mut section: Section<'_, '_>) -> Upstream {
    let mut upstream = Upstream::default();
    section.read("connect", &mut upstream.connect, value::timeout);
    section.read("first_byte", &mut upstream.first_byte, value::timeout);
    section.read("total", &mut upstream.total, value::timeout);
    section.read("max_body", &mut upstream.max_body, value::size(1..=GIB));
    section.read("max_fields", &mut upstream.max_fields, value::count(1..=4096));
    section.read("idle", &mut upstream.idle, value::timeout);
    section.read("age", &mut upstream.age, value::timeout);
    section.group("breaker", "off", BREAKER, &mut upstream.breaker, breaker);
    section.read("hold_back", &mut upstream.hold_back, value::wait);
    section.group("concurrency", "off", CONCURRENCY, &mut upstream.concurrency, concurrency);
    section.read("queue", &mut upstream.queue, value::wait);
    section.read("retries", &mut upstream.retries, value::share);
    section.read("max_buffered", &mut upstream.max_buffered, value::size(1..=1024 * GIB));
    section.read("allow_plain", &mut upstream.allow_plain, value::list(syntax::label));
    section.read("ca_file", &mut upstream.ca_file, syntax::path);
    section.close();
    upstream
}

fn breaker(section: &mut Section<'_, '_>) -> Option<Breaker> {
    let failures = section.require("failures", BREAKER, value::some_share);
    let of = section.require("of", BREAKER, value::count(1..=1000));
    let window = section.require("window", BREAKER, value::timeout);
    let open = section.require("open", BREAKER, value::timeout);
    Some(Breaker { failures: failures?, of: of?, window: window?, open: open? })
}

fn concurrency(section: &mut Section<'_, '_>) -> Option<Concurrency> {
    let least = section.require("least", CONCURRENCY, value::count(1..=1_000_000))?;
    let most = section.require("most", CONCURRENCY, value::count(1..=1_000_000))?;
    if least > most {
        section.fault(Fault::new(
            format!("least = {least} is above most = {most}"),
            "let least be at most most",
        ));
        return None;
    }
    Some(Concurrency { least, most })
}

/// The shipped upstreams, each replaced by one of its name, and those that are added.
fn upstreams(mut section: Section<'_, '_>) -> BTreeMap<String, NamedUpstream> {
    let mut upstreams = default::upstreams();
    let mut names: BTreeSet<&str> = section.named().into_iter().collect();
    let in_env = section.walk.settings.all();
    names.extend(in_env.filter_map(|(section, _)| section.strip_prefix("upstreams.")));
    for name in names {
        let mut one = section.under(name);
        if !syntax::is_label(name) {
            one.fault(Fault::new("can't name an upstream", format!("write {}", syntax::LABEL)));
        }
        let mut url = upstreams.get(name).map(|shipped| shipped.url.clone());
        if url.is_some() {
            one.read("url", &mut url, |given| syntax::url(given).map(Some));
        } else {
            url = one.require("url", "url = \"https://HOST\"", syntax::url);
        }
        one.close();
        if let Some(url) = url {
            upstreams.insert(name.to_owned(), NamedUpstream { url });
        }
    }
    upstreams
}

fn log(mut section: Section<'_, '_>) -> Log {
    let mut log = Log::default();
    section.read("level", &mut log.level, value::choice);
    section.read("format", &mut log.format, value::choice);
    section.read("output", &mut log.output, value::choice);
    section.read("access", &mut log.access, syntax::access);
    section.read("target", &mut log.target, value::choice);
    section.close();
    log
}

fn shutdown(mut section: Section<'_, '_>) -> Shutdown {
    let mut shutdown = Shutdown::default();
    section.read("delay", &mut shutdown.delay, value::wait);
    section.read("deadline", &mut shutdown.deadline, value::timeout);
    section.close();
    shutdown
}

fn routes(root: &mut Section<'_, '_>, policy: &CachePolicy) -> Vec<Route> {
    let Some(items) = root.tables("routes") else {
        return default::routes(policy);
    };
    let numbered = items.into_iter().zip(1..);
    numbered.map(|(item, number)| route(root.item("routes", number, item), policy)).collect()
}

/// One route. It is kept, with something in place of what is missing, so that the numbers still agree.
fn route(mut section: Section<'_, '_>, policy: &CachePolicy) -> Route {
    let name = section.require("name", "name = \"unit-list\", its label in metrics", syntax::label);
    let path = section.require("path", "path = \"/unit/{unitId}\"", syntax::template);
    let upstream = section.require("upstream", "the name of one of [upstreams]", syntax::label);
    let mut route = Route::new(
        &name.unwrap_or_default(),
        &path.unwrap_or_default(),
        &upstream.unwrap_or_default(),
    );
    section.read("methods", &mut route.methods, syntax::methods);
    section.read("caller", &mut route.caller, value::choice);
    section.read("forward", &mut route.forward, value::choice);
    section.read("query", &mut route.query, syntax::query);
    route.cache = route_cache(&mut section, policy);
    section.read("family", &mut route.family, syntax::label_or_none);
    section.group("invalidates", "off", INVALIDATES, &mut route.invalidates, invalidates);
    section.read("secrets", &mut route.secrets, value::choice);
    section.read("refuse_masked_write", &mut route.refuse_masked_write, value::flag);
    section.group("rate", "limits.caller", RATE, &mut route.rate, rate);
    section.close();
    route
}

/// `cache = true`, as `[cache]` says; `[routes.cache]`, the same but for its keys; else straight upstream.
fn route_cache(section: &mut Section<'_, '_>, policy: &CachePolicy) -> Option<CachePolicy> {
    let given = section.given("cache")?;
    if let Some(mut inner) = section.open(&given) {
        let mut own = policy.clone();
        self::policy(&mut inner, &mut own);
        inner.close();
        return Some(own);
    }
    let Some(cached) = given.value.as_flag() else {
        let wanted = "true (as [cache] says), false, or a table [routes.cache]";
        section.refuse(&given, given.value.unexpected(wanted));
        return None;
    };
    cached.then(|| policy.clone())
}

fn invalidates(section: &mut Section<'_, '_>) -> Option<Invalidates> {
    let member = section.require("member", INVALIDATES, syntax::member);
    let family = section.require("family", INVALIDATES, syntax::label);
    Some(Invalidates { member: member?, family: family? })
}

/// Whether a key with a value stands anywhere in a value.
fn has_key(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(table) => table.values().any(|value| has_key(value.get_ref())),
        DeValue::Array(items) => {
            items.is_empty() || items.iter().any(|value| has_key(value.get_ref()))
        }
        _ => true,
    }
}

const KIB: usize = 1 << 10;
const GIB: usize = 1 << 30;
const TIB: u64 = 1 << 40;
const RATE: &str = "{ per_second = 1000, burst = 2000 }";
const LANE: &str = "{ in_flight = 256, wait = \"2s\" }";
const BREAKER: &str = "{ failures = \"50%\", of = 20, window = \"10s\", open = \"5s\" }";
const CONCURRENCY: &str = "{ least = 50, most = 1000 }";
const INVALIDATES: &str = "{ member = \"unitId\", family = \"calcom\" }";
