//! What a flight brings, and whom it suits.
//!
//! *Invariant:* who joined a flight gets of it what a lookup would give, or what failed for all alike.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HOST,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PRAGMA, RANGE,
    SET_COOKIE, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, StatusCode};

use super::Asked;
use crate::cache::Held;
use crate::cache::policy::{Freshness, NotStored};
use crate::cache::stored::Owner;
use crate::error::Error;
use crate::telemetry::Cause;
use crate::upstream::{Answer, Sent, Trip};

/// What a flight brings to all who wait for it.
pub(super) type Landing = Result<Arc<Landed>, Arc<Failed>>;

/// An answer that landed.
#[derive(Clone, Debug)]
pub(super) struct Landed {
    /// The answer, presentable, for who asked.
    pub(super) stored: Held,
    /// The same for all others.
    pub(super) shared: Held,
    /// How it came to be here.
    pub(super) origin: Origin,
    /// Whether it was kept, or why not.
    pub(super) kept: Result<(), NotStored>,
    /// What its leader showed to be known by; on an open route only.
    pub(super) credentials: Credentials,
    /// What the upstream exchange took, if there was one.
    pub(super) trip: Option<TripFacts>,
}

/// How an answer came to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The flight's leader found it in the store: another flight had just landed.
    Store,
    /// The upstream confirmed a stale one with a 304.
    Renewed,
    /// The upstream sent it.
    Upstream(StatusCode),
}

/// What an upstream exchange took.
#[derive(Clone, Copy, Debug)]
pub(super) struct TripFacts {
    pub(super) cause: Cause,
    pub(super) tries: u8,
    pub(super) duration: Duration,
}

/// How long an exchange took, tries included.
pub(super) fn took(trip: &Trip) -> Duration {
    trip.done_at.saturating_sub(trip.started_at)
}

impl TripFacts {
    pub(super) fn of(cause: Cause, trip: &Trip) -> Self {
        Self { cause, tries: trip.tries, duration: took(trip) }
    }
}

/// A flight that brought no answer.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    /// What the upstream exchange took, if there was one.
    pub(super) trip: Option<TripFacts>,
    /// Whether the upstream may have acted on the request.
    pub(super) sent: Sent,
}

impl From<Error> for Failed {
    /// Refused here: the upstream was not asked.
    fn from(error: Error) -> Self {
        Self { error, trip: None, sent: Sent::Nothing }
    }
}

/// What became of a validation.
pub(super) enum Validated {
    /// The stored response still holds: a 304 about it.
    Holds(Held, Answer),
    /// Anything else.
    Answer(Answer),
}

impl Landed {
    /// An answer for who asked alone, that nobody looked up or may keep.
    pub(super) fn unkept(stored: Held, trip: TripFacts) -> Self {
        Self {
            shared: Held::clone(&stored),
            origin: Origin::Upstream(stored.status()),
            kept: Err(NotStored::Method),
            credentials: Credentials::default(),
            trip: Some(trip),
            stored,
        }
    }

    /// Whether a joiner may take it, judged as a lookup would. What can't be stored, or would have to be
    /// asked about, was for who asked (RFC 9111 §4): only a failure is also that of others who show the
    /// same, unless it tells its reader who he is from now on.
    pub(super) fn suits<B>(&self, asked: &Asked<'_, '_, B>) -> bool {
        if let Owner::Caller(_) = self.stored.owner() {
            return true;
        }
        let fields = &*asked.inbound.selecting();
        let everybodys = match self.kept {
            Ok(())
            | Err(
                NotStored::Voided
                | NotStored::Superseded
                | NotStored::TooLarge
                | NotStored::SwitchedOff,
            ) if self.arrived_fresh() => true,
            Err(reason) if reason.is_for_its_asker_alone() => false,
            Ok(()) | Err(_) => {
                let failed = self.stored.status().as_u16() >= 400;
                let sets_cookie = self.shared.lines().contains(&SET_COOKIE);
                failed && !sets_cookie && self.credentials == Credentials::of(fields)
            }
        };
        everybodys && self.stored.suits(fields)
    }

    /// Whether a lookup would have served it when it arrived.
    fn arrived_fresh(&self) -> bool {
        let life = self.stored.life();
        life.freshness(life.initial_age) <= Freshness::StaleWhileRevalidate
    }
}

/// What a request shows to be known by: every field that crosses and could tell one asker from another.
/// Compared, never sent or logged.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Credentials(HeaderMap);

impl Credentials {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        if fields.is_empty() {
            return Self::default();
        }
        let mut shown = fields.clone();
        for name in &TELLS_NOBODY_APART {
            shown.remove(name);
        }
        Self(shown)
    }
}

/// Fields that mark a request or its way, preferences, which `Vary` is there for, and what is judged here.
static TELLS_NOBODY_APART: [HeaderName; 21] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_LENGTH,
    HOST,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    PRAGMA,
    RANGE,
    USER_AGENT,
    VIA,
    HeaderName::from_static("baggage"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
];

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}
