//! [`Wear`]: how long a connection may last.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::io::Ticks;

/// How many requests a connection has had, and how many and how long it may have at most.
#[derive(Debug)]
pub(super) struct Wear {
    ticks: Ticks,
    requests: AtomicU64,
    most: u64,
    until: u64,
}

impl Wear {
    /// A new connection that is to end after `most` requests, and after `age`; 0 = it need not.
    pub(super) fn new(ticks: Ticks, most: u64, age: Duration) -> Self {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let until = if age == 0 { u64::MAX } else { ticks.now().saturating_add(age) };
        let most = if most == 0 { u64::MAX } else { most };
        Self { ticks, requests: AtomicU64::new(0), most, until }
    }

    /// One more request.
    pub(super) fn asked(&self) {
        // One task alone counts; an addition that others could see halfway would cost more.
        self.requests.store(self.requests.load(Relaxed).saturating_add(1), Relaxed);
    }

    /// Whether the connection has had its share and is to end in order.
    pub(super) fn is_out(&self) -> bool {
        self.requests.load(Relaxed) >= self.most || self.ticks.now() >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_wears_out_by_requests_or_by_age_or_never() {
        let ticks = Ticks::new();
        let (by_count, by_age, never) = (
            Wear::new(ticks.clone(), 2, Duration::ZERO),
            Wear::new(ticks.clone(), 0, Duration::from_mins(1)),
            Wear::new(ticks.clone(), 0, Duration::ZERO),
        );
        by_count.asked();
        assert!(!by_count.is_out() && !by_age.is_out());
        by_count.asked();
        ticks.set(60_001);
        assert!(by_count.is_out() && by_age.is_out() && !never.is_out());
    }
}
