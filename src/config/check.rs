//! What must hold between keys, and what is allowed but doubtful.
//!
//! *Invariants*
//! 1. A check that involves a key with a mistake of its own says nothing.
//! 2. Each refusal has a remedy that is a change of the configuration.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{Method, Uri};

use super::fault::Fault;
use super::syntax;
use super::value::{show_duration, show_size};
use super::walk::Walk;
use super::{CallerMode, Config, ForwardMode, Invalidates, Route, SecretsMode};

/// Checks the whole configuration.
pub(super) fn check(config: &Config, walk: &mut Walk<'_>) {
    addresses(config, walk);
    proxies(config, walk);
    deadlines(config, walk);
    buffers(config, walk);
    secrets(config, walk);
    allowed_plain(config, walk);
    unused_upstreams(config, walk);
    for (route, at) in config.routes.iter().zip(1..) {
        let checked = Checked { config, route, at };
        checked.twins(walk);
        checked.upstream(walk);
        checked.open_only(walk);
        checked.cache(walk);
        checked.invalidates(walk);
        checked.revoked(walk);
    }
}

/// A route under check, and its number.
struct Checked<'c> {
    config: &'c Config,
    route: &'c Route,
    at: usize,
}

impl Checked<'_> {
    fn key(&self, key: &str) -> String {
        key_of(self.at, key)
    }

    /// A label names one route, and a path and method lead to one route.
    fn twins(&self, walk: &mut Walk<'_>) {
        for (other, at) in self.config.routes.iter().zip(1..self.at) {
            if other.name == self.route.name {
                let problem = format!("{:?} is the name of an earlier route too", other.name);
                let keys = [self.key("name"), key_of(at, "name")];
                walk.clash(&keys, Fault::new(problem, "give each route a name of its own"));
            }
            let Some(method) = self.route.methods.shared(&other.methods) else { continue };
            if syntax::shape(&other.path) == syntax::shape(&self.route.path) {
                let problem = format!("route {:?} takes {method} of the same path", other.name);
                let keys = [
                    self.key("path"),
                    key_of(at, "path"),
                    self.key("methods"),
                    key_of(at, "methods"),
                ];
                walk.clash(
                    &keys,
                    Fault::new(problem, "leave out one of the two, or let them differ in methods"),
                );
            }
        }
    }

    /// The upstream exists, and no token crosses a network in the clear unless that is allowed by name.
    fn upstream(&self, walk: &mut Walk<'_>) {
        let name = &self.route.upstream;
        let (key, url_key) = (self.key("upstream"), format!("upstreams.{name}.url"));
        let Some(upstream) = self.config.upstreams.get(name) else {
            let known: Vec<&str> = self.config.upstreams.keys().map(String::as_str).collect();
            let remedy = format!(
                "add [upstreams.{name}] with its url, or name one of: {}",
                known.join(", ")
            );
            let fault = Fault::new(format!("there is no upstream {name:?}"), remedy);
            return walk.clash(&[&key, &url_key], fault);
        };
        let plain = upstream.url.scheme_str() == Some("http") && !is_loopback(&upstream.url);
        let allowed = self.config.upstream.allow_plain.contains(name);
        if plain && !allowed && self.route.caller == CallerMode::Token {
            let problem = format!(
                "tokens of route {:?} would cross the network in the clear",
                self.route.name
            );
            let remedy =
                format!("write https://, or allow it by name: [upstream] allow_plain = [{name:?}]");
            walk.clash(
                &[url_key, key, "upstream.allow_plain".to_owned()],
                Fault::new(problem, remedy),
            );
        }
    }

    /// What only a route without tokens may do.
    fn open_only(&self, walk: &mut Walk<'_>) {
        if self.route.caller == CallerMode::Open {
            return;
        }
        let caller = self.key("caller");
        if self.route.forward == ForwardMode::All {
            let remedy = "write forward = \"key\", or caller = \"open\" if nobody needs a token";
            let fault = Fault::new("\"all\" needs caller = \"open\"", remedy);
            walk.clash(&[&self.key("forward"), &caller], fault);
        }
        if self.route.secrets == SecretsMode::Verbatim {
            let remedy = "write secrets = \"mask\", or caller = \"open\" if nobody needs a token";
            let fault = Fault::new("\"verbatim\" needs caller = \"open\"", remedy);
            walk.clash(&[&self.key("secrets"), &caller], fault);
        }
        for key in ["heuristic", "targeted", "store_set_cookie"] {
            let key = self.key(&format!("cache.{key}"));
            if walk.place(&key).is_some() {
                let fault = Fault::new(
                    "has no effect where callers have tokens",
                    "leave it out, or write caller = \"open\"",
                );
                walk.warn(&[&key, &caller], fault);
            }
        }
    }

    /// A cached route has something to cache.
    fn cache(&self, walk: &mut Walk<'_>) {
        let keys = [self.key("cache"), self.key("methods")];
        if self.route.cache.is_none() {
            let family = self.key("family");
            if self.route.family.is_some() {
                let fault = Fault::new(
                    "has no effect on a route that is not cached",
                    "leave it out, or write cache = true",
                );
                walk.warn(&[&family], fault);
            }
        } else if !self.route.methods.contains(&Method::GET) {
            let fault = Fault::new(
                "nothing can be cached without GET",
                "add \"GET\" to methods, or write cache = false",
            );
            walk.clash(&keys, fault);
        }
    }

    /// What a write invalidates exists, and can be found.
    fn invalidates(&self, walk: &mut Walk<'_>) {
        let Some(Invalidates { member, family }) = &self.route.invalidates else {
            return;
        };
        let key = self.key("invalidates");
        if !self.route.methods.write() {
            let fault = Fault::new(
                "has no effect without a method that writes",
                "add one to methods, or leave it out",
            );
            walk.warn(&[&key], fault);
        }
        let mut found = false;
        for (other, at) in self.config.routes.iter().zip(1..) {
            // With a mistake in what makes a route cached, nothing can be said of the family.
            found |= [key_of(at, "family"), key_of(at, "cache")].iter().any(|key| walk.failed(key));
            if other.cache.is_none() || other.family.as_ref() != Some(family) {
                continue;
            }
            found = true;
            if !syntax::parameters(&other.path).any(|name| name == member) {
                let problem = format!(
                    "route {:?} has no {{{member}}}, by which writes of route {:?} find its answers",
                    other.name, self.route.name
                );
                let fault = Fault::new(
                    problem,
                    "name the parameter like the member, or give the route another family",
                );
                walk.warn(&[&key_of(at, "path"), &key], fault);
            }
        }
        if !found {
            let problem = format!("no cached route is of the family {family:?}");
            let fault = Fault::new(
                problem,
                format!("give a cached route family = {family:?}, or write \"off\""),
            );
            walk.clash(&[&key], fault);
        }
    }

    /// A revoked token is not answered for too long.
    fn revoked(&self, walk: &mut Walk<'_>) {
        let Some(policy) = &self.route.cache else {
            return;
        };
        let fresh = policy.ttl.max(policy.max_ttl).saturating_add(policy.stale_while_revalidate);
        let down = fresh.saturating_add(policy.stale_if_error);
        if self.route.caller == CallerMode::Token && (fresh > HOUR || down > DAY) {
            let problem = format!(
                "a revoked token can be answered for {}, {} while the upstream is down",
                show_duration(fresh),
                show_duration(down),
            );
            let own = ["ttl", "max_ttl", "stale_while_revalidate", "stale_if_error"];
            let own = own.map(|key| [self.key(&format!("cache.{key}")), format!("cache.{key}")]);
            let keys: Vec<String> = own.into_iter().flatten().collect();
            walk.warn(&keys, Fault::new(problem, "shorten ttl, max_ttl and the stale windows"));
        }
    }
}

