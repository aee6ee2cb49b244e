//! The cache: lookup, store, invalidate; memory only, synchronous.
//!
//! *Invariants*
//! 1. A lookup answers from the caller's own partition or not at all.
//! 2. What was invalidated is never served again, whatever was under way: the verdict of its generations
//!    is asked at every lookup and once more when a flight wants to store.
//! 3. Memory is bounded by `cache.max_bytes`: bodies, fields, keys and bookkeeping counted.
//!
//! *Why not moka's own expiry for freshness:* it reads std's clock, which no test can steer, and deletes
//! what stale-if-error and revalidation still need. moka bounds the bytes, keeps what is used against
//! what is asked once, and drops an entry after its last window.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use http::HeaderMap;
use moka::Entry;
use moka::notification::RemovalCause;
use moka::ops::compute::{CompResult, Op};

use crate::clock::Now;

use generation::{Generations, Scope, Stamp, Strength, Verdict};
use policy::{Forward, Freshness, NotStored};
use slot::Slot;
use stored::{CacheKey, KeyRef, Owner, Stored};

mod ends;
pub mod fields;
pub mod flight;
pub mod generation;
pub mod policy;
pub mod purge;
mod slot;
pub mod stored;
pub mod times;

/// The store of answers.
#[derive(Debug)]
pub struct Cache {
    entries: Option<moka::sync::Cache<CacheKey, Slot, RandomState>>,
    generations: Generations,
    removals: Arc<Removals>,
    capacity: u64,
}

impl Cache {
    /// A cache of at most `max_bytes`; 0 keeps nothing.
    pub fn new(max_bytes: u64) -> Self {
        let removals = Arc::new(Removals::default());
        let listener = Arc::clone(&removals);
        let entries = (max_bytes > 0).then(|| {
            moka::sync::Cache::builder()
                .name("unitgate")
                .max_capacity(max_bytes)
                .weigher(|key: &CacheKey, slot: &Slot| weight(key, slot))
                .expire_after(LastWindow)
                .eviction_listener(move |_key, _slot, cause| listener.count(cause))
                .build_with_hasher(RandomState::default())
        });
        Self { entries, generations: Generations::default(), removals, capacity: max_bytes }
    }

    /// What can be answered from memory at `now`.
    pub fn lookup(
        &self,
        key: &KeyRef<'_>,
        request: &HeaderMap,
        made_under: u64,
        now: &Now,
    ) -> Lookup {
        let Some(slot) = self.entries.as_ref().and_then(|entries| entries.get(key)) else {
            return Lookup::Miss(Forward::UriMiss);
        };
        let Some(stored) = slot.select(request) else {
            return Lookup::Miss(Forward::VaryMiss);
        };
        if stored.owner != key.owner || stored.made_under != made_under || stored.token_ended(now) {
            return Lookup::Miss(Forward::UriMiss);
        }
        match (self.verdict(&stored.stamp), stored.freshness(now)) {
            (Verdict::Void, _) => Lookup::Miss(Forward::UriMiss),
            (Verdict::Current, Freshness::Fresh) => Lookup::Fresh(Arc::clone(stored)),
            (Verdict::Current, Freshness::StaleWhileRevalidate) => {
                Lookup::StaleWhileRevalidate(Arc::clone(stored))
            }
            (_, Freshness::Expired) if !stored.can_be_revalidated(now) => {
                Lookup::Miss(Forward::UriMiss)
            }
            _ => Lookup::Stale(Arc::clone(stored)),
        }
    }

