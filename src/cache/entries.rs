//! [`Entries`]: what is stored, in no more memory than it may take.
//!
//! *Invariants*
//! 1. An entry is found by a hash, and is what was looked for only if owner, route and target of its response are
//!    the same in full: no hash stands for them. Of two keys with one hash the later takes the place.
//! 2. What weighs more than the bound is not kept.
//!
//! *Why not keys of their own:* a response knows what it answers, and a second copy of it, with what points at it,
//! takes some 140 bytes for each entry.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;
use http::HeaderMap;
use moka::Entry;
use moka::ops::compute::{CompResult, Op};

use super::Sizes;
use super::slot::{Held, Slot};
use super::stored::{KeyRef, Owner};
use crate::clock::Now;

/// What is stored.
#[derive(Debug)]
pub(super) struct Entries<S = RandomState> {
    map: moka::sync::Cache<u64, Slot, BuildHasherDefault<Hashed>>,
    hasher: S,
    removals: Removals,
    capacity: u64,
}

impl Entries {
    /// For at most `capacity` bytes; `None` for none.
    pub(super) fn new(capacity: u64) -> Option<Self> {
        (capacity > 0).then(|| Self::with_hasher(capacity, RandomState::default()))
    }
}

impl<S: BuildHasher> Entries<S> {
    fn with_hasher(capacity: u64, hasher: S) -> Self {
        // Without a listener: for its sake moka would take a lock and two allocations for each insertion and each
        // eviction, 2 % of a miss.
        let map = moka::sync::Cache::builder()
            .name("unitgate")
            .max_capacity(capacity)
            .initial_capacity(room(capacity))
            .weigher(|_hash, slot: &Slot| weight(slot))
            .build_with_hasher(BuildHasherDefault::default());
        Self { map, hasher, removals: Removals::default(), capacity }
    }

    /// What is stored under a key.
    pub(super) fn get(&self, key: &KeyRef<'_>) -> Option<Slot> {
        self.map.get(&self.hash(key)).filter(|slot| slot.is_under(key))
    }

    /// Keeps a response to this request in place of what it supersedes; `false` if it is too large.
    pub(super) fn put(&self, key: &KeyRef<'_>, stored: &Held, request: &HeaderMap) -> bool {
        debug_assert!(stored.is_under(key), "it is found under what it says of itself");
        let alone = || Slot::one(Held::clone(stored));
        let fits = |slot: &Slot| u64::from(weight(slot)) <= self.capacity;
        let hash = self.hash(key);
        let (put, replaced) = match key.owner {
            Owner::Caller(_) => {
                let slot = alone();
                let fits = fits(&slot);
                let replaced = fits && self.map.contains_key(&hash);
                if fits {
                    self.map.insert(hash, slot);
                }
                (fits, replaced)
            }
            // One at a time for a key, so that none of its variants is lost, nor comes back.
            Owner::Open => {
                let put = self.map.entry(hash).and_compute_with(|held| {
                    let held = held.map(Entry::into_value).filter(|held| held.is_under(key));
                    let with = |held: Slot| held.with(Held::clone(stored), request);
                    let slot = held.map_or_else(alone, with);
                    if fits(&slot) { Op::Put(slot) } else { Op::Nop }
                });
                let replaced = matches!(put, CompResult::ReplacedWith(_));
                (replaced || matches!(put, CompResult::Inserted(_)), replaced)
            }
        };
        self.removals.insertions.fetch_add(put.into(), Ordering::Relaxed);
        self.removals.replaced.fetch_add(replaced.into(), Ordering::Relaxed);
        put
    }

