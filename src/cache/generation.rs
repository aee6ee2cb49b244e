//! Invalidation by generation: what is ended voids what was made before, entries and flights alike.
//!
//! *Invariants*
//! 1. Ends are numbered. An entry and a flight carry the number of the last one when the flight began: whatever
//!    they belong to that was ended since ends them, and whoever looks sees it, without a scan.
//! 2. Callers are known exactly, by records that live only while a stamp points at them: a million bogus tokens
//!    leave no trace and end nothing. Units and targets are known by their hashes ([`Ends`]).
//! 3. Numbers only grow; a hard end outlasts any number of soft ones.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

pub use super::ends::Subject;
use super::ends::{Ends, Last};
use crate::caller::CallerId;

/// What is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that was answered to one caller.
    Caller(CallerId),
    /// One caller's answers of one family of routes.
    CallerFamily(CallerId, u16),
    /// Every caller's answers about one unit in one family of routes, or in all ([`Generations::unit`]). Ids are
    /// compared without ASCII case: dropping one too many costs a request, one too few shows old data.
    Unit(Subject),
    /// Every caller's answers for one canonical target, whatever route it was asked by
    /// ([`Generations::target`]).
    Target(Subject),
    /// Everything.
    All,
}

/// How what was made before is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Never used again.
    Hard,
    /// Stale: to be revalidated, still good for stale-if-error.
    Soft,
}

/// What is to be said of an entry or a flight now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that it belongs to was ended.
    Current,
    /// Softly ended since.
    Stale,
    /// Ended since.
    Void,
}

/// What was ended when; clones share it.
#[derive(Clone, Debug)]
pub struct Generations(Arc<History>);

#[derive(Debug)]
struct History {
    /// The number of the last end that can be seen.
    told: AtomicU64,
    /// One at a time.
    ending: Mutex<()>,
    all: Record,
    ends: Ends,
    hasher: RandomState,
    live: [Mutex<HashMap<Whose, Weak<Of>, RandomState>>; SHARDS],
}

/// A caller, or what is his of one family of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Whose {
    id: CallerId,
    family: Option<u16>,
}

/// The record of a caller, or of what is his of a family.
#[derive(Debug)]
struct Of {
    whose: Whose,
    record: Record,
    /// Of a family: his own.
    caller: Option<Arc<Self>>,
    history: Weak<History>,
}

/// When something was last ended.
#[derive(Debug, Default)]
struct Record {
    hard: AtomicU64,
    soft: AtomicU64,
}

impl Record {
    fn last(&self) -> Last {
        let read = |number: &AtomicU64| number.load(Ordering::Acquire);
        Last { hard: read(&self.hard), soft: read(&self.soft) }
    }

    fn end(&self, strength: Strength, number: u64) {
        let last = match strength {
            Strength::Hard => &self.hard,
            Strength::Soft => &self.soft,
        };
        last.store(number, Ordering::Release);
    }
}

impl Default for Generations {
    fn default() -> Self {
        Self(Arc::new(History {
            told: AtomicU64::new(0),
            ending: Mutex::default(),
            all: Record::default(),
            ends: Ends::new(),
            hasher: RandomState::default(),
            live: Default::default(),
        }))
    }
}

impl Generations {
    /// What an answer about to be asked for belongs to, as it stands.
    pub fn stamp(
        &self,
        caller: Option<CallerId>,
        family: Option<u16>,
        unit: Option<&str>,
        target: &str,
    ) -> Stamp {
        // First: what is ended while the rest is looked up is ended after this. And only what can be seen: what
        // was ended before this is found ended by whoever holds it.
        let at = self.0.told.load(Ordering::Acquire);
        Stamp {
            at: Number(AtomicU64::new(at)),
            caller: caller.map(|id| self.of(Whose { id, family })),
            target: self.addressed(target),
            unit: unit.map(|unit| self.named(unit)).unwrap_or_default(),
            family: family.filter(|_| unit.is_some()),
        }
    }

