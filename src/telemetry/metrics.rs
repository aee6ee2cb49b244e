//! Every metric there is: a field per metric, its documentation the metric's help.
//!
//! *Invariants*
//! 1. A field `x` is the metric `unitgate_x`, and its doc comment is the help text: [`help`] reads it from
//!    this very file, so that the two cannot drift; a test compares them in a scrape.
//! 2. Every series that can occur reads 0 from the start.
//! 3. Counting on the request path is an index and an addition: no lookup, no lock. What every request moves is
//!    counted by each thread for itself ([`tally`](crate::telemetry::tally)), all else is an atomic.
//!
//! *Why not the default registry:* it is a global; two gateways in one test process would share it.

use std::time::Duration;

use prometheus::{Gauge, IntCounter, IntGauge, Registry, TextEncoder};

use crate::telemetry::families::{
    Counters, Gauges, NamedCounters, RouteCounters, UpstreamGauges, UpstreamHistograms,
    UpstreamNamedCounters, catch_up,
};
use crate::telemetry::labels::{Cause, Decision, Eviction, Limiter, Log, Outcome, StaleWindow};
use crate::telemetry::registrar::Registrar;
use crate::telemetry::requests::RequestCounters;
use crate::telemetry::tallied::{Histograms, PairCounters, TalliedGauge, TalliedHistogram};
use crate::telemetry::vocabulary::{RouteLabels, Vocabulary};

/// What the process counts. A field `x` is the metric `unitgate_x`.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests ended; each is counted once.
    pub requests_total: RequestCounters,
    /// Time from a request's head to its answer's hand-over to the connection.
    pub request_duration_seconds: Histograms<Outcome>,
    /// Requests begun and not ended.
    pub requests_in_flight: TalliedGauge,
    /// Requests that ended in an error of ours, by its stable code.
    pub errors_total: NamedCounters,
    /// Requests sent upstream; each has one cause.
    pub upstream_requests_total: RouteCounters<Cause>,
    /// Time an upstream request took, to the last byte of its answer or to its failure.
    pub upstream_request_duration_seconds: UpstreamHistograms,
    /// Upstream requests that brought no usable answer, by kind of failure.
    pub upstream_errors_total: UpstreamNamedCounters,
    /// Requests that were not sent upstream, or not once more, by reason.
    pub upstream_refused_total: UpstreamNamedCounters,
    /// What the upstream's circuit breaker is doing: 0 closed, 1 half-open, 2 open.
    pub upstream_breaker_state: UpstreamGauges,
    /// Exchanges under way with the upstream.
    pub upstream_in_flight: UpstreamGauges,
    /// Exchanges that may be under way with the upstream, as its latency allows; 0 without limit.
    pub upstream_limit: UpstreamGauges,
    /// Exchanges that wait for a place with the upstream.
    pub upstream_queued: UpstreamGauges,
    /// Memory for bodies under way, of answers received and decoded and of requests, of the configured `upstream.max_buffered`.
    pub upstream_buffered_bytes: IntGauge,
    /// Connections for which a name did not resolve and its last addresses were used.
    pub upstream_dns_fallbacks_total: IntCounter,
    /// The upstream's Date less our clock when its latest answer came; above 0 it is ahead.
    pub upstream_clock_skew_seconds: UpstreamGauges,
    /// Answers stored now.
    pub cache_entries: IntGauge,
    /// Memory accounted to stored answers: bodies, fields, keys and bookkeeping.
    pub cache_bytes: IntGauge,
    /// The configured bound on `cache_bytes`.
    pub cache_capacity_bytes: IntGauge,
    /// Part of the process's resident memory that `cache_bytes` accounts for; 0 where it cannot be read.
    pub cache_resident_ratio: Gauge,
    /// Answers that left the cache, by cause.
    pub cache_evictions_total: Counters<Eviction>,
    /// Answers stored.
    pub cache_insertions_total: IntCounter,
    /// Invalidations, by what asked for them.
    pub cache_invalidations_total: NamedCounters,
    /// Upstream answers that were not stored, by reason.
    pub cache_not_stored_total: NamedCounters,
    /// Age of stored answers when they were served.
    pub cache_served_age_seconds: TalliedHistogram,
    /// Stale answers served, by the window that allowed it.
    pub cache_stale_served_total: Counters<StaleWindow>,
    /// Requests answered by an upstream request that another one had begun.
    pub cache_coalesced_total: IntCounter,
    /// Secret values masked in upstream answers.
    pub masked_fields_total: IntCounter,
    /// Upstream answers that held at least one unmasked secret.
    pub unmasked_answers_total: IntCounter,
    /// Upstream answers refused because they could not be proven masked, by reason.
    pub mask_failures_total: NamedCounters,
    /// What the limiters decided.
    pub limiter_decisions_total: PairCounters<Limiter, Decision>,
    /// Keys that each limiter holds.
    pub limiter_keys: Gauges<Limiter>,
    /// Client connections open now.
    pub connections: IntGauge,
    /// Client connections refused or ended by us, by reason.
    pub connections_ended_total: NamedCounters,
    /// Requests of HTTP/2 connections refused before they became one: malformed, head too large, above listen.streams.
    pub http2_requests_refused_total: IntCounter,
    /// 1 while the files of the TLS certificate and key that were last seen are in use, 0 while they can't be used.
    pub tls_certificate_last_load_successful: IntGauge,
    /// Log lines lost because the output could not keep up or failed.
    pub log_lines_dropped_total: Counters<Log>,
    /// 1 while new requests are welcome, 0 before listening, while draining and when the masker failed its self-test.
    pub ready: IntGauge,
    /// 1 if the latest attempt to load the configuration succeeded, else 0.
    pub config_last_load_successful: IntGauge,
    /// When the configuration in use was loaded, since the Unix epoch.
    pub config_last_load_success_timestamp_seconds: Gauge,
    /// Always 1; the version is in the label.
    pub build_info: IntGauge,
}

