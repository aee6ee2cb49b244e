//! [`Ends`]: when units and targets were last ended, in a fixed amount of memory.
//!
//! *Invariants*
//! 1. An end is seen by whoever looks after it, and is never forgotten: what it would take to remember one more
//!    is bought by ending the oldest known of its bucket for all that share the bucket.
//! 2. Two subjects whose hashes share 37 bits can't be told apart: then one end too many is seen, which costs
//!    a request. The hash is seeded, so that nobody can look for such a pair.
//! 3. Looking takes no lock.
//!
//! *Why not a record for each subject that something is stored for:* two of them, their names and their places
//! in a table took a quarter of an entry's memory, for subjects that are hardly ever ended.

use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;

use super::generation::Strength;

/// The last ends of subjects, by their hashes.
pub(super) struct Ends {
    hasher: RandomState,
    buckets: Box<[Bucket]>,
}

/// What is kept of a subject's hash: 32 bits, the lowest first, and 16 that choose its bucket. Small, as each entry
/// has two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject([u16; 3]);

/// The numbers of the last ends that are about something; 0 = there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) hard: u64,
    pub(super) soft: u64,
}

/// One line of a processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Bucket {
    /// What was made before this end may be about what was forgotten.
    floor: AtomicU64,
    /// Each the number of an end, above the mark of its subject; 0 = free.
    known: [AtomicU64; WAYS],
}

impl Ends {
    pub(super) fn new() -> Self {
        let buckets = std::iter::repeat_with(Bucket::default).take(BUCKETS);
        Self { hasher: RandomState::default(), buckets: buckets.collect() }
    }

    pub(super) fn subject(&self, name: impl Hash) -> Subject {
        use std::hash::BuildHasher;
        Subject::of(self.hasher.hash_one(name))
    }

    /// The last ends of a subject.
    pub(super) fn of(&self, subject: Subject) -> Last {
        let bucket = self.bucket(subject);
        let (hard, soft) = (subject.mark(Strength::Hard), subject.mark(Strength::Soft));
        let mut last = Last::default();
        for known in &bucket.known {
            let known = known.load(Ordering::Acquire);
            // What is free has the number 0, and may look like a mark.
            if known & MARK == hard {
                last.hard = last.hard.max(known >> MARK_BITS);
            } else if known & MARK == soft {
                last.soft = last.soft.max(known >> MARK_BITS);
            }
        }
        // After them: what took the place of a forgotten one was written after the floor.
        last.hard = last.hard.max(bucket.floor.load(Ordering::Acquire));
        last
    }

    /// Notes an end by its number, which is above all before it. One at a time.
    pub(super) fn end(&self, subject: Subject, strength: Strength, number: u64) {
        let (bucket, mark) = (self.bucket(subject), subject.mark(strength));
        let read = |known: &AtomicU64| known.load(Ordering::Relaxed);
        let same = bucket.known.iter().find(|known| read(known) & MARK == mark && read(known) != 0);
        // The number stands above the mark, and what is free is 0: the least is free, or the oldest.
        let Some(place) = same.or_else(|| bucket.known.iter().min_by_key(|known| read(known)))
        else {
            return;
        };
        if same.is_none() {
            bucket.floor.fetch_max(read(place) >> MARK_BITS, Ordering::Release);
        }
        place.store(number << MARK_BITS | mark, Ordering::Release);
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the number of buckets")]
    fn bucket(&self, Subject([.., bucket]): Subject) -> &Bucket {
        &self.buckets[usize::from(bucket) % BUCKETS]
    }
}

impl Subject {
    fn of(hash: u64) -> Self {
        Self([0, 16, 32].map(|from| u16::try_from(hash >> from & 0xffff).unwrap_or_default()))
    }

    fn hash(self) -> u64 {
        let [low, middle, bucket] = self.0.map(u64::from);
        low | middle << 16 | bucket << 32
    }

    /// A subject that belongs to this one and to `part`.
    pub(super) fn within(self, part: u16) -> Self {
        // Odd, so that no two parts meet.
        Self::of(self.hash() ^ (u64::from(part) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn mark(self, strength: Strength) -> u64 {
        let strength = match strength {
            Strength::Hard => 1,
            Strength::Soft => 0,
        };
        (self.hash() << 1 & MARK) | strength
    }
}

impl Last {
    pub(super) fn later(self, other: Self) -> Self {
        Self { hard: self.hard.max(other.hard), soft: self.soft.max(other.soft) }
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ends(…)")
    }
}

/// 114,688 ends are known apart, in 1 MiB.
const BUCKETS: usize = 1 << 14;
const WAYS: usize = 7;
/// 23 bits of the hash, and the strength. The number above them lasts for a thousand years of thirty ends a
/// second.
const MARK_BITS: u32 = 24;
const MARK: u64 = (1 << MARK_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_that_was_never_ended_has_no_last_end() {
        let ends = Ends::new();
        ends.end(ends.subject("a"), Strength::Hard, 1);
        ends.end(ends.subject("b"), Strength::Soft, 2);
        assert_eq!(ends.of(ends.subject("a")), Last { hard: 1, soft: 0 });
        assert_eq!(ends.of(ends.subject("b")), Last { hard: 0, soft: 2 });
        assert_eq!(ends.of(ends.subject("a").within(0)), Last::default());
    }

    #[test]
    fn a_soft_end_hides_no_hard_one_before_it() {
        let ends = Ends::new();
        let subject = ends.subject("a");
        ends.end(subject, Strength::Hard, 3);
        ends.end(subject, Strength::Soft, 5);
        ends.end(subject, Strength::Soft, 7);
        assert_eq!(ends.of(subject), Last { hard: 3, soft: 7 });
    }

    #[test]
    fn a_subject_whose_mark_is_that_of_what_is_free_is_ended_too() {
        let (ends, subject) = (Ends::new(), Subject::of(1 << 32));
        assert_eq!(subject.mark(Strength::Soft), 0);
        ends.end(subject, Strength::Soft, 3);
        assert_eq!(ends.of(subject), Last { hard: 0, soft: 3 });
    }

    #[test]
    fn no_end_is_forgotten_however_many_there_are() {
        let ends = Ends::new();
        let most = 3 * u64::try_from(BUCKETS * WAYS).unwrap();
        for number in 1..=most {
            let strength = if number % 2 == 0 { Strength::Hard } else { Strength::Soft };
            ends.end(ends.subject(number), strength, number);
        }
        for number in 1..=most {
            let Last { hard, soft } = ends.of(ends.subject(number));
            assert!(hard >= number || soft >= number, "{number}");
        }
    }

    #[test]
    fn a_thousand_ends_are_known_apart() {
        let ends = Ends::new();
        for number in 1..=1_000_u64 {
            ends.end(ends.subject(number), Strength::Hard, number);
        }
        // One in some ten thousand may be taken for another.
        let wrong = (1_001..=11_000_u64)
            .filter(|other| ends.of(ends.subject(other)) != Last::default())
            .count();
        assert!(wrong < 10, "{wrong} of 10,000 that were never ended");
    }
}
