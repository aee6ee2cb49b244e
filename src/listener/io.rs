//! The stream under a connection: it notes what its client does, so that whoever stalls can be ended.
//!
//! *Invariants*
//! 1. Noting costs a few plain stores: no clock is read, no timer touched, nothing allocated.
//! 2. A timer ends nothing early: the coarse clock lags by up to [`TICK`], which is added.
//! 3. Only a head that began on an idle connection starts the head time; bytes of a body never do
//!    while a handler works.
//!
//! *Why atomics for what one task alone touches:* hyper owns the stream while it serves, and the
//! service and the task's timer look at it from beside. Relaxed ones cost what plain fields do.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, MissedTickBehavior, Sleep};

use super::wear::Wear;
use super::{Ahead, Refused};

/// A stream whose reads and writes are noted in its [`Activity`].
#[derive(Debug)]
pub(super) struct Timed<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Bytes of the request line so far; `None` once it has ended.
    line: Option<usize>,
    /// Longest request line.
    longest_line: usize,
    /// What is left of interim responses that are being written.
    ahead: Bytes,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, longest_line: usize) -> Self {
        Self { stream, activity, line: Some(0), longest_line, ahead: Bytes::new() }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Notes what was read; an error when the request line got too long, so that it can be answered
    /// as such: hyper would call any head that is too large one of too large fields.
    fn received(&mut self, fresh: &[u8]) -> io::Result<()> {
        if fresh.is_empty() {
            self.activity.ended.store(true, Relaxed);
            return Ok(());
        }
        if self.activity.phase() == Phase::Idle {
            self.activity.enter(Phase::Head);
            // Behind a body it may be what is left of that: not measured, hyper's 431 has to do.
            self.line = (!self.activity.has_body()).then_some(0);
        }
        let Some(length) = self.line else {
            return Ok(());
        };
        let (length, over) = if let Some(end) = memchr::memchr(b'\n', fresh) {
            (None, length.saturating_add(end) > self.longest_line)
        } else {
            let length = length.saturating_add(fresh.len());
            (Some(length), length >= self.longest_line)
        };
        self.line = length;
        if over && self.activity.phase() == Phase::Head {
            self.activity.long_target.store(true, Relaxed);
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            return Poll::Ready(self.received(fresh));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Timed<S> {
    /// Writes the interim responses that are due, before anything of hyper's.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.ahead.is_empty() {
                let wrote = Pin::new(&mut self.stream).poll_write(cx, &self.ahead);
                self.activity.wrote(wrote.is_pending());
                match ready!(wrote)? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    wrote => self.ahead.advance(wrote),
                }
            }
            // Asked again after each: one that came while another was being written goes next.
            match self.activity.ahead.due() {
                Some(due) => self.ahead = due.into(),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ahead(cx))?;
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.wrote(wrote.is_pending());
        self.activity.ahead.wrote();
        wrote
    }

    /// hyper flushes once it has written all it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.ahead.flushed();
        ready!(self.poll_ahead(cx))?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_pending() {
            self.activity.wrote(true);
        } else if self.activity.stalled.load(Relaxed) != 0 {
            // Under TLS, and where a write was put off, it may be done and its bytes go out with a flush.
            self.activity.wrote(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.long_target() {
            // hyper takes the error for an end; the answer is yet to be written.
            return Poll::Ready(Ok(()));
        }
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.activity.wrote(shut.is_pending());
        shut
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ahead(cx))?;
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.activity.wrote(wrote.is_pending());
        self.activity.ahead.wrote();
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What a connection is at, and since when.
#[derive(Debug)]
pub(super) struct Activity {
    ticks: Ticks,
    phase: AtomicU8,
    /// When the phase began, or a write made progress in it.
    since: AtomicU64,
    /// Since when a write has made no progress; 0 = none is pending.
    stalled: AtomicU64,
    ended: AtomicBool,
    long_target: AtomicBool,
    body: AtomicBool,
    ahead: Ahead,
    wear: Wear,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// The first byte of a request. What the client sent ahead while an answer was under way does
    /// not count, it is in hyper's buffer: it is either a whole head and asked at once, or its rest is
    /// still to come.
    Idle,
    /// The rest of a head.
    Head,
    /// The handler's answer.
    Busy,
}

impl Activity {
    /// A connection that was just accepted. It may wait for its first request as long as for any
    /// other: load balancers open connections ahead of need.
    pub(super) fn new(ticks: Ticks, wear: Wear) -> Self {
        Self {
            wear,
            phase: AtomicU8::new(Phase::Idle as u8),
            since: AtomicU64::new(ticks.now()),
            stalled: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            long_target: AtomicBool::new(false),
            body: AtomicBool::new(false),
            ahead: Ahead::new(),
            ticks,
        }
    }

    /// A head is complete and its request was handed to the handler.
    pub(super) fn asked(&self, has_body: bool) {
        self.wear.asked();
        self.body.store(has_body, Relaxed);
        self.phase.store(Phase::Busy as u8, Relaxed);
    }

    /// The handler's answer was handed to hyper.
    pub(super) fn answered(&self) {
        self.ahead.answered();
        self.enter(Phase::Idle);
    }

    /// Whether the answer under way is to be the connection's last.
    pub(super) fn is_worn(&self) -> bool {
        self.wear.is_out()
    }

    /// Where interim responses to the request under way go.
    pub(super) fn ahead(&self) -> &Ahead {
        &self.ahead
    }

    /// Whether a request line was longer than a head may be.
    pub(super) fn long_target(&self) -> bool {
        self.long_target.load(Relaxed)
    }

    /// Whether the latest request has a body, so that bytes of it may be under way unread.
    pub(super) fn has_body(&self) -> bool {
        self.body.load(Relaxed)
    }

    /// Whether the client may still be sending a body that was answered within `lately`.
    pub(super) fn may_send_on(&self, lately: Duration) -> bool {
        let since = self.ticks.instant(self.since.load(Relaxed));
        self.has_body() && !self.ended.load(Relaxed) && since.elapsed() < lately
    }

    /// Whether a handler works on an answer.
    pub(super) fn is_busy(&self) -> bool {
        self.phase() == Phase::Busy
    }

    /// Whether a head has begun to come and nothing else is under way, no answer to an earlier one either.
    pub(super) fn in_head(&self) -> bool {
        self.phase() == Phase::Head && !self.has_body() && self.stalled.load(Relaxed) == 0
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.since.store(self.ticks.now(), Relaxed);
    }

    /// A write was tried; it is pending, or made progress (or failed, and then all ends anyway).
    fn wrote(&self, pending: bool) {
        if !pending {
            self.stalled.store(0, Relaxed);
            if self.phase() == Phase::Idle {
                self.since.store(self.ticks.now(), Relaxed);
            }
        } else if self.stalled.load(Relaxed) == 0 {
            self.stalled.store(self.ticks.now(), Relaxed);
        }
    }

    /// Until when the client has to do something, and what it is if it does not.
    pub(super) fn deadline(&self, patience: &Patience) -> Option<(Instant, Refused)> {
        let stalled = self.stalled.load(Relaxed);
        let since = self.since.load(Relaxed);
        let (since, patience, why) = match self.phase() {
            _ if stalled != 0 => (stalled, patience.write, Refused::WriteStalled),
            Phase::Idle => (since, patience.idle, Refused::Idle),
            Phase::Head => (since, patience.head, Refused::SlowHead),
            Phase::Busy => return None,
        };
        Some((self.ticks.instant(since) + TICK + patience, why))
    }
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// The one timer of a connection. It is set anew only when it has rung or when a deadline came
/// nearer, which for a request that arrives and is answered in one go it does not.
#[derive(Debug)]
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(super) fn new(patience: &Patience) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(patience.idle)) }
    }

    /// Ready once `deadline` is over; else the task is woken when it may be. `moved`: whether the waker is
    /// another one than last time.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut moved: bool,
        deadline: Instant,
    ) -> Poll<()> {
        loop {
            if self.sleep.is_elapsed() {
                if deadline <= Instant::now() {
                    return Poll::Ready(());
                }
                self.sleep.as_mut().reset(deadline);
            } else if deadline < self.sleep.deadline() {
                self.sleep.as_mut().reset(deadline);
            } else if !moved {
                return Poll::Pending;
            }
            moved = false;
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// A clock that is read for the price of a load: milliseconds, moved on every [`TICK`].
#[derive(Clone, Debug)]
pub(super) struct Ticks {
    start: Instant,
    /// Never 0, which [`Activity::stalled`] gives a meaning.
    now: Arc<AtomicU64>,
}

impl Ticks {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), now: Arc::new(AtomicU64::new(1)) }
    }

    /// Moves the clock on for as long as it is polled.
    pub(super) async fn run(&self) -> Infallible {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.now.store(now.max(1), Relaxed);
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// Sets the clock.
    #[cfg(test)]
    pub(super) fn set(&self, tick: u64) {
        self.now.store(tick, Relaxed);
    }

    pub(super) fn instant(&self, tick: u64) -> Instant {
        self.start + Duration::from_millis(tick)
    }
}