    /// Keeps an answer to this request, unless what it belongs to was invalidated while it was under way.
    ///
    /// # Errors
    /// Why it was not kept.
    pub fn store(
        &self,
        key: &CacheKey,
        request: &HeaderMap,
        stored: &Arc<Stored>,
    ) -> Result<(), NotStored> {
        let entries = self.entries.as_ref().ok_or(NotStored::SwitchedOff)?;
        if self.verdict(&stored.stamp) != Verdict::Current {
            return Err(NotStored::Voided);
        }
        let fits = |slot: &Slot| u64::from(weight(key, slot)) <= self.capacity;
        match key.owner() {
            Owner::Caller(_) => {
                let slot = Slot::One(Arc::clone(stored));
                if !fits(&slot) {
                    return Err(NotStored::TooLarge);
                }
                entries.insert(key.clone(), slot);
            }
            // One at a time for a key, so that none of its variants is lost, nor comes back.
            Owner::Open => {
                let put = entries.entry_by_ref(key).and_compute_with(|held| {
                    let slot = match held.map(Entry::into_value) {
                        Some(slot) => slot.with(Arc::clone(stored), request),
                        None => Slot::One(Arc::clone(stored)),
                    };
                    if fits(&slot) { Op::Put(slot) } else { Op::Nop }
                });
                if !matches!(put, CompResult::Inserted(_) | CompResult::ReplacedWith(_)) {
                    return Err(NotStored::TooLarge);
                }
            }
        }
        self.removals.insertions.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Ends a stored answer for good, such as when the upstream said 403 or 404 to its owner, of an open
    /// route's variants those that suit the request; says whether there was one.
    pub fn end(&self, key: &CacheKey, request: &HeaderMap) -> bool {
        let Some(entries) = &self.entries else { return false };
        if let Owner::Caller(_) = key.owner() {
            return entries.remove(key).is_some();
        }
        let ended = entries.entry_by_ref(key).and_compute_with(|held| {
            let Some(slot) = held.map(Entry::into_value) else { return Op::Nop };
            match slot.without(request) {
                None => Op::Remove,
                Some(left) if left.variants().len() < slot.variants().len() => Op::Put(left),
                Some(_all) => Op::Nop,
            }
        });
        matches!(ended, CompResult::Removed(_) | CompResult::ReplacedWith(_))
    }

    /// Voids or stales everything of a scope, flights under way too; `false` where it is known that nothing
    /// was there.
    pub fn invalidate(&self, invalidation: &Invalidation) -> bool {
        self.generations.bump(&invalidation.scope, invalidation.strength)
    }

    /// The generations of a request as they stand: taken before anything is asked of the upstream.
    pub fn stamp(&self, key: &KeyRef<'_>, family: Option<u16>, unit: Option<&str>) -> Stamp {
        let caller = match key.owner {
            Owner::Caller(id) => Some(id),
            Owner::Open => None,
        };
        self.generations.stamp(caller, family, unit, key.target)
    }

    /// What happened since a stamp was taken.
    pub fn verdict(&self, stamp: &Stamp) -> Verdict {
        self.generations.verdict(stamp)
    }

    /// What was ended when, and the scopes of what can be.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// What the metrics show; catches up with moka's pending work first.
    pub fn sizes(&self) -> Sizes {
        let (entries, bytes) = self.entries.as_ref().map_or((0, 0), |entries| {
            entries.run_pending_tasks();
            (entries.entry_count(), entries.weighted_size())
        });
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Sizes {
            entries,
            bytes,
            capacity: self.capacity,
            generations: self.generations.len(),
            insertions: read(&self.removals.insertions),
            evicted_size: read(&self.removals.size),
            evicted_expired: read(&self.removals.expired),
            evicted_replaced: read(&self.removals.replaced),
            evicted_ended: read(&self.removals.ended),
        }
    }
}

/// What a lookup found.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// To be served.
    Fresh(Arc<Stored>),
    /// To be served, and refreshed in the background (RFC 5861 §3).
    StaleWhileRevalidate(Arc<Stored>),
    /// To be revalidated; served only if the error excuses it (RFC 5861 §4).
    Stale(Arc<Stored>),
    /// Nothing to use, and why it must be forwarded (RFC 9211 §2.2).
    Miss(Forward),
}

