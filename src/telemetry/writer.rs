//! The way of log lines to the output: a bounded buffer and one thread that writes it in batches.
//!
//! *Invariants*
//! 1. Pushing a line never waits for the output; a line that finds no room is dropped and counted.
//! 2. A line is written whole or, when the output fails, counted as dropped.
//! 3. The access log leaves the diagnostics a reserve: a flood of requests can't hide its explanation.
//!
//! *Why not `tracing`'s non-blocking writer:* it hands over line by line through a channel, which costs
//! more than everything else a hit does. *Why a thread:* standard output blocks.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::config::LogOutput;
use crate::telemetry::labels::{Label, Log};

/// The lines' way to the output; clones share it. When the last one is dropped, what is pending is
/// written and the thread ends.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when the thread has something to do.
    work: Condvar,
    /// Signalled when the thread has written a batch.
    written: Condvar,
    /// Lines dropped and not yet taken, by log.
    dropped: [AtomicU64; 2],
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<u8>,
    /// Lines in `pending`, by log.
    lines: [u64; 2],
    /// Bytes ever pushed, and those of them that are no longer this process's business.
    pushed: u64,
    done: u64,
    /// Somebody waits for the output: don't gather any longer.
    urgent: bool,
    /// The thread has found nothing to write, and sleeps until it is told of a line.
    idle: bool,
    closed: bool,
}

