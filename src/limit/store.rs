//! The bounded memory of the limiters: a bucket for each key that is in debt, and never more than
//! the cap.
//!
//! *Invariants*
//! 1. No more keys are held than the cap, whatever arrives.
//! 2. A bucket in debt is never dropped; a full one may be, since it equals one that was never
//!    there.
//! 3. A newcomer who finds only debtors shares one overflow bucket: limited with the others, never
//!    locked out for good.
//! 4. Strangers leave a quarter of the room to the regulars (callers that the upstream has
//!    accepted).
//! 5. Nothing is scanned: a newcomer looks at no more than [`PROBES`] buckets.
//!
//! *Why not* governor's own keyed state: it grows with every key it ever saw. *Why not* an LRU: the
//! least recently used bucket may well be in debt, and whoever floods the table would get it
//! forgotten.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use governor::nanos::Nanos;
use governor::state::StateStore;
use parking_lot::Mutex;

use super::lane::Known;
use crate::caller::CallerId;

/// The buckets of one kind of key, in shards. Several [`Ledger`]s, each with a rate of its own, can
/// share them.
pub(super) struct Buckets<K: Key> {
    shards: Box<[Mutex<Shard<K>>]>,
    spread: K::Spread,
    regulars: Option<Known>,
    /// What a shard holds at most.
    room: usize,
    /// What a shard may hold when a stranger moves in.
    common: usize,
}

impl<K: Key> Buckets<K> {
    /// Room for `cap` keys (at least one), with a reserve for `regulars`.
    pub(super) fn new(cap: usize, regulars: Option<Known>) -> Self {
        // Small tables are one shard, so that the cap is theirs to the key; the shards of large
        // ones differ by a percent or so in how many keys fall to them, and that much of the room
        // is lost when one fills early.
        let shards = (cap / KEYS_PER_SHARD).clamp(1, MOST_SHARDS);
        let room = (cap / shards).max(1);
        let reserve = if regulars.is_some() { room / 4 } else { 0 };
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            spread: K::Spread::default(),
            regulars,
            room,
            common: room - reserve,
        }
    }

    /// Keys held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().tats.len()).sum()
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K>> {
        // The map inside uses the low bits and the highest seven; the shard takes its own from
        // between.
        let hash = usize::try_from((self.spread.hash_one(key) >> 32) & 0xffff).unwrap_or(0);
        self.shards
            .get(hash % self.shards.len())
            .expect("the remainder is below the count of shards")
    }

    /// Whether `key` may move in, after making room for it where that costs nobody anything.
    fn admits(&self, key: &K, shard: &mut Shard<K>, now: Nanos) -> bool {
        shard.shed(self.common, now);
        let held = shard.tats.len();
        held < self.common || (held < self.room && self.is_regular(key))
    }

    fn is_regular(&self, key: &K) -> bool {
        let regulars = self.regulars.as_ref().zip(key.caller());
        regulars.is_some_and(|(regulars, caller)| regulars.contains(caller))
    }
}

/// A limiter's view of its buckets, as governor wants it: with the pace of its rate and an overflow
/// bucket of its own.
pub(super) struct Ledger<K: Key> {
    buckets: Arc<Buckets<K>>,
    interval: Nanos,
    /// When its limiter began: governor counts from then, the buckets from when the process did, since
    /// they outlive a limiter whose rate is changed.
    began: Nanos,
    overflow: Mutex<Option<Nanos>>,
}

impl<K: Key> Ledger<K> {
    /// `interval` is what one request costs: the time after which the bucket has it back.
    pub(super) fn new(buckets: Arc<Buckets<K>>, interval: Nanos, began: Nanos) -> Self {
        Self { buckets, interval, began, overflow: Mutex::default() }
    }
}

impl<K: Key> StateStore for Ledger<K> {
    type Key = Visit<K>;

    fn measure_and_replace<T, F, E>(&self, visit: &Visit<K>, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let decide = |tat: Option<Nanos>| {
            let (answer, next) = decide(tat.map(|tat| tat.saturating_sub(self.began)))?;
            Ok((answer, next + self.began))
        };
        let mut shard = self.buckets.shard(&visit.key).lock();
        if let Some(tat) = shard.tats.get_mut(&visit.key) {
            let (answer, next) = decide(Some(*tat))?;
            if visit.takes {
                *tat = next;
            }
            return Ok(answer);
        }
        let (answer, next) = decide(None)?;
        // A newcomer's next arrival is one interval from now.
        let now = next.saturating_sub(self.interval);
        if self.buckets.admits(&visit.key, &mut shard, now) {
            if visit.takes {
                shard.insert(visit.key, next);
            }
            return Ok(answer);
        }
        drop(shard);
        let mut overflow = self.overflow.lock();
        let (answer, next) = decide(*overflow)?;
        if visit.takes {
            *overflow = Some(next);
        }
        Ok(answer)
    }
}

/// What a bucket belongs to, and how its table is hashed.
pub(super) trait Key: Copy + Hash + Ord {
    /// Keyed, unless whoever makes the keys cannot choose them.
    type Spread: BuildHasher + Default;

    /// The caller it belongs to, if it belongs to one.
    fn caller(&self) -> Option<&CallerId>;
}

/// A look at a bucket.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Visit<K> {
    /// Whose bucket.
    pub(super) key: K,
    /// Whether an admission takes from it, or only asks.
    pub(super) takes: bool,
}

/// The keys of one lock, each with the time at which its bucket is full again (governor's
/// theoretical arrival time).
struct Shard<K: Key> {
    tats: HashMap<K, Nanos, K::Spread>,
    /// Each key once, by a time before which its bucket was not full: what it was when queued.
    /// Later requests only move the true time on, so that a head in the future proves that everyone
    /// is in debt.
    queue: BinaryHeap<Reverse<(Nanos, K)>>,
}

impl<K: Key> Shard<K> {
    fn insert(&mut self, key: K, tat: Nanos) {
        self.tats.insert(key, tat);
        self.queue.push(Reverse((tat, key)));
    }

    /// Drops buckets that are full by `now` until fewer than `target` are held, or none is found
    /// full.
    fn shed(&mut self, target: usize, now: Nanos) {
        for _ in 0..PROBES {
            if self.tats.len() < target {
                return;
            }
            let Some(mut head) = self.queue.peek_mut() else {
                return;
            };
            let Reverse((due, key)) = *head;
            if due > now {
                return;
            }
            match self.tats.get(&key) {
                Some(&tat) if tat > now => *head = Reverse((tat, key)),
                _ => {
                    PeekMut::pop(head);
                    self.tats.remove(&key);
                }
            }
        }
    }
}

impl<K: Key> Default for Shard<K> {
    fn default() -> Self {
        Self { tats: HashMap::default(), queue: BinaryHeap::new() }
    }
}

/// Below twice this many keys a table is one shard.
const KEYS_PER_SHARD: usize = 1024;
const MOST_SHARDS: usize = 16;
/// Buckets that a newcomer looks at in a full table: enough to pass those that were used since they
/// were queued.
const PROBES: usize = 16;
