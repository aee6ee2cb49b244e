//! [`Account`]: what is gathered of a request on its way, for its record and for the fields of its reply.

use super::landing::{Failed, TripFacts};
use super::reply::Reply;
use crate::cache::policy::Forward;
use crate::cache::stored::Owner;
use crate::caller::CallerId;
use crate::error::Error;
use crate::limit::Quota;
use crate::listener::Ahead;
use crate::route::Match;
use crate::telemetry::{Arrival, Exchange, Telemetry};

/// What is gathered of a request on its way: for the record, and for the fields of its reply.
pub(super) struct Account<'a> {
    pub(super) exchange: Exchange<'a>,
    /// Where interim responses go.
    pub(super) ahead: &'a Ahead,
    pub(super) route: Option<usize>,
    /// Whose answer may go out.
    pub(super) owner: Owner,
    /// What is left of the caller's rate.
    pub(super) quota: Option<Quota>,
    /// Why it went upstream, once it did.
    pub(super) forward: Option<Forward>,
    /// What an upstream exchange that failed took.
    pub(super) trip: Option<TripFacts>,
}

impl<'a> Account<'a> {
    pub(super) fn new(telemetry: &'a Telemetry, arrival: Arrival<'a>, ahead: &'a Ahead) -> Self {
        Self {
            exchange: telemetry.begin(arrival),
            ahead,
            route: None,
            owner: Owner::Open,
            quota: None,
            forward: None,
            trip: None,
        }
    }

    /// The request found its route.
    pub(super) fn found(&mut self, matched: &Match<'_>) {
        let index = usize::from(matched.route.index);
        self.exchange.route(index);
        self.route = Some(index);
    }

    /// Its caller was identified.
    pub(super) fn identified(&mut self, caller: &CallerId) {
        self.exchange.caller(caller.fingerprint());
        self.owner = Owner::Caller(*caller);
    }

    /// What was asked for it failed upstream.
    pub(super) fn failed(&mut self, failed: &Failed) -> Error {
        self.trip = failed.trip;
        failed.error.clone()
    }

    /// What the record tells of the result.
    pub(super) fn note(&mut self, reply: Option<&Reply>) {
        if let Some(trip) = self.trip.or_else(|| reply.and_then(|reply| reply.trip)) {
            self.exchange.upstream(trip.cause, u32::from(trip.tries), trip.duration);
        }
        if let Some(reply) = reply {
            self.exchange.masked(u64::from(reply.stored.fields.fields_masked()));
        }
    }
}
