//! What the process tells of itself: metrics, the access log, diagnostics, and the record of a request.
//!
//! *Invariants*
//! 1. Every request that began is recorded exactly once, in one class ([`Exchange`]).
//! 2. No token, no key, no body reaches a line or a label; a target only through a [`TargetView`].
//! 3. Nothing here makes a request wait: each thread counts for itself what all requests move, other counters are
//!    atomics, lines go to a bounded buffer.
//!
//! *Why two logs with one output:* an access line through `tracing` costs more than the rest of a hit,
//! so it is written by hand; everything rarer is a `tracing` event. Both look alike and keep their order.

mod access;
pub mod diagnostics;
mod exchange;
mod families;
mod labels;
mod line;
mod metrics;
mod registrar;
mod requests;
mod tallied;
mod tally;
mod vocabulary;
mod writer;

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "counts are whole numbers, and compared as such")]
mod tests;

use std::time::Duration;

use crate::clock::{Clock, Dice};
use crate::config;
use crate::telemetry::access::Access;

pub use access::TargetView;
pub use diagnostics::Rarely;
pub use exchange::{Arrival, Exchange, Reply};
pub use families::{
    Counters, Gauges, NamedCounters, RouteCounters, UpstreamGauges, UpstreamHistograms,
    UpstreamNamedCounters,
};
pub use labels::{Cause, Class, Decision, Eviction, Label, Limiter, Log, Outcome, StaleWindow};
pub use metrics::Metrics;
pub use requests::RequestCounters;
pub use tallied::{Histograms, PairCounters, TalliedGauge, TalliedHistogram};
pub use vocabulary::{RouteLabels, Vocabulary};
pub use writer::Lines;

/// The process's voice.
#[derive(Debug)]
pub struct Telemetry {
    /// Every counter, gauge and histogram.
    pub metrics: Metrics,
    access: Access,
    clock: Clock,
}

/// What a [`Telemetry`] is made of.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Time of the exchanges.
    pub clock: Clock,
    /// Chance of the sampling.
    pub dice: Dice,
    /// `[log]`.
    pub log: &'a config::Log,
    /// The route table's labels, by route index.
    pub routes: &'a [RouteLabels],
    /// Label values that other modules define.
    pub vocabulary: Vocabulary,
    /// How targets are shown; `None` = not at all.
    pub target: Option<TargetView>,
    /// The way to the output.
    pub lines: Lines,
}

impl Telemetry {
    /// Everything at 0.
    ///
    /// # Errors
    /// A name or label that the metrics' registry refuses; none of ours is.
    pub fn new(setup: Setup<'_>) -> prometheus::Result<Self> {
        let access = Access {
            lines: setup.lines,
            which: setup.log.access,
            format: setup.log.format,
            target: setup.target,
            dice: setup.dice,
            routes: setup.routes.iter().map(|route| route.name.clone()).collect(),
        };
        let metrics = Metrics::new(setup.routes, &setup.vocabulary)?;
        Ok(Self { metrics, access, clock: setup.clock })
    }

    /// The same voice under another configuration: the metrics go on, the access log does as `log` says.
    #[must_use]
    pub fn under(
        &self,
        log: &config::Log,
        routes: &[RouteLabels],
        target: Option<TargetView>,
    ) -> Self {
        let access = Access {
            lines: self.access.lines.clone(),
            which: log.access,
            format: log.format,
            target,
            dice: self.access.dice.clone(),
            routes: routes.iter().map(|route| route.name.clone()).collect(),
        };
        Self { metrics: self.metrics.under(routes), access, clock: self.clock.clone() }
    }

    /// A request arrived.
    pub fn begin<'a>(&'a self, arrival: Arrival<'a>) -> Exchange<'a> {
        Exchange::begin(self, arrival)
    }

    /// Everything in Prometheus' text format.
    pub fn scrape(&self) -> String {
        for log in Log::ALL {
            let dropped = self.access.lines.take_dropped(*log);
            self.metrics.log_lines_dropped_total.add(*log, dropped);
        }
        self.metrics.scrape()
    }

    /// Waits until the log lines so far have been written, at most `within`; `false` = they were not.
    pub fn flush(&self, within: Duration) -> bool {
        self.access.lines.flush(within)
    }
}
