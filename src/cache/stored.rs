//! [`CacheKey`] and [`Stored`]: what an answer is filed under, and what is filed.
//!
//! *Invariants*
//! 1. A key is (caller or open, route, canonical target byte for byte), and there is no other key:
//!    different requests never share one, flights use the same.
//! 2. A stored response knows its owner again, so that the reply can check once more whom it goes to.
//! 3. Only [`Masked`] bytes can be stored.
//! 4. Nothing stored points into a connection's read buffer: fields and body are copies of their own size.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use http::header::{DATE, ETAG};
use http::{HeaderValue, StatusCode};

use super::fields::Fields;
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
    target: Box<str>,
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

    /// Memory it takes beyond its own struct, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.target.len()
    }
}

/// A key that borrows its target: looks up without allocating.
#[derive(Clone, Copy, Debug)]
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

impl Hash for KeyRef<'_> {
    /// The same bytes in the same order as the derived hash of [`CacheKey`].
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.owner.hash(state);
        self.route.hash(state);
        self.target.hash(state);
    }
}

impl equivalent::Equivalent<CacheKey> for KeyRef<'_> {
    fn equivalent(&self, key: &CacheKey) -> bool {
        self.owner == key.owner && self.route == key.route && *self.target == *key.target
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
    /// Who may read it.
    pub owner: Owner,
    /// Its status.
    pub status: StatusCode,
    /// The fields that every reply from it carries.
    pub fields: Fields,
    /// Fields of the upstream that rule its reuse and are not among `fields`: what a 304 is merged with.
    pub hidden: Option<Box<Fields>>,
    /// Its body.
    pub body: Masked,
    /// The upstream's validators, if it sent any: used to revalidate, never sent to a client of a token
    /// route.
    pub validators: Option<Box<Validators>>,
    /// The request fields it depends on (RFC 9111 §4.1).
    pub variant: Variant,
    /// How many values the masker changed.
    pub fields_masked: u32,
    /// When it came and how long it lives.
    pub times: Times,
    /// The configuration that made it; under another one it is a miss.
    pub made_under: u64,
    /// The generations it belongs to.
    pub stamp: Stamp,
}

impl Stored {
    /// The validator that clients see: our own over the masked bytes, or the upstream's on an open
    /// route that passes bodies verbatim.
    pub fn etag(&self) -> Option<HeaderValue> {
        self.fields.get(&ETAG)
    }

    /// The upstream's validators, none where it sent none.
    pub fn validators(&self) -> &Validators {
        static NONE: Validators = Validators { etag: None, last_modified: None };
        self.validators.as_deref().unwrap_or(&NONE)
    }

    /// How long it lives.
    pub fn life(&self) -> Life {
        self.times.life()
    }

    /// RFC 9111 §4.2.3 `current_age`.
    pub fn age(&self, now: &Now) -> Duration {
        self.life().initial_age.saturating_add(now.since(&self.times.received()))
    }

    /// The wall time that it was made at, by its own `Date`, else that of its receipt; in whole seconds.
    pub fn made_at(&self) -> Duration {
        let mut dates = self.fields.iter().filter(|(name, _)| **name == DATE);
        let date = dates.next().filter(|_| dates.next().is_none());
        let received = self.times.received().wall;
        date.and_then(|(_, date)| parse_date(date.as_bytes(), received))
            .unwrap_or_else(|| Duration::from_secs(received.as_secs()))
    }

    /// What its age and its authorisation allow at `now`.
    pub fn freshness(&self, now: &Now) -> Freshness {
        let life = self.life();
        match life.freshness(self.age(now)) {
            Freshness::Fresh | Freshness::StaleWhileRevalidate
                if !self.times.is_authorised(now) =>
            {
                if life.stale_if_error_allows(self.age(now)) {
                    Freshness::StaleIfError
                } else {
                    Freshness::Expired
                }
            }
            other => other,
        }
    }

    /// Whether the token that paid for it has ended: nothing may be served from it any more.
    pub fn token_ended(&self, now: &Now) -> bool {
        self.times.token_ended(now)
    }

    /// Whether a conditional request for it is worth sending at `now` (RFC 9111 §4.3).
    pub fn can_be_revalidated(&self, now: &Now) -> bool {
        self.validators.is_some() && self.age(now) <= self.life().last_use()
    }

    /// Memory it takes, in bytes: body, fields and bookkeeping.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.body.len()
            + self.fields.bytes()
            + self.hidden.as_ref().map_or(0, |hidden| size_of::<Fields>() + hidden.bytes())
            + self.variant.size()
            + self.validators.as_ref().map_or(0, |_| size_of::<Validators>() + VALIDATOR_BYTES)
    }
}

/// Two validators of usual length.
const VALIDATOR_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use equivalent::Equivalent;
    use proptest::prelude::*;

    use super::*;

    fn owner(byte: Option<u8>) -> Owner {
        byte.map_or(Owner::Open, |byte| Owner::Caller(CallerId::from_bytes([byte; 32])))
    }

    proptest! {
        #[test]
        fn two_requests_share_a_key_only_if_they_are_the_same(
            a in (proptest::option::of(0_u8..2), 0_u16..2, "[a-b/?=%]{0,3}"),
            b in (proptest::option::of(0_u8..2), 0_u16..2, "[a-b/?=%]{0,3}"),
        ) {
            let borrowed = KeyRef { owner: owner(a.0), route: a.1, target: &a.2 };
            let key = CacheKey::new(owner(b.0), b.1, &b.2);
            prop_assert_eq!(borrowed.equivalent(&key), a == b);
            prop_assert_eq!(borrowed.to_key() == key, a == b);
        }

        #[test]
        fn a_borrowed_key_hashes_like_the_key_it_stands_for(
            byte in proptest::option::of(any::<u8>()), route: u16, target: String,
        ) {
            let borrowed = KeyRef { owner: owner(byte), route, target: &target };
            let state = RandomState::new();
            prop_assert_eq!(state.hash_one(borrowed), state.hash_one(borrowed.to_key()));
        }
    }
}
