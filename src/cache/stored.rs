//! [`CacheKey`] and [`Stored`]: what an answer is filed under, and what is filed.
//!
//! *Invariants*
//! 1. A key is (caller or open, route, canonical target byte for byte), and there is no other key:
//!    different requests never share one, flights use the same.
//! 2. A stored response knows its own key: it is found only under what it says of itself, and the reply can check
//!    once more whom it goes to.
//! 3. Only [`Masked`] bytes can be stored.
//! 4. Nothing stored points into a connection's read buffer: fields and body are copies of their own size.

use std::sync::Arc;
use std::time::Duration;

use http::header::{DATE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::fields::{Fields, Lines};
use super::generation::Stamp;
use super::policy::{Freshness, Life, Validators, Variant, parse_date};
use super::times::Times;
use crate::caller::CallerId;
use crate::clock::Now;
use crate::mask::Masked;

/// What an answer is filed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    owner: Owner,
    route: u16,
    /// Clones of a key share it: a flight has three.
    target: Arc<str>,
}

impl CacheKey {
    /// The key of a canonical target.
    pub fn new(owner: Owner, route: u16, target: &str) -> Self {
        Self { owner, route, target: target.into() }
    }

    /// Whose answer it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The canonical target.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The same key, borrowed.
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { owner: self.owner, route: self.route, target: &self.target }
    }
}

/// A key that borrows its target: looks up without allocating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyRef<'a> {
    /// Whose answer is looked for.
    pub owner: Owner,
    /// The route's number.
    pub route: u16,
    /// The canonical target.
    pub target: &'a str,
}

impl KeyRef<'_> {
    /// The key with a target of its own.
    pub fn to_key(&self) -> CacheKey {
        CacheKey::new(self.owner, self.route, self.target)
    }
}

/// Whose answers a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// One caller's, run as that caller's private cache.
    Caller(CallerId),
    /// Everyone's: an open route.
    Open,
}

/// A stored response (RFC 9111 §3), or one that just landed and is on its way to its readers.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The generations it belongs to, its owner's among them: who may read it.
    pub stamp: Stamp,
    /// The fields that every reply from it carries, in little memory, and what it is about.
    pub fields: Fields,
    /// Its body.
    pub body: Masked,
    /// When it came and how long it lives.
    pub times: Times,
    /// What most answers have none of.
    pub unshown: Option<Box<Unshown>>,
}

/// What of a response rules its reuse and is not among the fields of a reply.
#[derive(Clone, Debug, Default)]
pub struct Unshown {
    /// Fields of the upstream that are not shown: what a 304 is merged with.
    pub fields: Option<Fields>,
    /// The upstream's validators: used to revalidate, never sent to a client of a token route.
    pub validators: Validators,
    /// The request fields it depends on (RFC 9111 §4.1).
    pub variant: Variant,
}

impl Unshown {
    /// It, if it has anything.
    pub fn boxed(self) -> Option<Box<Self>> {
        let some =
            self.fields.is_some() || self.validators.any() || self.variant != Variant::default();
        some.then(|| Box::new(self))
    }

    /// The fields.
    pub fn lines(&self) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
        self.fields.iter().flat_map(|fields| fields.lines(None).iter())
    }

    fn bytes(&self) -> usize {
        let validators = if self.validators.any() { VALIDATOR_BYTES } else { 0 };
        let fields = self.fields.as_ref().map_or(0, Fields::bytes);
        size_of::<Self>() + fields + self.variant.size() + validators
    }
}

impl Stored {
    /// Who may read it.
    pub fn owner(&self) -> Owner {
        self.stamp.caller().map_or(Owner::Open, Owner::Caller)
    }

