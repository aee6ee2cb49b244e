//! The counter of requests: by route, method, status class and outcome.
//!
//! *Invariants*
//! 1. Each request is counted once, whatever its method, status and outcome.
//! 2. A method that no route serves makes no label of its own.

use http::Method;
use prometheus::{IntCounter, IntCounterVec};

use crate::config::{Methods, USUAL};
use crate::telemetry::labels::{Class, Label, Outcome};
use crate::telemetry::vocabulary::RouteLabels;

/// Requests by route, method, status class and outcome.
#[derive(Clone, Debug)]
pub struct RequestCounters {
    /// By route index; the last one stands for requests that no route serves.
    routes: Vec<MethodCounters>,
    vec: IntCounterVec,
}

#[derive(Clone, Debug)]
struct MethodCounters {
    route: String,
    /// One row a method; [`OTHER`] stands last.
    methods: Vec<(Method, Vec<Option<IntCounter>>)>,
}

impl RequestCounters {
    pub(crate) fn new(vec: IntCounterVec, routes: &[RouteLabels]) -> Self {
        let mut series: Vec<_> =
            routes.iter().map(|route| MethodCounters::new(&vec, route)).collect();
        series.push(MethodCounters::none(&vec));
        Self { routes: series, vec }
    }

    /// The same family for other routes; what was counted stays.
    pub(crate) fn under(&self, routes: &[RouteLabels]) -> Self {
        Self::new(self.vec.clone(), routes)
    }

    /// Counts one. A method that the route does not serve is counted where no route is.
    pub fn inc(&self, route: Option<usize>, method: &Method, class: Class, outcome: Outcome) {
        let found = route
            .and_then(|route| self.routes.get(route))
            .and_then(|route| Some((route, route.of(method)?)))
            .or_else(|| self.routes.last().and_then(|none| Some((none, none.of(method)?))));
        let Some((route, (method, handles))) = found else {
            return;
        };
        match handles.get(slot(class, outcome)) {
            Some(Some(handle)) => handle.inc(),
            _ => series(&self.vec, &route.route, method, class, outcome).inc(),
        }
    }

    /// How many were counted in the series that were foreseen: in all there are.
    pub fn foreseen(&self) -> u64 {
        let methods = self.routes.iter().flat_map(|route| &route.methods);
        methods.flat_map(|(_, handles)| handles.iter().flatten()).map(IntCounter::get).sum()
    }
}

impl MethodCounters {
    fn new(vec: &IntCounterVec, route: &RouteLabels) -> Self {
        let other = (route.methods == Methods::Any).then(other).flatten();
        let methods = route.methods.named().iter().cloned().chain(other);
        let methods =
            methods.map(|method| Self::row(vec, &route.name, &method, route.outcomes(&method)));
        Self { route: route.name.clone(), methods: methods.collect() }
    }

    /// Requests that no route serves: they are refused before anything is looked up.
    fn none(vec: &IntCounterVec) -> Self {
        let methods = USUAL.into_iter().chain(other());
        let outcomes = Outcome::ALL
            .into_iter()
            .filter(|outcome| !matches!(outcome, Outcome::Cache(_) | Outcome::UpstreamFailed));
        let methods = methods.map(|method| Self::row(vec, NO_ROUTE, &method, outcomes.clone()));
        Self { route: NO_ROUTE.to_owned(), methods: methods.collect() }
    }

    fn row(
        vec: &IntCounterVec,
        route: &str,
        method: &Method,
        outcomes: impl Iterator<Item = Outcome>,
    ) -> (Method, Vec<Option<IntCounter>>) {
        let mut handles = vec![None; Class::ALL.len() * Outcome::ALL.len()];
        for outcome in outcomes {
            for class in outcome.classes() {
                if let Some(handle) = handles.get_mut(slot(*class, outcome)) {
                    *handle = Some(series(vec, route, method, *class, outcome));
                }
            }
        }
        (method.clone(), handles)
    }

    /// The row of a method; where any is served, that of all others for those without one.
    fn of(&self, method: &Method) -> Option<&(Method, Vec<Option<IntCounter>>)> {
        let own = self.methods.iter().find(|(known, _)| known == method);
        own.or_else(|| self.methods.last().filter(|(last, _)| last.as_str() == OTHER))
    }
}

/// The label of methods without one of their own, in the shape of one.
fn other() -> Option<Method> {
    Method::from_bytes(OTHER.as_bytes()).ok()
}

fn series(
    vec: &IntCounterVec,
    route: &str,
    method: &Method,
    class: Class,
    outcome: Outcome,
) -> IntCounter {
    vec.with_label_values(&[route, method.as_str(), class.as_str(), outcome.as_str()])
}

fn slot(class: Class, outcome: Outcome) -> usize {
    outcome.index() * Class::ALL.len() + class.index()
}

/// The label of requests that no route serves.
const NO_ROUTE: &str = "none";

/// The label of methods that are neither a route's nor one of [`USUAL`].
const OTHER: &str = "other";
