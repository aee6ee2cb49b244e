//! `config.toml` as types: what the operator decided, checked before anything starts.
//!
//! *Invariants*
//! 1. A [`Config`] that exists is valid: every cross-check (routes name existing upstreams, no secret
//!    over plain text, …) was made while it was parsed, and all mistakes were reported together.
//! 2. `Config::default()` is the shipped `config.toml`, field by field; a test compares them.
//! 3. No secret stands in a configuration: keys come from files, so `check` can print all of it.
//!
//! *Why not serde:* it stops at the first mistake and knows no lines. A walker over the spanned table
//! ([`Config::parse`]) reports everything at once, with key, line and remedy.
//!
//! *Where things are:* `parse` names every key with its reader; `section` looks it up, `walk` gathers
//! what is wrong; `value` and `syntax` are the readers, `env` the overrides, `check` what holds between
//! keys, `default` the shipped values; `show` and `consequences` tell what is in force, `changes` what a
//! reload changes.

mod changes;
mod check;
mod consequences;
mod default;
mod env;
mod fault;
mod files;
mod listen;
mod methods;
mod names;
mod nearest;
mod parse;
mod route;
mod section;
mod show;
mod syntax;
#[cfg(test)]
mod tests;
mod value;
mod walk;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, Uri};

pub use changes::Changes;
pub use fault::{ConfigError, ConfigErrors, Warning};
pub(crate) use files::bytes as read_file;
pub use listen::{Http2, Listen, covers};
pub use methods::{Methods, USUAL};
pub use route::{CallerMode, ForwardMode, Invalidates, Route, SecretsMode};

/// Everything the operator can decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The public port.
    pub listen: Listen,
    /// The operators' port.
    pub admin: Admin,
    /// How callers are told apart.
    pub caller: Caller,
    /// Size and windows of the cache; a route may depart from the windows.
    pub cache: Cache,
    /// Which fields of a body are secret.
    pub secrets: Secrets,
    /// Who may ask how often.
    pub limits: Limits,
    /// Deadlines and caps toward every upstream.
    pub upstream: Upstream,
    /// The upstreams by name.
    pub upstreams: BTreeMap<String, NamedUpstream>,
    /// Diagnostics and the access log.
    pub log: Log,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// The route table, most specific first where two match.
    pub routes: Vec<Route>,
}

impl Config {
    /// Reads and checks a file, the files it names, and overrides ([`std::env::vars_os`] in `main`).
    ///
    /// # Errors
    /// Every mistake at once, each with its place and remedy.
    pub fn load(
        path: &Path,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let name = path.display().to_string();
        let text = files::text(path).map_err(|error| ConfigErrors::one(&name, error))?;
        // A name that is no UTF-8 can't be one of ours; a value that is none fails where it is read.
        let env = env.into_iter().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        parse::parse(&name, &text, env, files::check)
    }

    /// Checks the text of a configuration and the overrides in `env`, reading no file.
    ///
    /// # Errors
    /// Every mistake at once, each with its place and remedy.
    pub fn parse(
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        parse::parse("config.toml", text, env, |_, _| ())
    }
}

/// `[admin]`: the operators' port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address of `/metrics`, `/healthz`, `/readyz` and `/purge`; `None` = switched off.
    pub address: Option<SocketAddr>,
    /// A file with the token that changes need, at least 16 bytes; `None` = nothing can be changed.
    pub token_file: Option<PathBuf>,
    /// Names by which changes may be asked for, beside addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// `[caller]`: how callers are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Caller {
    /// A file with the key of the callers' digests, at least 32 bytes; `None` = a random key per process.
    pub key_file: Option<PathBuf>,
}

/// `[cache]`: size and windows.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Memory bound in bytes: bodies, fields, keys and bookkeeping; 0 = caching off, masking on.
    pub max_bytes: u64,
    /// What a route's own `[routes.cache]` starts from.
    pub policy: CachePolicy,
}

/// The windows of stored answers, in `[cache]` and, overriding key by key, in `[routes.cache]`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own, named in the file")]
pub struct CachePolicy {
    /// Freshness lifetime where the upstream states none; 0 = none.
    pub ttl: Duration,
    /// The same for 404; 0 = not stored.
    pub negative_ttl: Duration,
    /// Part by which lifetimes of our own are shortened at random, 0 to 0.5; spreads refreshes.
    pub jitter: f64,
    /// Cap on an explicit freshness lifetime.
    pub max_ttl: Duration,
    /// RFC 5861 §3 window.
    pub stale_while_revalidate: Duration,
    /// RFC 5861 §4 window.
    pub stale_if_error: Duration,
    /// How long an entry with a validator is kept past its windows to be revalidated.
    pub keep: Duration,
    /// Store answers marked `no-store` (a departure from RFC 9111 §5.2.2.5, by name).
    pub store_no_store: bool,
    /// Honour the `Cache-Control` of requests (RFC 9111 §5.2.1).
    pub request_directives: bool,
    /// Heuristic freshness (RFC 9111 §4.2.2), open routes only.
    pub heuristic: bool,
    /// Targeted fields (RFC 9213), first valid one wins, open routes only.
    pub targeted: Vec<HeaderName>,
    /// Store answers that set cookies, open routes only.
    pub store_set_cookie: bool,
}

