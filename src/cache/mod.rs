//! The cache: lookup, store, invalidate; memory only, synchronous.
//!
//! *Invariants*
//! 1. A lookup answers from the caller's own partition or not at all.
//! 2. What was invalidated is never served again, whatever was under way: the verdict of its generations
//!    is asked at every lookup and once more when a flight wants to store.
//! 3. Memory is bounded by `cache.max_bytes`: bodies, fields, keys and bookkeeping counted.
//!
//! *Why not moka's own expiry:* it reads std's clock, which no test can steer, and an entry's part in it takes 41
//! bytes and 1.5 % of a hit. moka bounds the bytes, and keeps what is used against what is asked once;
//! [`Sweep`] drops an entry after its last window.

use http::HeaderMap;

use crate::clock::Now;

use entries::Entries;
use generation::{Generations, Scope, Stamp, Strength, Verdict};
use policy::{Forward, Freshness, NotStored};
use stored::{CacheKey, KeyRef, Owner};
use sweep::Sweep;

mod ends;
mod entries;
pub mod fields;
pub mod flight;
mod forms;
pub mod generation;
mod packed;
pub mod policy;
pub mod purge;
mod slot;
pub mod stored;
pub mod sweep;
pub mod times;

pub use slot::Held;

/// The store of answers.
#[derive(Debug)]
pub struct Cache {
    /// `None`: it is switched off.
    entries: Option<Entries>,
    generations: Generations,
}

impl Cache {
    /// A cache of at most `max_bytes`; 0 keeps nothing.
    pub fn new(max_bytes: u64) -> Self {
        Self { entries: Entries::new(max_bytes), generations: Generations::default() }
    }

    /// What can be answered from memory; `now` is asked for only where something is there.
    pub fn lookup(
        &self,
        key: &KeyRef<'_>,
        request: &HeaderMap,
        made_under: u64,
        now: impl FnOnce() -> Now,
    ) -> Lookup {
        let Some(slot) = self.entries.as_ref().and_then(|entries| entries.get(key)) else {
            return Lookup::Miss(Forward::UriMiss);
        };
        let Some(stored) = slot.select(request) else {
            return Lookup::Miss(Forward::VaryMiss);
        };
        let now = &now();
        let outdated = stored.fields.terms().made_under != made_under;
        if stored.owner() != key.owner || outdated || stored.token_ended(now) {
            return Lookup::Miss(Forward::UriMiss);
        }
        match (self.verdict(&stored.stamp), stored.freshness(now)) {
            (Verdict::Void, _) => Lookup::Miss(Forward::UriMiss),
            (Verdict::Current, Freshness::Fresh) => Lookup::Fresh(stored),
            (Verdict::Current, Freshness::StaleWhileRevalidate) => {
                Lookup::StaleWhileRevalidate(stored)
            }
            (_, Freshness::Expired) if !stored.can_be_revalidated(now) => {
                Lookup::Miss(Forward::UriMiss)
            }
            _ => Lookup::Stale(stored),
        }
    }

    /// Keeps an answer to this request under its key, unless what it belongs to was invalidated while it was under way.
    ///
    /// # Errors
    /// Why it was not kept.
    pub fn store(
        &self,
        key: &KeyRef<'_>,
        request: &HeaderMap,
        stored: &Held,
    ) -> Result<(), NotStored> {
        let entries = self.entries.as_ref().ok_or(NotStored::SwitchedOff)?;
        if self.verdict(&stored.stamp) != Verdict::Current {
            return Err(NotStored::Voided);
        }
        if entries.put(key, stored, request) { Ok(()) } else { Err(NotStored::TooLarge) }
    }

    /// Ends a stored answer for good, such as when the upstream said 403 or 404 to its owner, of an open
    /// route's variants those that suit the request; says whether there was one.
    pub fn end(&self, key: &CacheKey, request: &HeaderMap) -> bool {
        self.entries.as_ref().is_some_and(|entries| entries.end(&key.as_ref(), request))
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

    /// Begins to look for what is past its last window.
    pub fn sweep(&self) -> Sweep<'_> {
        Sweep::over(self.entries.as_ref())
    }

    /// What the metrics show.
    pub fn sizes(&self) -> Sizes {
        let held = self.entries.as_ref().map(Entries::sizes).unwrap_or_default();
        Sizes { generations: self.generations.len(), ..held }
    }
}

/// What a lookup found.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// To be served.
    Fresh(Held),
    /// To be served, and refreshed in the background (RFC 5861 §3).
    StaleWhileRevalidate(Held),
    /// To be revalidated; served only if the error excuses it (RFC 5861 §4).
    Stale(Held),
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