/// Two listeners can't share an address.
fn addresses(config: &Config, walk: &mut Walk<'_>) {
    let listen = &config.listen.address;
    for (index, one) in listen.iter().enumerate() {
        if listen.iter().skip(index.saturating_add(1)).any(|other| collide(*one, *other)) {
            let problem = format!("{one} and another address here are the same socket");
            walk.clash(&["listen.address"], Fault::new(problem, "keep one of the two"));
        }
        if config.admin.address.is_some_and(|admin| collide(*one, admin)) {
            let problem = format!("the public port listens on {one} already");
            let remedy = "give the operators' port a number of its own, or write \"off\"";
            walk.clash(&["admin.address", "listen.address"], Fault::new(problem, remedy));
        }
    }
}

/// Whether the second of two sockets could not be bound; port 0 is any free one.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let port = one.port() == other.port() && one.port() != 0;
    port && one.is_ipv4() == other.is_ipv4() && (any || one.ip() == other.ip())
}

/// A PROXY header is believed from known peers only.
fn proxies(config: &Config, walk: &mut Walk<'_>) {
    if config.listen.proxy_protocol && config.listen.trusted.is_empty() {
        let fault = Fault::new(
            "nobody's PROXY header would be believed",
            "name the load balancers' networks in listen.trusted, or write false",
        );
        walk.clash(&["listen.proxy_protocol", "listen.trusted"], fault);
    }
}

