//! The circuit breaker of one upstream: closed, open, half-open; a pure machine, time an argument.
//!
//! *Invariants*
//! 1. It opens only at a share of failures among a least number of counted outcomes, each caller and
//!    key counted once in the window; and not by what one caller or one key alone met, while another
//!    was answered.
//! 2. An open one lets probes through after `open` at the latest. Probes that hang hold nobody up: each
//!    second another may go.
//! 3. One probe that is answered closes it; one that fails opens it for longer.
//!
//! *Why not* a share of all requests: one client that retries in a loop would close the door for all.

use std::time::Duration;

use super::window::{Pair, Window};
use crate::clock::Dice;
use crate::config;

/// A breaker, its rule and its state.
#[derive(Debug)]
pub(super) struct Breaker {
    rule: config::Breaker,
    state: Inner,
    /// Times it opened without having stayed closed for a window between.
    strikes: u32,
    dice: Dice,
}

#[derive(Debug)]
enum Inner {
    Closed { since: Duration, window: Window },
    Open { until: Duration },
    HalfOpen { probes: u32, latest: Duration },
}

/// What a breaker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All go through.
    Closed,
    /// Probes go through.
    HalfOpen,
    /// Nobody goes through.
    Open,
}

impl State {
    /// Its number in the metric.
    pub const fn number(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// What an exchange says of its upstream's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered.
    Well,
    /// It could not be connected to, did not answer in time, or said 502, 503 or 504.
    Ill,
    /// Nothing: what broke may be the one answer's fault, or nobody waited for the end.
    Unknown,
}

/// The right to an exchange, and whether it is a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leave {
    pub(super) probe: bool,
}

impl Breaker {
    /// A closed one.
    pub(super) fn new(rule: config::Breaker, dice: Dice) -> Self {
        let window = Window::new(rule.window);
        Self { rule, state: Inner::Closed { since: Duration::ZERO, window }, strikes: 0, dice }
    }

    /// The same under another rule, from `now` on; an open one is so for no longer than that allows.
    pub(super) fn under(mut self, rule: config::Breaker, now: Duration) -> Self {
        self.rule = rule;
        match &mut self.state {
            Inner::Closed { window, .. } => window.last_for(rule.window),
            Inner::Open { until } => *until = (*until).min(now.saturating_add(rule.open)),
            Inner::HalfOpen { .. } => {}
        }
        self
    }

