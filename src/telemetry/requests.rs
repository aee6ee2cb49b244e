//! The counter of requests: by route, method, status class and outcome.
//!
//! *Invariants*
//! 1. Each request is counted once, whatever its method, status and outcome.
//! 2. A method that no route serves makes no label of its own.
//! 3. The counts of a route and method stay with them from one route table to the next, also while requests of
//!    both are under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use prometheus::proto::MetricType;

use crate::config::{Methods, USUAL};
use crate::telemetry::labels::{Class, Label, Outcome};
use crate::telemetry::tallied::{Family, Series};
use crate::telemetry::tally::Tally;
use crate::telemetry::vocabulary::RouteLabels;

/// Requests by route, method, status class and outcome.
#[derive(Clone, Debug)]
pub struct RequestCounters {
    /// By route index, one row a method, [`OTHER`] last; the last one stands for requests that no route serves.
    routes: Vec<Vec<Row>>,
    known: Arc<Mutex<Known>>,
}

/// What is counted under one route and method: a count for each class and outcome.
#[derive(Clone, Debug)]
struct Row {
    method: Method,
    tally: Arc<Tally>,
    /// The counts that have a series before anything happens.
    foreseen: BTreeSet<usize>,
}

/// Every row that ever was, by route and method; those of the routes in force are among them.
#[derive(Debug, Default)]
struct Known(BTreeMap<(String, String), Row>);

impl RequestCounters {
    pub(crate) fn new(routes: &[RouteLabels]) -> Self {
        Self { routes: Vec::new(), known: Arc::default() }.under(routes)
    }

    /// The same family for other routes; what was counted stays.
    pub(crate) fn under(&self, routes: &[RouteLabels]) -> Self {
        let mut known = self.known.lock();
        let mut rows: Vec<_> = routes.iter().map(|route| known.rows(route)).collect();
        rows.push(known.none());
        drop(known);
        Self { routes: rows, known: Arc::clone(&self.known) }
    }

    /// Counts one. A method that the route does not serve is counted where no route is.
    pub fn inc(&self, route: Option<usize>, method: &Method, class: Class, outcome: Outcome) {
        let own = route.and_then(|route| row(self.routes.get(route)?, method));
        let found = own.or_else(|| row(self.routes.last()?, method));
        if let Some(row) = found {
            row.tally.add(slot(class, outcome), 1);
        }
    }

    /// How many were counted in the series that were foreseen: in all there are.
    pub fn foreseen(&self) -> u64 {
        let foreseen =
            |row: &Row| -> u64 { row.foreseen.iter().map(|slot| row.tally.total(*slot)).sum() };
        self.routes.iter().flatten().map(foreseen).sum()
    }
}

impl Family for RequestCounters {
    const KIND: MetricType = MetricType::COUNTER;

    fn series(&self) -> Vec<Series> {
        let known = self.known.lock();
        let mut series = Vec::new();
        for ((route, method), row) in &known.0 {
            let totals = row.tally.totals();
            let each =
                Outcome::ALL.into_iter().flat_map(|o| Class::ALL.iter().map(move |c| (*c, o)));
            for (class, outcome) in each {
                let slot = slot(class, outcome);
                let total = totals.get(slot).copied().unwrap_or_default();
                if total > 0 || row.foreseen.contains(&slot) {
                    let labels = [route, method, class.as_str(), outcome.as_str()];
                    series.push(Series::counter(labels.map(str::to_owned), total));
                }
            }
        }
        series
    }
}

impl Known {
    fn rows(&mut self, route: &RouteLabels) -> Vec<Row> {
        let other = (route.methods == Methods::Any).then(other).flatten();
        let methods = route.methods.named().iter().cloned().chain(other);
        methods.map(|method| self.row(&route.name, &method, route.outcomes(&method))).collect()
    }

    /// Requests that no route serves: they are refused before anything is looked up.
    fn none(&mut self) -> Vec<Row> {
        let methods = USUAL.into_iter().chain(other());
        let outcomes = Outcome::ALL
            .into_iter()
            .filter(|outcome| !matches!(outcome, Outcome::Cache(_) | Outcome::UpstreamFailed));
        methods.map(|method| self.row(NO_ROUTE, &method, outcomes.clone())).collect()
    }

    /// The row of a route and method, whose counts go on where they were.
    fn row(
        &mut self,
        route: &str,
        method: &Method,
        outcomes: impl Iterator<Item = Outcome>,
    ) -> Row {
        let slots = outcomes
            .flat_map(|outcome| outcome.classes().iter().map(move |class| slot(*class, outcome)));
        let foreseen: BTreeSet<_> = slots.collect();
        let key = (route.to_owned(), method.as_str().to_owned());
        let known = self.0.entry(key).or_insert_with(|| Row::new(method.clone()));
        known.foreseen.extend(&foreseen);
        Row { foreseen, ..known.clone() }
    }
}

impl Row {
    fn new(method: Method) -> Self {
        let tally = Arc::new(Tally::new(Class::ALL.len() * Outcome::ALL.len()));
        Self { method, tally, foreseen: BTreeSet::new() }
    }
}

/// The row of a method; where any is served, that of all others for those without one.
fn row<'a>(rows: &'a [Row], method: &Method) -> Option<&'a Row> {
    let own = rows.iter().find(|row| row.method == *method);
    own.or_else(|| rows.last().filter(|last| last.method.as_str() == OTHER))
}

/// The label of methods without one of their own, in the shape of one.
fn other() -> Option<Method> {
    Method::from_bytes(OTHER.as_bytes()).ok()
}

fn slot(class: Class, outcome: Outcome) -> usize {
    outcome.index() * Class::ALL.len() + class.index()
}

/// The label of requests that no route serves.
const NO_ROUTE: &str = "none";

/// The label of methods that are neither a route's nor one of [`USUAL`].
const OTHER: &str = "other";
