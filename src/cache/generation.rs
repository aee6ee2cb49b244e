//! Invalidation by generation: what is bumped voids what was made before, entries and flights alike.
//!
//! *Invariants*
//! 1. An entry and a flight hold marks of the scopes they belong to, taken when the flight began. A bump
//!    after that is seen by whoever looks at the mark, without a scan.
//! 2. A record lives only while a mark points at it: a million bogus tokens leave no trace.
//! 3. A generation never goes back; a hard bump outlasts any number of soft ones.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::caller::CallerId;

/// What a bump is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All that was answered to one caller.
    Caller(CallerId),
    /// One caller's answers of one family of routes.
    CallerFamily(CallerId, u16),
    /// Every caller's answers about one unit, in one family of routes. Ids are compared without ASCII
    /// case: dropping one too many costs a request, one too few shows old data.
    Unit(u16, String),
    /// Every caller's answers for one canonical target, whatever route it was asked by; by its hash
    /// ([`Generations::hash`]), so that long targets cost nothing. Two that collide cost a request.
    Target(u64),
    /// [`Scope::Unit`] in whatever family. Nothing is stamped with it: it takes a scan.
    UnitAnywhere(String),
    /// Everything. Nothing is stamped with it: it takes a scan.
    All,
}

impl Scope {
    /// Whether a bump of this one is about what is stamped with `other`.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::UnitAnywhere(unit), Self::Unit(_, other)) => unit == other,
            _ => self == other,
        }
    }
}

/// How a bump treats what was made before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Never used again.
    Hard,
    /// Stale: to be revalidated, still good for stale-if-error.
    Soft,
}

/// What the scopes of an entry or a flight say of it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was bumped.
    Current,
    /// Softly bumped since.
    Stale,
    /// Hard bumped since.
    Void,
}

/// The live records.
#[derive(Clone, Debug, Default)]
pub struct Generations(Arc<Shards>);

#[derive(Debug, Default)]
struct Shards {
    hasher: RandomState,
    /// How many bumps there were of what was alive.
    bumps: AtomicU64,
    live: [Mutex<HashMap<Scope, Weak<Record>>>; SHARDS],
}

impl Generations {
    /// Marks of `scopes` as they stand.
    pub fn stamp(&self, scopes: impl IntoIterator<Item = Scope>) -> Stamp {
        let marks = scopes.into_iter().map(|scope| self.mark(scope)).collect();
        Stamp { marks, current_at: Moment::default() }
    }

    /// [`Stamp::verdict`], without a look at the marks where nothing was bumped since the last one: they are
    /// in as many places of memory as there are marks, and none of them is in a processor's cache when a
    /// request comes for one of many entries.
    pub fn verdict(&self, stamp: &Stamp) -> Verdict {
        // Counted after the bump itself: who sees the count sees the bump.
        let bumps = self.0.bumps.load(Ordering::Acquire);
        if stamp.current_at.is(bumps) {
            return Verdict::Current;
        }
        let verdict = stamp.verdict();
        if verdict == Verdict::Current {
            stamp.current_at.set(bumps);
        }
        verdict
    }

    /// Voids or stales what was made under `scope` before now; says whether anything was there.
    pub fn bump(&self, scope: &Scope, strength: Strength) -> bool {
        let records = match scope {
            Scope::All | Scope::UnitAnywhere(_) => self.records(|live| scope.covers(live)),
            // The lock is released before the record is: dropping the last reference takes it again.
            exact => {
                let record = self.0.shard(exact).lock().get(exact).and_then(Weak::upgrade);
                record.into_iter().collect()
            }
        };
        let step = match strength {
            Strength::Hard => HARD_STEP,
            Strength::Soft => SOFT_STEP,
        };
        for record in &records {
            record.state.fetch_add(step, Ordering::AcqRel);
        }
        if !records.is_empty() {
            self.0.bumps.fetch_add(1, Ordering::AcqRel);
        }
        !records.is_empty()
    }

