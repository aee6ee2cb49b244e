//! Makes metric families and registers them, each with the help that its field's doc comment is.
//!
//! *Invariant:* what is made here is in the scrape, under `unitgate_` and its field's name.

use prometheus::core::{Collector, Describer};
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use crate::telemetry::families::{
    Counters, Gauges, NamedCounters, RouteCounters, UpstreamGauges, UpstreamHistograms,
    UpstreamNamedCounters,
};
use crate::telemetry::labels::{Cause, Label};
use crate::telemetry::metrics::help;
use crate::telemetry::requests::RequestCounters;
use crate::telemetry::tallied::{
    Family, Histograms, PairCounters, Tallied, TalliedGauge, TalliedHistogram,
};
use crate::telemetry::vocabulary::RouteLabels;

/// A registry, and the routes that its series are made for.
#[derive(Debug)]
pub(crate) struct Registrar<'a> {
    registry: Registry,
    routes: &'a [RouteLabels],
}

impl<'a> Registrar<'a> {
    /// A registry that has the process's own metrics.
    pub(crate) fn new(routes: &'a [RouteLabels]) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self { registry, routes })
    }

    /// The registry with everything that was made.
    pub(crate) fn into_registry(self) -> Registry {
        self.registry
    }

    pub(crate) fn counter(&self, name: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::with_opts(opts(name)?)?)
    }

    pub(crate) fn gauge(&self, name: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::with_opts(opts(name)?)?)
    }

    pub(crate) fn float(&self, name: &str) -> prometheus::Result<Gauge> {
        self.register(Gauge::with_opts(opts(name)?)?)
    }

    pub(crate) fn tallied_gauge(&self, name: &str) -> prometheus::Result<TalliedGauge> {
        self.tallied(name, &[], TalliedGauge::new())
    }

    pub(crate) fn tallied_histogram(
        &self,
        name: &str,
        bounds: &[f64],
    ) -> prometheus::Result<TalliedHistogram> {
        self.tallied(name, &[], TalliedHistogram::new(bounds))
    }

    pub(crate) fn build_info(&self, name: &str) -> prometheus::Result<IntGauge> {
        let version = env!("CARGO_PKG_VERSION");
        let info =
            self.register(IntGauge::with_opts(opts(name)?.const_label("version", version))?)?;
        info.set(1);
        Ok(info)
    }

    pub(crate) fn counters<L: Label>(
        &self,
        name: &str,
        label: &str,
    ) -> prometheus::Result<Counters<L>> {
        Ok(Counters::new(&self.counter_vec(name, &[label])?))
    }

    pub(crate) fn pairs<A: Label, B: Label>(
        &self,
        name: &str,
        labels: [&str; 2],
    ) -> prometheus::Result<PairCounters<A, B>> {
        self.tallied(name, &labels, PairCounters::new())
    }

    pub(crate) fn named(
        &self,
        name: &str,
        label: &str,
        values: &[&'static str],
    ) -> prometheus::Result<NamedCounters> {
        Ok(NamedCounters::new(self.counter_vec(name, &[label])?, values))
    }

    pub(crate) fn requests(&self, name: &str) -> prometheus::Result<RequestCounters> {
        let labels = ["route", "method", "status", "outcome"];
        self.tallied(name, &labels, RequestCounters::new(self.routes))
    }

    pub(crate) fn by_route(
        &self,
        name: &str,
        label: &str,
    ) -> prometheus::Result<RouteCounters<Cause>> {
        let vec = self.counter_vec(name, &["route", label])?;
        Ok(RouteCounters::new(vec, self.routes, RouteLabels::causes))
    }

    pub(crate) fn histograms<L: Label>(
        &self,
        name: &str,
        label: &str,
    ) -> prometheus::Result<Histograms<L>> {
        self.tallied(name, &[label], Histograms::new(&LATENCIES))
    }

    pub(crate) fn gauges<L: Label>(
        &self,
        name: &str,
        label: &str,
    ) -> prometheus::Result<Gauges<L>> {
        Ok(Gauges::new(&self.register(IntGaugeVec::new(opts(name)?, &[label])?)?))
    }

    pub(crate) fn upstream_histograms(&self, name: &str) -> prometheus::Result<UpstreamHistograms> {
        let opts = HistogramOpts::from(opts(name)?).buckets(LATENCIES.to_vec());
        let vec = self.register(HistogramVec::new(opts, &["upstream"])?)?;
        Ok(UpstreamHistograms::new(vec, self.routes))
    }

    pub(crate) fn upstream_gauges(&self, name: &str) -> prometheus::Result<UpstreamGauges> {
        let vec = self.register(GaugeVec::new(opts(name)?, &["upstream"])?)?;
        Ok(UpstreamGauges::new(vec, self.routes))
    }

    pub(crate) fn upstream_named(
        &self,
        name: &str,
        label: &str,
        values: &[&'static str],
    ) -> prometheus::Result<UpstreamNamedCounters> {
        let vec = self.counter_vec(name, &["upstream", label])?;
        Ok(UpstreamNamedCounters::new(vec, self.routes, values))
    }

    fn counter_vec(&self, name: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(opts(name)?, labels)?)
    }

    fn tallied<F: Family + Clone>(
        &self,
        name: &str,
        labels: &[&str],
        family: F,
    ) -> prometheus::Result<F> {
        let labels = labels.iter().copied().map(str::to_owned).collect();
        let desc = opts(name)?.variable_labels(labels).describe()?;
        self.registry.register(Box::new(Tallied { desc, family: family.clone() }))?;
        Ok(family)
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn opts(name: &str) -> prometheus::Result<Opts> {
    let help = help(name)
        .ok_or_else(|| prometheus::Error::Msg(format!("the metric {name} has no documentation")))?;
    Ok(Opts::new(name, help).namespace("unitgate"))
}

/// Bounds of durations in seconds. A hit takes tens of microseconds, the longest exchange ten seconds.
const LATENCIES: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];
