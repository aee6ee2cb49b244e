//! [`Pool`]: connections to the upstreams, kept from one exchange to the next.
//!
//! *Invariants*
//! 1. Nothing is sent twice here, and nothing is tried again.
//! 2. An HTTP/1.1 connection has one exchange at a time, and is kept only after one that ended well. An HTTP/2
//!    connection is shared until it closes or is retired, and of one upstream one is.
//! 3. Nobody is given a connection that grew too old, or that was idle for longer than he allows. What was idle
//!    for `upstream.idle` is closed soon after, also when nobody asks.
//! 4. Who waits for a new connection takes one that comes free before it.
//!
//! *Why not hyper-util's:* a tenth of a miss went into it (slowly hashed keys, a task for each answer whose body
//! is still to come), it knows one idle time, and it says of what failed less than hyper does.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Connector, Span};
use super::failure::NoHead;
use crate::config;
use crate::wake::until;

/// Connections to all upstreams.
pub(super) struct Pool(Arc<Inner>);

/// What lent connections come back to. The tasks of connections are spawned as hyper-util did it: a drain waits for
/// the exchanges, not for what they ran on.
struct Inner {
    connector: Connector,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// How long a connection may be idle.
    idle: Duration,
    /// One for each upstream.
    stocks: Box<[Stock]>,
    /// Whether the task is there that closes what was idle for too long.
    is_swept: AtomicBool,
}

/// The connections to an upstream that can be lent.
#[derive(Default)]
struct Stock {
    lines: Mutex<Lines>,
    /// One of them came free.
    freed: Notify,
}

#[derive(Default)]
struct Lines {
    /// Of HTTP/1.1, idle; those that came last are at the end.
    own: Vec<Own>,
    /// Of HTTP/2.
    shared: Option<Shared>,
}

struct Own {
    sender: http1::SendRequest<Full<Bytes>>,
    span: Span,
    since: Instant,
}

#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    span: Span,
    /// When an answer last came by it. Who was lent it has a clone.
    used: Arc<Mutex<Instant>>,
}

/// A connection that is lent for one exchange. Who drops it has it closed, or if it is shared, his part of it.
pub(super) struct Lent {
    sender: Sender,
    span: Span,
    /// Whether it was there before it was asked for.
    pub(super) reused: bool,
    is_good: bool,
    /// Whose connection it is, by the number of the upstream.
    upstream: usize,
    home: Arc<Inner>,
}

enum Sender {
    Own(http1::SendRequest<Full<Bytes>>),
    Shared(Shared),
}

impl Pool {
    pub(super) fn new(limits: &config::Upstream, connector: Connector, upstreams: usize) -> Self {
        let mut http1 = http1::Builder::new();
        http1.max_headers(limits.max_fields).max_buf_size(HEAD_SIZE);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(HTTP2_HEAD_SIZE)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let stocks = std::iter::repeat_with(Stock::default).take(upstreams).collect();
        let (idle, is_swept) = (limits.idle, AtomicBool::new(false));
        Self(Arc::new(Inner { connector, http1, http2, idle, stocks, is_swept }))
    }

    /// A connection to an upstream that was idle for less than `idle`, or a new one to `base`, whichever is there
    /// first.
    ///
    /// # Errors
    /// When none comes about: nothing was sent.
    pub(super) async fn lend(
        &self,
        upstream: usize,
        base: &Uri,
        idle: Duration,
        now: Instant,
    ) -> Result<Lent, NoHead> {
        let Some(stock) = self.0.stocks.get(upstream) else { return Err(NoHead::closed()) };
        if let Some(lent) = self.at_hand(upstream, stock, idle, now) {
            return Ok(lent);
        }
        let freed = until(&stock.freed, || self.at_hand(upstream, stock, idle, Instant::now()));
        // Boxed: it would make the future of every exchange larger.
        let mut connecting = Box::pin(Arc::clone(&self.0).connect(upstream, base.clone()));
        tokio::select! {
            biased;
            lent = freed => {
                // It was needed, and will be: what it cost so far is not for nothing.
                if !lent.speaks_http2() {
                    TokioExecutor::new().execute(async {
                        if let Ok(lent) = connecting.await {
                            lent.keep(Instant::now());
                        }
                    });
                }
                Ok(lent)
            }
            lent = &mut connecting => lent,
        }
    }

