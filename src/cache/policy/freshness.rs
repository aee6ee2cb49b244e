//! How long a response is fresh, how old it is when it arrives, and what it may be used for when it
//! is no longer fresh (RFC 9111 §4.2, RFC 5861).
//!
//! *Invariants*
//! 1. [`Freshness`] only moves forward as the age grows.
//! 2. Every sum of times saturates.
//! 3. What was never fresh and has no explicit freshness has no stale windows.
//!
//! *Why not a deadline instead of an age?* A deadline needs one clock to be right. The age is the
//! larger of what several clocks say, so a clock that jumps back does not rejuvenate a response.

use std::time::Duration;

use http::{
    HeaderMap, StatusCode,
    header::{AGE, DATE, EXPIRES, LAST_MODIFIED},
};

use super::{
    CacheControl, Heuristic, Partition, Rules, Times,
    date::{parse_date, parse_made_at},
    directives::delta_seconds,
    list::{members, only_line},
    storing::{may_lack_freshness, stores_without_explicit_freshness},
};

/// The life of a stored response. All but `keep` and the windows are ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Fresh while the age is below it (RFC 9111 §4.2.1).
    pub lifetime: Duration,
    /// The age at receipt, RFC 9111 §4.2.3's `corrected_initial_age`.
    pub initial_age: Duration,
    /// The window past `lifetime` of RFC 5861 §3; zero where stale is forbidden.
    pub stale_while_revalidate: Duration,
    /// The window past `lifetime` of RFC 5861 §4; zero where stale is forbidden.
    pub stale_if_error: Duration,
    /// How long past both windows it is worth keeping; zero without a validator.
    pub keep: Duration,
    /// The upstream said how long it is fresh: no TTL of the route and no heuristic was used.
    pub explicit: bool,
    /// The upstream forbade stale answers, also to a client that would take one (RFC 9111 §4.2.4).
    pub stale_forbidden: bool,
}

/// What a stored response is good for at some age; later ones are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freshness {
    /// To be served.
    Fresh,
    /// To be served, and refreshed in the background (RFC 5861 §3).
    StaleWhileRevalidate,
    /// To be served only if the upstream fails (RFC 5861 §4).
    StaleIfError,
    /// At most to be revalidated.
    Expired,
}

impl Life {
    /// The life of `response` under `rules`, whether or not that is worth storing.
    pub(super) fn of(
        rules: &Rules,
        control: &CacheControl,
        status: StatusCode,
        response: &HeaderMap,
        times: &Times,
    ) -> Self {
        let received = Received::of(response, times);
        let stale_forbidden = control.forbids_stale();
        let (lifetime, explicit) =
            match explicit_lifetime(rules, control, status, response, &received) {
                Some(lifetime) => (lifetime.min(received.cap(rules.max_ttl)), true),
                None => (implicit_lifetime(rules, control, status, response, &received), false),
            };
        let ours = !explicit && route_ttl(rules, status).is_some();
        let mut life = Self {
            lifetime,
            // The route's own TTL counts from receipt on a private partition.
            initial_age: if ours && rules.partition == Partition::Private {
                Duration::ZERO
            } else {
                received.initial_age
            },
            stale_while_revalidate: rules.stale_while_revalidate,
            stale_if_error: rules.stale_if_error,
            keep: Duration::ZERO,
            explicit,
            stale_forbidden,
        };
        life.set_windows(rules, control);
        life
    }

    /// What the response is good for at this age.
    pub fn freshness(&self, age: Duration) -> Freshness {
        if age < self.lifetime {
            Freshness::Fresh
        } else if age < self.lifetime.saturating_add(self.stale_while_revalidate) {
            Freshness::StaleWhileRevalidate
        } else if self.stale_if_error_allows(age) {
            Freshness::StaleIfError
        } else {
            Freshness::Expired
        }
    }

    /// Whether it may be served at this age when the upstream fails (RFC 5861 §4), fresh or not.
    pub fn stale_if_error_allows(&self, age: Duration) -> bool {
        age < self.lifetime.saturating_add(self.stale_if_error)
    }

    /// The age from which it is of no use.
    pub fn last_use(&self) -> Duration {
        let windows = self.stale_while_revalidate.max(self.stale_if_error);
        self.lifetime.saturating_add(windows).saturating_add(self.keep)
    }

    /// Whole seconds of life left at this age, rounded down: negative when stale (RFC 9211 §2.5).
    pub fn ttl(&self, age: Duration) -> i64 {
        let left = self.lifetime.saturating_sub(age);
        if !left.is_zero() {
            return i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        }
        let over = self.staleness(age);
        let seconds = over.as_secs().saturating_add(u64::from(over.subsec_nanos() > 0));
        i64::try_from(seconds).map_or(i64::MIN, i64::saturating_neg)
    }

    /// How far past its life it is at this age; zero while fresh.
    pub fn staleness(&self, age: Duration) -> Duration {
        age.saturating_sub(self.lifetime)
    }

