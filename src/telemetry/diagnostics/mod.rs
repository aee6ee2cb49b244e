//! Diagnostics: `tracing` events as lines of the same output and shape as the access log.
//!
//! *Invariants*
//! 1. Dependencies are heard from `warn` up whatever `RUST_LOG` says, those that handle heads, fields and
//!    keys not at all: their messages quote what they handle.
//! 2. A panic is told by its place; its message may quote anything and is never printed.
//! 3. An event never waits for the output.
//!
//! *Why not tracing-subscriber's formatter:* two logs in one stream should be read by one rule, and our
//! own line escapes what a terminal would obey.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::panic::{Location, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Subscriber;
use tracing::{Event, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

use crate::clock::Clock;
use crate::config::{self, Level, LogFormat};
use crate::telemetry::labels::{Label as _, Log};
use crate::telemetry::line::Line;
use crate::telemetry::writer::Lines;

/// The subscriber that `[log]` and the value of `RUST_LOG` describe, writing to `lines`; `main` makes it
/// the process's default. What it hears can be changed later.
pub fn subscriber(
    log: &config::Log,
    rust_log: Option<&str>,
    clock: Clock,
    lines: Lines,
) -> (impl Subscriber + Send + Sync + use<>, Hearing) {
    let rust_log = rust_log.unwrap_or_default().to_owned();
    let text = Arc::new(AtomicBool::new(log.format == LogFormat::Text));
    let events = Events { clock, text: Arc::clone(&text), lines };
    let (filter, handle) = reload::Layer::new(filter(log.level, &rust_log));
    (
        Registry::default().with(events.with_filter(filter)),
        Hearing { filter: handle, text, rust_log },
    )
}

/// What a [`subscriber`] hears and how it writes it, as a reload may change it.
#[derive(Debug)]
pub struct Hearing {
    filter: reload::Handle<Targets, Registry>,
    text: Arc<AtomicBool>,
    rust_log: String,
}

impl Hearing {
    /// From now on as `[log]` says; `RUST_LOG` refines it as at the start.
    pub fn follow(&self, log: &config::Log) {
        self.text.store(log.format == LogFormat::Text, Ordering::Relaxed);
        // Fails only where the subscriber is gone, and with it whoever would hear.
        self.filter.reload(filter(log.level, &self.rust_log)).ok();
    }
}

/// From now on a panic is an event that tells its place, and nothing else.
///
/// On the main thread it also waits a moment for the output: the process is about to end.
pub fn hook_panics(lines: Lines) {
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        tracing::error!(place = %Place(panic.location()), "panicked");
        if std::thread::current().name() == Some("main") {
            lines.flush(LAST_WORDS);
        }
    }));
}

/// Says a repeated warning at most once in a while; one per place that warns.
#[derive(Debug, Default)]
pub struct Rarely {
    /// When it was last said, in milliseconds since the process started, and 1 more; 0 = never.
    said: AtomicU64,
    suppressed: AtomicU64,
}

impl Rarely {
    /// Nothing was said yet.
    pub const fn new() -> Self {
        Self { said: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Whether to say it at `now` (monotonic), when it is said at most once `every` so often; if so, how
    /// many were suppressed since it was last said.
    pub fn due(&self, now: Duration, every: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        let due = |said: u64| (said == 0 || now.saturating_sub(said) >= every).then_some(now);
        // Of several at once one wins; the others count as suppressed.
        if self.said.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

/// Writes each event as a line.
struct Events {
    clock: Clock,
    text: Arc<AtomicBool>,
    lines: Lines,
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if self.text.load(Ordering::Relaxed) {
            self.write::<false>(event);
        } else {
            self.write::<true>(event);
        }
    }
}

impl Events {
    fn write<const JSON: bool>(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut bytes = Vec::with_capacity(256);
        let mut line = Line::<JSON>::begin(&mut bytes, self.clock.now().wall);
        line.word("level", level_name(metadata));
        line.word("log", Log::Diagnostics.as_str());
        line.text("module", metadata.target());
        event.record(&mut Fields(&mut line));
        line.end();
        self.lines.push(Log::Diagnostics, &bytes);
    }
}

/// Writes an event's fields into its line.
struct Fields<'a, 'b, const JSON: bool>(&'a mut Line<'b, JSON>);

impl<const JSON: bool> Visit for Fields<'_, '_, JSON> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.text(name(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.truth(name(field), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(name(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.signed(name(field), value);
    }

    /// An error with the chain of its sources.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.record_debug(field, &Chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Fails only if the value's own formatting does; `format!` would panic then.
        if write!(text, "{value:?}").is_err() {
            text.push_str("(unprintable)");
        }
        self.0.text(name(field), &text);
    }
}

/// An error and its sources, in one line.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let sources = std::iter::successors(self.0.source(), |error| (*error).source());
        sources.take(DEEPEST).try_for_each(|source| write!(f, ": {source}"))
    }
}

/// Where a panic happened.
struct Place<'a>(Option<&'a Location<'a>>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, "{}:{}:{}", place.file(), place.line(), place.column()),
            None => f.write_str("unknown"),
        }
    }
}

/// What is heard: us at `level`, refined by the `RUST_LOG` directives that name us; dependencies little.
fn filter(level: Level, rust_log: &str) -> Targets {
    let quiet = Targets::new().with_default(LevelFilter::WARN).with_target(OURS, filter_of(level));
    let quiet = SILENT.iter().fold(quiet, |quiet, name| quiet.with_target(*name, LevelFilter::OFF));
    rust_log.split(',').fold(quiet, |filter, directive| {
        let (target, level) =
            directive.trim().split_once('=').unwrap_or_else(|| (OURS, directive.trim()));
        let ours = target == OURS || target.strip_prefix(OURS).is_some_and(|t| t.starts_with("::"));
        match level.parse::<LevelFilter>() {
            // Nothing at all parses as `error`.
            Ok(heard) if ours && !level.is_empty() => filter.with_target(target, heard),
            _ => filter,
        }
    })
}

fn filter_of(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

fn level_name(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

/// A field's name, which must not repeat one that every line begins with.
fn name(field: &Field) -> &'static str {
    match field.name() {
        "time" => "time_",
        "level" => "level_",
        "log" => "log_",
        "module" => "module_",
        other => other,
    }
}

/// The root of our own modules' targets.
const OURS: &str = "unitgate";

/// Dependencies that see heads, fields, frames or keys.
const SILENT: [&str; 6] = ["h2", "hyper", "hyper_rustls", "hyper_util", "rustls", "tokio_rustls"];

/// How many sources of an error are told.
const DEEPEST: usize = 8;

/// How long a panic of the main thread waits for the output.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
