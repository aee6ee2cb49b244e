//! The retry budget of one upstream: unseen retries stay a small part of what it is asked anyway.
//!
//! *Invariants*
//! 1. Of the requests of the last ten seconds at most the configured share, or [`FLOOR`], are retries.
//! 2. It holds ten numbers, whatever the load.
//!
//! *Why:* an upstream that drops connections under load would be asked twice as much for it.

use std::time::Duration;

use parking_lot::Mutex;

/// Requests and retries of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Retries(Mutex<[Second; SECONDS]>);

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// Which, since the process began.
    number: u64,
    requests: u32,
    retries: u32,
}

impl Retries {
    /// A request, its first try.
    pub(super) fn asked(&self, now: Duration) {
        let mut seconds = self.0.lock();
        if let Some(second) = current(&mut seconds, now) {
            second.requests = second.requests.saturating_add(1);
        }
    }

    /// Whether one more retry fits, where `share` of the requests may be retries (0 = none); it is counted if
    /// it does.
    pub(super) fn retry(&self, share: f64, now: Duration) -> bool {
        let mut seconds = self.0.lock();
        let recent = seconds.iter().filter(|second| second.number + SPAN > now.as_secs());
        let (requests, retries) = recent.fold((0, 0), |(requests, retries), second| {
            (requests + u64::from(second.requests), retries + u64::from(second.retries))
        });
        if share <= 0.0 || retries >= most(requests, share) {
            return false;
        }
        if let Some(second) = current(&mut seconds, now) {
            second.retries = second.retries.saturating_add(1);
        }
        true
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share of a count"
)]
fn most(requests: u64, share: f64) -> u64 {
    ((requests as f64 * share) as u64).max(FLOOR)
}

/// The second of `now`, emptied of what stood there ten seconds before.
fn current(seconds: &mut [Second; SECONDS], now: Duration) -> Option<&mut Second> {
    let number = now.as_secs();
    let second = seconds.get_mut(usize::try_from(number % SPAN).ok()?)?;
    if second.number != number {
        *second = Second { number, ..Second::default() };
    }
    Some(second)
}

const SECONDS: usize = 10;
const SPAN: u64 = 10;
/// So many retries in ten seconds are allowed however few requests there are.
const FLOOR: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn granted(budget: &Retries, now: Duration) -> usize {
        (0..10_000).take_while(|_| budget.retry(0.2, now)).count()
    }

    #[test]
    fn a_few_retries_are_always_allowed_and_then_a_share() {
        let budget = Retries::default();
        assert_eq!(granted(&budget, at(3)), 10);
        for _ in 0..100 {
            budget.asked(at(3));
        }
        assert_eq!(granted(&budget, at(4)), 10, "20 of 100, ten of them were spent");
        assert!(!budget.retry(0.2, at(12)));
    }

    #[test]
    fn what_is_ten_seconds_old_does_not_count() {
        let budget = Retries::default();
        for _ in 0..1_000 {
            budget.asked(at(3));
        }
        assert_eq!(granted(&budget, at(12)), 200);
        assert_eq!(
            granted(&budget, at(13)),
            0,
            "those spent a second ago count, the requests don't"
        );
        assert_eq!(granted(&budget, at(22)), 10);
    }

    #[test]
    fn a_share_of_nothing_is_none() {
        assert!(!Retries::default().retry(0.0, at(1)));
    }
}
