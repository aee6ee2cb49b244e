//! [`Bodies`]: equal masked bodies are kept once.
//!
//! A hundred callers of the same unit hold a hundred entries with keys, owners and fields of their own, and
//! mostly with the same masked bytes.
//!
//! *Invariants*
//! 1. What is shared is bytes that are equal, compared in full, and nothing else.
//! 2. A body that nobody holds leaves no trace: what lives is what bounds the table.

use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;
use triomphe::ThinArc;
use twox_hash::XxHash3_128;

use super::Masked;
use crate::alphabet::hex_pair;

/// The bodies that are held by somebody.
#[derive(Clone, Default)]
pub struct Bodies(Arc<Table>);

/// In shards, by their tags: a table that grows looks at all that it holds, and whoever comes waits.
#[derive(Default)]
struct Table([Mutex<HashTable<Piece>>; SHARDS]);

impl Table {
    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the array's length")]
    fn shard(&self, tag: Tag) -> &Mutex<HashTable<Piece>> {
        let Tag([first, ..]) = tag;
        &self.0[usize::from(first) % SHARDS]
    }
}

/// The bytes of a body and what is known of them, in one allocation: apart, they would take 60 bytes more.
type Piece = ThinArc<Place, u8>;

/// Where the bytes of a body are.
enum Place {
    /// Where they came: what passes.
    Passing(Box<Bytes>),
    /// Here, in memory of their own length: what is stored. Known to a table, unless another has its place there.
    Shared { tag: Tag, table: Weak<Table> },
}

impl Place {
    fn tag(&self) -> Option<Tag> {
        match self {
            Self::Passing(_) => None,
            Self::Shared { tag, .. } => Some(*tag),
        }
    }
}

/// What tells a body from others: its XXH3 hash of 128 bits, the same in every process. No cryptographic one: who
/// writes what a unit's answer shows could make up two bodies with one tag, and win that those who hold the one are
/// not told of the other, of his own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag([u8; 16]);

impl Tag {
    /// The tag of these bytes.
    pub fn over(bytes: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(bytes).to_be_bytes())
    }

    /// It as a strong validator (RFC 9110 §8.8.1): quoted, in hexadecimal.
    pub fn text(&self) -> [u8; Self::LENGTH] {
        let mut text = [b'"'; Self::LENGTH];
        for (pair, byte) in text[1..].chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&hex_pair(byte));
        }
        text
    }

    /// Bytes of the text.
    pub const LENGTH: usize = 2 + 2 * size_of::<Self>();

    /// Not the seeded hash of a table, which takes twice as long for a kB. Who makes up bodies of one hash has them
    /// kept apart, no more.
    fn place(self) -> u64 {
        u64::from_be_bytes(self.0.last_chunk().copied().unwrap_or_default())
    }
}

/// A body that was masked; without a piece it has no bytes.
#[derive(Clone)]
pub(super) struct Body(Option<Piece>);

impl Body {
    pub(super) const NONE: Self = Self(None);

    /// Bytes left where they are.
    pub(super) fn passing(bytes: Bytes) -> Self {
        let place = |bytes| Piece::from_header_and_slice(Place::Passing(Box::new(bytes)), &[]);
        Self((!bytes.is_empty()).then(|| place(bytes)))
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        let Some(piece) = &self.0 else { return &[] };
        match &piece.header.header {
            Place::Passing(bytes) => bytes,
            Place::Shared { .. } => &piece.slice,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn memory(&self) -> usize {
        // Beside the place stand a count and a length.
        let head = size_of::<Place>() + 2 * size_of::<usize>();
        self.0.as_ref().map_or(0, |piece| head + piece.slice.len())
    }

    pub(super) fn tag(&self) -> Option<Tag> {
        self.0.as_ref()?.header.header.tag()
    }
}

impl fmt::Debug for Bodies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Bodies(…)")
    }
}