    /// The callers of whom something is stored or under way and whose digest begins so, in hexadecimal.
    pub fn callers(&self, digits: &str) -> Vec<CallerId> {
        let like = |live: &Scope| matches!(live, Scope::Caller(id) if id.hex().starts_with(digits));
        let records = self.records(like);
        let ids = records.iter().filter_map(|record| match record.scope {
            Scope::Caller(id) => Some(id),
            _ => None,
        });
        ids.collect()
    }

    /// The live records of some scopes: a scan, a shard at a time.
    fn records(&self, of: impl Fn(&Scope) -> bool) -> Vec<Arc<Record>> {
        let shards = self.0.live.iter();
        shards
            .flat_map(|shard| {
                let shard = shard.lock();
                let live = shard.iter().filter(|(scope, _)| of(scope));
                live.filter_map(|(_, record)| record.upgrade()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// A hash of this process's own.
    pub fn hash(&self, text: &str) -> u64 {
        self.0.hasher.hash_one(text)
    }

    /// Records that are alive.
    pub fn len(&self) -> usize {
        self.0.live.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether no record is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn mark(&self, scope: Scope) -> Mark {
        let mut shard = self.0.shard(&scope).lock();
        let record = shard.get(&scope).and_then(Weak::upgrade).unwrap_or_else(|| {
            let record = Arc::new(Record {
                scope: scope.clone(),
                state: AtomicU64::new(0),
                shards: Arc::downgrade(&self.0),
            });
            shard.insert(scope, Arc::downgrade(&record));
            record
        });
        drop(shard);
        Mark { seen: record.state.load(Ordering::Acquire), record }
    }
}

impl Shards {
    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the array's length")]
    fn shard(&self, scope: &Scope) -> &Mutex<HashMap<Scope, Weak<Record>>> {
        let hash = usize::try_from(self.hasher.hash_one(scope) >> 32).unwrap_or_default();
        &self.live[hash % SHARDS]
    }
}

/// The marks that one entry or flight holds.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    marks: Box<[Mark]>,
    /// When all of them were last found as they were taken.
    current_at: Moment,
}

/// A count of bumps, one more than it; 0 = none.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn is(&self, bumps: u64) -> bool {
        self.0.load(Ordering::Relaxed) == bumps + 1
    }

    fn set(&self, bumps: u64) {
        self.0.store(bumps + 1, Ordering::Relaxed);
    }
}

impl Clone for Moment {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Stamp {
    /// What happened since the stamp was taken.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::Current;
        for mark in &self.marks {
            let state = mark.record.state.load(Ordering::Acquire);
            if state >> HARD_SHIFT != mark.seen >> HARD_SHIFT {
                return Verdict::Void;
            }
            if state != mark.seen {
                verdict = Verdict::Stale;
            }
        }
        verdict
    }

    /// Whether a bump of `scope` is about it.
    pub fn is_of(&self, scope: &Scope) -> bool {
        self.marks.iter().any(|mark| scope.covers(&mark.record.scope))
    }

    /// Memory it takes, in bytes, its records counted as if they were its own.
    pub fn bytes(&self) -> usize {
        self.marks.len() * (size_of::<Mark>() + size_of::<Record>())
    }
}

#[derive(Clone, Debug)]
struct Mark {
    record: Arc<Record>,
    seen: u64,
}

/// The state of a scope: hard bumps in the upper half, soft ones in the lower.
#[derive(Debug)]
struct Record {
    scope: Scope,
    state: AtomicU64,
    shards: Weak<Shards>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(shards) = self.shards.upgrade() else { return };
        let mut shard = shards.shard(&self.scope).lock();
        // A newcomer may have put a record of its own there meanwhile: that one is alive and stays.
        if shard.get(&self.scope).is_some_and(|record| record.strong_count() == 0) {
            shard.remove(&self.scope);
        }
    }
}

const SHARDS: usize = 16;
const HARD_SHIFT: u32 = 32;
const HARD_STEP: u64 = 1 << HARD_SHIFT;
const SOFT_STEP: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(id: &str) -> Scope {
        Scope::Unit(0, id.to_owned())
    }

