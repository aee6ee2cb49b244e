//! [`Pulse`]: what an HTTP/2 connection is at, noted by its stream, its requests and its answers.
//!
//! *Invariants*
//! 1. A stream counts as open until its request is answered or given up, and as unread until the last byte
//!    of its answer is on its way to the kernel, or it was reset.
//! 2. Whoever takes nothing of any answer stalls, whatever else it sends; so does who takes nothing of one
//!    while the connection has room for it, whatever it takes of others.
//!
//! *Why room counts:* where the socket or the window of all streams together (RFC 9113 §6.9.1) is full, an
//! answer waits for its turn, and a client on a slow line has done nothing wrong.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Refused;
use super::answers::Answers;
use super::frames::Frames;
use super::io::{Patience, TICK, Ticks};
use super::room::Room;
use super::wear::Wear;

/// What a connection is at.
#[derive(Debug)]
pub(super) struct Pulse {
    ticks: Ticks,
    wear: Wear,
    /// Requests that the handler works on.
    open: AtomicUsize,
    /// Answers of which something is still to be sent.
    unread: AtomicUsize,
    answers: Answers,
    /// When a stream last ended.
    since: AtomicU64,
    /// When something of an answer was last taken.
    taken: AtomicU64,
    room: Room,
    /// Since when a head is under way; 0 = none is.
    head: AtomicU64,
    heads: AtomicU64,
    requests: AtomicU64,
    /// Something that was written has not gone to the kernel.
    gathered: AtomicBool,
    flooded: AtomicBool,
    reset: AtomicBool,
}

impl Pulse {
    pub(super) fn new(ticks: Ticks, wear: Wear) -> Self {
        let now = AtomicU64::new(ticks.now());
        Self {
            ticks,
            wear,
            open: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            answers: Answers::default(),
            since: now,
            taken: AtomicU64::new(0),
            room: Room::new(),
            head: AtomicU64::new(0),
            heads: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            gathered: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            reset: AtomicBool::new(false),
        }
    }

    /// A request was handed to the handler, which works on it until the returned guard is dropped.
    pub(super) fn asked(self: &Arc<Self>) -> Working {
        self.wear.asked();
        self.requests.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        Working(Arc::clone(self))
    }

    /// Whether no stream is open, and nothing of any is to go out.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Relaxed) == 0
            && self.unread.load(Relaxed) == 0
            && !self.gathered.load(Relaxed)
    }

    /// Whether the connection has had its share and is to end in order.
    pub(super) fn is_worn(&self) -> bool {
        self.wear.is_out()
    }

    /// Whether the client sent more frames than it may.
    pub(super) fn has_flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// Heads that came and never reached the handler.
    pub(super) fn refused(&self) -> u64 {
        self.heads.load(Relaxed).saturating_sub(self.requests.load(Relaxed))
    }

    /// Has the connection closed with a reset: the client takes nothing.
    pub(super) fn reset_on_close(&self) {
        self.reset.store(true, Relaxed);
    }

    /// Until when the client has to do something, and how the connection ends if it does not.
    pub(super) fn deadline(&self, patience: &Patience) -> Option<(Instant, End)> {
        let head = self.head.load(Relaxed);
        let unread = self.unread.load(Relaxed) > 0;
        let write = |since| (self.after(since, patience.write), End::AtOnce(Refused::WriteStalled));
        [
            self.room.stalled().map(write),
            unread.then(|| write(self.taken.load(Relaxed))),
            unread.then(|| self.turn(patience.write)).flatten(),
            (head != 0).then(|| (self.after(head, patience.head), End::AtOnce(Refused::SlowHead))),
            self.is_idle().then(|| {
                let since = self.since.load(Relaxed);
                (self.after(since, patience.idle), End::InOrder(Refused::Idle))
            }),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Until when something has to be taken of the answer that has waited longest.
    fn turn(&self, patience: Duration) -> Option<(Instant, End)> {
        let oldest = self.answers.oldest()?;
        let longest = self.after(oldest, patience.max(LONGEST_TURN));
        let room = self.room.since().map(|since| self.after(oldest.max(since), patience));
        let at = room.map_or(longest, |at| at.min(longest));
        Some((at, End::InOrder(Refused::WriteStalled)))
    }

    /// When `patience` is over that began at a tick.
    fn after(&self, since: u64, patience: Duration) -> Instant {
        self.ticks.instant(since) + TICK + patience
    }

    fn took(&self) {
        self.taken.store(self.ticks.now(), Relaxed);
    }

    /// Of what was on its way from `since` on, something went to the kernel: progress of the answers, if any of
    /// it is theirs.
    pub(super) fn moved(&self, since: u64) {
        if self.taken.load(Relaxed) >= since {
            self.took();
        }
    }

    /// Something is to go to the kernel.
    pub(super) fn gathers(&self) {
        self.gathered.store(true, Relaxed);
    }

    /// All that gathered from `since` on has gone to the kernel. Answers to a PING keep no connection.
    pub(super) fn drained(&self, since: u64) {
        if self.gathered.swap(false, Relaxed) && self.taken.load(Relaxed) >= since {
            self.since.store(self.ticks.now(), Relaxed);
        }
    }

    /// A write to the kernel was tried.
    pub(super) fn wrote(&self, pending: bool) {
        self.room.wrote(pending, self.ticks.now());
    }

    /// Whether the connection is to be closed with a reset.
    pub(super) fn resets(&self) -> bool {
        self.reset.load(Relaxed)
    }

    /// The tick.
    pub(super) fn now(&self) -> u64 {
        self.ticks.now()
    }

    /// Reads `fresh` bytes of the client along; whether it may go on.
    pub(super) fn read_along(&self, frames: &mut Frames, fresh: &[u8]) -> bool {
        let now = self.ticks.now();
        let flood = frames.read(fresh, now).is_err();
        self.heads.store(frames.heads(), Relaxed);
        self.room.opened(frames.take_opened(), now);
        if !frames.in_head() {
            self.head.store(0, Relaxed);
        } else if self.head.load(Relaxed) == 0 {
            self.head.store(now, Relaxed);
        }
        if flood {
            self.flooded.store(true, Relaxed);
        }
        !flood
    }
}

/// How a connection ends whose client has let its time run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Cut.
    AtOnce(Refused),
    /// The client is told, and what it still takes is sent.
    InOrder(Refused),
}

