//! [`Bodies`]: equal masked bodies are kept once.
//!
//! A hundred callers of the same unit hold a hundred entries with keys, owners and fields of their own, and
//! mostly with the same masked bytes.
//!
//! *Invariants*
//! 1. What is shared is bytes that are equal, compared in full, and nothing else.
//! 2. A body that nobody holds leaves no trace: what lives is what bounds the table.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use super::Masked;

/// The bodies that are held by somebody.
#[derive(Clone, Debug, Default)]
pub struct Bodies(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    held: Mutex<HashMap<u64, Weak<Body>, RandomState>>,
}

/// A body that was masked.
pub(super) struct Body {
    bytes: Memory,
    /// Where it is known, if it is shared. Its hash is made again when it goes, which costs less than to keep it.
    table: Weak<Table>,
}

/// Where its bytes are.
enum Memory {
    /// In a piece of its own length: what is stored. As [`Bytes`] it would take 40 bytes more.
    Own(Box<[u8]>),
    /// Where they came: what passes. Boxed, so that it takes no more than the other.
    Passing(Box<Bytes>),
}

impl Body {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Memory::Own(bytes) => bytes,
            Memory::Passing(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { bytes: Memory::Passing(Box::new(bytes)), table: Weak::new() }
    }
}

impl Bodies {
    /// The same bytes in memory that other holders of equal bytes share, and no connection's read buffer.
    pub fn shared(&self, body: &Masked) -> Masked {
        let bytes = body.bytes();
        if bytes.is_empty() {
            return Masked(None);
        }
        let hash = Table::hash(bytes);
        let mut held = self.0.held.lock();
        let known = held.get(&hash).and_then(Weak::upgrade);
        let body = match &known {
            Some(known) if known.bytes() == bytes => Arc::clone(known),
            _ => {
                let table = Arc::downgrade(&self.0);
                let body = Arc::new(Body { bytes: Memory::Own(bytes.into()), table });
                held.insert(hash, Arc::downgrade(&body));
                body
            }
        };
        // Before `known` goes, which may have been the last of its kind and would take the lock itself.
        drop(held);
        drop(known);
        Masked(Some(body))
    }
}

impl Table {
    /// Not the seeded hash of a table: that takes twice as long for a kB. Who makes up two bodies of one hash has them
    /// kept apart, no more.
    fn hash(bytes: &[u8]) -> u64 {
        XxHash3_64::oneshot(bytes)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else { return };
        let hash = Table::hash(self.bytes());
        let mut held = table.held.lock();
        // Another body may stand there meanwhile: one that came as this one went, or one of the same hash.
        if held.get(&hash).is_some_and(|body| body.strong_count() == 0) {
            held.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bodies: &Bodies) -> usize {
        bodies.0.held.lock().len()
    }

    fn masked(text: &'static str) -> Masked {
        crate::mask::proven(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn equal_bodies_are_one_allocation_and_others_are_not() {
        let bodies = Bodies::default();
        let [one, same, other] = ["[1]", "[1]", "[2]"].map(|text| bodies.shared(&masked(text)));
        assert_eq!(one.bytes().as_ptr(), same.bytes().as_ptr());
        assert_eq!((one.bytes(), other.bytes()), (&b"[1]"[..], &b"[2]"[..]));
        assert_eq!(held(&bodies), 2);
    }

    #[test]
    fn a_body_that_nobody_holds_leaves_no_trace() {
        let bodies = Bodies::default();
        let (one, same) = (bodies.shared(&masked("[1]")), bodies.shared(&masked("[1]")));
        drop(one);
        assert_eq!(held(&bodies), 1);
        drop(same);
        assert_eq!(held(&bodies), 0);
    }

    #[test]
    fn an_empty_body_takes_nothing() {
        let bodies = Bodies::default();
        assert!(bodies.shared(&masked("")).is_empty());
        assert_eq!(held(&bodies), 0);
    }
}