    /// Chooses the stale windows among the route's and the upstream's.
    fn set_windows(&mut self, rules: &Rules, control: &CacheControl) {
        if rules.stale_directives {
            let lengthens = rules.partition == Partition::Shared;
            let replaced = |ours: Duration, theirs: Option<Duration>| match theirs {
                Some(theirs) if lengthens => theirs,
                Some(theirs) => ours.min(theirs),
                None => ours,
            };
            self.stale_while_revalidate =
                replaced(self.stale_while_revalidate, control.stale_while_revalidate);
            self.stale_if_error = replaced(self.stale_if_error, control.stale_if_error);
        }
        let never_fresh = self.lifetime.is_zero();
        let asked_for = rules.stale_directives && control.stale_while_revalidate.is_some();
        // RFC 9111 §4.2.4. A response that was never fresh is served without asking only where the
        // upstream itself said so, and where it said nothing at all, not even on an error.
        if self.stale_forbidden || (never_fresh && !asked_for) {
            self.stale_while_revalidate = Duration::ZERO;
        }
        if self.stale_forbidden || (never_fresh && !self.explicit) {
            self.stale_if_error = Duration::ZERO;
        }
    }
}

/// What the time of receipt says about a response.
struct Received {
    /// Wall time, in whole seconds.
    at: Duration,
    /// The response's `Date`; the time of receipt where it has none (RFC 9110 §6.6.1).
    date: Duration,
    /// The age it came with, by its `Date` or its `Age`.
    age: Duration,
    /// RFC 9111 §4.2.3's `corrected_initial_age`: the delay of the exchange is added.
    initial_age: Duration,
}

impl Received {
    fn of(response: &HeaderMap, times: &Times) -> Self {
        let delay = times.delay.max(times.received_at.saturating_sub(times.requested_at));
        // In whole seconds, which is all that a date has.
        let at = Duration::from_secs(times.received_at.as_secs());
        let date =
            only_line(response, &DATE).and_then(|date| parse_made_at(date, at)).unwrap_or(at);
        let apparent = at.saturating_sub(date);
        let said = age_field(response);
        Self {
            at,
            date,
            age: apparent.max(said),
            initial_age: apparent.max(said.saturating_add(delay)),
        }
    }

    /// The largest lifetime that keeps the response fresh here for no longer than `max_ttl`: the
    /// age it came with is not ours.
    fn cap(&self, max_ttl: Duration) -> Duration {
        self.age.saturating_add(max_ttl)
    }
}

/// The first member of `Age`; what is no number is ignored (RFC 9111 §5.1).
fn age_field(response: &HeaderMap) -> Duration {
    members(response, &AGE).next().and_then(delta_seconds).unwrap_or_default()
}

/// The lifetime the upstream gave: `s-maxage`, `max-age`, `Expires` (RFC 9111 §4.2.1), zero for
/// `no-cache` (RFC 9111 §5.2.2.4). `None` when it gave none.
fn explicit_lifetime(
    rules: &Rules,
    control: &CacheControl,
    status: StatusCode,
    response: &HeaderMap,
    received: &Received,
) -> Option<Duration> {
    let expires = !control.targeted && response.contains_key(EXPIRES);
    if !control.says_freshness() && !expires {
        return None;
    }
    if control.no_cache == super::Scope::Whole {
        return Some(Duration::ZERO);
    }
    let common = control.max_age.or_else(|| expires.then(|| by_expires(response, received)));
    match (rules.partition, control.s_maxage) {
        (Partition::Shared, Some(shared)) => Some(shared),
        // A private cache does not live by `s-maxage` (RFC 9111 §5.2.2.10). It is a cap here, so
        // that an upstream that means this gateway by it is not overruled.
        (Partition::Private, Some(shared)) => {
            Some(shared.min(common.or_else(|| route_ttl(rules, status)).unwrap_or_default()))
        }
        (_, None) => common,
    }
}

/// `Expires − Date`; one that is invalid or repeated is past (RFC 9111 §5.3).
fn by_expires(response: &HeaderMap, received: &Received) -> Duration {
    only_line(response, &EXPIRES)
        .and_then(|expires| parse_date(expires, received.at))
        .map_or(Duration::ZERO, |expires| expires.saturating_sub(received.date))
}

/// The lifetime of a response without explicit freshness: the route's TTL, else the heuristic one
/// (RFC 9111 §4.2.2), else none.
fn implicit_lifetime(
    rules: &Rules,
    control: &CacheControl,
    status: StatusCode,
    response: &HeaderMap,
    received: &Received,
) -> Duration {
    if let Some(ttl) = route_ttl(rules, status) {
        return match rules.partition {
            Partition::Private => ttl,
            // Counted from receipt, under a true `Age`.
            Partition::Shared => received.initial_age.saturating_add(ttl),
        };
    }
    let modified = only_line(response, &LAST_MODIFIED)
        .and_then(|modified| parse_date(modified, received.at))
        .filter(|_| may_lack_freshness(control, status));
    match (rules.heuristic, modified) {
        (Some(heuristic), Some(modified)) => {
            heuristic.of(received.date.saturating_sub(modified)).min(received.cap(rules.max_ttl))
        }
        _ => Duration::ZERO,
    }
}

impl Heuristic {
    fn of(&self, unmodified: Duration) -> Duration {
        Duration::try_from_secs_f64(unmodified.as_secs_f64() * self.fraction)
            .unwrap_or_default()
            .min(self.cap)
    }
}

/// The route's own TTL for this status.
fn route_ttl(rules: &Rules, status: StatusCode) -> Option<Duration> {
    match status {
        StatusCode::NOT_FOUND => rules.negative_ttl,
        status if stores_without_explicit_freshness(status) => rules.default_ttl,
        _ => None,
    }
}
