//! The effective configuration as TOML.
//!
//! *Invariants*
//! 1. What is written parses back to the same [`Config`], whatever the defaults are.
//! 2. Every key is written, also those that are at their default.

use std::fmt::Write;
use std::time::Duration;

use super::names::Named;
use super::value::{quote, show_duration, show_percent, show_size};
use super::{AccessLog, Breaker, CachePolicy, Concurrency, Config, Lane, Methods, Rate, Route};

impl Config {
    /// The effective configuration as TOML, each key with its value; parses back to `self`.
    ///
    /// Nothing in it is secret: keys come from files, and URLs carry no user info.
    pub fn show(&self) -> String {
        show(self)
    }
}

fn show(config: &Config) -> String {
    let mut page = Page::default();
    front(&mut page, config);
    page.section("cache");
    page.key("max_bytes", &show_size(config.cache.max_bytes.into()));
    policy(&mut page, &config.cache.policy, None);
    middle(&mut page, config);
    for (name, upstream) in &config.upstreams {
        page.section(&format!("upstreams.{name}"));
        page.text("url", upstream.url.to_string().trim_end_matches('/'));
    }
    back(&mut page, config);
    for one in &config.routes {
        route(&mut page, one, &config.cache.policy);
    }
    page.0
}

fn front(page: &mut Page, config: &Config) {
    let listen = &config.listen;
    page.section("listen");
    page.list("address", listen.address.iter());
    page.key("reuse_port", &listen.reuse_port.to_string());
    let handover = listen.handover.as_deref().unwrap_or_else(|| "".as_ref());
    page.text("handover", &handover.to_string_lossy());
    page.text("via", listen.via.as_deref().unwrap_or_default());
    for (key, file) in [
        ("tls_certificate_file", &listen.tls_certificate_file),
        ("tls_key_file", &listen.tls_key_file),
        ("tls_client_ca_file", &listen.tls_client_ca_file),
    ] {
        let file = file.as_deref().unwrap_or_else(|| "".as_ref());
        page.text(key, &file.to_string_lossy());
    }
    page.text("http2", listen.http2.name());
    page.list("trusted", listen.trusted.iter());
    page.key("proxy_protocol", &listen.proxy_protocol.to_string());
    page.key("connections", &listen.connections.to_string());
    page.key("connections_per_peer", &listen.connections_per_peer.to_string());
    page.key("requests", &listen.requests.to_string());
    page.key("connection_requests", &listen.connection_requests.to_string());
    page.duration("connection_age", listen.connection_age);
    page.key("streams", &listen.streams.to_string());
    page.key("control_frames", &listen.control_frames.to_string());
    page.key("target_size", &show_size(listen.target_size.into()));
    page.key("fields", &listen.fields.to_string());
    page.key("head_size", &show_size(listen.head_size.into()));
    page.duration("head", listen.head);
    page.duration("idle", listen.idle);
    page.duration("body", listen.body);
    page.duration("write", listen.write);
    page.section("admin");
    let admin =
        config.admin.address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    page.text("address", &admin);
    let token_file = config.admin.token_file.as_deref().unwrap_or_else(|| "".as_ref());
    page.text("token_file", &token_file.to_string_lossy());
    page.list("hosts", config.admin.hosts.iter());
    page.section("caller");
    let key_file = config.caller.key_file.as_deref().unwrap_or_else(|| "".as_ref());
    page.text("key_file", &key_file.to_string_lossy());
}

fn middle(page: &mut Page, config: &Config) {
    page.section("secrets");
    page.list("names", config.secrets.names.iter());
    page.list("objects", config.secrets.objects.iter());
    let limits = &config.limits;
    page.section("limits");
    page.key("caller", &rate(limits.caller, "off"));
    page.key("caller_upstream", &rate(limits.caller_upstream, "off"));
    page.key("peer", &rate(limits.peer, "off"));
    page.key("lane", &lane(limits.lane));
    page.key("keys", &limits.keys.to_string());
    page.key("request_body", &show_size(limits.request_body.into()));
    let upstream = &config.upstream;
    page.section("upstream");
    page.duration("connect", upstream.connect);
    page.duration("first_byte", upstream.first_byte);
    page.duration("total", upstream.total);
    page.key("max_body", &show_size(upstream.max_body.into()));
    page.key("max_fields", &upstream.max_fields.to_string());
    page.duration("idle", upstream.idle);
    page.duration("age", upstream.age);
    page.key("breaker", &breaker(upstream.breaker));
    page.duration("hold_back", upstream.hold_back);
    page.key("concurrency", &concurrency(upstream.concurrency));
    page.duration("queue", upstream.queue);
    page.key("retries", &show_percent(upstream.retries));
    page.key("max_buffered", &show_size(upstream.max_buffered.into()));
    page.list("allow_plain", upstream.allow_plain.iter());
    let ca_file = upstream.ca_file.as_deref().unwrap_or_else(|| "".as_ref());
    page.text("ca_file", &ca_file.to_string_lossy());
}