    /// What happened since a stamp was taken. Where nothing at all was ended since the last look, without another.
    pub fn verdict(&self, stamp: &Stamp) -> Verdict {
        // Told after it is noted: who sees the number sees the end.
        let told = self.0.told.load(Ordering::Acquire);
        let at = stamp.at.0.load(Ordering::Relaxed);
        if at == told {
            return Verdict::Current;
        }
        let last = self.last(stamp);
        if last.hard > at {
            Verdict::Void
        } else if last.soft > at {
            Verdict::Stale
        } else {
            // Not again what was looked at: who was slower may set it back, which costs a look.
            stamp.at.0.store(told, Ordering::Relaxed);
            Verdict::Current
        }
    }

    /// The last ends of whatever a stamp belongs to.
    fn last(&self, stamp: &Stamp) -> Last {
        let mut last = self.0.all.last().later(self.0.ends.of(stamp.target));
        if let Some(of) = &stamp.caller {
            last = last.later(of.record.last());
            if let Some(caller) = &of.caller {
                last = last.later(caller.record.last());
            }
        }
        if let Some(family) = stamp.family {
            let in_family = stamp.unit.within(family);
            last = last.later(self.0.ends.of(stamp.unit)).later(self.0.ends.of(in_family));
        }
        last
    }

    /// Voids or stales what was made under `scope` before now. `false` where it is known that nothing was: of a
    /// caller without anything stored or under way.
    pub fn bump(&self, scope: &Scope, strength: Strength) -> bool {
        let _one = self.0.ending.lock();
        let live = match *scope {
            Scope::Caller(id) => Some(Whose { id, family: None }),
            Scope::CallerFamily(id, family) => Some(Whose { id, family: Some(family) }),
            Scope::Unit(_) | Scope::Target(_) | Scope::All => None,
        };
        // The lock is released before the record is: dropping the last reference takes it again.
        let of = live.and_then(|whose| self.0.shard(&whose).lock().get(&whose)?.upgrade());
        if live.is_some() && of.is_none() {
            return false;
        }
        let number = self.0.told.load(Ordering::Relaxed) + 1;
        match (scope, of) {
            (Scope::Unit(subject) | Scope::Target(subject), _) => {
                self.0.ends.end(*subject, strength, number);
            }
            (_, Some(of)) => of.record.end(strength, number),
            (_, None) => self.0.all.end(strength, number),
        }
        self.0.told.store(number, Ordering::Release);
        true
    }

    /// The scope of a unit in a family; `None` = in whatever family.
    pub fn unit(&self, family: Option<u16>, unit: &str) -> Scope {
        let named = self.named(unit);
        Scope::Unit(family.map_or(named, |family| named.within(family)))
    }

    /// The scope of a canonical target.
    pub fn target(&self, target: &str) -> Scope {
        Scope::Target(self.addressed(target))
    }

    fn addressed(&self, target: &str) -> Subject {
        self.0.ends.subject((TARGET, target))
    }

    fn named(&self, unit: &str) -> Subject {
        let unit = if unit.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(unit.to_ascii_lowercase())
        } else {
            Cow::Borrowed(unit)
        };
        self.0.ends.subject((UNIT, &*unit))
    }

    /// The callers of whom something is stored or under way and whose digest begins so, in hexadecimal.
    pub fn callers(&self, digits: &str) -> Vec<CallerId> {
        let shards = self.0.live.iter();
        let mut found: Vec<CallerId> = shards
            .flat_map(|shard| {
                let shard = shard.lock();
                let live = shard.iter().filter(|(whose, of)| {
                    whose.family.is_none()
                        && whose.id.hex().starts_with(digits)
                        && of.strong_count() > 0
                });
                live.map(|(whose, _)| whose.id).collect::<Vec<_>>()
            })
            .collect();
        found.sort_unstable_by_key(CallerId::hex);
        found
    }

    /// Records of callers that are alive.
    pub fn len(&self) -> usize {
        self.0.live.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether no record is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn of(&self, whose: Whose) -> Arc<Of> {
        let find = || self.0.shard(&whose).lock().get(&whose).and_then(Weak::upgrade);
        if let Some(of) = find() {
            return of;
        }
        // Before the lock: both may be in one shard.
        let caller = whose.family.map(|_| self.of(Whose { family: None, ..whose }));
        let mut shard = self.0.shard(&whose).lock();
        if let Some(of) = shard.get(&whose).and_then(Weak::upgrade) {
            drop(shard);
            return of;
        }
        let record = Record::default();
        let of = Arc::new(Of { whose, record, caller, history: Arc::downgrade(&self.0) });
        shard.insert(whose, Arc::downgrade(&of));
        of
    }
}