impl Bodies {
    /// The same bytes in memory that other holders of equal bytes share, and no connection's read buffer. Their
    /// tag may be known.
    pub fn shared(&self, body: &Masked, tag: Option<Tag>) -> Masked {
        let bytes = body.bytes();
        // Nothing, or shared before.
        if bytes.is_empty() || body.tag().is_some() {
            return body.clone();
        }
        let tag = tag.unwrap_or_else(|| Tag::over(bytes));
        let piece = |table| Piece::from_header_and_slice(Place::Shared { tag, table }, bytes);
        let mut held = self.0.shard(tag).lock();
        let piece = match held.entry(tag.place(), |known| place(known) == tag.place(), place) {
            Entry::Occupied(known) if known.get().slice == *bytes => known.get().clone(),
            Entry::Occupied(_other) => piece(Weak::new()),
            Entry::Vacant(free) => free.insert(piece(Arc::downgrade(&self.0))).get().clone(),
        };
        drop(held);
        Masked(Body(Some(piece)))
    }
}

/// Where a table has a piece.
fn place(piece: &Piece) -> u64 {
    piece.header.header.tag().map_or(0, Tag::place)
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(piece) = self.0.take() else { return };
        let Place::Shared { tag, table } = &piece.header.header else { return };
        let Some(table) = table.upgrade() else { return };
        // Whoever lets go does so under the lock: of two who do so at once, one sees that he is the last.
        let mut held = table.shard(*tag).lock();
        let last = Piece::strong_count(&piece) == WITH_THE_TABLE;
        let found = last.then(|| held.find_entry(tag.place(), |other| same(other, &piece)));
        let gone = found.and_then(Result::ok).map(|found| found.remove().0);
        drop(piece);
        drop(held);
        drop(gone);
    }
}

fn same(one: &Piece, other: &Piece) -> bool {
    std::ptr::eq(one.slice.as_ptr(), other.slice.as_ptr())
}

const SHARDS: usize = 16;

/// How many hold a body that one holder and the table do.
const WITH_THE_TABLE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bodies: &Bodies) -> usize {
        bodies.0.0.iter().map(|shard| shard.lock().len()).sum()
    }

    fn masked(text: &'static str) -> Masked {
        crate::mask::proven(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn equal_bodies_are_one_allocation_and_others_are_not() {
        let bodies = Bodies::default();
        let [one, same, other] =
            ["[1]", "[1]", "[2]"].map(|text| bodies.shared(&masked(text), None));
        assert_eq!(one.bytes().as_ptr(), same.bytes().as_ptr());
        assert_eq!((one.bytes(), other.bytes()), (&b"[1]"[..], &b"[2]"[..]));
        assert_eq!(held(&bodies), 2);
    }

    #[test]
    fn a_body_that_nobody_holds_leaves_no_trace() {
        let bodies = Bodies::default();
        let (one, same) =
            (bodies.shared(&masked("[1]"), None), bodies.shared(&masked("[1]"), None));
        drop(one);
        assert_eq!(held(&bodies), 1);
        drop(same);
        assert_eq!(held(&bodies), 0);
    }

    #[test]
    fn bodies_of_one_tag_are_kept_apart() {
        let (bodies, tag) = (Bodies::default(), Some(Tag::over(b"[1]")));
        let [one, other, same] =
            ["[1]", "[2]", "[1]"].map(|text| bodies.shared(&masked(text), tag));
        assert_eq!((one.bytes(), other.bytes(), held(&bodies)), (&b"[1]"[..], &b"[2]"[..], 1));
        assert_eq!(one.bytes().as_ptr(), same.bytes().as_ptr());
        drop((one, same));
        assert_eq!((other.bytes(), held(&bodies)), (&b"[2]"[..], 0));
    }

    #[test]
    fn of_several_who_let_go_at_once_one_is_the_last() {
        let bodies = Bodies::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let one = bodies.shared(&masked("[1]"), None);
                        let other = one.clone();
                        drop(one);
                        assert_eq!(other.bytes(), b"[1]");
                    }
                });
            }
        });
        assert_eq!(held(&bodies), 0);
    }

    #[test]
    fn an_empty_body_takes_nothing() {
        let bodies = Bodies::default();
        assert!(bodies.shared(&masked(""), None).is_empty());
        assert_eq!(held(&bodies), 0);
    }
}
