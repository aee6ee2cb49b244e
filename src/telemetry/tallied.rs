//! Families that every request moves: their counts are kept by each thread, and summed when they are scraped.
//!
//! *Invariants*
//! 1. To the registry they are families like its own: the same names, labels, buckets and order.
//! 2. A histogram's count is the sum of its buckets, also while others observe.
//! 3. Every series reads 0 until something happens; what was counted is in the next scrape.
//!
//! *Why the sum of a histogram is a float, not whole nanoseconds:* a word of them is full after an hour where
//! 100,000 hits a second are a minute old. An addition by one thread costs the same.

use std::marker::PhantomData;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use crate::telemetry::labels::Label;
use crate::telemetry::tally::Tally;

/// One counter per pair of two closed labels.
#[derive(Clone, Debug)]
pub struct PairCounters<A, B> {
    tally: Arc<Tally>,
    labels: PhantomData<fn(A, B)>,
}

impl<A: Label, B: Label> PairCounters<A, B> {
    pub(crate) fn new() -> Self {
        let tally = Arc::new(Tally::new(A::ALL.len() * B::ALL.len()));
        Self { tally, labels: PhantomData }
    }

    /// Counts one.
    pub fn inc(&self, a: A, b: B) {
        self.tally.add(a.index() * B::ALL.len() + b.index(), 1);
    }
}

impl<A: Label, B: Label> Family for PairCounters<A, B> {
    const KIND: MetricType = MetricType::COUNTER;

    fn series(&self) -> Vec<Series> {
        let pairs =
            A::ALL.iter().flat_map(|a| B::ALL.iter().map(move |b| (a.as_str(), b.as_str())));
        let series = pairs.zip(self.tally.totals());
        series.map(|((a, b), total)| Series::counter([a, b].map(str::to_owned), total)).collect()
    }
}

/// A gauge that goes up on one thread and may go down on another.
#[derive(Clone, Debug)]
pub struct TalliedGauge(Arc<Tally>);

impl TalliedGauge {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Tally::new(1)))
    }

    /// One more.
    pub fn inc(&self) {
        self.0.add(0, 1);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.add(0, 1_u64.wrapping_neg());
    }

    /// How many there are, as far as the threads have got. Never below 0: what was seen lowered and not raised
    /// is something that went to another thread in between.
    pub fn get(&self) -> i64 {
        self.0.total(0).cast_signed().max(0)
    }
}

impl Family for TalliedGauge {
    const KIND: MetricType = MetricType::GAUGE;

    fn series(&self) -> Vec<Series> {
        vec![Series::gauge(self.get().cast_unsigned())]
    }
}

/// A histogram without labels.
#[derive(Clone, Debug)]
pub struct TalliedHistogram(Arc<Buckets>);

impl TalliedHistogram {
    pub(crate) fn new(bounds: &[f64]) -> Self {
        Self(Arc::new(Buckets::new(bounds, 1)))
    }

    /// Observes one value, in the histogram's unit.
    pub fn observe(&self, amount: f64) {
        self.0.observe(0, amount);
    }
}

impl Family for TalliedHistogram {
    const KIND: MetricType = MetricType::HISTOGRAM;

    fn series(&self) -> Vec<Series> {
        self.0.read().map(|histogram| Series::histogram([], histogram)).collect()
    }
}

/// One histogram per value of a closed label.
#[derive(Clone, Debug)]
pub struct Histograms<L> {
    buckets: Arc<Buckets>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> Histograms<L> {
    pub(crate) fn new(bounds: &[f64]) -> Self {
        Self { buckets: Arc::new(Buckets::new(bounds, L::ALL.len())), label: PhantomData }
    }

    /// Observes one value, in the histogram's unit.
    pub fn observe(&self, value: L, amount: f64) {
        self.buckets.observe(value.index(), amount);
    }
}

impl<L: Label> Family for Histograms<L> {
    const KIND: MetricType = MetricType::HISTOGRAM;

    fn series(&self) -> Vec<Series> {
        let series = L::ALL.iter().zip(self.buckets.read());
        series.map(|(value, h)| Series::histogram([value.as_str().to_owned()], h)).collect()
    }
}

/// Histograms with the same bounds, found by their index.
#[derive(Debug)]
struct Buckets {
    /// The upper ones, which belong to their buckets; above the last is one more.
    bounds: Box<[f64]>,
    /// For each histogram its buckets, then the sum of what was observed.
    tally: Tally,
    histograms: usize,
}

impl Buckets {
    fn new(bounds: &[f64], histograms: usize) -> Self {
        let tally = Tally::new(histograms * (bounds.len() + 2));
        Self { bounds: bounds.into(), tally, histograms }
    }