impl History {
    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the array's length")]
    fn shard(&self, whose: &Whose) -> &Mutex<HashMap<Whose, Weak<Of>, RandomState>> {
        let hash = usize::try_from(self.hasher.hash_one(whose) >> 32).unwrap_or_default();
        &self.live[hash % SHARDS]
    }
}

/// What one entry or flight belongs to, and since when.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// Up to this end none is about it.
    at: Number,
    caller: Option<Arc<Of>>,
    target: Subject,
    unit: Subject,
    /// The unit's; without one there is no unit.
    family: Option<u16>,
}

/// The number of an end.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Clone for Number {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Stamp {
    /// Of what nobody keeps: it says whose it is, and nobody asks what ended it.
    pub fn unkept(caller: Option<CallerId>) -> Self {
        let of = |id| {
            let whose = Whose { id, family: None };
            Arc::new(Of { whose, record: Record::default(), caller: None, history: Weak::new() })
        };
        Self { caller: caller.map(of), ..Self::default() }
    }

    /// Whose it is; `None` = everyone's.
    pub fn caller(&self) -> Option<CallerId> {
        self.caller.as_ref().map(|of| of.whose.id)
    }

    /// Whether an end of `scope` is about it.
    pub fn is_of(&self, scope: &Scope) -> bool {
        let whose = self.caller.as_ref().map(|of| of.whose);
        match *scope {
            Scope::All => true,
            Scope::Caller(id) => whose.is_some_and(|whose| whose.id == id),
            Scope::CallerFamily(id, family) => whose == Some(Whose { id, family: Some(family) }),
            Scope::Unit(subject) => self
                .family
                .is_some_and(|family| self.unit == subject || self.unit.within(family) == subject),
            Scope::Target(subject) => self.target == subject,
        }
    }
}

impl Drop for Of {
    fn drop(&mut self) {
        let Some(history) = self.history.upgrade() else { return };
        let mut shard = history.shard(&self.whose).lock();
        // A newcomer may have put a record of its own there meanwhile: that one is alive and stays.
        if shard.get(&self.whose).is_some_and(|of| of.strong_count() == 0) {
            shard.remove(&self.whose);
        }
    }
}

