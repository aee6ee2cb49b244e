//! What a member's name says about its value.
//!
//! # Invariants
//! 1. Names are compared after unescaping, without ASCII case, `_` and `-`; unit members exactly.
//! 2. A name that is secret is nothing else: the stricter rule wins.
//! 3. A lookup costs one multiplication and, for nearly every name that says nothing, one look into
//!    an empty slot.
//!
//! # Why not a hash map?
//! Every member of every answer is looked up, most say nothing, and the first eight bytes and the
//! length tell them apart.

use crate::config::Secrets;

/// What a value is to the masker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing in particular: only key-shaped strings are masked.
    Plain,
    /// A secret: whatever it is, it is masked whole.
    Secret,
    /// Keeps its shape, each string and number in it is masked.
    Shape,
    /// `isTokenMasked`.
    Flag,
    /// The id of a unit, by the index of the configured member.
    Unit(u16),
    /// `updatedAt`.
    UpdatedAt,
    /// A part of a secret that is replaced whole.
    Gone,
}

/// The names that matter, compiled once.
#[derive(Debug)]
pub(super) struct Names {
    slots: Box<[Vec<Entry>]>,
    shift: u32,
    longest: usize,
}

impl Names {
    pub(super) fn new(secrets: &Secrets, unit_members: &[String]) -> Self {
        let count = secrets.names.len() + secrets.objects.len() + unit_members.len() + 2;
        let bits = (count * 8).next_power_of_two().trailing_zeros().max(7);
        let slots = (0..1_usize << bits).map(|_| Vec::new()).collect();
        let mut names = Self { slots, shift: u64::BITS - bits, longest: 0 };
        // The first rule for a name stays, so the order here is the order of strictness.
        let rules = secrets.names.iter().map(|name| (name, Role::Secret));
        for (name, role) in rules.chain(secrets.objects.iter().map(|name| (name, Role::Shape))) {
            names.entry(name, role);
        }
        names.entry("isTokenMasked", Role::Flag);
        names.entry("updatedAt", Role::UpdatedAt);
        for (index, member) in (0..).zip(unit_members) {
            if let Some(entry) = names.entry(member, Role::Plain) {
                entry.units.push((member.as_bytes().into(), index));
            }
        }
        names
    }

    /// The role that the name at `start..end` of `body` gives, which has no underscore, hyphen or
    /// escape.
    #[inline]
    pub(super) fn role(&self, body: &[u8], start: usize, end: usize) -> Role {
        let length = end - start;
        let head = match body.get(start..).and_then(|rest| rest.first_chunk()) {
            Some(chunk) => fold(*chunk, length),
            None => head(body.get(start..end).unwrap_or_default()),
        };
        let entries = self.slot(head, length);
        if entries.is_empty() {
            return Role::Plain;
        }
        choose(entries, head, body.get(start..end).unwrap_or_default(), None)
    }

    /// The role that any name, unescaped already, gives. What is in `scratch` doesn't matter.
    pub(super) fn role_of(&self, name: &[u8], scratch: &mut Vec<u8>) -> Role {
        scratch.clear();
        // One byte more than the longest name is enough to match none.
        scratch.extend(counting(name).take(self.longest.saturating_add(1)));
        let head = head(scratch);
        choose(self.slot(head, scratch.len()), head, scratch, Some(name))
    }

    fn slot(&self, head: u64, length: usize) -> &[Entry] {
        let hash = (head ^ length as u64).wrapping_mul(SPREAD) >> self.shift;
        usize::try_from(hash)
            .ok()
            .and_then(|index| self.slots.get(index))
            .map_or(&[], Vec::as_slice)
    }

    /// The entry of a name, made with `role` if there is none yet; none for a name of nothing but
    /// `_` and `-`.
    fn entry(&mut self, name: &str, role: Role) -> Option<&mut Entry> {
        let name = normalised(name.as_bytes());
        if name.is_empty() {
            return None;
        }
        self.longest = self.longest.max(name.len());
        let head = head(&name);
        let hash = (head ^ name.len() as u64).wrapping_mul(SPREAD) >> self.shift;
        let slot = self.slots.get_mut(usize::try_from(hash).ok()?)?;
        let index = slot.iter().position(|entry| *entry.name == *name).unwrap_or_else(|| {
            let told_by_ends = name.len() <= 16 && name.iter().all(u8::is_ascii_alphanumeric);
            let tail = tail(&name);
            slot.push(Entry {
                head,
                tail,
                told_by_ends,
                name: name.into(),
                role,
                units: Vec::new(),
            });
            slot.len() - 1
        });
        slot.get_mut(index)
    }
}

/// A name that matters.
#[derive(Debug)]
struct Entry {
    head: u64,
    tail: u64,
    /// Letters and digits only, and no more than head and tail hold: they are the whole name.
    told_by_ends: bool,
    /// Normalised.
    name: Box<[u8]>,
    role: Role,
    /// Unit members that are this name but for case, `_` and `-`, as configured, with their index.
    units: Vec<(Box<[u8]>, u16)>,
}

/// `name` in lower case, without `_` and `-`.
pub(super) fn normalised(name: &[u8]) -> Vec<u8> {
    counting(name).collect()
}

/// The bytes of `name` that count in a comparison.
fn counting(name: &[u8]) -> impl Iterator<Item = u8> {
    let letters = name.iter().filter(|byte| !matches!(byte, b'_' | b'-'));
    letters.map(u8::to_ascii_lowercase)
}

/// The role of a `name`, known to fall into the slot of `entries`; `exact` is how it is written.
#[inline]
fn choose(entries: &[Entry], head: u64, name: &[u8], exact: Option<&[u8]>) -> Role {
    let tail = tail(name);
    let is_it = |entry: &&Entry| {
        entry.head == head
            && entry.tail == tail
            && entry.name.len() == name.len()
            && (entry.told_by_ends || entry.name.eq_ignore_ascii_case(name))
    };
    let Some(entry) = entries.iter().find(is_it) else {
        return Role::Plain;
    };
    if entry.role != Role::Plain {
        return entry.role;
    }
    let exact = exact.unwrap_or(name);
    let unit = entry.units.iter().find(|(unit, _)| **unit == *exact);
    unit.map_or(Role::Plain, |(_, index)| Role::Unit(*index))
}

/// The first eight bytes in one word, letters in lower case; other bytes may fall together, as the
/// whole is compared later.
fn head(name: &[u8]) -> u64 {
    let mut chunk = [0; 8];
    for (to, from) in chunk.iter_mut().zip(name) {
        *to = *from;
    }
    fold(chunk, name.len())
}

/// The last eight bytes in the same manner, nothing for shorter names.
#[inline]
fn tail(name: &[u8]) -> u64 {
    name.last_chunk().map_or(0, |chunk| fold(*chunk, 8))
}

#[inline]
fn fold(chunk: [u8; 8], length: usize) -> u64 {
    let word = u64::from_le_bytes(chunk) | 0x2020_2020_2020_2020;
    let unused = 64 - 8 * length.min(8);
    // Two shifts, as a name may be empty and a word cannot be shifted by its whole width.
    word & (u64::MAX >> (unused / 2) >> (unused - unused / 2))
}

/// 2^64 divided by the golden ratio: the high bits of the product depend on all bits of the word.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