    #[test]
    fn a_hard_bump_voids_what_was_stamped_before_and_nothing_later() {
        let generations = Generations::default();
        let before = generations.stamp([unit("a"), unit("b")]);
        assert!(generations.bump(&unit("b"), Strength::Hard));
        let after = generations.stamp([unit("a"), unit("b")]);
        assert_eq!(before.verdict(), Verdict::Void);
        assert_eq!(after.verdict(), Verdict::Current);
    }

    #[test]
    fn a_look_that_found_all_current_hides_no_later_bump() {
        let generations = Generations::default();
        let (one, other) = (generations.stamp([unit("a")]), generations.stamp([unit("b")]));
        let verdicts = || [&one, &other].map(|stamp| generations.verdict(stamp));
        assert_eq!(verdicts(), [Verdict::Current; 2]);
        generations.bump(&unit("a"), Strength::Soft);
        assert_eq!(verdicts(), [Verdict::Stale, Verdict::Current]);
        assert_eq!(verdicts(), [Verdict::Stale, Verdict::Current]);
        generations.bump(&unit("b"), Strength::Hard);
        assert_eq!(verdicts(), [Verdict::Stale, Verdict::Void]);
        assert_eq!(generations.verdict(&generations.stamp([unit("a")])), Verdict::Current);
    }

    #[test]
    fn a_soft_bump_stales_and_a_later_hard_one_still_voids() {
        let generations = Generations::default();
        let stamp = generations.stamp([unit("a")]);
        generations.bump(&unit("a"), Strength::Soft);
        assert_eq!(stamp.verdict(), Verdict::Stale);
        generations.bump(&unit("a"), Strength::Hard);
        generations.bump(&unit("a"), Strength::Soft);
        assert_eq!(stamp.verdict(), Verdict::Void);
    }

    #[test]
    fn a_record_dies_with_its_last_mark() {
        let generations = Generations::default();
        let (a, b) = (generations.stamp([unit("a")]), generations.stamp([unit("a")]));
        assert_eq!(generations.len(), 1);
        drop(a);
        assert_eq!(generations.len(), 1);
        drop(b);
        assert!(generations.is_empty());
        assert!(!generations.bump(&unit("a"), Strength::Hard));
    }

    #[test]
    fn a_million_bogus_bumps_leave_no_trace() {
        let generations = Generations::default();
        let kept = generations.stamp([Scope::Caller(CallerId::from_bytes([7; 32]))]);
        for bogus in 0..1_000_000_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&bogus.to_le_bytes());
            generations.bump(&Scope::Caller(CallerId::from_bytes(id)), Strength::Hard);
        }
        assert_eq!(generations.len(), 1);
        assert_eq!(kept.verdict(), Verdict::Current);
    }

    #[test]
    fn a_bump_of_a_unit_anywhere_or_of_all_reaches_every_family() {
        let generations = Generations::default();
        let of = |family, id: &str| generations.stamp([Scope::Unit(family, id.to_owned())]);
        let stamps = [of(0, "a"), of(1, "a"), of(0, "b")];
        assert!(generations.bump(&Scope::UnitAnywhere("a".to_owned()), Strength::Soft));
        let verdicts = || stamps.each_ref().map(Stamp::verdict);
        assert_eq!(verdicts(), [Verdict::Stale, Verdict::Stale, Verdict::Current]);
        assert!(generations.bump(&Scope::All, Strength::Hard));
        assert_eq!(verdicts(), [Verdict::Void; 3]);
        assert_eq!(of(0, "b").verdict(), Verdict::Current);
        assert!(stamps.iter().all(|stamp| stamp.is_of(&Scope::All)));
    }

    #[test]
    fn live_callers_are_found_by_the_first_digits_of_their_digest() {
        let generations = Generations::default();
        let id = |last| {
            CallerId::from_bytes(std::array::from_fn(|at| if at == 31 { last } else { 0xab }))
        };
        let _stamp = generations.stamp([Scope::Caller(id(1)), Scope::Caller(id(2)), unit("a")]);
        assert_eq!(generations.callers("abababababab").len(), 2);
        assert_eq!(generations.callers(&id(2).hex()), [id(2)]);
        assert!(generations.callers("abc").is_empty());
    }
}
