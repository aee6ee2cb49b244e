//! One HTTP/2 connection from its preface to its end (RFC 9113).
//!
//! *Invariants*
//! 1. It ends, in order or not, when no stream is open for `listen.idle`, when a head takes longer than
//!    `listen.head`, when nothing of one answer is taken for `listen.write`, and when it floods.
//! 2. When it is worn or the port drains, GOAWAY is sent and what is under way is finished.
//! 3. Who leaves one answer and takes others gets those: GOAWAY, and once more `listen.write` for them.
//! 4. Every head that hyper refused by itself is told.
//!
//! *Why not reset that one stream:* hyper hands an answer to h2 whole, and of what waits there for a window
//! nobody outside can take hold.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::connection::{FAREWELL, Port};
use super::framed::Framed;
use super::io::{Alarm, Patience, TICK};
use super::line::Line;
use super::pulse::{Answered, End, Pulse};
use super::{Ahead, Handler, Refused};
use crate::config;

/// How HTTP/2 is spoken.
pub(super) fn builder(config: &config::Listen) -> http2::Builder<Here> {
    let mut http2 = http2::Builder::new(Here);
    // A head that is too large is the gateway's to answer; above twice the size it isn't kept.
    let head_size = u32::try_from(config.head_size.saturating_mul(2)).unwrap_or(u32::MAX);
    http2
        .max_concurrent_streams(config.streams)
        .max_header_list_size(head_size)
        // Bodies of requests are small, and what is under way of them is memory.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    http2
}

/// Serves one connection to its end.
pub(super) async fn run<H: Handler>(stream: Line, peer: SocketAddr, port: Arc<Port<H>>) {
    let pulse = Arc::new(Pulse::new(port.ticks.clone(), port.wear()));
    exchange(stream, peer, &port, &pulse).await;
}

async fn exchange<H: Handler>(stream: Line, peer: SocketAddr, port: &Port<H>, pulse: &Arc<Pulse>) {
    let session = port.handler.session(peer);
    let asked = Arc::new((port.handler.clone(), session, Arc::clone(pulse)));
    let service = service_fn(move |mut request: Request<Incoming>| {
        join_cookies(request.headers_mut());
        let head = request.method() == Method::HEAD;
        let asked = Arc::clone(&asked);
        let working = asked.2.asked();
        async move {
            let (handler, session, _) = &*asked;
            // Interim responses go to clients of HTTP/1.1 only: hyper can't send them here.
            let mut response = handler.call(&mut request, session, &Ahead::new()).await;
            // RFC 9113 §8.2.2: GOAWAY says it here.
            response.headers_mut().remove(CONNECTION);
            if head {
                tell_length(&mut response);
            }
            let answered = working.answered();
            Ok::<_, Infallible>(response.map(|body| Answered::new(body, head, answered)))
        }
    });
    let framed = Framed::new(stream, Arc::clone(pulse), port.control_frames);
    let serving = port.http2.serve_connection(TokioIo::new(framed.clone()), service);
    let mut connection = pin!(serving);
    let mut alarm = Alarm::new(&port.patience);
    let mut drain_began = pin!(port.drain.began.notified());
    let mut parting = None::<Parting>;
    let told = |parting: Option<Parting>| parting.and_then(|parting| parting.why);
    let ended = poll_fn(|cx| {
        let _registered = drain_began.as_mut().poll(cx);
        loop {
            if let Poll::Ready(served) = connection.as_mut().poll(cx) {
                return Poll::Ready(judge(served, pulse).or_else(|| told(parting)));
            }
            if let Poll::Ready(Err(_gone)) = framed.send(cx) {
                return Poll::Ready(Some(Refused::Aborted));
            }
            if parting.is_none() && (port.draining() || pulse.is_worn()) {
                parting = Some(Parting::new());
                connection.as_mut().graceful_shutdown();
                continue;
            }
            match ready!(end(cx, &mut alarm, pulse, &port.patience, parting)) {
                // A request that crosses the end is to know that it was not worked on (RFC 9113 §6.8).
                Some(End::InOrder(why)) => {
                    let begun = parting.unwrap_or_else(Parting::new);
                    parting = Some(Parting { why: Some(why), ..begun });
                    connection.as_mut().graceful_shutdown();
                }
                Some(End::AtOnce(why)) => return Poll::Ready(Some(why)),
                None => return Poll::Ready(told(parting)),
            }
        }
    })
    .await;
    // Told while the client can't have seen the end yet.
    if let Some(why) = ended {
        port.handler.refused(why, peer);
    }
    let refused = pulse.refused();
    if refused > 0 {
        port.handler.streams_refused(refused);
    }
}

