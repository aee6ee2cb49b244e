//! [`Ahead`]: interim responses on their way to an HTTP/1.1 client, ahead of the answer.
//!
//! *Invariants*
//! 1. They go out between two of hyper's messages and nowhere else: what hyper has not yet written of an
//!    earlier answer goes first, and what can't be put in order any more is dropped.
//! 2. A request without interim responses costs a look at a flag.
//!
//! *Why here:* hyper's server sends no interim response but 100. The stream under it is the one place
//! where the bytes of a connection pass in order.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

/// Interim responses (RFC 9110 §15.2) that wait to be written.
#[derive(Debug)]
pub struct Ahead {
    /// Whether there are any.
    any: AtomicBool,
    /// Whether all that hyper had to write is out, so that what it writes next begins a message.
    between: AtomicBool,
    waiting: Mutex<Vec<u8>>,
}

impl Ahead {
    /// A connection on which nothing was written.
    pub fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            between: AtomicBool::new(true),
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Has an interim response written as soon as what was before it is out. Only for a client of
    /// HTTP/1.1 (RFC 9110 §15.2), and only while its request is worked on. Past [`MOST`] bytes that
    /// wait it is dropped.
    pub fn send(&self, status: StatusCode, fields: &HeaderMap) {
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");
        let mut waiting = self.waiting.lock();
        if waiting.len() + head.len() <= MOST {
            waiting.append(&mut head);
            self.any.store(true, Relaxed);
        }
    }

    /// Something of a message was written.
    pub(super) fn wrote(&self) {
        self.between.store(false, Relaxed);
    }

    /// All that hyper had to write is out.
    pub(super) fn flushed(&self) {
        self.between.store(true, Relaxed);
    }

    /// The answer was handed to hyper: what has to wait for an earlier one can't come before it.
    pub(super) fn answered(&self) {
        if self.any.load(Relaxed) && !self.between.load(Relaxed) {
            self.take();
        }
    }

    /// What has to be written now, before anything of hyper's.
    pub(super) fn due(&self) -> Option<Vec<u8>> {
        (self.any.load(Relaxed) && self.between.load(Relaxed)).then(|| self.take())
    }

    fn take(&self) -> Vec<u8> {
        let mut waiting = self.waiting.lock();
        self.any.store(false, Relaxed);
        std::mem::take(&mut waiting)
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Self::new()
    }
}

/// Most bytes that wait.
const MOST: usize = 64 << 10;
