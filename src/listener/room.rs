//! [`Room`]: whether an HTTP/2 connection can carry more of its answers.
//!
//! *Invariant:* it is full while a write to the kernel is pending, and while the window of all streams together is
//! used up (RFC 9113 §6.9.1); then an answer waits for its turn, whatever window of its own it has.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// What a connection can carry. Its own task alone changes it, so that no addition needs to be atomic.
#[derive(Debug)]
pub(super) struct Room {
    /// Since when a write to the kernel makes no progress; 0 = none is pending.
    stalled: AtomicU64,
    /// What may still be sent on all streams together.
    window: AtomicI64,
    /// When it was last full.
    full: AtomicU64,
}

impl Room {
    /// A connection of which nothing was sent.
    pub(super) fn new() -> Self {
        Self {
            stalled: AtomicU64::new(0),
            window: AtomicI64::new(FIRST_WINDOW),
            full: AtomicU64::new(0),
        }
    }

    /// So much of answers was sent.
    pub(super) fn sent(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.window.store(self.window.load(Relaxed).saturating_sub(count), Relaxed);
    }

    /// At `now` the client opened the window of all streams together by so much.
    pub(super) fn opened(&self, count: u64, now: u64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let window = self.window.load(Relaxed);
        if count > 0 && window <= 0 {
            self.full.store(now, Relaxed);
        }
        self.window.store(window.saturating_add(count), Relaxed);
    }

    /// At `now` a write was tried.
    pub(super) fn wrote(&self, pending: bool, now: u64) {
        let stalled = self.stalled.load(Relaxed) != 0;
        if stalled && !pending {
            self.full.store(now, Relaxed);
            self.stalled.store(0, Relaxed);
        } else if pending && !stalled {
            self.stalled.store(now, Relaxed);
        }
    }

    /// Since when a write to the kernel makes no progress, if one is pending.
    pub(super) fn stalled(&self) -> Option<u64> {
        Some(self.stalled.load(Relaxed)).filter(|since| *since != 0)
    }

    /// Since when there is room, if there is; 0 = from the start.
    pub(super) fn since(&self) -> Option<u64> {
        let full = self.stalled().is_some() || self.window.load(Relaxed) <= 0;
        (!full).then(|| self.full.load(Relaxed))
    }
}

/// The window of all streams together at first (RFC 9113 §6.9.2).
const FIRST_WINDOW: i64 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_room_while_a_write_is_pending() {
        let room = Room::new();
        assert_eq!((room.since(), room.stalled()), (Some(0), None));
        room.wrote(true, 1);
        room.wrote(true, 2);
        assert_eq!((room.since(), room.stalled()), (None, Some(1)));
        room.wrote(false, 3);
        room.wrote(false, 4);
        assert_eq!((room.since(), room.stalled()), (Some(3), None));
    }

    #[test]
    fn there_is_no_room_while_the_window_of_all_streams_is_used_up() {
        let room = Room::new();
        room.sent(65_534);
        assert_eq!(room.since(), Some(0));
        room.sent(1);
        room.opened(0, 1);
        assert_eq!(room.since(), None);
        room.opened(1, 2);
        room.opened(1, 3);
        assert_eq!(room.since(), Some(2));
    }
}
