//! [`Slot`]: what one key holds, a response, or on an open route its variants; [`Held`]: one response of it.
//!
//! *Invariants*
//! 1. Variants stand in the order of their dates, the most recent first: the first that suits is the one to
//!    use (RFC 9111 §4).
//! 2. Whoever asks again is answered by what he just brought, whatever its date.
//!
//! *Why both are of one type inside:* a lookup makes the one of the other where there is one response, without counting
//! its holders once up and once down.

use std::fmt;
use std::ops::Deref;
use std::slice;

use http::HeaderMap;
use triomphe::{Arc, ArcUnion};

use super::stored::{KeyRef, Stored};
use crate::clock::Now;

/// A stored response in the hands of its readers; without weak ones, which would take eight bytes of each entry.
#[derive(Clone)]
pub struct Held(ArcUnion<Stored, Vec<Self>>);

impl Held {
    /// In the hands of one.
    pub fn new(stored: Stored) -> Self {
        Self(ArcUnion::from_first(Arc::new(stored)))
    }

    /// Whether both are the same, and not only alike.
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        ArcUnion::ptr_eq(&this.0, &other.0)
    }
}

impl Deref for Held {
    type Target = Stored;

    fn deref(&self) -> &Stored {
        self.0.as_first().expect("several are made by slots alone, and never leave them").get()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Stored::fmt(self, f)
    }
}

/// What one key holds: one response, or several, in one word: as an enum of two pointers it takes moka two.
#[derive(Clone)]
pub(super) struct Slot(Held);

impl Slot {
    /// One response.
    pub(super) fn one(stored: Held) -> Self {
        Self(stored)
    }

    fn many(variants: Vec<Held>) -> Self {
        Self(Held(ArcUnion::from_second(Arc::new(variants))))
    }

    /// The most recent variant that suits a request (RFC 9111 §4.1).
    pub(super) fn select(self, request: &HeaderMap) -> Option<Held> {
        if self.0.0.is_first() {
            return self.0.suits(request).then_some(self.0);
        }
        self.variants().iter().find(|stored| stored.suits(request)).cloned()
    }

    /// The same with `stored`, which answered this request, in place of what it supersedes: its own variant,
    /// and others that would still be chosen for the request.
    pub(super) fn with(&self, stored: Held, request: &HeaderMap) -> Self {
        let made_at = stored.made_at();
        let is_superseded = |other: &Stored| {
            other.is_variant_of(&stored) || other.made_at() > made_at && other.suits(request)
        };
        let others = self.variants().iter().filter(|other| !is_superseded(other));
        let mut variants: Vec<_> = others.take(MAX_VARIANTS - 1).cloned().collect();
        if variants.is_empty() {
            return Self::one(stored);
        }
        let place = variants.partition_point(|other| other.made_at() > made_at);
        variants.insert(place, stored);
        Self::many(variants)
    }

    /// The same without the variants that suit a request; `None` where nothing is left.
    pub(super) fn without(&self, request: &HeaderMap) -> Option<Self> {
        let left = self.variants().iter().filter(|other| !other.suits(request));
        let left: Vec<_> = left.cloned().collect();
        match &left[..] {
            [] => None,
            [one] => Some(Self::one(Held::clone(one))),
            _ => Some(Self::many(left)),
        }
    }

    /// Whether it is what a key holds.
    pub(super) fn is_under(&self, key: &KeyRef<'_>) -> bool {
        self.variants().first().is_some_and(|stored| stored.is_under(key))
    }

    pub(super) fn variants(&self) -> &[Held] {
        match self.0.0.as_second() {
            Some(many) => many.get(),
            None => slice::from_ref(&self.0),
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

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.variants()).finish()
    }
}

/// Most variants of one key: a client that varies a request field at will can't fill the memory.
const MAX_VARIANTS: usize = 32;

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{ACCEPT_LANGUAGE, VARY};

    use super::*;
    use crate::cache::policy::Variant;
    use crate::cache::stored::Unshown;

    fn speaks(language: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_LANGUAGE, HeaderValue::from_static(language))])
    }

    fn variant(language: &'static str) -> Held {
        let varies = HeaderMap::from_iter([(VARY, HeaderValue::from_static("accept-language"))]);
        let variant = Variant::of(&varies, &speaks(language)).unwrap();
        let unshown = Unshown { variant, ..Unshown::default() }.boxed();
        Held::new(Stored { unshown, ..Stored::sample(None, 0, "/a") })
    }

    #[test]
    fn a_slot_is_one_word_and_so_is_what_is_taken_out_of_it() {
        assert_eq!(size_of::<Slot>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Held>>(), size_of::<usize>());
    }

    #[test]
    fn what_is_selected_is_the_very_response_that_was_put_in() {
        let (german, french) = (variant("de"), variant("fr"));
        let one = Slot::one(german.clone());
        let both = one.with(french.clone(), &speaks("fr"));
        for (slot, language, wanted) in [
            (&one, "de", Some(&german)),
            (&one, "fr", None),
            (&both, "de", Some(&german)),
            (&both, "fr", Some(&french)),
            (&both, "en", None),
        ] {
            let selected = slot.clone().select(&speaks(language));
            assert_eq!(selected.is_some(), wanted.is_some(), "{language}");
            let same = selected.iter().zip(wanted).all(|(one, other)| Held::ptr_eq(one, other));
            assert!(same, "{language}");
        }
        assert!(!Held::ptr_eq(&german, &Held::new(Stored::clone(&german))));
        let left = both.without(&speaks("fr")).unwrap();
        assert!(left.select(&speaks("de")).is_some_and(|left| Held::ptr_eq(&left, &german)));
    }
}
