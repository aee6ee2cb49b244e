//! The lane: callers that the upstream has not accepted yet share a bounded part of what goes
//! there.
//!
//! *Invariants*
//! 1. A caller that the upstream has accepted never waits here.
//! 2. At most `in_flight` permits are out; one returns when it is dropped, also by a client that
//!    left.
//! 3. Only an answer of the upstream lets a caller into the set of the known; guessed tokens never
//!    enter it.
//!
//! *Why not* a lane for each peer: behind a load balancer all peers are one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::caller::CallerId;

/// The bounded way upstream for callers not accepted yet.
pub(super) struct Lane {
    permits: Arc<Semaphore>,
    wait: Duration,
    waiting: AtomicUsize,
}

impl Lane {
    /// `in_flight` permits (at least one), each waited for no longer than `wait`.
    pub(super) fn new(in_flight: usize, wait: Duration) -> Self {
        let permits = in_flight.clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(permits)), wait, waiting: AtomicUsize::new(0) }
    }

    /// A permit, or `None` when none came free in time or [`MOST_WAITING`] wait already. Who waits is
    /// served in order of arrival.
    pub(super) async fn enter(&self) -> Option<LanePermit> {
        let permits = Arc::clone(&self.permits);
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            return Some(LanePermit(permit));
        }
        // Clients that left still wait here with their fetches: without a bound they would pile up.
        let _place = Waiting::take(&self.waiting)?;
        // The semaphore is never closed, so the inner error does not occur.
        timeout(self.wait, permits.acquire_owned()).await.ok()?.ok().map(LanePermit)
    }
}

/// A place among those who wait; given back on drop.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let one_more = |waiting: usize| (waiting < MOST_WAITING).then_some(waiting + 1);
        waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The right to one exchange with the upstream; given back on drop.
#[derive(Debug)]
#[must_use = "the place in the lane is given back when this is dropped"]
pub struct LanePermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Callers whom the upstream has accepted, the least recently used forgotten first.
#[derive(Clone)]
pub(super) struct Known(Cache<CallerId, (), RandomState>);

impl Known {
    /// Room for `cap` callers.
    pub(super) fn new(cap: usize) -> Self {
        let cap = u64::try_from(cap).unwrap_or(u64::MAX);
        // By the default policy a newcomer has to be asked for often before it is kept.
        let oldest_first =
            Cache::builder().max_capacity(cap).eviction_policy(EvictionPolicy::lru());
        Self(oldest_first.build_with_hasher(RandomState::default()))
    }

    /// Whether the caller is known; that counts as a use of it.
    pub(super) fn recall(&self, caller: &CallerId) -> bool {
        self.0.get(caller).is_some()
    }

    /// Whether the caller is known, without keeping it young.
    pub(super) fn contains(&self, caller: &CallerId) -> bool {
        self.0.contains_key(caller)
    }

    /// The upstream accepted the caller.
    pub(super) fn learn(&self, caller: &CallerId) {
        if !self.contains(caller) {
            self.0.insert(*caller, ());
        }
    }

    /// The upstream refused the caller's token.
    pub(super) fn forget(&self, caller: &CallerId) {
        self.0.invalidate(caller);
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.0.run_pending_tasks();
        usize::try_from(self.0.entry_count()).unwrap_or(usize::MAX)
    }
}

/// Most who may wait at once: beyond it a newcomer is refused at once, so that made-up tokens whose
/// clients have left can't fill the memory with fetches that nobody waits for.
const MOST_WAITING: usize = 2_048;