impl Metrics {
    /// Every metric, at 0, for these routes and with these lists of label values.
    ///
    /// # Errors
    /// A name or label that the registry refuses; none of ours is.
    #[expect(clippy::too_many_lines, reason = "a list: a line for each metric")]
    pub fn new(routes: &[RouteLabels], words: &Vocabulary) -> prometheus::Result<Self> {
        let r = Registrar::new(routes)?;
        Ok(Self {
            requests_total: r.requests("requests_total")?,
            request_duration_seconds: r.histograms("request_duration_seconds", "outcome")?,
            requests_in_flight: r.tallied_gauge("requests_in_flight")?,
            errors_total: r.named("errors_total", "code", &words.errors)?,
            upstream_requests_total: r.by_route("upstream_requests_total", "cause")?,
            upstream_request_duration_seconds: r
                .upstream_histograms("upstream_request_duration_seconds")?,
            upstream_errors_total: r.upstream_named(
                "upstream_errors_total",
                "kind",
                &words.upstream_errors,
            )?,
            upstream_refused_total: r.upstream_named(
                "upstream_refused_total",
                "reason",
                &words.upstream_refused,
            )?,
            upstream_breaker_state: r.upstream_gauges("upstream_breaker_state")?,
            upstream_in_flight: r.upstream_gauges("upstream_in_flight")?,
            upstream_limit: r.upstream_gauges("upstream_limit")?,
            upstream_queued: r.upstream_gauges("upstream_queued")?,
            upstream_buffered_bytes: r.gauge("upstream_buffered_bytes")?,
            upstream_dns_fallbacks_total: r.counter("upstream_dns_fallbacks_total")?,
            upstream_clock_skew_seconds: r.upstream_gauges("upstream_clock_skew_seconds")?,
            cache_entries: r.gauge("cache_entries")?,
            cache_bytes: r.gauge("cache_bytes")?,
            cache_capacity_bytes: r.gauge("cache_capacity_bytes")?,
            cache_resident_ratio: r.float("cache_resident_ratio")?,
            cache_evictions_total: r.counters("cache_evictions_total", "cause")?,
            cache_insertions_total: r.counter("cache_insertions_total")?,
            cache_invalidations_total: r.named(
                "cache_invalidations_total",
                "source",
                &words.invalidations,
            )?,
            cache_not_stored_total: r.named(
                "cache_not_stored_total",
                "reason",
                &words.not_stored,
            )?,
            cache_served_age_seconds: r.tallied_histogram("cache_served_age_seconds", &AGES)?,
            cache_stale_served_total: r.counters("cache_stale_served_total", "window")?,
            cache_coalesced_total: r.counter("cache_coalesced_total")?,
            masked_fields_total: r.counter("masked_fields_total")?,
            unmasked_answers_total: r.counter("unmasked_answers_total")?,
            mask_failures_total: r.named("mask_failures_total", "reason", &words.mask_failures)?,
            limiter_decisions_total: r.pairs("limiter_decisions_total", ["limiter", "decision"])?,
            limiter_keys: r.gauges("limiter_keys", "limiter")?,
            connections: r.gauge("connections")?,
            connections_ended_total: r.named(
                "connections_ended_total",
                "reason",
                &words.connections_ended,
            )?,
            http2_requests_refused_total: r.counter("http2_requests_refused_total")?,
            tls_certificate_last_load_successful: r
                .gauge("tls_certificate_last_load_successful")?,
            log_lines_dropped_total: r.counters("log_lines_dropped_total", "log")?,
            ready: r.gauge("ready")?,
            config_last_load_successful: r.gauge("config_last_load_successful")?,
            config_last_load_success_timestamp_seconds: r
                .float("config_last_load_success_timestamp_seconds")?,
            build_info: r.build_info("build_info")?,
            registry: r.into_registry(),
        })
    }