/// How coarse the clock is.
pub(super) const TICK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(30),
    };

    struct Watched {
        client: DuplexStream,
        timed: Timed<DuplexStream>,
        activity: Arc<Activity>,
        ticks: Ticks,
    }

    impl Watched {
        fn new() -> Self {
            let ticks = Ticks::new();
            let activity =
                Arc::new(Activity::new(ticks.clone(), Wear::new(ticks.clone(), 0, Duration::ZERO)));
            let (client, server) = duplex(8);
            let timed = Timed::new(server, Arc::clone(&activity), 10);
            Self { client, timed, activity, ticks }
        }

        fn at(&self, seconds: u64) {
            self.ticks.now.store(seconds * 1000, Relaxed);
        }

        /// After how many seconds the connection ends for what, if nothing happens any more.
        fn ends(&self) -> Option<(u64, Refused)> {
            let (at, why) = self.activity.deadline(&PATIENCE)?;
            Some(((at - (self.ticks.start + TICK)).as_secs(), why))
        }

        async fn arrives(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.client.write_all(bytes).await.unwrap();
            self.timed.read(&mut [0; 8]).await
        }
    }

    #[tokio::test]
    async fn the_head_time_runs_from_the_first_byte_and_later_ones_do_not_lengthen_it() {
        let mut watched = Watched::new();
        watched.at(5);
        assert_eq!(watched.ends(), Some((75, Refused::Idle)));
        watched.arrives(b"G").await.unwrap();
        assert_eq!(watched.ends(), Some((15, Refused::SlowHead)));
        watched.at(14);
        watched.arrives(b"ET /\n").await.unwrap();
        assert_eq!(watched.ends(), Some((15, Refused::SlowHead)));
    }

    #[tokio::test]
    async fn no_time_runs_while_a_handler_works_whatever_arrives() {
        let mut watched = Watched::new();
        watched.arrives(b"G / \n\n").await.unwrap();
        watched.activity.asked(true);
        assert_eq!(watched.ends(), None);
        watched.arrives(b"body").await.unwrap();
        assert_eq!(watched.ends(), None);
        watched.at(50);
        watched.activity.answered();
        assert_eq!(watched.ends(), Some((125, Refused::Idle)));
    }

    #[tokio::test]
    async fn a_write_that_makes_progress_starts_the_write_time_anew_and_idle_waits_for_it() {
        let mut watched = Watched::new();
        watched.activity.asked(false);
        watched.activity.answered();
        watched.at(1);
        watched.timed.write_all(b"12345678").await.unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..2 {
            assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"9").is_pending());
            assert_eq!(watched.ends(), Some((31, Refused::WriteStalled)));
            watched.at(20);
        }
        watched.client.read_exact(&mut [0; 1]).await.unwrap();
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"9").is_ready());
        assert_eq!(watched.ends(), Some((95, Refused::Idle)));
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"0").is_pending());
        assert_eq!(watched.ends(), Some((50, Refused::WriteStalled)));
    }

    /// A stream as TLS is one: what was written waits for a flush, which has to be asked for twice.
    struct Sluggish(bool);

    impl AsyncWrite for Sluggish {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_flush_that_was_waited_for_ends_the_write_time() {
        let watched = Watched::new();
        watched.activity.answered();
        let mut timed = Timed::new(Sluggish(false), Arc::clone(&watched.activity), 10);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut timed).poll_write(&mut cx, b"12345678").is_ready());
        assert!(Pin::new(&mut timed).poll_flush(&mut cx).is_pending());
        assert_eq!(watched.ends().map(|(_, why)| why), Some(Refused::WriteStalled));
        assert!(Pin::new(&mut timed).poll_flush(&mut cx).is_ready());
        assert_eq!(watched.ends().map(|(_, why)| why), Some(Refused::Idle));
    }

    #[tokio::test]
    async fn no_drain_takes_a_request_that_is_ahead_of_its_time_for_the_end_of_an_answer() {
        let mut watched = Watched::new();
        watched.activity.asked(false);
        watched.activity.answered();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"12345678").is_ready());
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"9").is_pending());
        watched.arrives(b"GET").await.unwrap();
        assert!(!watched.activity.in_head());
        watched.client.read_exact(&mut [0; 8]).await.unwrap();
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"9").is_ready());
        assert!(watched.activity.in_head());
    }

    #[tokio::test]
    async fn an_interim_answer_never_breaks_into_an_earlier_one() {
        let mut watched = Watched::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // An earlier answer of which a part is still to be written.
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"12345678").is_ready());
        watched.activity.ahead.send(http::StatusCode::PROCESSING, &http::HeaderMap::new());
        watched.client.read_exact(&mut [0; 8]).await.unwrap();
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"9").is_ready());
        watched.client.read_exact(&mut [0; 1]).await.unwrap();
        // All of it is out: now it may come, in as many pieces as the client takes.
        let expected = b"HTTP/1.1 102 Processing\r\n\r\n";
        let mut got = [0; 27];
        for part in got.chunks_mut(8) {
            let whole = part.len() < 8;
            assert_eq!(Pin::new(&mut watched.timed).poll_flush(&mut cx).is_ready(), whole);
            watched.client.read_exact(part).await.unwrap();
        }
        assert_eq!(&got, expected);
    }

    #[tokio::test]
    async fn an_interim_answer_that_comes_while_another_is_being_written_comes_before_the_answer_too()
     {
        let mut watched = Watched::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let none = http::HeaderMap::new();
        watched.activity.ahead.send(http::StatusCode::PROCESSING, &none);
        assert!(Pin::new(&mut watched.timed).poll_flush(&mut cx).is_pending());
        watched.activity.ahead.send(http::StatusCode::EARLY_HINTS, &none);
        watched.activity.answered();
        let mut all = Vec::new();
        while Pin::new(&mut watched.timed).poll_write(&mut cx, b"!").is_pending() {
            let mut part = [0; 8];
            let read = watched.client.read(&mut part).await.unwrap();
            all.extend_from_slice(&part[..read]);
        }
        assert!(Pin::new(&mut watched.timed).poll_flush(&mut cx).is_ready());
        drop(watched.timed);
        watched.client.read_to_end(&mut all).await.unwrap();
        let expected = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n!";
        assert_eq!(String::from_utf8(all).unwrap(), expected);
    }

    #[tokio::test]
    async fn an_interim_answer_that_can_not_come_before_its_own_is_dropped() {
        let mut watched = Watched::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"1").is_ready());
        watched.activity.ahead.send(http::StatusCode::PROCESSING, &http::HeaderMap::new());
        watched.activity.answered();
        assert!(Pin::new(&mut watched.timed).poll_flush(&mut cx).is_ready());
        assert!(Pin::new(&mut watched.timed).poll_write(&mut cx, b"2").is_ready());
        drop(watched.timed);
        let mut all = Vec::new();
        watched.client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"12");
    }

    #[tokio::test]
    async fn only_the_request_line_is_held_to_its_length() {
        let mut watched = Watched::new();
        watched.arrives(b"12345678").await.unwrap();
        watched.arrives(b"9\n234567").await.unwrap();
        watched.arrives(b"12345678").await.unwrap();
        assert!(!watched.activity.long_target());
        watched.activity.asked(false);
        watched.activity.answered();
        watched.arrives(b"12345678").await.unwrap();
        assert!(watched.arrives(b"12").await.is_err());
        assert!(watched.activity.long_target());
    }

    #[tokio::test]
    async fn the_ticks_move_and_a_timer_is_never_early() {
        let ticks = Ticks::new();
        let activity = Activity::new(ticks.clone(), Wear::new(ticks.clone(), 0, Duration::ZERO));
        let patience = Patience { idle: TICK, ..PATIENCE };
        let began = Instant::now();
        let mut alarm = Alarm::new(&patience);
        let (deadline, why) = activity.deadline(&patience).unwrap();
        tokio::select! {
            () = std::future::poll_fn(|cx| alarm.poll(cx, true, deadline)) => {}
            never = ticks.run() => match never {},
        }
        assert_eq!(why, Refused::Idle);
        assert!(began.elapsed() >= TICK && ticks.now() > 1);
    }
}
