//! The access log: which exchanges get a line, and what stands in it.
//!
//! *Invariants*
//! 1. A line is formatted into a buffer of its thread and pushed once: no allocation, no wait.
//! 2. An error of ours and a 5xx are never sampled away.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use crate::clock::Dice;
use crate::config::{AccessLog, LogFormat};
use crate::telemetry::exchange::{Facts, Reply};
use crate::telemetry::labels::{Label, Log};
use crate::telemetry::line::Line;
use crate::telemetry::writer::Lines;

/// Writes the lines of exchanges.
pub(crate) struct Access {
    pub(crate) lines: Lines,
    pub(crate) which: AccessLog,
    pub(crate) format: LogFormat,
    pub(crate) target: Option<TargetView>,
    pub(crate) dice: Dice,
    /// Names of the routes, by index.
    pub(crate) routes: Vec<String>,
}

/// How a target is shown: after the masker, or as a digest.
#[expect(clippy::type_complexity, reason = "it is what this type is there to name")]
pub struct TargetView(Box<dyn Fn(&str) -> Cow<'_, str> + Send + Sync>);

impl TargetView {
    /// Shows a target as `view` makes it.
    pub fn new(view: impl Fn(&str) -> Cow<'_, str> + Send + Sync + 'static) -> Self {
        Self(Box::new(view))
    }
}

impl fmt::Debug for TargetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TargetView(…)")
    }
}

impl Access {
    /// Writes the line of an exchange that ended, if it gets one.
    pub(crate) fn record(&self, facts: &Facts<'_>) {
        if !self.wants(facts.reply.as_ref()) {
            return;
        }
        SCRATCH.with_borrow_mut(|line| {
            line.clear();
            self.write(line, facts);
            self.lines.push(Log::Access, line);
        });
    }

    fn wants(&self, reply: Option<&Reply>) -> bool {
        let failed =
            || reply.is_some_and(|reply| reply.error.is_some() || reply.status.is_server_error());
        match self.which {
            AccessLog::Off => false,
            AccessLog::All => true,
            AccessLog::Errors => failed(),
            AccessLog::OneIn(many) => {
                failed() || self.dice.roll().is_multiple_of(u64::from(many.max(1)))
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>, facts: &Facts<'_>) {
        let arrival = &facts.arrival;
        let ended = arrival.started.wall.saturating_add(facts.took);
        let mut line = Line::begin(out, self.format, ended, "info", Log::Access);
        line.word("request_id", arrival.id);
        line.address("peer", arrival.peer);
        line.text("method", arrival.method.as_str());
        if let Some(route) = facts.route.and_then(|route| self.routes.get(route)) {
            line.word("route", route);
        }
        if let Some(view) = &self.target {
            line.text("target", &(view.0)(arrival.target));
        }
        if let Some(caller) = facts.caller.as_ref().and_then(|hex| std::str::from_utf8(hex).ok()) {
            line.text("caller", caller);
        }
        if let Some(reply) = &facts.reply {
            line.number("status", reply.status.as_u16());
            line.number("bytes", reply.bytes);
        }
        line.word("outcome", facts.outcome.as_str());
        line.millis("duration_ms", facts.took);
        if let Some(age) = facts.reply.and_then(|reply| reply.age) {
            line.number("age_s", age.as_secs());
        }
        if let Some(upstream) = &facts.upstream {
            line.word("upstream_cause", upstream.cause.as_str());
            line.number("upstream_tries", upstream.tries);
            line.millis("upstream_ms", upstream.took);
        }
        if facts.masked > 0 {
            line.number("masked", facts.masked);
        }
        if let Some((code, side)) = facts.reply.and_then(|reply| reply.error) {
            line.word("error", code);
            line.word("side", side.as_str());
        }
        line.end();
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("which", &self.which).finish_non_exhaustive()
    }
}

thread_local! {
    /// The line being formatted; kept, so that a request allocates nothing for it.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
