//! Facts into metrics: the only file of the gateway that knows their names.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use http::header::DATE;
use tracing::warn;

use super::Gateway;
use super::landing::took;
use crate::cache::policy::{NotStored, parse_date};
use crate::clock::Now;
use crate::error::Error;
use crate::limit;
use crate::mask::{Facts, MaskError};
use crate::telemetry::{Cause, Decision, Limiter};
use crate::upstream::guard::{State, View, Why};
use crate::upstream::{DecodeError, Trip, UpstreamError};

impl Gateway {
    /// How many keys one of its limiters holds.
    pub fn limiter_keys(&self, limiter: Limiter) -> usize {
        let sizes = self.0.follows.limits.sizes();
        match limiter {
            Limiter::Peer => sizes.peers,
            Limiter::Caller => sizes.callers,
            Limiter::Upstream => sizes.upstream,
            Limiter::Lane => sizes.known,
        }
    }

    pub(super) fn note_decision(&self, by: limit::Limiter, admitted: bool) {
        let limiter = match by {
            limit::Limiter::Peer => Limiter::Peer,
            limit::Limiter::Caller => Limiter::Caller,
            limit::Limiter::Upstream => Limiter::Upstream,
            limit::Limiter::Lane => Limiter::Lane,
        };
        let decision = if admitted { Decision::Admitted } else { Decision::Throttled };
        self.metrics().limiter_decisions_total.inc(limiter, decision);
    }

    /// An exchange with the upstream: its first try has its cause, a second one is a retry.
    pub(super) fn note_trip(&self, route: u16, cause: Cause, trip: &Trip) {
        let route = usize::from(route);
        if trip.denied {
            self.metrics().upstream_refused_total.inc(route, RETRY);
        }
        for attempt in 0..trip.tries {
            let cause = if attempt == 0 { cause } else { Cause::Retry };
            self.metrics().upstream_requests_total.inc(route, cause);
        }
        if trip.tries > 0 {
            let took = took(trip).as_secs_f64();
            self.metrics().upstream_request_duration_seconds.observe(route, took);
        }
    }

    /// An exchange that failed; aloud now and then, with what caused it.
    pub(super) fn note_failure(&self, route: u16, error: &UpstreamError) {
        self.metrics().upstream_errors_total.inc(usize::from(route), error.kind());
        if let Some(more) = self.plan_at(route).failures.due(self.0.clock.mono(), SAID_AGAIN) {
            let config = &self.route_at(route).config;
            warn!(
                route = %config.name,
                upstream = %config.upstream,
                kind = error.kind(),
                cause = %Chain(error),
                suppressed = more,
                "the upstream failed"
            );
        }
    }

    /// What the breaker turned to, aloud.
    pub(super) fn note_health(&self, route: u16, turned: Option<State>) {
        let Some(state) = turned else { return };
        let upstream = &self.route_at(route).config.upstream;
        let state = state.as_str();
        warn!(%upstream, state, "the circuit breaker has turned");
    }

    /// Brings the metrics of the upstreams' guards up to date.
    pub fn measure_upstreams(&self) {
        let metrics = self.metrics();
        let buffered = i64::try_from(self.upstreams().buffered()).unwrap_or(i64::MAX);
        metrics.upstream_buffered_bytes.set(buffered);
        metrics.count_dns_fallbacks(self.upstreams().dns_fallbacks());
        for route in self.0.follows.routes.iter() {
            let Some(view) = self.guarded(route.index) else { continue };
            let (route, limit) = (usize::from(route.index), view.limit.unwrap_or_default());
            metrics.upstream_breaker_state.set(route, f64::from(view.breaker.number()));
            metrics.upstream_in_flight.set(route, whole(view.in_flight));
            metrics.upstream_limit.set(route, whole(limit));
            metrics.upstream_queued.set(route, whole(view.queued));
        }
    }

    /// What the upstreams' guards say, for people.
    pub fn upstreams_told(&self) -> Vec<(String, String)> {
        let mut told = std::collections::BTreeMap::new();
        for route in self.0.follows.routes.iter() {
            let Some(view) = self.guarded(route.index) else { continue };
            told.insert(format!("upstream {}", route.config.upstream), tell(&view));
        }
        told.into_iter().collect()
    }

