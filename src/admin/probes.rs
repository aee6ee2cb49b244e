//! Read-only views of the rest of the process, taken when somebody asks.
//!
//! *Invariant:* a probe only reads, and asks nobody outside the process.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::cache;
use crate::telemetry::{Eviction, Label, Limiter, Metrics};

/// What the operators' port may see, as closures that `main` makes.
pub struct Probes {
    /// Whether new requests are welcome.
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// Brings the metrics of the upstreams up to date.
    pub upstreams: Box<dyn Fn() + Send + Sync>,
    /// What the cache holds.
    pub cache: Box<dyn Fn() -> cache::Sizes + Send + Sync>,
    /// How many keys a limiter holds.
    pub limiter_keys: Box<dyn Fn(Limiter) -> usize + Send + Sync>,
}

impl Probes {
    /// Brings the metrics up to date that are not counted as things happen.
    pub fn measure(&self, metrics: &Metrics) {
        (self.upstreams)();
        let cache = (self.cache)();
        metrics.cache_entries.set(signed(cache.entries));
        metrics.cache_bytes.set(signed(cache.bytes));
        metrics.cache_capacity_bytes.set(signed(cache.capacity));
        metrics.cache_resident_ratio.set(ratio(cache.bytes, resident_bytes()));
        metrics.count_insertions(cache.insertions);
        for (cause, total) in [
            (Eviction::Size, cache.evicted_size),
            (Eviction::Expired, cache.evicted_expired),
            (Eviction::Replaced, cache.evicted_replaced),
            (Eviction::Ended, cache.evicted_ended),
        ] {
            metrics.cache_evictions_total.catch_up(cause, total);
        }
        for limiter in Limiter::ALL {
            let keys = (self.limiter_keys)(*limiter);
            metrics.limiter_keys.set(*limiter, i64::try_from(keys).unwrap_or(i64::MAX));
        }
        metrics.ready.set(i64::from((self.readiness)().is_ready()));
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probes(…)")
    }
}

/// Whether new requests are welcome, and what else an operator may want to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The data port is open.
    pub listening: bool,
    /// The process is on its way out.
    pub draining: bool,
    /// The masker passed its self-test.
    pub masking: bool,
    /// Facts that never make it unready: upstreams, limits.
    pub details: Vec<(String, String)>,
}

impl Readiness {
    /// Whether new requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.listening && !self.draining && self.masking
    }

    /// The body of `/readyz`.
    pub(crate) fn json(&self) -> String {
        let details = self.details.iter().map(|(name, fact)| (name.clone(), json!(fact)));
        let body = json!({
            "ready": self.is_ready(),
            "listening": self.listening,
            "draining": self.draining,
            "masking": self.masking,
            "details": Value::Object(details.collect::<Map<_, _>>()),
        });
        format!("{body}\n")
    }
}

/// Resident memory of this process in bytes, where the machine tells (Linux).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^53")]
fn ratio(part: u64, whole: Option<u64>) -> f64 {
    whole.filter(|whole| *whole > 0).map_or(0.0, |whole| part as f64 / whole as f64)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