    fn observe(&self, histogram: usize, amount: f64) {
        let first = self.first(histogram);
        // From the lowest on: a hit's duration is in one of the first.
        let bucket = self.bounds.iter().position(|bound| amount <= *bound);
        let bucket = bucket.unwrap_or(self.bounds.len());
        self.tally.observe(first + bucket, self.sum(first), amount);
    }

    fn read(&self) -> impl Iterator<Item = proto::Histogram> {
        let totals = self.tally.totals();
        (0..self.histograms).map(move |histogram| {
            let first = self.first(histogram);
            let sum = self.sum(first);
            let mut counted = 0;
            let mut cumulative = totals.iter().take(sum).skip(first).map(|total| {
                counted += total;
                counted
            });
            let buckets = self.bounds.iter().zip(cumulative.by_ref());
            let buckets = buckets.map(|(bound, count)| bucket(*bound, count)).collect();
            let count = cumulative.last().unwrap_or_default();
            let mut told = proto::Histogram::default();
            told.set_bucket(buckets);
            told.set_sample_count(count);
            told.set_sample_sum(self.tally.amount(sum));
            told
        })
    }

    fn first(&self, histogram: usize) -> usize {
        histogram * (self.bounds.len() + 2)
    }

    fn sum(&self, first: usize) -> usize {
        first + self.bounds.len() + 1
    }
}

fn bucket(bound: f64, count: u64) -> proto::Bucket {
    let mut bucket = proto::Bucket::default();
    bucket.set_upper_bound(bound);
    bucket.set_cumulative_count(count);
    bucket
}

/// What the registry asks of a family.
pub(crate) trait Family: Send + Sync + 'static {
    /// What its series are.
    const KIND: MetricType;

    /// Every series that there is, in any order.
    fn series(&self) -> Vec<Series>;
}

/// One series at a moment.
#[derive(Debug)]
pub(crate) struct Series {
    /// In the order in which the family's labels were named.
    labels: Vec<String>,
    /// Still without labels.
    metric: Metric,
}

impl Series {
    pub(crate) fn counter(labels: impl Into<Vec<String>>, count: u64) -> Self {
        let (mut counter, mut metric) = (proto::Counter::default(), Metric::default());
        counter.set_value(float(count));
        metric.set_counter(counter);
        Self { labels: labels.into(), metric }
    }

    fn gauge(level: u64) -> Self {
        let (mut gauge, mut metric) = (proto::Gauge::default(), Metric::default());
        gauge.set_value(float(level));
        metric.set_gauge(gauge);
        Self { labels: Vec::new(), metric }
    }

    fn histogram(labels: impl Into<Vec<String>>, histogram: proto::Histogram) -> Self {
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        Self { labels: labels.into(), metric }
    }

    fn under(mut self, names: &[String]) -> Metric {
        let pairs = names.iter().zip(self.labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value);
            pair
        });
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort();
        self.metric.set_label(pairs);
        self.metric
    }
}

/// A family with its name, help and names of labels: what is registered.
#[derive(Debug)]
pub(crate) struct Tallied<F> {
    pub(crate) desc: Desc,
    pub(crate) family: F,
}

impl<F: Family> Collector for Tallied<F> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = self.family.series().into_iter();
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(F::KIND);
        family.set_metric(series.map(|one| one.under(&self.desc.variable_labels)).collect());
        vec![family]
    }
}

