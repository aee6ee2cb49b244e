//! One connection of HTTP/1.1 from its first byte to its last, and what all connections share.
//!
//! *Invariants*
//! 1. Its last answer says so: when it is worn, when the port drains.
//! 2. An answer that may still be unread is not lost to a reset: the client's unread bytes are taken
//!    off for a moment before the socket is closed (RFC 9112 §9.6).
//! 3. What the client did wrong is answered where that is still possible.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use super::http2::Here;
use super::io::{Activity, Alarm, Patience, Ticks, Timed};
use super::line::Line;
use super::peers::Peers;
use super::tls::Tls;
use super::wear::Wear;
use super::{Handler, Refused};
use crate::clock::{Clock, Dice};
use crate::config;
use crate::socket::Watch;

/// What connections share that are held to the same configuration.
pub(super) struct Port<H> {
    pub(super) handler: H,
    pub(super) ticks: Ticks,
    pub(super) patience: Patience,
    pub(super) tls: Option<Tls>,
    pub(super) http2: http2::Builder<Here>,
    /// HTTP/2 without TLS.
    pub(super) h2c: bool,
    pub(super) proxy_protocol: bool,
    pub(super) peers: Peers,
    pub(super) control_frames: u32,
    pub(super) drain: Arc<Drain>,
    trusted: Vec<IpNet>,
    clock: Clock,
    dice: Dice,
    http1: http1::Builder,
    requests: u64,
    age: Duration,
    longest_line: usize,
}

/// The end of all connections of one `serve`.
#[derive(Debug, Default)]
pub(super) struct Drain {
    pub(super) began: Notify,
    draining: AtomicBool,
}

impl<H: Handler> Port<H> {
    pub(super) fn new(
        config: &config::Listen,
        tls: Option<Tls>,
        clock: Clock,
        dice: Dice,
        handler: H,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        http1.header_read_timeout(None);
        http1.max_header_size(config.head_size).max_buf_size(config.head_size.max(SMALLEST_BUFFER));
        // hyper's own count; another one costs an allocation per request.
        if config.fields != HYPERS_FIELDS {
            http1.max_headers(config.fields);
        }
        Self {
            handler,
            tls,
            http2: super::http2::builder(config),
            h2c: config.http2 == config::Http2::All,
            proxy_protocol: config.proxy_protocol,
            peers: Peers::new(config.connections_per_peer),
            control_frames: config.control_frames,
            trusted: config.trusted.clone(),
            requests: config.connection_requests,
            age: config.connection_age,
            ticks: Ticks::new(),
            clock,
            dice,
            http1,
            patience: Patience { head: config.head, idle: config.idle, write: config.write },
            longest_line: config.head_size.min(LONGEST_LINE),
            drain: Arc::default(),
        }
    }

    /// For the connections to come, which are held to another configuration: they count, and drain, with those
    /// that there are.
    pub(super) fn under(&self, config: &config::Listen) -> Self {
        let (tls, clock, dice) = (self.tls.clone(), self.clock.clone(), self.dice.clone());
        Self {
            peers: self.peers.under(config.connections_per_peer),
            ticks: self.ticks.clone(),
            drain: Arc::clone(&self.drain),
            ..Self::new(config, tls, clock, dice, self.handler.clone())
        }
    }

    /// What a new connection may last.
    pub(super) fn wear(&self) -> Wear {
        Wear::new(self.ticks.clone(), self.requests, self.dice.shorten(self.age, AGE_JITTER))
    }

    /// Whether a peer is believed what it says of clients.
    pub(super) fn is_trusted(&self, peer: IpAddr) -> bool {
        config::covers(&self.trusted, peer)
    }

    /// Tells every connection that it has to come to its end.
    pub(super) fn drain(&self) {
        self.drain.draining.store(true, Ordering::Release);
        self.drain.began.notify_waiters();
    }

    pub(super) fn draining(&self) -> bool {
        self.drain.draining.load(Ordering::Acquire)
    }

    /// An answer of the listener's own, without content. With `Date` (RFC 9110 §6.6.1).
    pub(super) fn answer(&self, status: &str) -> String {
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + self.clock.now().wall);
        format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\ndate: {date}\r\n\r\n"
        )
    }
}

/// Serves one connection of HTTP/1.1 to its end.
pub(super) async fn run<H: Handler>(stream: Line, peer: SocketAddr, port: Arc<Port<H>>) {
    let activity = Arc::new(Activity::new(port.ticks.clone(), port.wear()));
    let (ended, stream) = exchange(stream, peer, &port, &activity).await;
    if let Some(why) = ended {
        port.handler.refused(why, peer);
    }
    match ended {
        // What looks like a head behind a body may be what is left of that body, and an answer to it
        // would be taken for one to the next request.
        Some(Refused::SlowHead) if !activity.has_body() => {
            farewell(stream, port.answer("408 Request Timeout")).await;
        }
        Some(Refused::LongTarget) => farewell(stream, port.answer("414 URI Too Long")).await,
        Some(Refused::MalformedHead | Refused::LargeHead) => farewell(stream, String::new()).await,
        None if activity.may_send_on(FAREWELL) => farewell(stream, String::new()).await,
        Some(Refused::WriteStalled) => stream.reset_on_close(),
        _ => {}
    }
}