    /// A new connection to an upstream.
    ///
    /// # Errors
    /// When none comes about: nothing was sent.
    pub(super) async fn connect(&self, upstream: usize, base: &Uri) -> Result<Lent, NoHead> {
        Box::pin(Arc::clone(&self.0).connect(upstream, base.clone())).await
    }

    fn at_hand(
        &self,
        upstream: usize,
        stock: &Stock,
        idle: Duration,
        now: Instant,
    ) -> Option<Lent> {
        let mut lines = stock.lines.lock();
        let (sender, span) = if let Some(shared) = lines.shared(idle.min(self.0.idle), now) {
            (Sender::Shared(shared.clone()), shared.span)
        } else {
            let own = lines.own(idle, self.0.idle, now)?;
            (Sender::Own(own.sender), own.span)
        };
        drop(lines);
        let home = Arc::clone(&self.0);
        Some(Lent { sender, span, reused: true, is_good: true, upstream, home })
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Pool(…)")
    }
}

impl Lines {
    fn shared(&mut self, idle: Duration, now: Instant) -> Option<&Shared> {
        self.shared.take_if(|shared| shared.is_over(now));
        self.shared.as_ref().filter(|shared| shared.idle(now) < idle)
    }

    /// The one that came last. Those that are of no use any more go on the way to it.
    fn own(&mut self, at_most: Duration, idle: Duration, now: Instant) -> Option<Own> {
        for at in (0..self.own.len()).rev() {
            let own = self.own.get(at)?;
            if own.is_over(idle, now) || !own.sender.is_ready() {
                self.own.remove(at);
            } else if now.saturating_duration_since(own.since) >= at_most {
                // Nor did those before it come later.
                return None;
            } else {
                return Some(self.own.remove(at));
            }
        }
        None
    }
}

impl Own {
    fn is_over(&self, idle: Duration, now: Instant) -> bool {
        self.sender.is_closed()
            || self.span.is_over(now)
            || now.saturating_duration_since(self.since) >= idle
    }
}

impl Shared {
    fn is_over(&self, now: Instant) -> bool {
        self.sender.is_closed() || self.span.is_over(now)
    }

    /// Since when no answer came by it, if nobody has it: asked of what the stock has.
    fn idle(&self, now: Instant) -> Duration {
        if Arc::strong_count(&self.used) > 1 {
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.used.lock())
    }
}

impl Inner {
    async fn connect(self: Arc<Self>, upstream: usize, base: Uri) -> Result<Lent, NoHead> {
        let line = self.connector.open(base).await.map_err(NoHead::from_connecting)?;
        let span = line.span();
        let executor = TokioExecutor::new();
        let sender = if line.speaks_http2() {
            let handshake = self.http2.handshake(line).await;
            let (sender, connection) = handshake.map_err(|_ended| NoHead::closed())?;
            executor.execute(async { drop(connection.await) });
            let shared = Shared { sender, span, used: Arc::new(Mutex::new(span.opened)) };
            self.share(upstream, &shared);
            Sender::Shared(shared)
        } else {
            let handshake = self.http1.handshake(line).await;
            let (sender, connection) = handshake.map_err(|_ended| NoHead::closed())?;
            executor.execute(async { drop(connection.await) });
            Sender::Own(sender)
        };
        Ok(Lent { sender, span, reused: false, is_good: true, upstream, home: self })
    }

    /// Has others share a connection, unless there is one that somebody has.
    fn share(self: &Arc<Self>, upstream: usize, shared: &Shared) {
        let (Some(stock), now) = (self.stocks.get(upstream), Instant::now()) else { return };
        let mut lines = stock.lines.lock();
        let is_had = |other: &Shared| !other.is_over(now) && other.idle(now).is_zero();
        if !lines.shared.as_ref().is_some_and(is_had) {
            let last = lines.shared.replace(shared.clone());
            drop(lines);
            drop(last);
            stock.freed.notify_waiters();
            self.see_to_sweeping();
        }
    }

