//! The record of one request: facts gathered on the way, told once.
//!
//! *Invariants*
//! 1. Every exchange that began is recorded exactly once, by its drop: with its answer, or as
//!    `client_gone`, or as `gateway_failed` where a panic of ours dropped it.
//! 2. A target reaches a log only through the view that [`Setup`](crate::telemetry::Setup) was given.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::cache::Status;
use crate::clock::Now;
use crate::error::Side;
use crate::telemetry::labels::{Cause, Class, Outcome, StaleWindow};
use crate::telemetry::{Metrics, Telemetry};

/// A request under way. Dropped without an answer, it is a client that hung up, or a panic of ours.
#[derive(Debug)]
pub struct Exchange<'a> {
    telemetry: &'a Telemetry,
    facts: Facts<'a>,
}

/// What is known of a request when it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// When its head was complete.
    pub started: Now,
    /// Its id: letters, digits, `.`, `_` and `-`.
    pub id: &'a [u8],
    /// Who sent it.
    pub peer: IpAddr,
    /// Its method.
    pub method: &'a Method,
    /// Its target as sent; shown only through the configured view.
    pub target: &'a str,
}

/// What is known of the answer.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its content in bytes.
    pub bytes: u64,
    /// How the request ended.
    pub outcome: Outcome,
    /// Age of a stored answer.
    pub age: Option<Duration>,
    /// Stable code and side of an error of ours.
    pub error: Option<(&'static str, Side)>,
}

/// Everything that an access line tells.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) arrival: Arrival<'a>,
    pub(crate) route: Option<usize>,
    pub(crate) caller: Option<[u8; 12]>,
    pub(crate) upstream: Option<UpstreamFacts>,
    pub(crate) masked: u64,
    pub(crate) reply: Option<Reply>,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

/// What asking the upstream took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpstreamFacts {
    pub(crate) cause: Cause,
    pub(crate) tries: u32,
    pub(crate) took: Duration,
}

impl<'a> Exchange<'a> {
    pub(crate) fn begin(telemetry: &'a Telemetry, arrival: Arrival<'a>) -> Self {
        telemetry.metrics.requests_in_flight.inc();
        let facts = Facts {
            arrival,
            route: None,
            caller: None,
            upstream: None,
            masked: 0,
            reply: None,
            outcome: Outcome::ClientGone,
            took: Duration::ZERO,
        };
        Self { telemetry, facts }
    }

    /// The route that serves it, by its index.
    pub fn route(&mut self, route: usize) {
        self.facts.route = Some(route);
    }

    /// The caller's fingerprint: 12 hex digits.
    pub fn caller(&mut self, fingerprint: [u8; 12]) {
        self.facts.caller = Some(fingerprint);
    }

    /// The upstream was asked for it: why, how often and how long in all.
    pub fn upstream(&mut self, cause: Cause, tries: u32, took: Duration) {
        self.facts.upstream = Some(UpstreamFacts { cause, tries, took });
    }

    /// Secret values masked in what the upstream said.
    pub fn masked(&mut self, fields: u64) {
        self.facts.masked = fields;
    }

    /// The answer that is handed over to the connection.
    pub fn answered(&mut self, reply: Reply) {
        self.facts.outcome = reply.outcome;
        self.facts.reply = Some(reply);
    }
}

impl Drop for Exchange<'_> {
    /// Tells the logs and the metrics.
    fn drop(&mut self) {
        let (telemetry, facts) = (self.telemetry, &mut self.facts);
        if facts.reply.is_none() && std::thread::panicking() {
            facts.outcome = Outcome::GatewayFailed;
        }
        facts.took = telemetry.clock.mono().saturating_sub(facts.arrival.started.mono);
        count(&telemetry.metrics, facts);
        telemetry.access.record(facts);
    }
}

fn count(metrics: &Metrics, facts: &Facts<'_>) {
    let outcome = facts.outcome;
    let class = Class::of(facts.reply.map(|reply| reply.status));
    metrics.requests_in_flight.dec();
    metrics.requests_total.inc(facts.route, facts.arrival.method, class, outcome);
    metrics.request_duration_seconds.observe(outcome, facts.took.as_secs_f64());
    if let Some(age) = facts.reply.and_then(|reply| reply.age) {
        metrics.cache_served_age_seconds.observe(age.as_secs_f64());
    }
    if let Some((code, _)) = facts.reply.and_then(|reply| reply.error) {
        metrics.errors_total.inc(code);
    }
    match outcome {
        Outcome::Cache(Status::StaleWhileRevalidate) => {
            metrics.cache_stale_served_total.inc(StaleWindow::WhileRevalidate);
        }
        Outcome::Cache(Status::StaleIfError) => {
            metrics.cache_stale_served_total.inc(StaleWindow::IfError);
        }
        Outcome::Cache(Status::Coalesced) => metrics.cache_coalesced_total.inc(),
        _ => {}
    }
}