/// A part of a span of time can't be longer than the whole.
fn deadlines(config: &Config, walk: &mut Walk<'_>) {
    let mut within = |part: (&str, Duration), whole: (&str, Duration)| {
        if part.1 > whole.1 {
            let (length, limit) = (show_duration(part.1), show_duration(whole.1));
            let problem = format!("{} ({length}) is longer than {} ({limit})", part.0, whole.0);
            let remedy = format!("lower {} to at most {limit}, or raise {}", part.0, whole.0);
            walk.clash(&[part.0, whole.0], Fault::new(problem, remedy));
        }
    };
    let (upstream, shutdown) = (&config.upstream, &config.shutdown);
    let total = ("upstream.total", upstream.total);
    within(("upstream.first_byte", upstream.first_byte), total);
    within(("shutdown.delay", shutdown.delay), ("shutdown.deadline", shutdown.deadline));
}

/// The largest body fits the memory for all of them.
fn buffers(config: &Config, walk: &mut Walk<'_>) {
    let upstream = &config.upstream;
    if upstream.max_body > upstream.max_buffered {
        let (body, all) =
            (show_size(upstream.max_body.into()), show_size(upstream.max_buffered.into()));
        let problem = format!("upstream.max_body ({body}) is above upstream.max_buffered ({all})");
        let remedy = "raise max_buffered to some times max_body, or lower max_body";
        walk.clash(&["upstream.max_body", "upstream.max_buffered"], Fault::new(problem, remedy));
    }
}

fn secrets(config: &Config, walk: &mut Walk<'_>) {
    let plain = |name: &String| name.to_ascii_lowercase().replace(['_', '-'], "");
    let names: BTreeSet<String> = config.secrets.names.iter().map(plain).collect();
    for object in &config.secrets.objects {
        if names.contains(&plain(object)) {
            let problem = format!("{object:?} is among secrets.names too");
            let remedy = "keep it in names to mask it whole, in objects to keep its shape";
            walk.clash(&["secrets.objects", "secrets.names"], Fault::new(problem, remedy));
        }
    }
    if names.len() < config.secrets.names.len() {
        let problem = "some names are equal without case, '_' and '-'";
        walk.warn(
            &["secrets.names"],
            Fault::new(problem, "keep one of each: they match the same members"),
        );
    }
    if names.is_empty() {
        let problem = "no member is masked by its name";
        let remedy = "name the secret members; only key-shaped text is masked without";
        walk.warn(&["secrets.names"], Fault::new(problem, remedy));
    }
}

fn allowed_plain(config: &Config, walk: &mut Walk<'_>) {
    for name in &config.upstream.allow_plain {
        if !config.upstreams.contains_key(name) {
            let keys = ["upstream.allow_plain".to_owned(), format!("upstreams.{name}.url")];
            let remedy = "name one of [upstreams], or leave it out";
            walk.clash(&keys, Fault::new(format!("there is no upstream {name:?}"), remedy));
        }
    }
}

fn unused_upstreams(config: &Config, walk: &mut Walk<'_>) {
    for name in config.upstreams.keys() {
        let key = format!("upstreams.{name}.url");
        if walk.place(&key).is_some() && !config.routes.iter().any(|route| route.upstream == *name)
        {
            let remedy = "name it in a route, or leave it out";
            walk.warn(&[key], Fault::new("no route uses this upstream", remedy));
        }
    }
}

/// Whether a URL stays on this machine.
pub(super) fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn key_of(at: usize, key: &str) -> String {
    format!("routes[{at}].{key}")
}

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