    /// What it is doing at `now`.
    pub(super) fn state(&self, now: Duration) -> State {
        match &self.state {
            Inner::Closed { .. } => State::Closed,
            Inner::Open { until } if now < *until => State::Open,
            Inner::Open { .. } | Inner::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Whether [`Self::admit`] would refuse at `now`; changes nothing.
    pub(super) fn look(&self, now: Duration) -> Result<(), Duration> {
        match &self.state {
            Inner::Open { until } if now < *until => Err(until.saturating_sub(now)),
            Inner::Closed { .. } | Inner::Open { .. } => Ok(()),
            Inner::HalfOpen { probes, latest } => {
                let next = latest.saturating_add(NEXT_PROBE);
                if *probes < PROBES || now >= next { Ok(()) } else { Err(next.saturating_sub(now)) }
            }
        }
    }

    /// Lets an exchange through, or says how long to wait.
    pub(super) fn admit(&mut self, now: Duration) -> Result<Leave, Duration> {
        self.look(now)?;
        let probes = match &self.state {
            Inner::Closed { .. } => return Ok(Leave { probe: false }),
            Inner::Open { .. } => 0,
            Inner::HalfOpen { probes, .. } => *probes,
        };
        self.state = Inner::HalfOpen { probes: probes.saturating_add(1), latest: now };
        Ok(Leave { probe: true })
    }

    /// An exchange that was let through has ended; says whether that opened or closed the breaker.
    pub(super) fn ended(
        &mut self,
        leave: Leave,
        pair: Pair,
        health: Health,
        now: Duration,
    ) -> bool {
        match &mut self.state {
            Inner::Closed { window, .. } => {
                // What began before it opened and ends after it closed says nothing new of an illness.
                if health == Health::Unknown || leave.probe && health == Health::Ill {
                    return false;
                }
                window.note(pair, health == Health::Ill, now);
                let ill = health == Health::Ill && window.is_ill(self.rule.failures, self.rule.of);
                if ill {
                    self.open(now);
                }
                ill
            }
            Inner::HalfOpen { probes, .. } => {
                if leave.probe {
                    *probes = probes.saturating_sub(1);
                }
                match health {
                    Health::Well => self.close(now),
                    Health::Ill if leave.probe => self.open(now),
                    Health::Ill | Health::Unknown => return false,
                }
                true
            }
            // The end of one that began before: an answer does not close what was just opened.
            Inner::Open { .. } => false,
        }
    }

    fn close(&mut self, now: Duration) {
        let window = Window::new(self.rule.window);
        self.state = Inner::Closed { since: now, window };
    }

    /// A fifth of the longest time at first, twice as long each time, shortened by chance so that
    /// several gateways don't probe together.
    fn open(&mut self, now: Duration) {
        if let Inner::Closed { since, .. } = &self.state
            && now.saturating_sub(*since) >= self.rule.window
        {
            self.strikes = 0;
        }
        let first = self.rule.open / SHARE_OF_LONGEST;
        let length = first.saturating_mul(1 << self.strikes.min(8)).min(self.rule.open);
        self.strikes = self.strikes.saturating_add(1);
        self.state = Inner::Open { until: now + self.dice.shorten(length, JITTER) };
    }
}

/// Probes under way at once before a second has passed without an end.
const PROBES: u32 = 3;
/// After this long another probe may go although earlier ones hang: a black hole must not outlast itself
/// by its own deadlines.
const NEXT_PROBE: Duration = Duration::from_secs(1);
/// The first time it is open is this part of the longest.
const SHARE_OF_LONGEST: u32 = 5;
/// Part of the open time that chance may take away.
const JITTER: f64 = 0.2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: config::Breaker = config::Breaker {
        failures: 0.5,
        of: 20,
        window: Duration::from_secs(10),
        open: Duration::from_secs(5),
    };

    fn breaker() -> Breaker {
        Breaker::new(RULE, Dice::seeded(1))
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn pair(caller: u8, key: u64) -> Pair {
        Pair { caller: caller.into(), key }
    }

    fn end(breaker: &mut Breaker, pair: Pair, health: Health, now: Duration) -> bool {
        let leave = breaker.admit(now).unwrap();
        breaker.ended(leave, pair, health, now)
    }

    fn opened(now: Duration) -> Breaker {
        let mut breaker = breaker();
        for key in 0..20 {
            end(&mut breaker, pair(1, key), Health::Ill, now);
        }
        assert_eq!(breaker.state(now), State::Open);
        breaker
    }

    #[test]
    fn it_opens_when_half_of_at_least_twenty_failed() {
        let mut breaker = breaker();
        for key in 0..10 {
            end(&mut breaker, pair(1, key), Health::Well, at(0));
        }
        for key in 10..19 {
            assert!(!end(&mut breaker, pair(2, key), Health::Ill, at(1)));
        }
        // 19 heard: too few, whatever became of them. The tenth failure of twenty is half.
        assert_eq!(breaker.state(at(1)), State::Closed);
        end(&mut breaker, pair(1, 19), Health::Ill, at(1));
        assert_eq!(breaker.state(at(1)), State::Open);
    }

    #[test]
    fn less_than_half_leaves_it_closed() {
        let mut breaker = breaker();
        for key in 0..30 {
            end(&mut breaker, pair(1, key), Health::Well, at(0));
        }
        for key in 30..59 {
            end(&mut breaker, pair(key, key.into()), Health::Ill, at(1));
        }
        assert_eq!(breaker.state(at(1)), State::Closed);
        end(&mut breaker, pair(60, 60), Health::Ill, at(1));
        assert_eq!(breaker.state(at(1)), State::Open);
    }

    #[test]
    fn a_caller_and_key_count_once_in_the_window() {
        let mut breaker = breaker();
        for n in 0..1_000 {
            end(&mut breaker, pair(1, 1), Health::Ill, at(n * 9));
        }
        assert_eq!(breaker.state(at(9_000)), State::Closed);
    }

    #[test]
    fn what_happened_before_the_window_does_not_count() {
        let mut breaker = breaker();
        for key in 0..19 {
            end(&mut breaker, pair(1, key), Health::Ill, at(0));
        }
        end(&mut breaker, pair(1, 19), Health::Ill, at(10_000));
        assert_eq!(breaker.state(at(10_000)), State::Closed);
    }

    #[test]
    fn one_caller_does_not_open_it_while_another_is_answered() {
        let mut breaker = breaker();
        end(&mut breaker, pair(2, 0), Health::Well, at(0));
        for key in 0..500 {
            end(&mut breaker, pair(1, key), Health::Ill, at(1));
        }
        assert_eq!(breaker.state(at(1)), State::Closed);
        end(&mut breaker, pair(3, 0), Health::Ill, at(1));
        assert_eq!(breaker.state(at(1)), State::Open);
    }

    #[test]
    fn one_key_does_not_open_it_while_another_is_answered() {
        let mut breaker = breaker();
        end(&mut breaker, pair(1, 1), Health::Well, at(0));
        for caller in 0..200 {
            end(&mut breaker, pair(caller, 0), Health::Ill, at(1));
        }
        assert_eq!(breaker.state(at(1)), State::Closed);
    }

    #[test]
    fn what_says_nothing_of_health_never_counts() {
        let mut breaker = breaker();
        for key in 0..500 {
            end(&mut breaker, pair(1, key), Health::Unknown, at(1));
        }
        assert_eq!(breaker.state(at(1)), State::Closed);
    }

    #[test]
    fn it_is_open_for_a_fifth_first_then_twice_as_long_and_never_over_the_longest() {
        let mut breaker = opened(at(0));
        let mut now = at(0);
        for most in [1_000, 2_000, 4_000, 5_000, 5_000, 5_000] {
            let wait = breaker.look(now).unwrap_err();
            assert!(wait <= at(most) && wait >= at(most * 8 / 10), "{wait:?} of {most} ms");
            assert_eq!(breaker.admit(now), Err(wait));
            now += wait;
            assert_eq!(breaker.state(now), State::HalfOpen);
            assert!(end(&mut breaker, pair(1, 0), Health::Ill, now));
        }
    }

    #[test]
    fn a_few_probes_go_and_one_answer_closes_it() {
        let mut breaker = opened(at(0));
        let now = at(1_000);
        let probes: Vec<_> = (0..3).map(|_| breaker.admit(now).unwrap()).collect();
        assert!(probes.iter().all(|leave| leave.probe));
        assert!(breaker.admit(now).is_err());
        assert!(breaker.ended(probes[0], pair(1, 0), Health::Well, now));
        assert_eq!(breaker.state(now), State::Closed);
        assert_eq!(breaker.admit(now), Ok(Leave { probe: false }));
        // The others' ends are about the illness that is over.
        breaker.ended(probes[1], pair(1, 1), Health::Ill, now);
        assert_eq!(breaker.state(now), State::Closed);
    }

    #[test]
    fn a_probe_that_says_nothing_gives_its_place_back() {
        let mut breaker = opened(at(0));
        let now = at(1_000);
        for _ in 0..10 {
            assert!(!end(&mut breaker, pair(1, 0), Health::Unknown, now));
        }
        assert_eq!(breaker.state(now), State::HalfOpen);
    }

    #[test]
    fn probes_that_hang_hold_the_next_up_for_a_second() {
        let mut breaker = opened(at(0));
        for _ in 0..3 {
            breaker.admit(at(1_000)).unwrap();
        }
        assert_eq!(breaker.admit(at(1_400)), Err(at(600)));
        let late = breaker.admit(at(2_000)).unwrap();
        assert!(breaker.ended(late, pair(1, 0), Health::Well, at(2_000)));
    }

    #[test]
    fn after_a_window_of_health_the_first_length_is_the_short_one_again() {
        let mut breaker = opened(at(0));
        end(&mut breaker, pair(1, 0), Health::Ill, at(1_000));
        end(&mut breaker, pair(1, 0), Health::Well, at(3_000));
        let again = |breaker: &mut Breaker, now| {
            for key in 0..20 {
                end(breaker, pair(1, key), Health::Ill, now);
            }
            breaker.look(now).unwrap_err()
        };
        assert!(again(&mut breaker, at(3_000)) > at(3_000));
        end(&mut breaker, pair(1, 0), Health::Well, at(8_000));
        assert!(again(&mut breaker, at(18_000)) <= at(1_000));
    }

    #[test]
    fn under_another_rule_it_knows_what_it_knew() {
        let short = config::Breaker { open: at(500), of: 3, window: at(100), ..RULE };
        assert_eq!(opened(at(0)).under(RULE, at(10)).state(at(700)), State::Open);
        let shorter = opened(at(0)).under(short, at(10));
        assert_eq!(
            (shorter.state(at(509)), shorter.state(at(510))),
            (State::Open, State::HalfOpen)
        );
        let mut closed = breaker();
        for key in 0..10 {
            end(&mut closed, pair(1, key), Health::Ill, at(0));
        }
        let mut stricter = closed.under(config::Breaker { window: RULE.window, ..short }, at(10));
        assert!(end(&mut stricter, pair(1, 10), Health::Ill, at(50)), "the ten count");
        let mut forgetful = breaker();
        end(&mut forgetful, pair(1, 0), Health::Ill, at(0));
        let mut forgetful = forgetful.under(short, at(10));
        for key in 1..3 {
            assert!(!end(&mut forgetful, pair(1, key), Health::Ill, at(100)), "the first is past");
        }
        assert!(end(&mut forgetful, pair(1, 3), Health::Ill, at(100)));
    }

    proptest! {
        #[test]
        fn whatever_happens_somebody_may_try_within_the_longest_time(
            steps in prop::collection::vec((0_u64..3_000, 0_u8..4, 0_u64..40, 0_u8..4), 0..300),
        ) {
            let mut breaker = breaker();
            let (mut now, mut out) = (at(0), Vec::new());
            for (pass, caller, key, what) in steps {
                now += at(pass);
                match (what, breaker.admit(now)) {
                    (0, Ok(leave)) => out.push((leave, pair(caller, key))),
                    (1, Ok(leave)) => { breaker.ended(leave, pair(caller, key), Health::Well, now); }
                    (_, Ok(leave)) => { breaker.ended(leave, pair(caller, key), Health::Ill, now); }
                    (_, Err(wait)) => prop_assert!(wait <= RULE.open && wait > Duration::ZERO),
                }
                if what == 3 && let Some((leave, pair)) = out.pop() {
                    breaker.ended(leave, pair, Health::Unknown, now);
                }
                prop_assert!(breaker.look(now + RULE.open).is_ok());
            }
        }
    }
}
