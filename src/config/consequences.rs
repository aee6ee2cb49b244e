//! What follows from a configuration, in sentences for the start and for `check`.
//!
//! *Invariants*
//! 1. A span that is named is an upper bound: windows are added up as if they followed each other.
//! 2. What is switched off is said; what is as shipped is not, but for spans and memory.

use std::time::Duration;

use super::check::is_loopback;
use super::{AccessLog, CachePolicy, CallerMode, Config, Route, SecretsMode};

impl Config {
    /// What follows from the values, a sentence each: how stale an answer can be, how long a revoked
    /// token is answered, what is switched off, what to expect of memory.
    pub fn consequences(&self) -> Vec<String> {
        let mut told = Vec::new();
        cache(self, &mut told);
        departures(self, &mut told);
        limits(self, &mut told);
        exposure(self, &mut told);
        process(self, &mut told);
        told
    }
}

fn cache(config: &Config, told: &mut Vec<String>) {
    let cached: Vec<(&Route, &CachePolicy)> =
        config.routes.iter().filter_map(|route| Some((route, route.cache.as_ref()?))).collect();
    if config.cache.max_bytes == 0 {
        told.push("caching is off (cache.max_bytes = 0): each read goes upstream and counts against limits.caller_upstream; masking stays on".to_owned());
        return;
    }
    if cached.is_empty() {
        told.push("nothing is cached: no route has a cache policy; masking stays on".to_owned());
    }
    for (route, policy) in cached {
        windows(route, policy, told);
    }
}

/// How old an answer can be, and how long a revoked token is answered.
fn windows(route: &Route, policy: &CachePolicy, told: &mut Vec<String>) {
    let name = &route.name;
    let own = Span::of(policy.ttl, policy);
    let granted = Span::of(policy.max_ttl, policy);
    if policy.ttl.is_zero() {
        told.push(format!("route {name}: only answers to which the upstream grants a lifetime are stored (ttl = 0)"));
    } else {
        told.push(format!("route {name}: an answer is at most {} old, {} while the upstream is down, where the upstream sets no lifetime of its own", own.up(), own.down()));
    }
    told.push(format!("route {name}: where the upstream grants a lifetime, an answer is at most {} old, {} while the upstream is down (cache.max_ttl)", granted.up(), granted.down()));
    if route.caller == CallerMode::Open {
        return;
    }
    if !policy.ttl.is_zero() {
        told.push(format!("route {name}: a revoked token is answered for at most {}, {} while the upstream is down", own.up(), own.down()));
    }
    told.push(format!("route {name}: where the upstream grants a lifetime, a revoked token is answered for at most {}, {} while the upstream is down", granted.up(), granted.down()));
}

fn departures(config: &Config, told: &mut Vec<String>) {
    for route in &config.routes {
        let name = &route.name;
        if route.secrets == SecretsMode::Verbatim {
            told.push(format!(
                "route {name}: NOT masked, opted out by name (secrets = \"verbatim\")"
            ));
        }
        if !route.refuse_masked_write && route.methods.write() {
            told.push(format!("route {name}: a write may overwrite a real key with our mask (refuse_masked_write = false)"));
        }
        if let Some(policy) = &route.cache {
            if policy.store_no_store {
                told.push(format!(
                    "route {name}: answers marked no-store are stored, a departure from RFC 9111"
                ));
            }
            if !policy.negative_ttl.is_zero() {
                told.push(format!(
                    "route {name}: a 404 is repeated for up to {}",
                    seconds(policy.negative_ttl)
                ));
            }
        }
    }
    if config.secrets.names.is_empty() {
        told.push(
            "no member is masked by its name (secrets.names is empty), only key-shaped text"
                .to_owned(),
        );
    }
}