impl Lines {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// The machine refuses a thread.
    pub fn start(output: LogOutput) -> std::io::Result<Self> {
        match output {
            LogOutput::Stdout => Self::to(std::io::stdout()),
            LogOutput::Stderr => Self::to(std::io::stderr()),
        }
    }

    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// The machine refuses a thread.
    pub fn to(output: impl Write + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            written: Condvar::new(),
            dropped: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("unitgate-log".to_owned())
            .spawn(move || thread.write_batches(output))?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Takes over one line, its line feed included, or drops it where there is no room.
    pub fn push(&self, log: Log, line: &[u8]) {
        self.0.0.push(log, line);
    }

    /// Waits until everything pushed so far has been written, at most `within`; `false` = it was not.
    pub fn flush(&self, within: Duration) -> bool {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        let goal = state.pushed;
        state.urgent = true;
        shared.work.notify_one();
        let waited = shared.written.wait_while_for(&mut state, |now| now.done < goal, within);
        !waited.timed_out()
    }

    /// Lines dropped since this was last asked.
    pub fn take_dropped(&self, log: Log) -> u64 {
        self.0.0.count(log).map_or(0, |dropped| dropped.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl Shared {
    fn push(&self, log: Log, line: &[u8]) {
        let room = match log {
            Log::Access => CAPACITY - RESERVE,
            Log::Diagnostics => CAPACITY,
        };
        let mut state = self.state.lock();
        let (before, after) = (state.pending.len(), state.pending.len() + line.len());
        if after > room {
            drop(state);
            return self.drop_lines(log, 1);
        }
        state.pending.extend_from_slice(line);
        state.pushed += line.len() as u64;
        if let Some(lines) = state.lines.get_mut(log.index()) {
            *lines += 1;
        }
        // While lines come the thread looks for them by itself: to wake it costs as much as many lines.
        let wake = std::mem::take(&mut state.idle) || (before < PLENTY && after >= PLENTY);
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    fn write_batches(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        while let Some(lines) = self.next_batch(&mut batch) {
            let failed = write_whole(&mut output, &batch).is_err();
            if failed {
                // How far it came is unknown: all of them count as lost.
                for (log, lines) in Log::ALL.iter().zip(lines) {
                    self.drop_lines(*log, lines);
                }
            }
            let mut state = self.state.lock();
            state.done += batch.len() as u64;
            drop(state);
            self.written.notify_all();
            batch.clear();
        }
    }

    /// Waits for lines and moves them into the empty `batch`; `None` once closed and all is written.
    fn next_batch(&self, batch: &mut Vec<u8>) -> Option<[u64; 2]> {
        let gathering = |now: &mut State| now.pending.len() < PLENTY && !now.urgent && !now.closed;
        let mut state = self.state.lock();
        self.work.wait_while_for(&mut state, gathering, GATHER);
        if state.pending.is_empty() && !state.closed {
            state.idle = true;
            self.work.wait_while(&mut state, |now| now.pending.is_empty() && !now.closed);
            self.work.wait_while_for(&mut state, gathering, GATHER);
        }
        state.urgent = false;
        std::mem::swap(&mut state.pending, batch);
        let lines = std::mem::take(&mut state.lines);
        (!batch.is_empty()).then_some(lines)
    }

    fn count(&self, log: Log) -> Option<&AtomicU64> {
        self.dropped.get(log.index())
    }

    fn drop_lines(&self, log: Log, many: u64) {
        if let Some(dropped) = self.count(log) {
            dropped.fetch_add(many, Ordering::Relaxed);
        }
    }
}

/// `write_all` that waits out an output which somebody else has made non-blocking.
fn write_whole(output: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(GATHER),
            Err(error) => return Err(error),
        }
    }
    output.flush()
}

/// Bytes that may wait for the output.
const CAPACITY: usize = 4 << 20;

/// Bytes of it that only diagnostics may use.
const RESERVE: usize = 256 << 10;

/// So much is worth a write of its own. Under load each takes the processor from who serves: a quarter of it, four
/// times as often, costs a logged hit 0.5 %.
const PLENTY: usize = 256 << 10;

/// How long the thread gathers lines before it writes.
const GATHER: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that takes one permit per write and reports what was written.
    struct Gated {
        permits: mpsc::Receiver<()>,
        seen: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.permits.recv().map_err(std::io::Error::other)?;
            self.seen.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Lines, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let ((permit, permits), (seen, reports)) = (mpsc::channel(), mpsc::channel());
        (Lines::to(Gated { permits, seen }).unwrap(), permit, reports)
    }

    #[test]
    fn lines_are_written_in_their_order_and_a_flush_waits_for_them() {
        let (lines, permit, seen) = gated();
        lines.push(Log::Access, b"one\n");
        lines.push(Log::Diagnostics, b"two\n");
        for _ in 0..2 {
            permit.send(()).unwrap();
        }
        assert!(lines.flush(Duration::from_secs(10)));
        drop(lines);
        drop(permit);
        assert_eq!(seen.iter().collect::<Vec<_>>().concat(), b"one\ntwo\n");
    }

    #[test]
    fn a_full_buffer_drops_and_counts_and_never_waits() {
        let (lines, permit, seen) = gated();
        let line = vec![b'x'; 1 << 16];
        // Nothing is written meanwhile: what the thread took as its batch waits for a permit.
        for _ in 0..200 {
            lines.push(Log::Access, &line);
        }
        let dropped = lines.take_dropped(Log::Access);
        assert!(dropped >= 200 - 2 * (CAPACITY >> 16) as u64, "{dropped}");
        assert_eq!(lines.take_dropped(Log::Access), 0);
        assert!(!lines.flush(Duration::ZERO));

        lines.push(Log::Diagnostics, b"the reserve\n");
        assert_eq!(lines.take_dropped(Log::Diagnostics), 0);
        for _ in 0..3 {
            permit.send(()).unwrap();
        }
        assert!(lines.flush(Duration::from_secs(10)));
        drop((lines, permit));
        let written = seen.iter().collect::<Vec<_>>().concat();
        assert!(written.ends_with(b"the reserve\n"));
        assert_eq!(written.len() - 12, usize::try_from(200 - dropped).unwrap() << 16);
    }

    #[test]
    fn lines_that_the_output_refused_are_counted_and_the_next_are_tried() {
        let (lines, permit, _) = gated();
        drop(permit);
        for log in [Log::Access, Log::Diagnostics] {
            lines.push(log, b"lost\n");
            assert!(lines.flush(Duration::from_secs(10)));
            assert_eq!(lines.take_dropped(log), 1);
        }
    }

    #[test]
    fn a_line_wakes_the_thread_that_has_found_nothing_to_write() {
        let (lines, permit, seen) = gated();
        for line in [b"one\n", b"two\n"] {
            while !lines.0.0.state.lock().idle {
                std::thread::yield_now();
            }
            lines.push(Log::Access, line);
            permit.send(()).unwrap();
            assert_eq!(seen.recv().unwrap(), line);
        }
    }

    #[test]
    fn the_last_handle_writes_what_is_pending() {
        let (lines, permit, seen) = gated();
        lines.push(Log::Access, b"late\n");
        drop(lines);
        permit.send(()).unwrap();
        assert_eq!(seen.recv().unwrap(), b"late\n");
    }
}
