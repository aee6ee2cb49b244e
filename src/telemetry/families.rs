//! Metric families with their handles kept: what is counted per request is an index, never a label lookup.
//! Those that every request moves are in [`tallied`](crate::telemetry::tallied).
//!
//! *Invariants*
//! 1. Every series that can occur is made when its family is, and reads 0 until something happens.
//! 2. A count is never lost: a combination that nobody foresaw gets its series when it occurs.

use std::marker::PhantomData;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

use crate::telemetry::labels::Label;
use crate::telemetry::vocabulary::RouteLabels;

/// One counter per value of a closed label.
#[derive(Clone, Debug)]
pub struct Counters<L> {
    handles: Vec<IntCounter>,
    label: PhantomData<L>,
}

impl<L: Label> Counters<L> {
    pub(crate) fn new(vec: &IntCounterVec) -> Self {
        let handles = L::ALL.iter().map(|value| vec.with_label_values(&[value.as_str()]));
        Self { handles: handles.collect(), label: PhantomData }
    }

    /// Counts one.
    pub fn inc(&self, value: L) {
        self.add(value, 1);
    }

    /// Counts `many`.
    pub fn add(&self, value: L, many: u64) {
        if let Some(handle) = self.handles.get(value.index()) {
            handle.inc_by(many);
        }
    }

    /// Takes over a total that is counted elsewhere.
    pub fn catch_up(&self, value: L, total: u64) {
        if let Some(handle) = self.handles.get(value.index()) {
            catch_up(handle, total);
        }
    }
}

/// One counter per value of a list that another module keeps; for what is rare enough to be searched.
#[derive(Clone, Debug)]
pub struct NamedCounters {
    known: Vec<(&'static str, IntCounter)>,
    vec: IntCounterVec,
}

impl NamedCounters {
    pub(crate) fn new(vec: IntCounterVec, values: &[&'static str]) -> Self {
        let known = values.iter().map(|value| (*value, vec.with_label_values(&[value])));
        Self { known: known.collect(), vec }
    }

    /// Counts one.
    pub fn inc(&self, value: &'static str) {
        match self.known.iter().find(|(known, _)| *known == value) {
            Some((_, handle)) => handle.inc(),
            None => self.vec.with_label_values(&[value]).inc(),
        }
    }

    /// How many were counted under the values of the list.
    pub fn listed(&self) -> u64 {
        self.known.iter().map(|(_, handle)| handle.get()).sum()
    }
}

/// One counter per route and value of a closed label, where that route can have it.
#[derive(Clone, Debug)]
pub struct RouteCounters<L> {
    routes: Vec<(String, Vec<Option<IntCounter>>)>,
    vec: IntCounterVec,
    label: PhantomData<L>,
}

impl<L: Label> RouteCounters<L> {
    pub(crate) fn new<I: Iterator<Item = L>>(
        vec: IntCounterVec,
        routes: &[RouteLabels],
        possible: impl Fn(&RouteLabels) -> I,
    ) -> Self {
        Self { routes: Vec::new(), vec, label: PhantomData }.under(routes, possible)
    }

    /// The same family for other routes; what was counted stays.
    pub(crate) fn under<I: Iterator<Item = L>>(
        &self,
        routes: &[RouteLabels],
        possible: impl Fn(&RouteLabels) -> I,
    ) -> Self {
        let vec = self.vec.clone();
        let routes = routes.iter().map(|route| {
            let mut handles = vec![None; L::ALL.len()];
            for value in possible(route) {
                if let Some(slot) = handles.get_mut(value.index()) {
                    *slot = Some(vec.with_label_values(&[&*route.name, value.as_str()]));
                }
            }
            (route.name.clone(), handles)
        });
        let routes = routes.collect();
        Self { routes, vec, label: PhantomData }
    }

    /// Counts one.
    pub fn inc(&self, route: usize, value: L) {
        let Some((name, handles)) = self.routes.get(route) else {
            return;
        };
        match handles.get(value.index()) {
            Some(Some(handle)) => handle.inc(),
            _ => self.vec.with_label_values(&[&**name, value.as_str()]).inc(),
        }
    }
}

/// One gauge per value of a closed label.
#[derive(Clone, Debug)]
pub struct Gauges<L> {
    handles: Vec<IntGauge>,
    label: PhantomData<L>,
}

impl<L: Label> Gauges<L> {
    pub(crate) fn new(vec: &IntGaugeVec) -> Self {
        let handles = L::ALL.iter().map(|value| vec.with_label_values(&[value.as_str()]));
        Self { handles: handles.collect(), label: PhantomData }
    }

    /// Sets the gauge.
    pub fn set(&self, value: L, amount: i64) {
        if let Some(handle) = self.handles.get(value.index()) {
            handle.set(amount);
        }
    }
}

/// One histogram per upstream, found by route.
#[derive(Clone, Debug)]
pub struct UpstreamHistograms(Vec<Histogram>, HistogramVec);

impl UpstreamHistograms {
    pub(crate) fn new(vec: HistogramVec, routes: &[RouteLabels]) -> Self {
        let handles = routes.iter().map(|route| vec.with_label_values(&[&*route.upstream]));
        Self(handles.collect(), vec)
    }

    /// The same family for other routes; what was observed stays.
    pub(crate) fn under(&self, routes: &[RouteLabels]) -> Self {
        Self::new(self.1.clone(), routes)
    }

    /// Observes one value, in the histogram's unit.
    pub fn observe(&self, route: usize, amount: f64) {
        if let Some(handle) = self.0.get(route) {
            handle.observe(amount);
        }
    }
}

/// One gauge per upstream, found by route.
#[derive(Clone, Debug)]
pub struct UpstreamGauges(Vec<Gauge>, GaugeVec);

impl UpstreamGauges {
    pub(crate) fn new(vec: GaugeVec, routes: &[RouteLabels]) -> Self {
        let handles = routes.iter().map(|route| vec.with_label_values(&[&*route.upstream]));
        Self(handles.collect(), vec)
    }

    /// The same family for other routes; that of an upstream that is gone stays as it was last.
    pub(crate) fn under(&self, routes: &[RouteLabels]) -> Self {
        Self::new(self.1.clone(), routes)
    }

    /// Sets the gauge.
    pub fn set(&self, route: usize, amount: f64) {
        if let Some(handle) = self.0.get(route) {
            handle.set(amount);
        }
    }
}

/// Counters per upstream, found by route, and value of a list that another module keeps.
#[derive(Clone, Debug)]
pub struct UpstreamNamedCounters {
    upstreams: Vec<String>,
    values: Vec<&'static str>,
    vec: IntCounterVec,
}

impl UpstreamNamedCounters {
    pub(crate) fn new(vec: IntCounterVec, routes: &[RouteLabels], values: &[&'static str]) -> Self {
        let upstreams: Vec<_> = routes.iter().map(|route| route.upstream.clone()).collect();
        for upstream in &upstreams {
            for value in values {
                vec.with_label_values(&[&**upstream, value]);
            }
        }
        Self { upstreams, values: values.to_vec(), vec }
    }

    /// The same family for other routes; what was counted stays.
    pub(crate) fn under(&self, routes: &[RouteLabels]) -> Self {
        Self::new(self.vec.clone(), routes, &self.values)
    }

    /// Counts one. Failures are rare next to requests: this one looks its labels up.
    pub fn inc(&self, route: usize, value: &'static str) {
        if let Some(upstream) = self.upstreams.get(route) {
            self.vec.with_label_values(&[&**upstream, value]).inc();
        }
    }
}

/// Takes over a total that is counted elsewhere; a counter never goes back.
pub(crate) fn catch_up(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