/// A client that was told to leave.
#[derive(Clone, Copy, Debug)]
struct Parting {
    told: Instant,
    /// What ends the connection, if it is not in order.
    why: Option<Refused>,
}

impl Parting {
    fn new() -> Self {
        Self { told: Instant::now(), why: None }
    }
}

/// Whether the client has let its time run out.
fn end(
    cx: &mut Context<'_>,
    alarm: &mut Alarm,
    pulse: &Pulse,
    patience: &Patience,
    parting: Option<Parting>,
) -> Poll<Option<End>> {
    let (mut at, mut how) = pulse.deadline(patience).unzip();
    if let Some(parting) = parting {
        let stalled = parting.why == Some(Refused::WriteStalled);
        let longest = parting.told + LONGEST_PARTING;
        // Who was told to leave and has nothing under way may have left without a word, and who never
        // confirms that it was told could go on asking for ever.
        let (until, last) = match (at, how) {
            _ if pulse.is_idle() => (parting.told + FAREWELL, None),
            // What is left for as long again is cut. If it moves meanwhile, its time begins anew.
            (Some(left), Some(End::InOrder(Refused::WriteStalled))) if stalled => {
                let until = longest.min(left + patience.write);
                (until, Some(End::AtOnce(Refused::WriteStalled)))
            }
            _ => (longest, None),
        };
        let known = matches!(how, Some(End::InOrder(why)) if stalled || why == Refused::Idle);
        if known || at.is_none_or(|at| at > until) {
            (at, how) = (Some(until), last);
        }
    }
    // With nothing to wait for, another look when the shortest time could have run out: a stream's end
    // doesn't wake this task.
    let again = patience.idle.min(patience.write) + TICK;
    loop {
        let due = at.unwrap_or_else(|| Instant::now() + again);
        ready!(alarm.poll(cx, true, due));
        if at.is_some() {
            if how == Some(End::AtOnce(Refused::WriteStalled)) {
                pulse.reset_on_close();
            }
            return Poll::Ready(how);
        }
    }
}

/// Joins what HTTP/2 lets a client split: other recipients know one line only (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    if fields.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Never refused: it is made of values that were valid.
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        fields.insert(COOKIE, whole);
    }
}

/// The length that the answer to GET would have (RFC 9110 §9.3.2): what answers HEAD has no content, which
/// hyper sees to in HTTP/1.1 only.
fn tell_length<B: Body>(response: &mut Response<B>) {
    let length = response.body().size_hint().exact().filter(|length| *length > 0);
    if let Some(length) = length.filter(|_| !response.headers().contains_key(CONTENT_LENGTH)) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// What the end of hyper's part means.
fn judge(served: hyper::Result<()>, pulse: &Pulse) -> Option<Refused> {
    if pulse.has_flooded() {
        return Some(Refused::Flood);
    }
    let error = served.err()?;
    let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    match causes.find_map(|cause| cause.downcast_ref::<h2::Error>()) {
        // GOAWAY that we sent for what the client did.
        Some(error) if error.is_go_away() && error.is_library() => Some(Refused::Http2),
        // The client left, with GOAWAY in order or without a word.
        Some(error) if error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) => None,
        _ => Some(Refused::Aborted),
    }
}

/// Runs streams beside their connection, on its worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here;

impl<F> Executor<F> for Here
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        #[expect(
            clippy::disallowed_methods,
            reason = "the drain waits for the connection, and that for its streams"
        )]
        tokio::spawn(stream);
    }
}

/// How long who was told to leave may still be sent what is under way.
const LONGEST_PARTING: Duration = Duration::from_mins(5);

/// What of a request's body may be under way on a stream.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 256 << 10;