fn back(page: &mut Page, config: &Config) {
    let log = &config.log;
    page.section("log");
    page.text("level", log.level.name());
    page.text("format", log.format.name());
    page.text("output", log.output.name());
    page.text("access", &access(log.access));
    page.text("target", log.target.name());
    page.section("shutdown");
    page.duration("delay", config.shutdown.delay);
    page.duration("deadline", config.shutdown.deadline);
}

/// The keys of a policy; beside `[cache]`, only those that differ from it.
fn policy(page: &mut Page, own: &CachePolicy, base: Option<&CachePolicy>) {
    let keys = policy_keys(own);
    let base = base.map(policy_keys);
    for (index, (key, value)) in keys.iter().enumerate() {
        let same =
            base.as_ref().and_then(|base| base.get(index)).is_some_and(|(_, base)| base == value);
        if !same {
            page.key(key, value);
        }
    }
}

fn policy_keys(policy: &CachePolicy) -> [(&'static str, String); 12] {
    let time = |length: Duration| quote(&show_duration(length));
    [
        ("ttl", time(policy.ttl)),
        ("negative_ttl", time(policy.negative_ttl)),
        ("jitter", show_percent(policy.jitter)),
        ("max_ttl", time(policy.max_ttl)),
        ("stale_while_revalidate", time(policy.stale_while_revalidate)),
        ("stale_if_error", time(policy.stale_if_error)),
        ("keep", time(policy.keep)),
        ("store_no_store", policy.store_no_store.to_string()),
        ("request_directives", policy.request_directives.to_string()),
        ("heuristic", policy.heuristic.to_string()),
        ("targeted", list(policy.targeted.iter())),
        ("store_set_cookie", policy.store_set_cookie.to_string()),
    ]
}

fn route(page: &mut Page, route: &Route, base: &CachePolicy) {
    page.section("[routes]");
    page.text("name", &route.name);
    page.text("path", &route.path);
    match &route.methods {
        Methods::Any => page.text("methods", "any"),
        Methods::Listed(listed) => page.list("methods", listed.iter()),
    }
    page.text("upstream", &route.upstream);
    page.text("caller", route.caller.name());
    page.text("forward", route.forward.name());
    let query = route.query.as_ref().map_or_else(|| quote("any"), |names| list(names.iter()));
    page.key("query", &query);
    page.text("family", route.family.as_deref().unwrap_or_default());
    let invalidates = route.invalidates.as_ref().map_or_else(
        || quote("off"),
        |it| format!("{{ member = {}, family = {} }}", quote(&it.member), quote(&it.family)),
    );
    page.key("invalidates", &invalidates);
    page.text("secrets", route.secrets.name());
    page.key("refuse_masked_write", &route.refuse_masked_write.to_string());
    page.key("rate", &rate(route.rate, "limits.caller"));
    match &route.cache {
        None => page.key("cache", "false"),
        Some(own) if own == base => page.key("cache", "true"),
        Some(own) => {
            page.section("routes.cache");
            policy(page, own, Some(base));
        }
    }
}

fn rate(rate: Option<Rate>, none: &str) -> String {
    rate.map_or_else(
        || quote(none),
        |Rate { per_second, burst }| format!("{{ per_second = {per_second}, burst = {burst} }}"),
    )
}

fn lane(lane: Option<Lane>) -> String {
    lane.map_or_else(
        || quote("off"),
        |Lane { in_flight, wait }| {
            format!("{{ in_flight = {in_flight}, wait = \"{}\" }}", show_duration(wait))
        },
    )
}

fn breaker(breaker: Option<Breaker>) -> String {
    breaker.map_or_else(
        || quote("off"),
        |Breaker { failures, of, window, open }| {
            let (failures, window) = (show_percent(failures), show_duration(window));
            let open = show_duration(open);
            format!(
                "{{ failures = {failures}, of = {of}, window = \"{window}\", open = \"{open}\" }}"
            )
        },
    )
}

fn concurrency(bounds: Option<Concurrency>) -> String {
    bounds.map_or_else(
        || quote("off"),
        |Concurrency { least, most }| format!("{{ least = {least}, most = {most} }}"),
    )
}

fn access(access: AccessLog) -> String {
    match access {
        AccessLog::Off => "off".to_owned(),
        AccessLog::All => "all".to_owned(),
        AccessLog::Errors => "errors".to_owned(),
        AccessLog::OneIn(many) => format!("1/{many}"),
    }
}

fn list(items: impl Iterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.map(|item| quote(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

/// The text as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.push(format_args!("{gap}[{name}]\n"));
    }

    /// A key and its value as TOML.
    fn key(&mut self, key: &str, value: &str) {
        self.push(format_args!("{key} = {value}\n"));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, &quote(value));
    }

    fn duration(&mut self, key: &str, value: Duration) {
        self.text(key, &show_duration(value));
    }

    fn list(&mut self, key: &str, items: impl Iterator<Item = impl ToString>) {
        self.key(key, &list(items));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes all that is written to it");
    }
}