    /// The fields that every reply from it carries.
    pub fn lines(&self) -> Lines<'_> {
        self.fields.lines(self.body.tag())
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.fields.terms().status
    }

    /// Whether it is filed under a key: owner, route and each byte of the target are the same.
    pub fn is_under(&self, key: &KeyRef<'_>) -> bool {
        let route = self.fields.terms().route;
        route == key.route && self.owner() == key.owner && self.fields.answers(key.target)
    }

    /// Whether it is what a request asks for that selects by these fields (RFC 9111 §4.1).
    pub fn suits(&self, request: &HeaderMap) -> bool {
        self.unshown.as_ref().is_none_or(|unshown| unshown.variant.matches(request))
    }

    /// Whether both answer the same requests for their target.
    pub fn is_variant_of(&self, other: &Self) -> bool {
        self.variant() == other.variant()
    }

    fn variant(&self) -> Option<&Variant> {
        let variant = self.unshown.as_ref().map(|unshown| &unshown.variant);
        variant.filter(|variant| variant.nominated().next().is_some())
    }

    /// The validator that clients see: our own over the masked bytes, or the upstream's on an open
    /// route that passes bodies verbatim.
    pub fn etag(&self) -> Option<HeaderValue> {
        self.lines().get(&ETAG)
    }

    /// The upstream's validators, none where it sent none.
    pub fn validators(&self) -> &Validators {
        static NONE: Validators = Validators { etag: None, last_modified: None };
        self.unshown.as_ref().map_or(&NONE, |unshown| &unshown.validators)
    }

    /// How long it lives.
    pub fn life(&self) -> Life {
        self.times.life(&self.fields.terms().windows)
    }

    /// RFC 9111 §4.2.3 `current_age`.
    pub fn age(&self, now: &Now) -> Duration {
        self.times.initial_age().saturating_add(now.since(&self.times.received()))
    }

    /// The wall time that it was made at, by its own `Date`, else that of its receipt; in whole seconds.
    pub fn made_at(&self) -> Duration {
        let date = self.lines().only(&DATE);
        let received = self.times.received().wall;
        date.and_then(|date| parse_date(date.as_bytes(), received))
            .unwrap_or_else(|| Duration::from_secs(received.as_secs()))
    }

    /// What its age allows at `now`. The upstream's word that its owner may read it is as old, and good for as
    /// long.
    pub fn freshness(&self, now: &Now) -> Freshness {
        self.life().freshness(self.age(now))
    }

    /// Whether the token that paid for it has ended: nothing may be served from it any more.
    pub fn token_ended(&self, now: &Now) -> bool {
        self.times.token_ended(now)
    }

    /// Whether a conditional request for it is worth sending at `now` (RFC 9111 §4.3).
    pub fn can_be_revalidated(&self, now: &Now) -> bool {
        self.validators().any() && !self.is_over(now)
    }

    /// Whether it is past its last window, or its token: nothing can be made of it any more.
    pub fn is_over(&self, now: &Now) -> bool {
        self.age(now) > self.life().last_use() || self.token_ended(now)
    }

    /// Memory it takes, in bytes: body, fields and bookkeeping.
    pub fn bytes(&self) -> usize {
        let unshown = self.unshown.as_ref().map_or(0, |unshown| unshown.bytes());
        let own = size_of::<Self>() + size_of::<usize>();
        [own, self.body.memory(), self.fields.bytes(), unshown].into_iter().map(rounded).sum()
    }
}

/// What the program's allocator takes for so many bytes: it has four sizes up to each power of two, and none below
/// sixteen bytes or between their multiples.
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of((bytes.next_power_of_two() / 8).max(16))
}

/// Two validators of usual length.
const VALIDATOR_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::fields::{About, Terms};
    use crate::cache::times::Windows;
    use crate::config::Config;
    use crate::mask::Masker;

    fn owner(byte: Option<u8>) -> Owner {
        byte.map_or(Owner::Open, |byte| Owner::Caller(CallerId::from_bytes([byte; 32])))
    }

    impl Stored {
        pub(crate) fn key(&self) -> CacheKey {
            CacheKey::new(self.owner(), self.fields.terms().route, &self.fields.target())
        }

        /// An empty answer that lives for a minute from the beginning of time.
        pub(crate) fn sample(caller: Option<u8>, route: u16, target: &str) -> Self {
            let caller = caller.map(|byte| CallerId::from_bytes([byte; 32]));
            let now = Now { mono: Duration::ZERO, wall: Duration::ZERO };
            let life = Life {
                lifetime: Duration::from_mins(1),
                initial_age: Duration::ZERO,
                stale_while_revalidate: Duration::ZERO,
                stale_if_error: Duration::ZERO,
                keep: Duration::ZERO,
                explicit: true,
                stale_forbidden: true,
            };
            let body = Masker::new(&Config::default().secrets, &[]).empty();
            let terms = Terms { route, windows: Windows::from(&life), ..Terms::default() };
            let about = About { terms, target, ..About::default() };
            Self {
                stamp: Stamp::unkept(caller),
                fields: Fields::of(&about, &body, &HeaderMap::new()),
                body,
                times: Times::new(&now, &life, None),
                unshown: None,
            }
        }
    }

    #[test]
    fn memory_is_counted_as_it_is_taken() {
        for (bytes, taken) in
            [(0, 0), (1, 16), (112, 112), (129, 160), (1025, 1280), (1280, 1280), (1281, 1536)]
        {
            assert_eq!(rounded(bytes), taken);
        }
    }

    proptest! {
        #[test]
        fn two_requests_share_a_key_only_if_they_are_the_same(
            a in (proptest::option::of(0_u8..2), 0_u16..2, "[a-b/?=%]{0,3}"),
            b in (proptest::option::of(0_u8..2), 0_u16..2, "[a-b/?=%]{0,3}"),
        ) {
            let borrowed = KeyRef { owner: owner(a.0), route: a.1, target: &a.2 };
            let key = CacheKey::new(owner(b.0), b.1, &b.2);
            prop_assert_eq!(borrowed == key.as_ref(), a == b);
            prop_assert_eq!(borrowed.to_key() == key, a == b);
        }
    }
}