/// `[secrets]`: which members of a JSON body are secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// Names whose value is a secret, compared without ASCII case, `_` and `-`.
    pub names: Vec<String>,
    /// Names whose object keeps its shape, each string and number in it masked.
    pub objects: Vec<String>,
}

/// A GCRA rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Sustained requests per second, at least 1.
    pub per_second: u32,
    /// Requests at once from rest, at least 1.
    pub burst: u32,
}

/// The lane that callers share whom the upstream has not accepted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Their upstream requests in flight at once, at least 1.
    pub in_flight: usize,
    /// Longest wait for a place.
    pub wait: Duration,
}

/// `[limits]`: who may ask how often. `None` = that limiter is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Per caller and route.
    pub caller: Option<Rate>,
    /// Per caller toward the upstream.
    pub caller_upstream: Option<Rate>,
    /// Per peer address, counting only requests that fail identification or earn an upstream 401.
    pub peer: Option<Rate>,
    /// Callers the upstream has not accepted yet.
    pub lane: Option<Lane>,
    /// Most keys each limiter holds.
    pub keys: usize,
    /// Largest request body in bytes; above it 413.
    pub request_body: usize,
}

/// When a circuit breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Share of failures at which it opens, above 0 and at most 1.
    pub failures: f64,
    /// Fewer outcomes than these open nothing; each caller and key is counted once.
    pub of: usize,
    /// How long an outcome counts.
    pub window: Duration,
    /// Longest time it stays open before it is probed; a fifth of that at first.
    pub open: Duration,
}

/// Bounds of the exchanges under way with one upstream; between them its latency decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// As many are let through at least.
    pub least: usize,
    /// As many at most, at first too.
    pub most: usize,
}

/// `[upstream]`: deadlines and caps toward upstreams.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// From the start of an attempt to the last byte of the answer's head.
    pub first_byte: Duration,
    /// From the start of an exchange to the last byte of its body, tries included.
    pub total: Duration,
    /// Largest answer body in bytes, received and decoded; above it 502.
    pub max_body: usize,
    /// Most fields in an answer's head; above it 502.
    pub max_fields: usize,
    /// How long a pooled connection may lie idle.
    pub idle: Duration,
    /// Oldest a pooled connection may grow, shortened at random by up to a quarter.
    pub age: Duration,
    /// The circuit breaker of each upstream; `None` = off.
    pub breaker: Option<Breaker>,
    /// Longest time that a 429 of an upstream is heeded; 0 = not at all.
    pub hold_back: Duration,
    /// Exchanges under way with each upstream; `None` = any number.
    pub concurrency: Option<Concurrency>,
    /// Longest wait for a place or for memory; 0 = none.
    pub queue: Duration,
    /// Unseen retries as a share of the requests of the last 10 s, 0 to 1; 0 = none.
    pub retries: f64,
    /// Most bytes of bodies under way at once; those of requests have at most half of it.
    pub max_buffered: usize,
    /// Names of upstreams that may be asked over `http://` off loopback although tokens cross in the clear.
    pub allow_plain: Vec<String>,
    /// Extra trusted CA certificates, PEM; the system's roots stay trusted.
    pub ca_file: Option<PathBuf>,
}

/// `[upstreams.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedUpstream {
    /// Scheme and authority, without user info, path, query or fragment.
    pub url: Uri,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Diagnostics filter: `error`, `warn`, `info`, `debug` or `trace`; `RUST_LOG` may refine it for us alone.
    pub level: Level,
    /// JSON lines or text.
    pub format: LogFormat,
    /// Where both logs go.
    pub output: LogOutput,
    /// Which exchanges get an access line.
    pub access: AccessLog,
    /// What of the target an access line shows.
    pub target: LogTarget,
}

/// Diagnostics level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Failures that need a hand.
    Error,
    /// What an operator should look into.
    Warn,
    /// Milestones.
    Info,
    /// Decisions.
    Debug,
    /// Everything of ours.
    Trace,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// `key=value` text, control bytes escaped.
    Text,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which exchanges get an access line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Each one.
    All,
    /// Those that end in our error or a 5xx.
    Errors,
    /// Errors, and one in so many of the others (`"1/100"`).
    OneIn(u32),
}

/// What of the target an access line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Path and query after the masker.
    Full,
    /// A keyed digest, so that equal targets can be matched.
    Digest,
    /// Nothing.
    Off,
}

/// `[shutdown]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// How long to go on accepting after the signal, while `/readyz` already answers 503.
    pub delay: Duration,
    /// Longest time from the signal to the exit.
    pub deadline: Duration,
}
