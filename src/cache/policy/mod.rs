//! RFC 9111 as pure functions: what may be stored, how long it lives, when it may be used again.
//!
//! No I/O, no clock, no chance: time is an argument. A *wall* time is a [`Duration`] since the Unix
//! epoch; an *age* is a [`Duration`] since the response was made by whoever made it.
//!
//! | question | answer |
//! |---|---|
//! | what did the upstream, or the client, direct? | [`CacheControl`] |
//! | may this answer be stored, and for how long? | [`judge`] → [`Life`] or [`NotStored`] |
//! | which of its fields are stored? | [`fields_to_store`] |
//! | how fresh is it at this age? | [`Life::freshness`] |
//! | does the client want something else? | [`reuse()`] |
//! | was it made for a request like this one? | [`Variant`] |
//! | how is it validated upstream? | [`Validators`], [`matches_304`], [`merge_304`] |
//! | what does the client get of it? | [`not_modified`], [`range_answer`] |
//! | what does a write end? | [`invalidated_targets`] |
//! | how is the outcome told? | [`CacheStatus`], [`write_age`] |
//!
//! # Private and shared
//!
//! A [`Partition::Shared`] route is RFC 9111's *shared cache*, to the letter.
//!
//! A [`Partition::Private`] route answers requests that carry `Authorization`. RFC 9111 §3.5 bars a
//! shared cache from reusing such an answer unless the upstream allows it. There each caller's
//! partition is run as a *private* cache that belongs to that caller alone, so §3.5 does not bar it
//! and `private` does not prevent storing. This is a knowing reading of the RFC, and it is safe
//! only because the cache key contains the caller: an answer is never given to anyone but whom it
//! was made for, `public` or not. That an answer without any directive is stored there at all is
//! the operator's promise about the upstream, made by setting [`Rules::default_ttl`].
//!
//! # Invariants
//!
//! 1. No bytes in any field panic, overflow or loop; what cannot be read is taken as stale or
//!    absent.
//! 2. [`Life::freshness`] only moves forward as the age grows.
//! 3. Nothing stale is allowed by a life whose upstream forbade it (RFC 9111 §4.2.4).
//! 4. On a private partition the upstream can shorten the stale windows, never lengthen them.
//!
//! # Why not
//!
//! *A policy crate?* The known ones compare directive names by case, lose repeated fields, or panic
//! on a huge `Age`; a few hundred lines of pure functions pass more of the public cache tests.

use std::time::Duration;

use http::HeaderName;

mod cache_status;
mod date;
mod directives;
mod freshness;
mod invalidation;
mod list;
mod range;
mod reuse;
mod storing;
mod validation;
mod vary;

pub use cache_status::{CACHE_STATUS, CacheStatus, Forward, Outcome, append_member, write_age};
pub use date::parse_date;
pub use directives::{CacheControl, Scope};
pub use freshness::{Freshness, Life};
pub use invalidation::invalidated_targets;
pub use range::{RangeAnswer, content_range, range_answer, stays_in_416, unsatisfied_range};
pub use reuse::{Reuse, only_if_cached, reuse};
pub use storing::{NotStored, fields_to_store, judge};
pub use validation::{
    Validators, head_freshens, matches_304, merge_304, modified_at, not_modified, stays_in_304,
};
pub use vary::Variant;

/// One route's cache policy, built from the configuration.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the configuration")]
pub struct Rules {
    /// Whose cache it is.
    pub partition: Partition,
    /// Lifetime, from receipt, of an answer whose upstream gave no explicit freshness: none of
    /// `max-age`, `s-maxage`, `Expires`, `no-cache`. `None`: such an answer is not fresh.
    pub default_ttl: Option<Duration>,
    /// The same for a 404. `None`: a 404 is not stored, on a shared partition unless its freshness
    /// is explicit or heuristic.
    pub negative_ttl: Option<Duration>,
    /// Explicit and heuristic freshness is capped so that an answer stays fresh here no longer than
    /// this.
    pub max_ttl: Duration,
    /// How long past its life an answer may be served while it is being refreshed (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// How long past its life an answer may be served when the upstream fails (RFC 5861 §4).
    pub stale_if_error: Duration,
    /// Whether the upstream's `stale-while-revalidate` and `stale-if-error` replace the two windows
    /// above. On a private partition they can only shorten them.
    pub stale_directives: bool,
    /// How long past both windows an answer with a validator is kept for revalidation.
    pub keep: Duration,
    /// Heuristic freshness (RFC 9111 §4.2.2); `None`: off.
    pub heuristic: Option<Heuristic>,
    /// The route departs from `no-store` by name: it stores in spite of it.
    pub store_no_store: bool,
    /// Whether the request's `Cache-Control` and `Pragma` are honoured (RFC 9111 §5.2.1).
    pub request_directives: bool,
    /// RFC 9213 target list, own targets first; empty: targeted fields are not looked at.
    pub targets: Vec<HeaderName>,
    /// Whether a shared partition stores answers that set a cookie.
    pub store_set_cookie: bool,
}

/// Whose cache a route runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// One caller's partition, run as that caller's private cache: the key contains the caller.
    Private,
    /// One cache for everyone.
    Shared,
}

/// Heuristic freshness: a fraction of the time since the last modification, up to a cap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heuristic {
    /// Of `Date − Last-Modified`; 0.1 is usual. Negative or not a number: nothing is fresh by it.
    pub fraction: f64,
    /// The most it may give.
    pub cap: Duration,
}

/// When an exchange with the upstream took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Wall time when the request was sent.
    pub requested_at: Duration,
    /// Wall time when the response's fields had arrived.
    pub received_at: Duration,
    /// The time between the two on the monotonic clock. The larger of both measures is believed.
    pub delay: Duration,
}

#[cfg(test)]
mod tests;
