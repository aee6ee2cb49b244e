//! One rate, counted per key by governor's GCRA, and what a client is told of it.
//!
//! *Invariants*
//! 1. Waiting as long as a refusal says is enough, when nobody else draws on the bucket meanwhile.
//! 2. `r` and `t` are those of the moment of the decision.
//!
//! *Why not* a window counter: it admits twice the rate across the edge of two windows.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::RateLimiter;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;

use super::store::{Buckets, Key, Ledger, Visit};
use crate::clock::nanos;
use crate::config::Rate;

/// A limiter for keys of one kind.
pub(super) struct Budget<K: Key> {
    limiter: RateLimiter<Visit<K>, Ledger<K>, Told, StateInformationMiddleware>,
    limit: u32,
    window: u64,
    interval: Duration,
}

impl<K: Key> Budget<K> {
    /// Begins `at` a moment. Rates above one request per nanosecond count as that.
    pub(super) fn new(rate: Rate, buckets: Arc<Buckets<K>>, at: Duration) -> Self {
        let at_least_one = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let pace = at_least_one(rate.per_second.min(NANOS_PER_SECOND));
        let burst = at_least_one(rate.burst);
        let quota = governor::Quota::per_second(pace).allow_burst(burst);
        let interval = quota.replenish_interval();
        let ledger = Ledger::new(buckets, interval.into(), Told::tell(at));
        Self {
            limiter: RateLimiter::new(quota, ledger, Told),
            limit: burst.get(),
            window: u64::from(burst.get().div_ceil(pace.get())),
            interval,
        }
    }

    /// Takes one request's worth from the bucket of `key`; `Err` when it is empty.
    pub(super) fn take(&self, key: K, at: Duration) -> Result<Quota, Quota> {
        self.visit(&Visit { key, takes: true }, at)
    }

    /// What [`Budget::take`] would say, without taking.
    pub(super) fn ask(&self, key: K, at: Duration) -> Result<Quota, Quota> {
        self.visit(&Visit { key, takes: false }, at)
    }

    fn visit(&self, visit: &Visit<K>, at: Duration) -> Result<Quota, Quota> {
        let at = Told::tell(at);
        match self.limiter.check_key(visit) {
            Ok(seen) => {
                let remaining = seen.remaining_burst_capacity();
                let refill = self.interval.saturating_mul(self.limit.saturating_sub(remaining));
                Ok(self.quota(remaining, seconds(refill)))
            }
            Err(until) => {
                let wait = until.wait_time_from(at);
                Err(self.quota(0, seconds(wait).max(1)))
            }
        }
    }

    fn quota(&self, remaining: u32, reset: u64) -> Quota {
        Quota { limit: self.limit, window: self.window, remaining, reset }
    }
}

/// What the `RateLimit-Policy` and `RateLimit` fields say
/// (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// `q`: how many requests a full bucket admits at once.
    pub limit: u32,
    /// `w`: in how many seconds an empty bucket is full again, rounded up; at least 1.
    pub window: u64,
    /// `r`: how many more requests would be admitted now.
    pub remaining: u32,
    /// `t`: whole seconds, rounded up. Beside an admission: until the bucket is full again, if
    /// nothing is asked meanwhile. Beside a refusal: until the next request is admitted, never 0.
    ///
    /// The draft lets a server choose `t` anew with each answer, and asks that `Retry-After` be not
    /// before it. To say "full again" on a refusal would make a client that is one request over the
    /// limit stand still for the whole window.
    pub reset: u64,
}

/// The clock that governor reads: it shows the moment that its thread was told last, monotonic, in nanoseconds
/// since the process began.
///
/// *Why not a clock that runs:* a request has read the time already, and for each of its limits it would read it
/// again; that costs more than what governor does with it.
struct Told;

impl Told {
    fn tell(at: Duration) -> Nanos {
        let at = Nanos::new(nanos(at).min(LATEST));
        MOMENT.set(at);
        at
    }
}

impl governor::clock::Clock for Told {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        MOMENT.get()
    }
}

thread_local! {
    static MOMENT: Cell<Nanos> = const { Cell::new(Nanos::new(0)) };
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

const NANOS_PER_SECOND: u32 = 1_000_000_000;
/// 292 years: governor adds up to 136 more, the refill of the largest burst, without looking at
/// overflow.
const LATEST: u64 = u64::MAX / 2;
