//! What a pass sees besides secrets: the units that an answer names, and how new it is.
//!
//! # Invariants
//! 1. No fact is a secret, and their size is bounded whatever the body.
//! 2. Noting a unit costs a bounded number of comparisons, usually one.

use crate::unit::is_unit_id;

/// What a pass saw in a body, besides secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The units under the configured members, each once per member, in the order of their first
    /// appearance.
    pub units: Vec<UnitFact>,
    /// There were more units than [`Facts::MOST_UNITS`].
    pub more_units: bool,
    /// The newest `updatedAt`, in microseconds since 1970; UTC where no zone is given.
    pub newest_updated_at: Option<i64>,
    /// How many values and member names were changed because of a secret. `isTokenMasked` doesn't
    /// count.
    pub fields_masked: u32,
}

impl Facts {
    /// More units than these are not listed.
    pub const MOST_UNITS: usize = 64;

    /// Whether the upstream sent anything that it should have masked.
    pub fn unmasked_seen(&self) -> bool {
        self.fields_masked > 0
    }

    pub(super) fn count_masked(&mut self) {
        self.fields_masked = self.fields_masked.saturating_add(1);
    }
}

/// A unit that an answer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFact {
    /// The index of the configured member under which it was found.
    pub member: u16,
    /// Its id, as [`is_unit_id`] has it.
    pub id: Box<str>,
}

/// Finds the units that are noted already: their places in the facts by a hash of their ends.
#[derive(Debug)]
pub(super) struct UnitIndex {
    /// A place counted from one, zero for none. Twice as many as there can be units.
    slots: [u8; SLOTS],
}

impl Default for UnitIndex {
    fn default() -> Self {
        Self { slots: [0; SLOTS] }
    }
}

impl UnitIndex {
    /// Adds the unit `text` to `facts` unless it is there, or is none.
    pub(super) fn note(&mut self, facts: &mut Facts, member: u16, text: &[u8]) {
        if facts.more_units {
            return;
        }
        let first = usize::from(hash(text).wrapping_add(member));
        for slot in (first..first + SLOTS).map(|slot| slot % SLOTS) {
            let Some(place) = self.slots.get_mut(slot) else {
                return;
            };
            let Some(unit) = usize::from(*place).checked_sub(1).and_then(|at| facts.units.get(at))
            else {
                if is_unit_id(text) {
                    *place = add(facts, member, text);
                }
                return;
            };
            if unit.id.as_bytes() == text && unit.member == member {
                return;
            }
        }
    }
}

/// Adds a unit and returns its place, counted from one; zero when there is no room.
fn add(facts: &mut Facts, member: u16, text: &[u8]) -> u8 {
    if facts.units.len() == Facts::MOST_UNITS {
        facts.more_units = true;
        return 0;
    }
    let id = String::from_utf8_lossy(text).into();
    facts.units.push(UnitFact { member, id });
    u8::try_from(facts.units.len()).unwrap_or_default()
}

/// Ids differ at their beginning or their end. One who makes many collide gains nothing: there are
/// few places.
fn hash(text: &[u8]) -> u16 {
    let ends = text.first_chunk().zip(text.last_chunk());
    let (head, tail) =
        ends.map_or((0, 0), |(head, tail)| (u64::from_le_bytes(*head), u64::from_le_bytes(*tail)));
    let short = if ends.is_none() { text } else { &[] };
    let short = short.iter().fold(text.len() as u64, |word, &byte| word << 8 ^ u64::from(byte));
    let mixed = (head ^ tail.rotate_left(29) ^ short).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let [.., low, high] = mixed.to_le_bytes();
    u16::from_le_bytes([low, high])
}

const SLOTS: usize = 2 * Facts::MOST_UNITS;