fn limits(config: &Config, told: &mut Vec<String>) {
    let limits = &config.limits;
    let states = [
        ("limits.caller", limits.caller.is_none(), "a caller may ask as often as it likes"),
        (
            "limits.caller_upstream",
            limits.caller_upstream.is_none(),
            "a caller's misses go upstream without a limit of their own",
        ),
        ("limits.peer", limits.peer.is_none(), "failed identifications are not limited by address"),
        (
            "limits.lane",
            limits.lane.is_none(),
            "guessed tokens can take all of the upstream's capacity",
        ),
        (
            "upstream.breaker",
            config.upstream.breaker.is_none(),
            "each miss waits for a dead upstream until its deadline",
        ),
        (
            "upstream.concurrency",
            config.upstream.concurrency.is_none(),
            "misses go upstream without a bound on how many at once",
        ),
    ];
    for (key, off, follows) in states {
        if off {
            told.push(format!("{key} is off: {follows}"));
        }
    }
}

fn exposure(config: &Config, told: &mut Vec<String>) {
    match config.admin.address {
        None => told.push("the operators' port is off: no metrics, no health, no readiness".to_owned()),
        Some(address) if !address.ip().is_loopback() => told.push(format!("the operators' port {address} can be reached from other machines, and asks nobody who they are; {}", if config.admin.token_file.is_some() { "changes need the token of admin.token_file" } else { "it changes nothing (admin.token_file is not set)" })),
        Some(_) => {}
    }
    for (name, upstream) in &config.upstreams {
        let plain = upstream.url.scheme_str() == Some("http") && !is_loopback(&upstream.url);
        let used = |route: &Route| route.upstream == *name && route.caller == CallerMode::Token;
        if plain && config.routes.iter().any(used) {
            told.push(format!(
                "tokens cross the network to upstream {name} in the clear (upstream.allow_plain)"
            ));
        }
    }
    if config.caller.key_file.is_none() {
        told.push(
            "callers' fingerprints in the log change with each start (caller.key_file is not set)"
                .to_owned(),
        );
    }
    if config.log.access == AccessLog::Off {
        told.push("no exchange is logged (log.access = \"off\")".to_owned());
    }
}

fn process(config: &Config, told: &mut Vec<String>) {
    let shutdown = &config.shutdown;
    told.push(format!("after SIGTERM the process ends within {}", seconds(shutdown.deadline)));
    if !shutdown.delay.is_zero() {
        told.push(format!(
            "after SIGTERM it goes on accepting for {}, not ready",
            seconds(shutdown.delay)
        ));
    }
    told.push(format!(
        "memory: plan for about {} MiB, of which the cache counts {}; bodies under way come on top, about {} MiB at most (upstream.max_buffered)",
        memory(config) >> 20,
        config.cache.max_bytes >> 20,
        config.upstream.max_buffered >> 20,
    ));
}

/// An estimate: the cache and what its allocator loses, a head's buffers for each connection, the
/// limiters' keys, and the process itself.
fn memory(config: &Config) -> u64 {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let cache = config.cache.max_bytes.saturating_add(config.cache.max_bytes / 2);
    let connections = count(config.listen.connections).saturating_mul(PER_CONNECTION);
    let keys = count(config.limits.keys).saturating_mul(PER_KEY);
    PROCESS.saturating_add(cache).saturating_add(connections).saturating_add(keys)
}

/// How long an answer can be used.
struct Span {
    fresh: Duration,
    down: Duration,
}

impl Span {
    fn of(lifetime: Duration, policy: &CachePolicy) -> Self {
        let fresh = lifetime.saturating_add(policy.stale_while_revalidate);
        Self { fresh, down: fresh.saturating_add(policy.stale_if_error) }
    }

    fn up(&self) -> String {
        seconds(self.fresh)
    }

    fn down(&self) -> String {
        seconds(self.down)
    }
}

fn seconds(length: Duration) -> String {
    match length.subsec_millis() {
        0 => format!("{} s", length.as_secs()),
        _ => format!("{} ms", length.as_millis()),
    }
}

const PROCESS: u64 = 40 << 20;
const PER_CONNECTION: u64 = 12 << 10;
const PER_KEY: u64 = 400;