    /// The same metrics for the routes of another configuration: each series stays, and goes on where it was.
    pub(crate) fn under(&self, routes: &[RouteLabels]) -> Self {
        Self {
            requests_total: self.requests_total.under(routes),
            upstream_requests_total: self
                .upstream_requests_total
                .under(routes, RouteLabels::causes),
            upstream_request_duration_seconds: self.upstream_request_duration_seconds.under(routes),
            upstream_errors_total: self.upstream_errors_total.under(routes),
            upstream_clock_skew_seconds: self.upstream_clock_skew_seconds.under(routes),
            ..self.clone()
        }
    }

    /// Records an attempt to load the configuration, `wall` since the Unix epoch.
    pub fn config_loaded(&self, succeeded: bool, wall: Duration) {
        self.config_last_load_successful.set(i64::from(succeeded));
        if succeeded {
            self.config_last_load_success_timestamp_seconds.set(wall.as_secs_f64());
        }
    }

    /// Takes over the number of insertions so far, which the cache counts.
    pub fn count_insertions(&self, total: u64) {
        catch_up(&self.cache_insertions_total, total);
    }

    /// Takes over the number of fallbacks so far, which the resolver counts.
    pub fn count_dns_fallbacks(&self, total: u64) {
        catch_up(&self.upstream_dns_fallbacks_total, total);
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn scrape(&self) -> String {
        // The encoder fails only on a family without a name or series, and the registry has none.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// The help of the metric `unitgate_{name}`: the doc comment of its field.
pub(crate) fn help(name: &str) -> Option<&'static str> {
    let mut lines = SOURCE.lines().map(str::trim);
    let mut doc = lines.next()?;
    for line in lines {
        let field = line.strip_prefix("pub ").and_then(|line| line.split_once(": "));
        if field.is_some_and(|(field, _)| field == name) {
            return doc.strip_prefix("/// ");
        }
        doc = line;
    }
    None
}

/// This file.
const SOURCE: &str = include_str!("metrics.rs");

/// Bounds of the ages at which answers are served, in seconds.
const AGES: [f64; 12] =
    [1.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 86_400.0];
