//! [`Told`]: what replies say of the rate that their caller has.
//!
//! *Why for good:* each reply says the policy, and nearly each what is left of a bucket that is almost full. As static
//! text nobody counts their holders; a policy that all threads count is a cache line that they wait for.

use std::sync::OnceLock;

use http::HeaderValue;
use parking_lot::Mutex;

use super::problem::write_rate_limit;
use super::values;
use crate::config::Rate;
use crate::limit::Quota;
use crate::numbered::lasting;

/// What replies say of one rate.
#[derive(Debug)]
pub(super) enum Told {
    /// Made once for the process.
    Lasting(&'static Texts),
    /// Of a rate that came after too many others: made by this gateway, and what is left by each reply.
    Passing(HeaderValue),
}

/// Static text about one rate.
#[derive(Debug)]
pub(super) struct Texts {
    rate: Rate,
    policy: HeaderValue,
    /// By how much is taken of the bucket; as it was said first.
    left: [OnceLock<(Quota, HeaderValue)>; PLACES],
}

impl Told {
    pub(super) fn of(rate: Rate) -> Self {
        KNOWN.told(rate)
    }

    /// `RateLimit-Policy`.
    pub(super) fn policy(&self) -> HeaderValue {
        match self {
            Self::Lasting(texts) => texts.policy.clone(),
            Self::Passing(policy) => policy.clone(),
        }
    }

    /// `RateLimit`, of a caller with this quota.
    pub(super) fn left(&self, quota: &Quota) -> HeaderValue {
        let known = match self {
            Self::Lasting(texts) => texts.left(quota),
            Self::Passing(_) => None,
        };
        known.unwrap_or_else(|| values::make(|out| write_rate_limit(CALLER, quota, out)))
    }
}

impl Texts {
    fn left(&self, quota: &Quota) -> Option<HeaderValue> {
        let taken = usize::try_from(quota.limit.saturating_sub(quota.remaining)).ok()?;
        let place = self.left.get(taken)?;
        let (of, value) = place.get_or_init(|| {
            let text = values::text(|out| write_rate_limit(CALLER, quota, out));
            (*quota, lasting(text))
        });
        // Beside a refusal the same is left and the time another.
        (of == quota).then(|| value.clone())
    }
}

/// Those that have text for good.
#[derive(Default)]
struct Known(Mutex<Vec<&'static Texts>>);

impl Known {
    fn told(&self, rate: Rate) -> Told {
        let mut known = self.0.lock();
        if let Some(texts) = known.iter().find(|texts| texts.rate == rate) {
            return Told::Lasting(texts);
        }
        if known.len() >= MOST {
            let policy = HeaderValue::try_from(policy(rate));
            return Told::Passing(policy.unwrap_or(HeaderValue::from_static("")));
        }
        let (policy, left) = (lasting(policy(rate)), [const { OnceLock::new() }; PLACES]);
        let texts = Box::leak(Box::new(Texts { rate, policy, left }));
        known.push(texts);
        Told::Lasting(texts)
    }
}

/// `"caller";q=BURST;w=SECONDS` (draft-ietf-httpapi-ratelimit-headers §3).
fn policy(rate: Rate) -> String {
    let window = rate.burst.div_ceil(rate.per_second.max(1)).max(1);
    format!("\"{CALLER}\";q={};w={window}", rate.burst)
}

static KNOWN: Known = Known(Mutex::new(Vec::new()));

/// Rates with text for good, some 13 kB each; a configuration that is loaded again has the same.
const MOST: usize = 32;

/// How much of a bucket is taken, while who asks keeps within his rate.
const PLACES: usize = 128;

const CALLER: &str = "caller";

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u32, remaining: u32, reset: u64) -> Quota {
        Quota { limit, window: 1, remaining, reset }
    }

    fn place(value: &HeaderValue) -> *const u8 {
        value.as_bytes().as_ptr()
    }

    #[test]
    fn what_is_told_is_what_would_be_written_whatever_was_told_before() {
        let rate = Rate { per_second: 7, burst: 1_000 };
        let told = Known::default().told(rate);
        assert_eq!(told.policy(), "\"caller\";q=1000;w=143");
        for (remaining, reset) in
            [(999, 1), (999, 1), (999, 2), (0, 143), (0, 1), (1_000, 0), (2_000, 9)]
        {
            let written = format!("\"caller\";r={remaining};t={reset}");
            assert_eq!(told.left(&quota(1_000, remaining, reset)), written);
        }
        assert_eq!(told.left(&quota(500, 499, 1)), "\"caller\";r=499;t=1");
    }

    #[test]
    fn a_rate_has_its_text_once_and_each_has_its_own() {
        let known = Known::default();
        let (slow, fast) = (Rate { per_second: 3, burst: 5 }, Rate { per_second: 5, burst: 5 });
        let (first, again, other) = (known.told(slow), known.told(slow), known.told(fast));
        let quota = quota(5, 4, 1);
        assert_eq!(place(&first.policy()), place(&again.policy()));
        assert_eq!(place(&first.left(&quota)), place(&again.left(&quota)));
        assert_eq!(other.policy(), "\"caller\";q=5;w=1");
        assert_eq!(first.policy(), "\"caller\";q=5;w=2");
    }

    #[test]
    fn rates_without_end_do_not_take_memory_without_end() {
        let known = Known::default();
        let of = |burst| known.told(Rate { per_second: 11, burst });
        let many = u32::try_from(2 * MOST).unwrap();
        let lasting = (1..=many).filter(|burst| matches!(of(*burst), Told::Lasting(_)));
        assert_eq!(lasting.count(), MOST);
        let passing = of(many);
        assert_eq!(passing.policy(), format!("\"caller\";q={many};w=6"));
        assert_eq!(passing.left(&quota(many, 1, 5)), "\"caller\";r=1;t=5");
    }
}