    /// Lets go of what is stored under a key, of an open route's variants those that suit the request; says
    /// whether there was any.
    pub(super) fn end(&self, key: &KeyRef<'_>, request: &HeaderMap) -> bool {
        if let Owner::Caller(_) = key.owner {
            // Another key's answer that has its hash goes with it, which costs a request.
            let slot = self.map.remove(&self.hash(key));
            self.removals.ended(slot.is_some());
            return slot.is_some_and(|slot| slot.is_under(key));
        }
        let ended = self.map.entry(self.hash(key)).and_compute_with(|held| {
            let held = held.map(Entry::into_value).filter(|held| held.is_under(key));
            let Some(slot) = held else { return Op::Nop };
            match slot.without(request) {
                None => Op::Remove,
                Some(left) if left.variants().len() < slot.variants().len() => Op::Put(left),
                Some(_all) => Op::Nop,
            }
        });
        self.removals.ended(matches!(ended, CompResult::Removed(_)));
        matches!(ended, CompResult::Removed(_) | CompResult::ReplacedWith(_))
    }

    /// Lets go of all that is not to be kept.
    pub(super) fn retain(&self, mut keeps: impl FnMut(&Slot) -> bool) {
        for (hash, slot) in &self.map {
            if !keeps(&slot) {
                // A newer answer that takes its place meanwhile is lost with it, which costs a request.
                self.removals.ended(self.map.remove(&*hash).is_some());
            }
        }
    }

