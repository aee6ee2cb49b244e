//! [`Slot`]: what one key holds, a response, or on an open route its variants.
//!
//! *Invariants*
//! 1. Variants stand in the order of their dates, the most recent first: the first that suits is the one to
//!    use (RFC 9111 §4).
//! 2. Whoever asks again is answered by what he just brought, whatever its date.

use std::sync::Arc;

use http::HeaderMap;

use super::stored::{KeyRef, Stored};
use crate::clock::Now;

/// What one key holds.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    One(Arc<Stored>),
    Many(Arc<[Arc<Stored>]>),
}

impl Slot {
    /// The most recent variant that suits a request (RFC 9111 §4.1).
    pub(super) fn select(&self, request: &HeaderMap) -> Option<&Arc<Stored>> {
        self.variants().iter().find(|stored| stored.suits(request))
    }

    /// The same with `stored`, which answered this request, in place of what it supersedes: its own variant,
    /// and others that would still be chosen for the request.
    pub(super) fn with(&self, stored: Arc<Stored>, request: &HeaderMap) -> Self {
        let made_at = stored.made_at();
        let is_superseded = |other: &Stored| {
            other.is_variant_of(&stored) || other.made_at() > made_at && other.suits(request)
        };
        let others = self.variants().iter().filter(|other| !is_superseded(other));
        let mut variants: Vec<_> = others.take(MAX_VARIANTS - 1).cloned().collect();
        if variants.is_empty() {
            return Self::One(stored);
        }
        let place = variants.partition_point(|other| other.made_at() > made_at);
        variants.insert(place, stored);
        Self::Many(variants.into())
    }

    /// The same without the variants that suit a request; `None` where nothing is left.
    pub(super) fn without(&self, request: &HeaderMap) -> Option<Self> {
        let left = self.variants().iter().filter(|other| !other.suits(request));
        let left: Vec<_> = left.cloned().collect();
        match &left[..] {
            [] => None,
            [one] => Some(Self::One(Arc::clone(one))),
            _ => Some(Self::Many(left.into())),
        }
    }

    /// Whether it is what a key holds.
    pub(super) fn is_under(&self, key: &KeyRef<'_>) -> bool {
        self.variants().first().is_some_and(|stored| stored.is_under(key))
    }

    pub(super) fn variants(&self) -> &[Arc<Stored>] {
        match self {
            Self::One(stored) => std::slice::from_ref(stored),
            Self::Many(variants) => variants,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.variants().iter().map(|stored| stored.bytes() + size_of::<usize>()).sum()
    }

    /// Whether nothing of it can be of use any more.
    pub(super) fn is_over(&self, now: &Now) -> bool {
        self.variants().iter().all(|stored| stored.is_over(now))
    }
}

/// Most variants of one key: a client that varies a request field at will can't fill the memory.
const MAX_VARIANTS: usize = 32;
