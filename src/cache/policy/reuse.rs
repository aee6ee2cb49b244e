//! Whether a stored response may answer a request as it is (RFC 9111 §4), with the request's
//! directives (RFC 9111 §5.2.1) where the route honours them.
//!
//! *Invariants*
//! 1. Where the route does not honour them, no field of the request changes the answer.
//! 2. A client can ask for less staleness, and for more only where the upstream has not forbidden
//!    it.
//!
//! *Why not honoured by default on token routes?* One caller's `no-cache` in a loop would spend the
//! budget that the cache is there to save (RFC 9111 §5.2.1 leaves it to the cache).

use std::time::Duration;

use http::HeaderMap;

use super::{CacheControl, Freshness, Life, Rules, Scope};

/// How a stored response may answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// At once; [`Life::freshness`] says whether a refresh is due as well.
    Allowed,
    /// After the upstream confirmed it, or in its place if its stale-if-error window allows.
    Revalidate,
    /// Not at all, and the client wants nothing from the upstream: 504 (RFC 9111 §5.2.1.7).
    OnlyIfCachedUnsatisfied,
}

/// Judges a stored response of this life and age for a request.
pub fn reuse(rules: &Rules, life: &Life, age: Duration, request: &HeaderMap) -> Reuse {
    let served = matches!(life.freshness(age), Freshness::Fresh | Freshness::StaleWhileRevalidate);
    if !rules.request_directives {
        return if served { Reuse::Allowed } else { Reuse::Revalidate };
    }
    let control = CacheControl::of_request(request);
    if client_takes(&control, life, age, served) {
        Reuse::Allowed
    } else if control.only_if_cached {
        Reuse::OnlyIfCachedUnsatisfied
    } else {
        Reuse::Revalidate
    }
}

/// Whether the client wants an answer from the cache or none (RFC 9111 §5.2.1.7): a miss is then a
/// 504.
pub fn only_if_cached(rules: &Rules, request: &HeaderMap) -> bool {
    rules.request_directives && CacheControl::of(request).only_if_cached
}

fn client_takes(control: &CacheControl, life: &Life, age: Duration, served: bool) -> bool {
    let fresh = life.freshness(age) == Freshness::Fresh;
    // RFC 9111 §5.2.1.2: how stale the client itself allows it to be.
    let stale_by_wish = !fresh
        && !life.stale_forbidden
        && control.max_stale.is_some_and(|limit| life.staleness(age) <= limit);
    // RFC 9111 §5.2.1.1: with max-age, and no max-stale, the client wants nothing stale.
    let stale_unwanted = !fresh && !stale_by_wish && control.max_age.is_some();
    // A client that reloads sends max-age=0 and means it, also within the first second.
    let too_old = control.max_age.is_some_and(|limit| limit.is_zero() || age > limit);
    // RFC 9111 §5.2.1.3.
    let too_stale_soon =
        control.min_fresh.is_some_and(|least| age.saturating_add(least) > life.lifetime);
    // RFC 9111 §5.2.1.4.
    let unwanted = control.no_cache != Scope::Nothing;
    (served || stale_by_wish) && !(stale_unwanted || too_old || too_stale_soon || unwanted)
}
