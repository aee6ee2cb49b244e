//! The access log: which exchanges get a line, and what stands in it.
//!
//! *Invariants*
//! 1. A line is formatted into a buffer of its thread and pushed once: no allocation, no wait.
//! 2. An error of ours and a 5xx are never sampled away.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use http::Method;

use crate::clock::Dice;
use crate::config::{AccessLog, LogFormat};
use crate::telemetry::exchange::{Facts, Reply};
use crate::telemetry::labels::{Label, Log};
use crate::telemetry::line::{Line, Members, Ready, ready};
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
            match self.format {
                LogFormat::Json => self.write::<true>(line, facts),
                LogFormat::Text => self.write::<false>(line, facts),
            }
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

    fn write<const JSON: bool>(&self, out: &mut Vec<u8>, facts: &Facts<'_>) {
        let arrival = &facts.arrival;
        let ended = arrival.started.wall.saturating_add(facts.took);
        let mut line = Line::<JSON>::begin(out, ended);
        line.members(KIND);
        line.word(REQUEST_ID, arrival.id);
        line.address(PEER, arrival.peer);
        line.word(METHOD, shown(arrival.method));
        if let Some(route) = facts.route.and_then(|route| self.routes.get(route)) {
            line.word(ROUTE, route);
        }
        if let Some(view) = &self.target {
            line.text_within(TARGET, &(view.0)(arrival.target), LONGEST_TARGET);
        }
        if let Some(caller) = &facts.caller {
            line.word(CALLER, caller);
        }
        if let Some(reply) = &facts.reply {
            line.number(STATUS, reply.status.as_u16());
            line.number(BYTES, reply.bytes);
        }
        line.word(OUTCOME, facts.outcome.as_str());
        line.millis(DURATION_MS, facts.took);
        if let Some(age) = facts.reply.and_then(|reply| reply.age) {
            line.number(AGE_S, age.as_secs());
        }
        if let Some(upstream) = &facts.upstream {
            line.word(UPSTREAM_CAUSE, upstream.cause.as_str());
            line.number(UPSTREAM_TRIES, upstream.tries);
            line.millis(UPSTREAM_MS, upstream.took);
        }
        if facts.masked > 0 {
            line.number(MASKED, facts.masked);
        }
        if let Some((code, side)) = facts.reply.and_then(|reply| reply.error) {
            line.word(ERROR, code);
            line.word(SIDE, side.as_str());
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

/// A method as those in use are written. Any other is a client's own word, and may be a secret.
fn shown(method: &Method) -> &str {
    let method = method.as_str();
    let known = method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if known { method } else { "other" }
}

/// Bytes that are shown of a target: who asks may make one of many thousands.
const LONGEST_TARGET: usize = 1 << 10;

/// What every line begins with, after its time.
const KIND: Members =
    Members { json: ",\"level\":\"info\",\"log\":\"access\"", text: " level=info log=access" };
const REQUEST_ID: Ready = ready!("request_id");
const PEER: Ready = ready!("peer");
const METHOD: Ready = ready!("method");
const ROUTE: Ready = ready!("route");
const TARGET: Ready = ready!("target");
const CALLER: Ready = ready!("caller");
const STATUS: Ready = ready!("status");
const BYTES: Ready = ready!("bytes");
const OUTCOME: Ready = ready!("outcome");
const DURATION_MS: Ready = ready!("duration_ms");
const AGE_S: Ready = ready!("age_s");
const UPSTREAM_CAUSE: Ready = ready!("upstream_cause");
const UPSTREAM_TRIES: Ready = ready!("upstream_tries");
const UPSTREAM_MS: Ready = ready!("upstream_ms");
const MASKED: Ready = ready!("masked");
const ERROR: Ready = ready!("error");
const SIDE: Ready = ready!("side");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_every_line_begins_with_is_its_level_and_its_log() {
        fn begun<const JSON: bool>(write: fn(&mut Line<'_, JSON>)) -> String {
            let mut out = Vec::new();
            write(&mut Line::begin(&mut out, Duration::ZERO));
            String::from_utf8(out).unwrap()
        }
        fn written<const JSON: bool>(line: &mut Line<'_, JSON>) {
            line.word("level", "info");
            line.word("log", Log::Access.as_str());
        }
        assert_eq!(begun::<true>(|line| line.members(KIND)), begun(written::<true>));
        assert_eq!(begun::<false>(|line| line.members(KIND)), begun(written::<false>));
    }
}