/// Requests and answers until the connection ends, in order (`None`) or not; gives the stream back.
async fn exchange<H: Handler>(
    mut stream: Line,
    peer: SocketAddr,
    port: &Port<H>,
    activity: &Arc<Activity>,
) -> (Option<Refused>, Line) {
    // Lent to each request, which is over before they are: nothing is counted for it.
    let (handler, session) = (&port.handler, &port.handler.session(peer));
    let service = service_fn(move |mut request: Request<Incoming>| {
        activity.asked(!request.body().is_end_stream());
        async move {
            let mut response = handler.call(&mut request, session, activity.ahead()).await;
            if activity.is_worn() {
                // RFC 9112 §9.6; hyper closes after an answer that says so.
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
            activity.answered();
            Ok::<_, Infallible>(response)
        }
    });
    // A client that closes its side has left (as nginx sees it): else nobody would notice one that really has while
    // its request is worked on. hyper looks for that right after each head, into a buffer that it makes anew since the
    // head is still in the last one: some 3 % of a hit. Where we can look ourselves, we do, and only while we wait.
    let socket = stream.socket().map(|socket| {
        // Neither below TLS, whose records cost more than what this saves, nor below HTTP/2, which gathers by itself.
        socket.put_off_writes();
        socket.watch()
    });
    let mut http1 = port.http1.clone();
    http1.half_close(socket.is_some());
    let has_left = |cx: &mut Context<'_>| {
        activity.is_busy() && socket.as_ref().is_some_and(|socket| socket.poll_ended(cx).is_ready())
    };
    let settled = || socket.as_ref().is_none_or(Watch::is_settled);
    let timed = Timed::new(stream, Arc::clone(activity), port.longest_line);
    let mut connection = http1.serve_connection(TokioIo::new(timed), service);
    let mut alarm = Alarm::new(&port.patience);
    let mut drain_began = pin!(port.drain.began.notified());
    let mut waker: Option<Waker> = None;
    let mut told = false;
    let ended = poll_fn(|cx| {
        // Asked again only under another waker: it takes a lock that all connections share.
        let moved = !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if moved {
            waker = Some(cx.waker().clone());
            let _registered = drain_began.as_mut().poll(cx);
        }
        let mut served = Pin::new(&mut connection).poll(cx);
        // Told after a look at what has come in, so that a request which is there is still answered.
        if served.is_pending() && !told && port.draining() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
            served = Pin::new(&mut connection).poll(cx);
        }
        match served {
            Poll::Ready(served) => {
                let failed = socket.as_ref().is_some_and(Watch::has_failed);
                Poll::Ready(judge(served, failed, activity))
            }
            // What has begun to come is no request yet, and may never be one: no drain waits for it.
            Poll::Pending if told && activity.in_head() && settled() => Poll::Ready(None),
            Poll::Pending if has_left(cx) => Poll::Ready(Some(Refused::Aborted)),
            Poll::Pending => match activity.deadline(&port.patience) {
                Some((at, why)) => alarm.poll(cx, moved, at).map(|()| Some(why)),
                None => Poll::Pending,
            },
        }
    })
    .await;
    (ended, connection.into_parts().io.into_inner().into_inner())
}

/// What the end of hyper's part means; `failed`: something written could not be sent. It has answered by itself to what
/// it could not parse.
fn judge(served: hyper::Result<()>, failed: bool, activity: &Activity) -> Option<Refused> {
    if activity.long_target() {
        return Some(Refused::LongTarget);
    }
    let error = served.err()?;
    if error.is_parse_too_large() {
        Some(Refused::LargeHead)
    } else if error.is_parse() {
        Some(Refused::MalformedHead)
    } else if error.is_user() {
        Some(Refused::BadReply)
    } else if error.is_shutdown() && !failed {
        // The client was quicker; all was said.
        None
    } else {
        Some(Refused::Aborted)
    }
}

/// Sends `answer`, closes our side, and takes off for a moment what the client still sends: closing at
/// once would reset the connection, and the client could lose an answer that it has not read yet.
pub(super) async fn farewell(mut stream: Line, answer: String) {
    let parting = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // Whatever comes of it, the connection ends here.
    drop(tokio::time::timeout(FAREWELL, parting).await);
}

/// How long a closed connection's last bytes are waited for.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// hyper's default for the number of fields.
const HYPERS_FIELDS: usize = 100;

/// Part of a connection's age that chance may take away, so that not all end together.
const AGE_JITTER: f64 = 0.25;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// hyper's smallest buffer for a connection; smaller heads are still held to `listen.head_size`.
const SMALLEST_BUFFER: usize = 8192;

/// Below hyper's own limit of a target, so that each over-long one is answered and counted here.
const LONGEST_LINE: usize = 65_000;
