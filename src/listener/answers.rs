//! [`Answers`]: when something of each unread answer of an HTTP/2 connection was last taken.
//!
//! *Invariants*
//! 1. Noting that something was taken costs a store; beginning and ending an answer allocates nothing once as
//!    many have been under way at once.
//! 2. An answer is under way for as long as somebody holds what [`begin`](Answers::begin) returned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// The unread answers of a connection.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// One that nobody else holds is free for the next.
    ticks: Mutex<Vec<Arc<AtomicU64>>>,
}

impl Answers {
    /// One more, whose client has from `now` on to take something of it; to be set whenever it does.
    pub(super) fn begin(&self, now: u64) -> Arc<AtomicU64> {
        let mut ticks = self.ticks.lock();
        let free = ticks.iter().find(|tick| Arc::strong_count(tick) == 1).cloned();
        let tick = free.unwrap_or_else(|| {
            let tick = Arc::default();
            ticks.push(Arc::clone(&tick));
            tick
        });
        tick.store(now, Relaxed);
        tick
    }

    /// When something was last taken of the answer that has waited longest.
    pub(super) fn oldest(&self) -> Option<u64> {
        let ticks = self.ticks.lock();
        let held = ticks.iter().filter(|tick| Arc::strong_count(tick) > 1);
        held.map(|tick| tick.load(Relaxed)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_waited_longest_is_told_and_places_are_used_again() {
        let answers = Answers::default();
        assert_eq!(answers.oldest(), None);
        let (first, second) = (answers.begin(1), answers.begin(2));
        let part_of_first = Arc::clone(&first);
        drop(first);
        assert_eq!(answers.oldest(), Some(1));
        part_of_first.store(3, Relaxed);
        assert_eq!(answers.oldest(), Some(2));
        drop(part_of_first);
        let third = answers.begin(4);
        assert_eq!((answers.oldest(), answers.ticks.lock().len()), (Some(2), 2));
        drop((second, third));
        assert_eq!(answers.oldest(), None);
    }
}