    fn guarded(&self, route: u16) -> Option<View> {
        self.upstreams().view(self.plan_at(route).upstream)
    }

    /// A body that can't be proven masked; aloud now and then.
    pub(super) fn note_unproven(&self, route: u16, reason: &'static str) {
        self.metrics().mask_failures_total.inc(reason);
        if let Some(more) = self.plan_at(route).unproven.due(self.0.clock.mono(), SAID_AGAIN) {
            let name = &self.route_at(route).config.name;
            warn!(route = %name, reason, suppressed = more, "an answer can't be proven masked and is not shown");
        }
    }

    /// How far the upstream's clock is ahead of ours, by its `Date`: looked at once a second.
    pub(super) fn note_skew(&self, route: u16, fields: &HeaderMap, received: &Now) {
        let Some(date) = fields.get(DATE) else { return };
        if self.plan_at(route).skew.due(received.mono, Duration::from_secs(1)).is_none() {
            return;
        }
        if let Some(said) = parse_date(date.as_bytes(), received.wall) {
            let ahead = said.as_secs_f64() - received.wall.as_secs_f64();
            self.metrics().upstream_clock_skew_seconds.set(usize::from(route), ahead);
        }
    }

    pub(super) fn note_masked(&self, facts: &Facts) {
        if facts.unmasked_seen() {
            self.metrics().masked_fields_total.inc_by(u64::from(facts.fields_masked));
            self.metrics().unmasked_answers_total.inc();
        }
    }

    /// An answer that was not kept; the first time for a route and a reason of the upstream's, aloud.
    pub(super) fn note_not_stored(&self, route: u16, reason: NotStored) {
        self.metrics().cache_not_stored_total.inc(reason.as_str());
        // Without a TTL of the route's own it is not the upstream's doing alone.
        let ours =
            reason == NotStored::NoFreshness && self.plan_at(route).rules.default_ttl.is_none();
        if reason.is_by_upstream()
            && !ours
            && self.0.warned.lock().insert((self.route_at(route).id, reason.as_str()))
        {
            let name = &self.route_at(route).config.name;
            warn!(
                route = %name,
                reason = reason.as_str(),
                "the upstream's own fields keep its answers out of the cache; every request of this \
                 route goes upstream (said once per route and reason)"
            );
        }
    }

    pub(super) fn metrics(&self) -> &crate::telemetry::Metrics {
        &self.0.follows.telemetry.metrics
    }
}

fn tell(view: &View) -> String {
    let limit = view.limit.map_or_else(|| "any number".to_owned(), |limit| limit.to_string());
    let (breaker, in_flight, queued) = (view.breaker.as_str(), view.in_flight, view.queued);
    format!("breaker {breaker}, {in_flight} of {limit} exchanges under way, {queued} waiting")
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn whole(number: usize) -> f64 {
    number as f64
}

/// The label of an error of a body that can't be proven masked.
pub(super) fn unproven_reason(error: &Error) -> &'static str {
    match error {
        Error::Unmaskable(error) => error.reason(),
        Error::Decode(DecodeError::Unsupported) => "unknown_coding",
        Error::Decode(DecodeError::TooLarge) => "decoded_too_large",
        Error::Decode(DecodeError::Window) => "coding_window",
        Error::Decode(DecodeError::Broken) => "coding_broken",
        Error::Upstream(_) => "body_broken",
        _ => "charset",
    }
}

/// Why a body could not be proven masked: the labels of `unitgate_mask_failures_total`.
pub fn unproven_reasons() -> Vec<&'static str> {
    let decoding = [
        "unknown_coding",
        "decoded_too_large",
        "coding_window",
        "coding_broken",
        "body_broken",
        "charset",
    ];
    MaskError::ALL.iter().map(|error| error.reason()).chain(decoding).collect()
}

/// An error and what caused it, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Why a request was not sent upstream, or not once more: the labels of `unitgate_upstream_refused_total`.
pub fn reasons_not_to_ask() -> Vec<&'static str> {
    Why::ALL.iter().map(|why| why.as_str()).chain([RETRY]).collect()
}

/// Another try that the retry budget did not allow.
const RETRY: &str = "retry_budget";

/// A failure of one route is told this often at most; the metrics count all of them.
const SAID_AGAIN: Duration = Duration::from_secs(10);