    /// Takes an idle connection back.
    fn take_back(self: &Arc<Self>, upstream: usize, own: Own) {
        let Some(stock) = self.stocks.get(upstream) else { return };
        stock.lines.lock().own.push(own);
        stock.freed.notify_one();
        self.see_to_sweeping();
    }

    /// Closes what was idle for too long, for as long as the pool is there.
    fn see_to_sweeping(self: &Arc<Self>) {
        if self.is_swept.load(Ordering::Relaxed) || self.is_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let (inner, pause) = (Arc::downgrade(self), (self.idle / 2).max(SWEEP));
        TokioExecutor::new().execute(sweep(inner, pause));
    }
}

async fn sweep(inner: Weak<Inner>, pause: Duration) {
    loop {
        sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        let now = Instant::now();
        for stock in &inner.stocks {
            let mut lines = stock.lines.lock();
            let over: Vec<_> =
                lines.own.extract_if(.., |own| own.is_over(inner.idle, now)).collect();
            let shared = lines
                .shared
                .take_if(|shared| shared.is_over(now) || shared.idle(now) >= inner.idle);
            drop(lines);
            // Each wakes a task: not under the lock.
            drop((over, shared));
        }
    }
}

impl Lent {
    /// Whether it speaks HTTP/2: targets are then told with their authority (RFC 9113 §8.3.1).
    pub(super) fn speaks_http2(&self) -> bool {
        matches!(self.sender, Sender::Shared(_))
    }

    /// Sends a request; resolves when the head of its answer is there.
    ///
    /// # Errors
    /// When none came, and whether any of the request was written.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, NoHead> {
        let answered = match &mut self.sender {
            Sender::Own(sender) => sender.try_send_request(request).await,
            Sender::Shared(shared) => shared.sender.try_send_request(request).await,
        };
        answered.map_err(|mut error| {
            // hyper hands back what it wrote no byte of.
            let unsent = error.take_message().is_some();
            NoHead::from_sending(&error.into_error(), unsent)
        })
    }

    /// Keeps it from being used again.
    pub(super) fn retire(&mut self) {
        self.is_good = false;
        if let (Sender::Shared(mine), Some(stock)) =
            (&self.sender, self.home.stocks.get(self.upstream))
        {
            let mut lines = stock.lines.lock();
            lines.shared.take_if(|shared| Arc::ptr_eq(&shared.used, &mine.used));
        }
    }

    /// The exchange ended well, just now: the next one may have it.
    pub(super) fn keep(self, now: Instant) {
        let Self { span, is_good, upstream, home, .. } = self;
        let mut sender = match self.sender {
            Sender::Own(sender) if is_good && !sender.is_closed() => sender,
            Sender::Own(_) => return,
            Sender::Shared(shared) => {
                *shared.used.lock() = now;
                return;
            }
        };
        if sender.is_ready() {
            return home.take_back(upstream, Own { sender, span, since: now });
        }
        // On another thread hyper is not through with the last answer yet.
        TokioExecutor::new().execute(async move {
            if let Ok(Ok(())) = timeout(home.idle, sender.ready()).await {
                home.take_back(upstream, Own { sender, span, since: Instant::now() });
            }
        });
    }
}

/// Most bytes of an HTTP/1.1 head; the read that passes it may bring some more.
pub(super) const HEAD_SIZE: usize = 64 << 10;

/// The same for HTTP/2, counted as RFC 9113 §6.5.2 does.
const HTTP2_HEAD_SIZE: u32 = 64 << 10;

/// HTTP/2 connections with open streams are asked this often whether they are alive.
const PING: Duration = Duration::from_secs(5);

/// Idle connections are looked through no oftener than this.
const SWEEP: Duration = Duration::from_millis(100);