/// A request that the handler works on.
#[derive(Debug)]
pub(super) struct Working(Arc<Pulse>);

impl Working {
    /// It was answered; the answer is unread until the returned guard and its clones are dropped.
    pub(super) fn answered(&self) -> Unread {
        if self.0.unread.load(Relaxed) == 0 {
            self.0.took();
        }
        Unread::new(&self.0, self.0.answers.begin(self.0.ticks.now()))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.since.store(self.0.ticks.now(), Relaxed);
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// An answer, or a part of one, that is still to be sent.
#[derive(Debug)]
pub(super) struct Unread {
    pulse: Arc<Pulse>,
    /// When something of the answer was last taken.
    taken: Arc<AtomicU64>,
}

impl Unread {
    fn new(pulse: &Arc<Pulse>, taken: Arc<AtomicU64>) -> Self {
        pulse.unread.fetch_add(1, Relaxed);
        Self { pulse: Arc::clone(pulse), taken }
    }

    /// Another part of the same answer.
    fn part(&self) -> Self {
        Self::new(&self.pulse, Arc::clone(&self.taken))
    }

    fn took(&self, count: usize) {
        self.pulse.room.sent(count);
        self.pulse.took();
        self.taken.store(self.pulse.ticks.now(), Relaxed);
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.pulse.took();
        self.pulse.since.store(self.pulse.ticks.now(), Relaxed);
        self.pulse.unread.fetch_sub(1, Relaxed);
    }
}

/// An answer's body that notes when it was taken.
#[derive(Debug)]
pub(super) struct Answered<B> {
    /// `None` where HEAD is answered.
    body: Option<B>,
    unread: Unread,
}

impl<B> Answered<B> {
    /// `head`: it answers HEAD, so that nothing of it is sent.
    pub(super) fn new(body: B, head: bool, unread: Unread) -> Self {
        Self { body: (!head).then_some(body), unread }
    }
}

impl<B: Body<Error = Infallible> + Unpin> Body for Answered<B> {
    type Data = Piece<B::Data>;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        let piece = |bytes| Piece { bytes, unread: self.unread.part() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Bytes of an answer on their way.
#[derive(Debug)]
pub(super) struct Piece<D> {
    bytes: D,
    unread: Unread,
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.unread.took(count);
    }
}

/// Longest time that an answer may wait for its turn on a connection that is full.
const LONGEST_TURN: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_full_connection_an_answer_has_five_minutes_for_its_turn_and_then_its_end_is_in_order() {
        let ticks = Ticks::new();
        let pulse =
            Arc::new(Pulse::new(ticks.clone(), Wear::new(ticks.clone(), 0, Duration::ZERO)));
        let (working, second) = (pulse.asked(), Duration::from_secs(1));
        let (_left, taken) = (working.answered(), working.answered());
        let patience = Patience { head: second, idle: second, write: 30 * second };
        let ends = || {
            let (at, end) = pulse.deadline(&patience).unwrap();
            ((at - (ticks.instant(0) + TICK)).as_secs(), end)
        };
        ticks.set(20_000);
        taken.took(1);
        let stalls = End::InOrder(Refused::WriteStalled);
        assert_eq!(ends(), (30, stalls));
        taken.took(65_534);
        assert_eq!(ends(), (50, End::AtOnce(Refused::WriteStalled)), "it takes something in time");
        for tick in [40_000, 60_000, 299_000] {
            ticks.set(tick);
            taken.took(1);
        }
        assert_eq!(ends(), (300, stalls));
    }
}
