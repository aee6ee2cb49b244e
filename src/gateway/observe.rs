//! Facts into metrics: the only file of the gateway that knows their names.

use std::time::Duration;

use http::HeaderMap;
use http::header::DATE;
use tracing::warn;

use super::Gateway;
use super::fetch::took;
use crate::cache::policy::{NotStored, parse_date};
use crate::limit;
use crate::mask::Facts;
use crate::telemetry::{Cause, Decision, Limiter};
use crate::upstream::{Trip, UpstreamError};

impl Gateway {
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
        for attempt in 0..trip.tries {
            let cause = if attempt == 0 { cause } else { Cause::Retry };
            self.metrics().upstream_requests_total.inc(route, cause);
        }
        if trip.tries > 0 {
            let took = took(trip).as_secs_f64();
            self.metrics().upstream_request_duration_seconds.observe(route, took);
        }
    }

    pub(super) fn note_failure(&self, route: u16, error: &UpstreamError) {
        self.metrics().upstream_errors_total.inc(usize::from(route), error.kind());
    }

    /// How far the upstream's clock is ahead of ours, by its `Date`.
    pub(super) fn note_skew(&self, route: u16, fields: &HeaderMap, received: Duration) {
        let said = fields.get(DATE).and_then(|date| parse_date(date.as_bytes(), received));
        if let Some(said) = said {
            let ahead = said.as_secs_f64() - received.as_secs_f64();
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
        if reason.is_by_upstream() && self.0.warned.lock().insert((route, reason.as_str())) {
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
        &self.0.telemetry.metrics
    }
}
