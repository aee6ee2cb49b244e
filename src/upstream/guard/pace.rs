//! How many exchanges an upstream bears at once, learnt from how long its answers take.
//!
//! The rule is that of Gradient2 (Netflix' concurrency-limits, after TCP Vegas): once a second, if at least
//! ten answers came and at least half of the limit was in use,
//!
//! ```text
//! gradient = tolerance × usual / latest        within 0.5 to 1
//! limit    = 0.8 × limit + 0.2 × (gradient × limit + room)
//! ```
//!
//! `room` is √limit while answers are slower than usual, else half of the limit, so that what an illness
//! took is back within half a minute (theirs grows by √limit: four minutes).
//! `latest` is the mean of that second, `usual` a slow mean over minutes. An answer that was refused or came
//! not at all counts as a latency of twice the usual one.
//!
//! *Invariants*
//! 1. The limit stays between the least and the most.
//! 2. It moves only while at least half of it is in use: an idle upstream teaches nothing.
//!
//! *Why not* a fixed number: what an upstream bears changes with its replicas and with what is asked.

use std::time::Duration;

use crate::config;

/// A limit that adapts.
#[derive(Debug)]
pub(super) struct Pace {
    least: f64,
    most: f64,
    limit: f64,
    /// Seconds an answer usually takes; none before the first second with answers.
    usual: Option<f64>,
    since: Duration,
    sum: f64,
    samples: u32,
    failures: u32,
    peak: usize,
}

impl Pace {
    /// Begins at the most.
    pub(super) fn new(bounds: config::Concurrency) -> Self {
        let blank = Self {
            least: 0.0,
            most: 0.0,
            limit: 0.0,
            usual: None,
            since: Duration::ZERO,
            sum: 0.0,
            samples: 0,
            failures: 0,
            peak: 0,
        };
        blank.within(bounds)
    }

    /// The same within other bounds. One that was at its most is so again: nothing had lowered it.
    #[expect(clippy::cast_precision_loss, reason = "configured far below 2^53")]
    pub(super) fn within(self, bounds: config::Concurrency) -> Self {
        let most = bounds.most as f64;
        let least = (bounds.least as f64).min(most);
        let limit = if self.limit >= self.most { most } else { self.limit.clamp(least, most) };
        Self { least, most, limit, ..self }
    }

