//! [`Sweep`]: letting go of what nothing can be made of any more.
//!
//! *Invariants*
//! 1. What it drops was past its last window when it was looked at once more.
//! 2. No step takes long but each that comes to another 64th of the table, whose keys moka lists at once: some two
//!    milliseconds where a million entries are stored.
//!
//! *Why a scan and not a queue by time:* an answer that is renewed every minute would stand in it once for each
//! time, or would have to be found in it; a scan takes half a microsecond for an entry, and nothing from requests.

use super::entries::Entries;
use super::fields;
use super::slot::Slot;
use crate::clock::Now;

/// A look at all that is stored, a few entries at a time.
pub struct Sweep<'a>(Option<(&'a Entries, moka::sync::Iter<'a, u64, Slot>)>);

impl<'a> Sweep<'a> {
    pub(super) fn over(entries: Option<&'a Entries>) -> Self {
        Self(entries.map(|entries| (entries, entries.iter())))
    }
}

impl Sweep<'_> {
    /// Looks at a few more entries and drops those that are past their last window; `false` once all were looked
    /// at.
    pub fn step(&mut self, now: &Now) -> bool {
        let Some((entries, left)) = &mut self.0 else { return false };
        let mut looked_at = 0;
        for (hash, slot) in left.take(AT_ONCE) {
            looked_at += 1;
            if slot.is_over(now) {
                entries.drop_over(*hash, now);
            }
        }
        let more = looked_at == AT_ONCE;
        if !more {
            // What moka has let go of waits for this, and nobody may ask for anything for hours.
            entries.settle();
            fields::prune();
        }
        more
    }
}

/// Entries that a step looks at: some thirty microseconds' worth.
const AT_ONCE: usize = 64;
