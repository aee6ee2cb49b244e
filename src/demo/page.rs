//! How the tour looks: numbered steps, command lines to copy, and what came back.
//!
//! *Invariant:* lines are at most [`WIDTH`] columns wide, as long as what is printed can be broken.

use std::io::{self, Write};
use std::time::Duration;

use super::client::Seen;

/// What the tour is printed on.
pub(super) struct Page<'a, W> {
    out: &'a mut W,
    steps: u32,
    checks: u32,
    unexpected: u32,
}

impl<'a, W: Write> Page<'a, W> {
    /// An empty page.
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, steps: 0, checks: 0, unexpected: 0 }
    }

    /// A line of its own.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Begins a step: its word, and what it is about.
    pub(super) fn step(&mut self, word: &str, about: &str) -> io::Result<()> {
        self.steps += 1;
        writeln!(self.out, "\n{:>2}  {word:<10} {about}", self.steps)
    }

    /// A command line, broken where it is too long for one.
    pub(super) fn command(&mut self, words: &[String]) -> io::Result<()> {
        let mut line = "    $".to_owned();
        for (place, word) in words.iter().enumerate() {
            let last = place + 1 == words.len();
            // Room is left for " \" unless nothing follows.
            let room = if last { WIDTH } else { WIDTH - 2 };
            if columns(&line) + 1 + columns(word) > room {
                writeln!(self.out, "{line} \\")?;
                "     ".clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        writeln!(self.out, "{line}")
    }

    /// Something to read below a command.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "    {text}")
    }

    /// A reply: status, time, the upstream's count around it, `Cache-Status` as received.
    pub(super) fn reply(&mut self, seen: &Seen) -> io::Result<()> {
        let cost = format!("sample {}→{}", seen.upstream.start, seen.upstream.end);
        let status = seen.status.as_u16();
        let cache = match seen.field("Cache-Status") {
            Some(cache) => format!("Cache-Status: {cache}"),
            None => String::new(),
        };
        let line = format!("{status}  {:>7}  {cost:<12}  {cache}", time(seen.took));
        self.note(line.trim_end())
    }

    /// Those of a reply's fields that it has, as received.
    pub(super) fn fields(&mut self, seen: &Seen, names: &[&str]) -> io::Result<()> {
        let there = names.iter().filter_map(|name| Some(format!("{name}: {}", seen.field(name)?)));
        let line = there.collect::<Vec<_>>().join("   ");
        if line.is_empty() { Ok(()) } else { self.note(&format!("     {line}")) }
    }

    /// Says so when something is not as it should be.
    pub(super) fn check(&mut self, holds: bool, claim: &str) -> io::Result<()> {
        self.checks += 1;
        if holds {
            return Ok(());
        }
        self.unexpected += 1;
        self.note(&format!("UNEXPECTED: {claim}, but that is not what was seen"))
    }

    /// How many checks were made.
    pub(super) fn checks(&self) -> u32 {
        self.checks
    }

    /// How many of them failed.
    pub(super) fn unexpected(&self) -> u32 {
        self.unexpected
    }

    /// What was printed so far reaches its reader.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// In milliseconds, with a digit after the point as long as it says something.
pub(super) fn time(took: Duration) -> String {
    let millis = took.as_secs_f64() * 1_000.0;
    if millis < 99.95 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

/// Columns of a line.
const WIDTH: usize = 100;