/// How a success came about: one enum feeds `Cache-Status`, the metric label and the log field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// From memory, fresh.
    Hit,
    /// From memory, stale, while it is being refreshed.
    StaleWhileRevalidate,
    /// From memory, stale, because the upstream failed.
    StaleIfError,
    /// From memory, after the upstream confirmed it with a 304.
    Revalidated,
    /// From the upstream.
    Miss,
    /// From the upstream, by another request's fetch.
    Coalesced,
    /// From the upstream, by a route or method without a cache.
    Forwarded,
}

impl Status {
    /// All, in the order of their labels.
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::StaleWhileRevalidate,
        Self::StaleIfError,
        Self::Revalidated,
        Self::Miss,
        Self::Coalesced,
        Self::Forwarded,
    ];

    /// The stable label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::StaleWhileRevalidate => "stale",
            Self::StaleIfError => "stale_if_error",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Forwarded => "forwarded",
        }
    }
}

/// What is voided or staled: the one way in is [`Cache::invalidate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// What it is about.
    pub scope: Scope,
    /// Void or stale.
    pub strength: Strength,
    /// Who asked for it.
    pub source: Source,
}

/// Who asked for an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A write that succeeded, or whose outcome is unknown.
    Write,
    /// The upstream's 401 to a token.
    Unauthorized,
    /// The upstream's 403, 404 or 410 to a token for one target.
    Gone,
    /// A HEAD that told of other content than is stored (RFC 9111 §4.3.5).
    Head,
    /// An operator.
    Purge,
}

impl Source {
    /// All, in the order of their labels.
    pub const ALL: [Self; 5] =
        [Self::Write, Self::Unauthorized, Self::Gone, Self::Head, Self::Purge];

    /// The stable label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Unauthorized => "unauthorized",
            Self::Gone => "gone",
            Self::Head => "head",
            Self::Purge => "purge",
        }
    }
}

/// What the cache holds and what happened to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Entries held.
    pub entries: u64,
    /// Bytes they are counted with.
    pub bytes: u64,
    /// The bound on those bytes.
    pub capacity: u64,
    /// Records of generations that are alive.
    pub generations: usize,
    /// Answers kept so far.
    pub insertions: u64,
    /// Dropped for want of room.
    pub evicted_size: u64,
    /// Dropped after their last window.
    pub evicted_expired: u64,
    /// Replaced by a newer answer.
    pub evicted_replaced: u64,
    /// Ended by the upstream's word.
    pub evicted_ended: u64,
}

/// Drops an entry after its last window. The instants are moka's own, and not looked at.
struct LastWindow;

#[expect(clippy::disallowed_types, reason = "moka's interface names them")]
impl moka::Expiry<CacheKey, Slot> for LastWindow {
    fn expire_after_create(
        &self,
        _key: &CacheKey,
        slot: &Slot,
        _at: std::time::Instant,
    ) -> Option<Duration> {
        Some(slot.useful_for())
    }

    fn expire_after_update(
        &self,
        _key: &CacheKey,
        slot: &Slot,
        _at: std::time::Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(slot.useful_for())
    }
}

/// Why entries went.
#[derive(Debug, Default)]
struct Removals {
    insertions: AtomicU64,
    size: AtomicU64,
    expired: AtomicU64,
    replaced: AtomicU64,
    ended: AtomicU64,
}

impl Removals {
    fn count(&self, cause: RemovalCause) {
        let counter = match cause {
            RemovalCause::Size => &self.size,
            RemovalCause::Expired => &self.expired,
            RemovalCause::Replaced => &self.replaced,
            RemovalCause::Explicit => &self.ended,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bytes that an entry is counted with.
fn weight(key: &CacheKey, slot: &Slot) -> u32 {
    let bytes = size_of::<CacheKey>() + key.heap_bytes() + slot.bytes() + ENTRY_OVERHEAD;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What moka and the allocator take for an entry beside what is counted: its hash bucket, the nodes of
/// two queues and a timer, and the headers of the allocations. `cache_bytes` is compared with RSS.
const ENTRY_OVERHEAD: usize = 480;