    /// How many exchanges may be under way.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and what was a usize"
    )]
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// An exchange has ended: its latency, or `None` if it failed for want of capacity; so many were under
    /// way, itself included.
    pub(super) fn ended(&mut self, latency: Option<Duration>, in_flight: usize, now: Duration) {
        self.peak = self.peak.max(in_flight);
        match latency {
            Some(latency) => {
                self.sum += latency.as_secs_f64();
                self.samples = self.samples.saturating_add(1);
            }
            None => self.failures = self.failures.saturating_add(1),
        }
        if now.saturating_sub(self.since) >= PERIOD && self.samples + self.failures >= ENOUGH {
            self.learn();
            self.since = now;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a number of exchanges")]
    fn learn(&mut self) {
        let usual = self.usual;
        let failed = usual.unwrap_or(FLOOR) * 2.0 * f64::from(self.failures);
        let mean = (self.sum + failed) / f64::from(self.samples + self.failures);
        let latest = mean.max(FLOOR);
        let in_use = self.peak as f64 >= self.limit / 2.0;
        (self.sum, self.samples, self.failures, self.peak) = (0.0, 0, 0, 0);
        let usual = usual.unwrap_or(latest);
        let usual = usual + (latest - usual) * SLOW;
        // After a long spell of slowness the usual would take minutes to come down.
        self.usual = Some(if usual > 2.0 * latest { usual * 0.95 } else { usual });
        if !in_use {
            return;
        }
        let gradient = (TOLERANCE * usual / latest).clamp(0.5, 1.0);
        let room = if gradient < 1.0 { self.limit.sqrt() } else { self.limit / 2.0 };
        let aim = gradient * self.limit + room;
        self.limit = (self.limit + (aim - self.limit) * SMOOTHING).clamp(self.least, self.most);
    }
}

/// How often the limit moves at most.
const PERIOD: Duration = Duration::from_secs(1);
/// Fewer answers than these teach nothing.
const ENOUGH: u32 = 10;
/// Seconds; what is faster is as good as this.
const FLOOR: f64 = 0.005;
/// So many times the usual latency is still no sign of a queue.
const TOLERANCE: f64 = 1.5;
/// Weight of a second in the usual latency: a mean over some five minutes.
const SLOW: f64 = 2.0 / 301.0;
/// Weight of what a second taught.
const SMOOTHING: f64 = 0.2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace() -> Pace {
        Pace::new(config::Concurrency { least: 10, most: 100 })
    }

    /// So many seconds in each of which twenty answers take `millis`, with `in_flight` under way.
    fn seconds(pace: &mut Pace, from: u64, many: u64, millis: u64, in_flight: usize) -> u64 {
        for second in from..from + many {
            for _ in 0..20 {
                let latency = Some(Duration::from_millis(millis));
                pace.ended(latency, in_flight, Duration::from_secs(second));
            }
        }
        from + many
    }

    #[test]
    fn it_begins_at_the_most_and_stays_there_while_latency_is_as_usual() {
        let mut pace = pace();
        seconds(&mut pace, 1, 100, 50, 100);
        assert_eq!(pace.limit(), 100);
    }

    #[test]
    fn rising_latency_lowers_it_and_its_return_raises_it_again() {
        let mut pace = pace();
        let now = seconds(&mut pace, 1, 20, 50, 100);
        let now = seconds(&mut pace, now, 5, 500, 100);
        let lowered = pace.limit();
        assert!(lowered < 80, "{lowered}");
        let now = seconds(&mut pace, now, 30, 500, 100);
        assert!(pace.limit() <= 20, "{}", pace.limit());
        seconds(&mut pace, now, 30, 50, 100);
        assert_eq!(pace.limit(), 100);
    }

    #[test]
    fn failures_for_want_of_capacity_lower_it() {
        let mut pace = pace();
        let now = seconds(&mut pace, 1, 20, 50, 100);
        for second in now..now + 10 {
            for _ in 0..20 {
                pace.ended(None, 100, Duration::from_secs(second));
            }
        }
        assert!(pace.limit() < 100);
    }

    #[test]
    fn less_than_half_in_use_teaches_nothing_about_the_limit() {
        let mut pace = pace();
        let now = seconds(&mut pace, 1, 20, 50, 40);
        seconds(&mut pace, now, 60, 5_000, 40);
        assert_eq!(pace.limit(), 100);
    }

    #[test]
    fn what_is_faster_than_the_floor_is_no_measure() {
        let mut pace = pace();
        let now = seconds(&mut pace, 1, 20, 0, 100);
        seconds(&mut pace, now, 60, 5, 100);
        assert_eq!(pace.limit(), 100);
    }

    #[test]
    fn within_other_bounds_it_keeps_what_it_learnt() {
        let bounds = |least, most| config::Concurrency { least, most };
        assert_eq!(pace().within(bounds(10, 200)).limit(), 200);
        assert_eq!(pace().within(bounds(10, 50)).limit(), 50);
        let mut lowered = pace();
        let now = seconds(&mut lowered, 1, 20, 50, 100);
        seconds(&mut lowered, now, 5, 500, 100);
        let limit = lowered.limit();
        let mut wider = lowered.within(bounds(1, 200));
        assert_eq!((wider.limit(), limit < 80), (limit, true));
        seconds(&mut wider, now + 5, 1, 500, 100);
        assert!(wider.limit() < limit, "half a second is still slow: the usual is what it was");
        assert_eq!(wider.within(bounds(90, 200)).limit(), 90);
    }

    proptest! {
        #[test]
        fn it_never_leaves_its_bounds(
            ends in prop::collection::vec(
                (prop::option::of(0_u64..100_000), 0_usize..200, 0_u64..500), 0..2_000,
            ),
        ) {
            let (mut pace, mut now) = (pace(), Duration::ZERO);
            for (latency, in_flight, passed) in ends {
                now += Duration::from_millis(passed);
                pace.ended(latency.map(Duration::from_millis), in_flight, now);
                prop_assert!((10..=100).contains(&pace.limit()));
            }
        }
    }
}
