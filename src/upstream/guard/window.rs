//! Outcomes of the last seconds, one for each caller and key.
//!
//! *Invariants*
//! 1. A caller and key stand here once, with their latest outcome, from the first until the window has
//!    passed over it.
//! 2. At most [`MOST`] are held: of a busy upstream's the latest, whoever asks however much.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::quality::RandomState;

/// Who asked for what, by digests: each outcome looks up two of a thousand, which are to stay near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    /// Of the caller; 0 on open routes, where nobody is told from another.
    pub(super) caller: u64,
    /// Of what was asked for.
    pub(super) key: u64,
}

/// The outcomes.
#[derive(Debug)]
pub(super) struct Window {
    length: Duration,
    order: VecDeque<(Duration, Pair)>,
    outcomes: HashMap<Pair, bool, RandomState>,
    failed: usize,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self { length, order: VecDeque::new(), outcomes: HashMap::default(), failed: 0 }
    }

    /// Outcomes count for so long from now on, those that are here too.
    pub(super) fn last_for(&mut self, length: Duration) {
        self.length = length;
    }

    /// Takes an outcome in.
    pub(super) fn note(&mut self, pair: Pair, failed: bool, now: Duration) {
        while self.order.front().is_some_and(|(at, _)| *at + self.length <= now)
            || self.order.len() >= MOST
        {
            let Some((_, oldest)) = self.order.pop_front() else { break };
            let failed = self.outcomes.remove(&oldest).unwrap_or_default();
            self.failed -= usize::from(failed);
        }
        let before = self.outcomes.insert(pair, failed);
        if before.is_none() {
            self.order.push_back((now, pair));
        }
        self.failed += usize::from(failed);
        self.failed -= usize::from(before.unwrap_or_default());
    }

    /// Whether at least `share` of at least `least` failed, and not for one caller or one key alone
    /// while another was answered.
    #[expect(clippy::cast_precision_loss, reason = "both are small")]
    pub(super) fn is_ill(&self, share: f64, least: usize) -> bool {
        let heard = self.outcomes.len();
        heard >= least
            && self.failed as f64 >= share * heard as f64
            && self.is_shared(|pair| pair.caller)
            && self.is_shared(|pair| pair.key)
    }

    /// Whether failures are of several of what `part` tells apart, or of the only one heard.
    fn is_shared<T: PartialEq>(&self, part: impl Fn(&Pair) -> T) -> bool {
        let failed = self.outcomes.iter().filter(|(_, failed)| **failed);
        let mut failed = failed.map(|(pair, _)| part(pair));
        let Some(first) = failed.next() else { return false };
        failed.any(|other| other != first) || self.outcomes.keys().all(|pair| part(pair) == first)
    }
}

/// Most outcomes held.
const MOST: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_keys_is_held_to_the_latest() {
        let mut window = Window::new(Duration::from_secs(10));
        for key in 0..100_000 {
            window.note(Pair { caller: 0, key }, key < 99_000, Duration::ZERO);
        }
        assert_eq!((window.order.len(), window.outcomes.len()), (MOST, MOST));
        assert_eq!(window.failed, MOST - 1_000);
    }

    #[test]
    fn the_latest_outcome_of_a_pair_counts() {
        let mut window = Window::new(Duration::from_secs(10));
        let pair = Pair { caller: 0, key: 1 };
        for failed in [true, true, false, true, false] {
            window.note(pair, failed, Duration::ZERO);
        }
        assert!(!window.is_ill(0.1, 1));
        window.note(pair, true, Duration::ZERO);
        assert!(window.is_ill(1.0, 1));
    }
}