#[expect(clippy::cast_precision_loss, reason = "a scrape has floats only")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::thread;

    use prometheus::core::Describer;
    use prometheus::{HistogramOpts, HistogramVec, Opts, Registry, TextEncoder};
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::labels::StaleWindow;

    fn text(metric: Box<dyn Collector>) -> String {
        let registry = Registry::new();
        registry.register(metric).unwrap();
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    fn scrape<F: Family>(family: F, labels: &[&str]) -> String {
        let labels = labels.iter().copied().map(str::to_owned).collect();
        let desc = Opts::new("x", "What it is.").variable_labels(labels).describe().unwrap();
        text(Box::new(Tallied { desc, family }))
    }

    fn theirs(bounds: &[f64], label: Option<&str>) -> HistogramVec {
        let opts = HistogramOpts::new("x", "What it is.").buckets(bounds.to_vec());
        HistogramVec::new(opts, label.as_slice()).unwrap()
    }

    fn is_told_as_by_prometheus(bounds: &[f64], amounts: &[f64]) {
        let (ours, theirs) = (TalliedHistogram::new(bounds), theirs(bounds, None));
        let handle = theirs.with_label_values::<&str>(&[]);
        for amount in amounts {
            ours.observe(*amount);
            handle.observe(*amount);
        }
        assert_eq!(scrape(ours, &[]), text(Box::new(theirs)));
    }

    const BOUNDS: [f64; 5] = [0.000_05, 0.001, 0.25, 1.0, 60.0];

    #[test]
    fn a_histogram_is_told_as_prometheus_tells_its_own_on_each_side_of_each_bound() {
        is_told_as_by_prometheus(&BOUNDS, &[]);
        let beside = |bound: f64| [bound.next_down(), bound, bound.next_up()];
        let each: Vec<_> =
            BOUNDS.into_iter().flat_map(beside).chain([0.0, 1e9, f64::MAX]).collect();
        for amount in &each {
            is_told_as_by_prometheus(&BOUNDS, &[*amount]);
        }
        is_told_as_by_prometheus(&BOUNDS, &each);
        is_told_as_by_prometheus(&BOUNDS, &[f64::NAN, f64::INFINITY, -1.0]);
    }

    proptest! {
        #[test]
        fn a_histogram_is_told_as_prometheus_tells_its_own(
            amounts in proptest::collection::vec(0.0..100.0_f64, 0..50),
            bounds in proptest::collection::btree_set(1..100_u32, 1..20),
        ) {
            let bounds: Vec<_> = bounds.into_iter().map(f64::from).collect();
            is_told_as_by_prometheus(&bounds, &amounts);
        }
    }

    #[test]
    fn histograms_by_label_are_told_as_prometheus_tells_its_own() {
        let (ours, theirs) = (Histograms::new(&BOUNDS), theirs(&BOUNDS, Some("window")));
        for window in StaleWindow::ALL {
            theirs.with_label_values(&[window.as_str()]);
        }
        for (window, amount) in [(StaleWindow::IfError, 0.5), (StaleWindow::WhileRevalidate, 99.0)]
        {
            ours.observe(window, amount);
            theirs.with_label_values(&[window.as_str()]).observe(amount);
        }
        assert_eq!(scrape(ours, &["window"]), text(Box::new(theirs)));
    }

    #[test]
    fn a_scrape_among_observations_has_as_many_as_its_buckets_and_never_fewer_than_the_one_before()
    {
        let ours = TalliedHistogram::new(&[1.0, 2.0]);
        thread::scope(|scope| {
            scope.spawn(|| (0..10_000).for_each(|n| ours.observe(f64::from(n % 4))));
            let mut before = 0;
            while before < 10_000 {
                let told = ours.0.read().next().unwrap();
                let buckets = told.get_bucket().iter().map(proto::Bucket::cumulative_count);
                let cumulative: Vec<_> = buckets.chain([told.get_sample_count()]).collect();
                assert!(cumulative.is_sorted(), "{cumulative:?}");
                assert!(told.get_sample_count() >= before);
                before = told.get_sample_count();
            }
        });
    }

    #[test]
    fn labels_stand_in_the_order_of_their_names_whatever_the_order_of_their_values() {
        let counters = PairCounters::<StaleWindow, StaleWindow>::new();
        counters.inc(StaleWindow::IfError, StaleWindow::WhileRevalidate);
        let expected = [
            "# HELP x What it is.",
            "# TYPE x counter",
            r#"x{a="if_error",b="if_error"} 0"#,
            r#"x{a="if_error",b="while_revalidate"} 0"#,
            r#"x{a="while_revalidate",b="if_error"} 1"#,
            r#"x{a="while_revalidate",b="while_revalidate"} 0"#,
        ];
        assert_eq!(scrape(counters, &["b", "a"]).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_gauge_raised_here_and_lowered_there_is_0_and_is_never_told_below() {
        let gauge = TalliedGauge::new();
        let elsewhere = |act: fn(&TalliedGauge)| {
            thread::scope(|scope| scope.spawn(|| act(&gauge)).join()).unwrap();
        };
        gauge.inc();
        gauge.inc();
        elsewhere(TalliedGauge::dec);
        assert_eq!(gauge.get(), 1);
        elsewhere(TalliedGauge::dec);
        assert_eq!(gauge.get(), 0);
        elsewhere(TalliedGauge::dec);
        assert_eq!(gauge.get(), 0);
        gauge.inc();
        gauge.inc();
        assert_eq!(gauge.get(), 1);
        assert_eq!(scrape(gauge, &[]), "# HELP x What it is.\n# TYPE x gauge\nx 1\n");
    }
}
