//! [`Slot`]: what one key holds, a response, or on an open route its variants.
//!
//! *Invariants*
//! 1. Variants stand in the order of their dates, the most recent first: the first that suits is the one to
//!    use (RFC 9111 §4).
//! 2. Whoever asks again is answered by what he just brought, whatever its date.

use std::fmt;

use http::HeaderMap;
use triomphe::{Arc, ArcBorrow, ArcUnion, ArcUnionBorrow};

use super::stored::{Held, KeyRef, Stored};
use crate::clock::Now;

/// What one key holds: one response, or several, in one word: as an enum of two pointers it takes moka two.
#[derive(Clone)]
pub(super) struct Slot(ArcUnion<Stored, Vec<Held>>);

impl Slot {
    /// One response.
    pub(super) fn one(stored: Held) -> Self {
        Self(ArcUnion::from_first(stored))
    }

    fn many(variants: Vec<Held>) -> Self {
        Self(ArcUnion::from_second(Arc::new(variants)))
    }

    /// The most recent variant that suits a request (RFC 9111 §4.1).
    pub(super) fn select(&self, request: &HeaderMap) -> Option<Held> {
        match self.0.borrow() {
            ArcUnionBorrow::First(one) => one.suits(request).then(|| one.clone_arc()),
            ArcUnionBorrow::Second(many) => {
                many.iter().find(|stored| stored.suits(request)).cloned()
            }
        }
    }

    /// The same with `stored`, which answered this request, in place of what it supersedes: its own variant,
    /// and others that would still be chosen for the request.
    pub(super) fn with(&self, stored: Held, request: &HeaderMap) -> Self {
        let made_at = stored.made_at();
        let is_superseded = |other: &Stored| {
            other.is_variant_of(&stored) || other.made_at() > made_at && other.suits(request)
        };
        let others = self.variants().filter(|other| !is_superseded(other));
        let mut variants: Vec<_> =
            others.take(MAX_VARIANTS - 1).map(|other| other.clone_arc()).collect();
        if variants.is_empty() {
            return Self::one(stored);
        }
        let place = variants.partition_point(|other| other.made_at() > made_at);
        variants.insert(place, stored);
        Self::many(variants)
    }

    /// The same without the variants that suit a request; `None` where nothing is left.
    pub(super) fn without(&self, request: &HeaderMap) -> Option<Self> {
        let left = self.variants().filter(|other| !other.suits(request));
        let left: Vec<_> = left.map(|other| other.clone_arc()).collect();
        match &left[..] {
            [] => None,
            [one] => Some(Self::one(Held::clone(one))),
            _ => Some(Self::many(left)),
        }
    }

    /// Whether it is what a key holds.
    pub(super) fn is_under(&self, key: &KeyRef<'_>) -> bool {
        self.variants().next().is_some_and(|stored| stored.is_under(key))
    }

    pub(super) fn variants(&self) -> impl Iterator<Item = ArcBorrow<'_, Stored>> {
        let (one, many) = (self.0.as_first(), self.0.as_second());
        let many = many.map_or(&[][..], |many| many.get().as_slice());
        one.into_iter().chain(many.iter().map(Held::borrow_arc))
    }

    pub(super) fn bytes(&self) -> usize {
        self.variants().map(|stored| stored.bytes() + size_of::<usize>()).sum()
    }

    /// Whether nothing of it can be of use any more.
    pub(super) fn is_over(&self, now: &Now) -> bool {
        self.variants().all(|stored| stored.is_over(now))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.variants().map(|stored| stored.get())).finish()
    }
}

/// Most variants of one key: a client that varies a request field at will can't fill the memory.
const MAX_VARIANTS: usize = 32;