/// What is hashed with a name, so that a unit is no target.
const TARGET: u8 = 0;
const UNIT: u8 = 1;

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(last: u8) -> CallerId {
        CallerId::from_bytes(std::array::from_fn(|at| if at == 31 { last } else { 0xab }))
    }

    fn of_unit(generations: &Generations, unit: &str) -> Stamp {
        generations.stamp(None, Some(0), Some(unit), "/x")
    }

    fn unit(generations: &Generations, unit: &str) -> Scope {
        generations.unit(Some(0), unit)
    }

    #[test]
    fn a_hard_end_voids_what_was_stamped_before_and_nothing_later() {
        let generations = Generations::default();
        let (before, other) = (of_unit(&generations, "a"), of_unit(&generations, "b"));
        assert!(generations.bump(&unit(&generations, "a"), Strength::Hard));
        let after = of_unit(&generations, "a");
        assert_eq!(generations.verdict(&before), Verdict::Void);
        assert_eq!(generations.verdict(&other), Verdict::Current);
        assert_eq!(generations.verdict(&after), Verdict::Current);
    }

    #[test]
    fn a_look_that_found_all_current_hides_no_later_end() {
        let generations = Generations::default();
        let (one, other) = (of_unit(&generations, "a"), of_unit(&generations, "b"));
        let verdicts = || [&one, &other].map(|stamp| generations.verdict(stamp));
        assert_eq!(verdicts(), [Verdict::Current; 2]);
        generations.bump(&unit(&generations, "a"), Strength::Soft);
        assert_eq!(verdicts(), [Verdict::Stale, Verdict::Current]);
        assert_eq!(verdicts(), [Verdict::Stale, Verdict::Current]);
        generations.bump(&unit(&generations, "b"), Strength::Hard);
        assert_eq!(verdicts(), [Verdict::Stale, Verdict::Void]);
        assert_eq!(generations.verdict(&of_unit(&generations, "a")), Verdict::Current);
    }

    #[test]
    fn a_soft_end_stales_and_a_later_hard_one_still_voids() {
        let generations = Generations::default();
        let (scope, stamp) = (unit(&generations, "a"), of_unit(&generations, "a"));
        generations.bump(&scope, Strength::Soft);
        assert_eq!(generations.verdict(&stamp), Verdict::Stale);
        generations.bump(&scope, Strength::Hard);
        generations.bump(&scope, Strength::Soft);
        assert_eq!(generations.verdict(&stamp), Verdict::Void);
    }

    #[test]
    fn each_scope_ends_what_belongs_to_it_and_nothing_else() {
        let generations = Generations::default();
        let stamp = |caller, family, unit, target| {
            generations.stamp(Some(id(caller)), Some(family), Some(unit), target)
        };
        let scopes = [
            Scope::Caller(id(1)),
            Scope::CallerFamily(id(1), 0),
            generations.unit(Some(0), "A"),
            generations.unit(None, "a"),
            generations.target("/x"),
            Scope::All,
        ];
        let ended = [
            // The one that all are about; then another caller's, family's, unit's and target's.
            [true, true, true, true, true, true],
            [false, false, true, true, true, true],
            [true, false, false, true, true, true],
            [true, true, false, false, true, true],
            [true, true, true, true, false, true],
        ];
        for (at, scope) in scopes.iter().enumerate() {
            let stamps = [
                stamp(1, 0, "a", "/x"),
                stamp(2, 0, "a", "/x"),
                stamp(1, 1, "a", "/x"),
                stamp(1, 0, "b", "/x"),
                stamp(1, 0, "a", "/y"),
            ];
            assert!(generations.bump(scope, Strength::Hard));
            for (stamp, ended) in stamps.iter().zip(&ended) {
                let void = generations.verdict(stamp) == Verdict::Void;
                assert_eq!(
                    (void, stamp.is_of(scope)),
                    (ended[at], ended[at]),
                    "{scope:?}: {stamp:?}"
                );
            }
        }
    }

    #[test]
    fn a_unit_is_no_target_of_the_same_name() {
        let generations = Generations::default();
        let stamp = generations.stamp(None, Some(0), Some("/x"), "/y");
        generations.bump(&generations.target("/x"), Strength::Hard);
        assert_eq!(generations.verdict(&stamp), Verdict::Current);
    }

    #[test]
    fn a_record_dies_with_its_last_stamp() {
        let generations = Generations::default();
        let stamp = |family| generations.stamp(Some(id(1)), family, None, "/x");
        let (a, b) = (stamp(None), stamp(Some(3)));
        assert_eq!(generations.len(), 2);
        drop(a);
        assert_eq!(generations.len(), 2, "of the family, and of the caller himself");
        drop(b);
        assert!(generations.is_empty());
        assert!(!generations.bump(&Scope::Caller(id(1)), Strength::Hard));
    }

    #[test]
    fn a_million_bogus_callers_leave_no_trace_and_end_nothing() {
        let generations = Generations::default();
        let kept = generations.stamp(Some(id(7)), Some(0), None, "/x");
        for bogus in 0..1_000_000_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&bogus.to_le_bytes());
            generations.bump(&Scope::Caller(CallerId::from_bytes(id)), Strength::Hard);
        }
        assert_eq!(generations.len(), 2);
        assert_eq!(generations.verdict(&kept), Verdict::Current);
    }

    #[test]
    fn live_callers_are_found_by_the_first_digits_of_their_digest() {
        let generations = Generations::default();
        let stamp = |last| generations.stamp(Some(id(last)), Some(0), None, "/x");
        let _stamps = [stamp(1), stamp(2)];
        assert_eq!(generations.callers("abababababab"), [id(1), id(2)]);
        assert_eq!(generations.callers(&id(2).hex()), [id(2)]);
        assert!(generations.callers("abc").is_empty());
    }
}