    /// All that is here, in no order; not as if it were used.
    pub(super) fn iter(&self) -> moka::sync::Iter<'_, u64, Slot> {
        self.map.iter()
    }

    /// Lets go of what stands under a hash if it is past its last window. What is put in its place at that very
    /// moment may go with it, which costs a request.
    pub(super) fn drop_over(&self, hash: u64, now: &Now) {
        let dropped = self.map.entry(hash).and_compute_with(|held| match held {
            Some(held) if held.value().is_over(now) => Op::Remove,
            _ => Op::Nop,
        });
        if matches!(dropped, CompResult::Removed(_)) {
            self.removals.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Does what moka has put off.
    pub(super) fn settle(&self) {
        self.map.run_pending_tasks();
    }

    /// What is here, and what happened to it; catches up with moka's pending work first.
    pub(super) fn sizes(&self) -> Sizes {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // First: what is inserted from here on must not look as if it had been evicted.
        let insertions = read(&self.removals.insertions);
        self.settle();
        let entries = self.map.entry_count();
        let [expired, replaced, ended] =
            [&self.removals.expired, &self.removals.replaced, &self.removals.ended].map(read);
        Sizes {
            entries,
            bytes: self.map.weighted_size(),
            capacity: self.capacity,
            generations: 0,
            insertions,
            // moka's own doing: what came, and neither is here nor went otherwise.
            evicted_size: insertions.saturating_sub(entries + expired + replaced + ended),
            evicted_expired: expired,
            evicted_replaced: replaced,
            evicted_ended: ended,
        }
    }

    fn hash(&self, key: &KeyRef<'_>) -> u64 {
        self.hasher.hash_one(key)
    }
}

/// Takes a hash for what it is.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    /// Never called: what is hashed is one [`u64`].
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// How often entries came and went. Two stores of one key at once may count a replacement as an eviction; one whose
/// predecessor is ended or swept at that moment hides an eviction.
#[derive(Debug, Default)]
struct Removals {
    insertions: AtomicU64,
    expired: AtomicU64,
    replaced: AtomicU64,
    ended: AtomicU64,
}

impl Removals {
    fn ended(&self, one: bool) {
        self.ended.fetch_add(one.into(), Ordering::Relaxed);
    }
}

/// For how many entries there is room in moka's table from the start. Half empty it is seldom made anew, which
/// otherwise is 2 % of a miss.
fn room(capacity: u64) -> usize {
    usize::try_from(capacity / 1024).unwrap_or(MOST_ROOM).min(MOST_ROOM)
}

const MOST_ROOM: usize = 1 << 16;

/// Bytes that an entry is counted with, a twentieth above what was seen. `cache_bytes` is compared with RSS, and is to
/// be above it (`cargo bench --bench memory`).
fn weight(slot: &Slot) -> u32 {
    let taken = slot.bytes() + BESIDE;
    u32::try_from(taken + taken / 20).unwrap_or(u32::MAX)
}

/// What an entry takes beside what is stored: some 250 bytes of moka's, and its body's place among equal ones.
const BESIDE: usize = 270;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use http::header::{ACCEPT_LANGUAGE, VARY};

    use super::*;
    use crate::cache::policy::Variant;
    use crate::cache::stored::{Stored, Unshown};
    use crate::cache::sweep::Sweep;
    use crate::cache::times::Times;

    /// Hashes all alike.
    #[derive(Default)]
    struct Alike;

    impl Hasher for Alike {
        fn finish(&self) -> u64 {
            7
        }

        fn write(&mut self, _bytes: &[u8]) {}
    }

    fn stored(caller: Option<u8>, route: u16, target: &str) -> Held {
        Held::new(Stored::sample(caller, route, target))
    }

    fn put<S: BuildHasher>(entries: &Entries<S>, stored: &Held, request: &HeaderMap) -> bool {
        entries.put(&stored.key().as_ref(), stored, request)
    }

    fn is_there<S: BuildHasher>(entries: &Entries<S>, stored: &Held) -> bool {
        let slot = entries.get(&stored.key().as_ref());
        slot.is_some_and(|slot| slot.variants().iter().any(|one| Held::ptr_eq(one, stored)))
    }

    #[test]
    fn keys_whose_hashes_are_equal_never_answer_each_other() {
        let entries = Entries::with_hasher(1 << 20, BuildHasherDefault::<Alike>::default());
        let none = HeaderMap::new();
        let owners = [None, Some(1), Some(2)];
        let keys = owners.into_iter().flat_map(|owner| {
            [(0, "/a"), (1, "/a"), (0, "/a?"), (0, "")]
                .map(|(route, target)| (owner, route, target))
        });
        let all: Vec<_> = keys.map(|(owner, route, target)| stored(owner, route, target)).collect();
        for one in &all {
            assert!(put(&entries, one, &none) && is_there(&entries, one));
            let others = all.iter().filter(|other| !Held::ptr_eq(other, one));
            for other in others {
                assert!(entries.get(&other.key().as_ref()).is_none());
            }
        }
        let (last, others) = all.split_last().unwrap();
        assert!(!entries.end(&others[0].key().as_ref(), &none) && is_there(&entries, last));
        assert!(entries.end(&last.key().as_ref(), &none) && !is_there(&entries, last));
    }

    #[test]
    fn a_variant_never_stands_beside_those_of_another_key_with_its_hash() {
        let entries = Entries::with_hasher(1 << 20, BuildHasherDefault::<Alike>::default());
        let speaks = |language: &'static str| {
            HeaderMap::from_iter([(ACCEPT_LANGUAGE, HeaderValue::from_static(language))])
        };
        let varies = HeaderMap::from_iter([(VARY, HeaderValue::from_static("accept-language"))]);
        for (target, language) in [("/a", "de"), ("/b", "fr"), ("/b", "en")] {
            let variant = Variant::of(&varies, &speaks(language)).unwrap();
            let unshown = Unshown { variant, ..Unshown::default() }.boxed();
            let stored = Stored { unshown, ..Stored::clone(&stored(None, 0, target)) };
            assert!(put(&entries, &Held::new(stored), &speaks(language)));
        }
        let under = |target| entries.get(&KeyRef { owner: Owner::Open, route: 0, target });
        assert!(under("/a").is_none());
        assert_eq!(under("/b").unwrap().variants().len(), 2);
    }

    #[test]
    fn what_is_past_its_last_window_goes_at_the_next_sweep_and_nothing_else_does() {
        let entries = Entries::new(1 << 20).unwrap();
        let (none, minute) = (HeaderMap::new(), Duration::from_mins(1));
        let at = |mono| Now { mono, wall: mono };
        let came_at = |mono, target: &str| {
            let one = Stored::clone(&stored(Some(1), 0, target));
            Held::new(Stored { times: Times::new(&at(mono), &one.life(), None), ..one })
        };
        let later = came_at(minute, "/later");
        assert!(put(&entries, &later, &none));
        let targets: Vec<_> = (0..200).map(|number| format!("/{number}")).collect();
        let old: Vec<_> = targets.iter().map(|target| came_at(Duration::ZERO, target)).collect();
        for one in &old {
            assert!(put(&entries, one, &none));
        }
        let sweep = |now| {
            let mut sweep = Sweep::over(Some(&entries));
            while sweep.step(&at(now)) {}
        };
        sweep(minute);
        assert!(old.iter().all(|one| is_there(&entries, one)));
        sweep(minute + Duration::from_nanos(1));
        assert!(!old.iter().any(|one| is_there(&entries, one)) && is_there(&entries, &later));
        let Sizes {
            entries, evicted_expired, evicted_size, evicted_replaced, evicted_ended, ..
        } = entries.sizes();
        let gone = (evicted_expired, evicted_size, evicted_replaced, evicted_ended);
        assert_eq!((entries, gone), (1, (200, 0, 0, 0)));
    }

    #[test]
    fn a_variant_that_is_of_use_keeps_those_beside_it_and_an_ended_token_takes_its_answer_along() {
        let (none, minute) = (HeaderMap::new(), Duration::from_mins(1));
        let at = |mono| Now { mono, wall: mono };
        let varies = HeaderMap::from_iter([(VARY, HeaderValue::from_static("accept-language"))]);
        let entries = Entries::new(1 << 20).unwrap();
        let sweep = |now| {
            let mut sweep = Sweep::over(Some(&entries));
            while sweep.step(&at(now)) {}
        };
        for (language, came) in [("de", Duration::ZERO), ("fr", minute)] {
            let speaks =
                HeaderMap::from_iter([(ACCEPT_LANGUAGE, HeaderValue::from_static(language))]);
            let variant = Variant::of(&varies, &speaks).unwrap();
            let one = Stored::clone(&stored(None, 0, "/open"));
            let unshown = Unshown { variant, ..Unshown::default() }.boxed();
            let times = Times::new(&at(came), &one.life(), None);
            let one = Held::new(Stored { times, unshown, ..one });
            assert!(put(&entries, &one, &speaks));
        }
        let one = Stored::clone(&stored(Some(1), 0, "/mine"));
        let times = Times::new(&at(Duration::ZERO), &one.life(), Some(Duration::from_secs(9)));
        let mine = Held::new(Stored { times, ..one });
        assert!(put(&entries, &mine, &none));
        let under = |target| entries.get(&KeyRef { owner: Owner::Open, route: 0, target });
        sweep(Duration::from_secs(8));
        assert!(is_there(&entries, &mine));
        sweep(minute + Duration::from_secs(1));
        assert!(!is_there(&entries, &mine));
        assert_eq!(under("/open").unwrap().variants().len(), 2);
        sweep(3 * minute);
        assert!(under("/open").is_none());
        let sizes = entries.sizes();
        assert_eq!((sizes.evicted_expired, sizes.evicted_replaced, sizes.evicted_size), (2, 1, 0));
    }

    #[test]
    fn what_is_too_large_pushes_nothing_out() {
        let entries = Entries::new(4 << 10).unwrap();
        let small = stored(Some(1), 0, "/a");
        let large = stored(Some(1), 0, &"/".repeat(4 << 10));
        assert!(put(&entries, &small, &HeaderMap::new()));
        assert!(!put(&entries, &large, &HeaderMap::new()));
        assert!(is_there(&entries, &small));
        assert_eq!(entries.sizes().insertions, 1);
    }
}
