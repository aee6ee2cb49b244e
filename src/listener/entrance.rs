//! From an accepted stream to what is spoken on it: the PROXY header, TLS, HTTP/1.1 or HTTP/2.
//!
//! *Invariants*
//! 1. All of it takes at most `listen.head` from its first byte on, and nothing once draining has begun.
//! 2. A connection counts at the address that it is really from, where that is told by a trusted peer.
//! 3. Where none of it is configured, a connection pays for none of it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connection::{self, Port, farewell};
use super::frames::PREFACE;
use super::line::Line;
use super::rewound::Rewound;
use super::tls::{H2, Tls};
use super::{Change, Handler, Refused, http2, proxy};
use crate::socket::send_what_was_put_off;

/// Serves a connection, whatever it turns out to speak.
pub(super) async fn run<H: Handler>(stream: Line, peer: SocketAddr, port: Arc<Port<H>>) {
    let _counted = Counted::new(&port.handler);
    let announced = port.proxy_protocol && port.is_trusted(peer.ip());
    if port.tls.is_none() && !port.h2c && !announced {
        let Some(_place) = port.peers.admit(peer.ip()) else {
            return turn_away(stream, peer, &port, Refused::PeerFull, BRIEF).await;
        };
        return connection::run(stream, peer, Arc::clone(&port)).await;
    }
    // Boxed: it would make the future of every plain connection larger.
    Box::pin(through(Rewound::new(stream), peer, Arc::clone(&port), announced)).await;
}

/// Answers 503 where that can be said, and closes.
pub(super) async fn turn_away<H: Handler>(
    stream: Line,
    peer: SocketAddr,
    port: &Port<H>,
    why: Refused,
    patience: Duration,
) {
    port.handler.refused(why, peer);
    if port.tls.is_none() {
        let answer = port.answer("503 Service Unavailable\r\nretry-after: 1");
        // Whatever comes of it, the connection ends here.
        drop(timeout(patience, farewell(stream, answer)).await);
    }
}

async fn through<H: Handler>(
    mut stream: Rewound<Line>,
    mut peer: SocketAddr,
    port: Arc<Port<H>>,
    announced: bool,
) {
    if announced {
        match in_time(&port, port.patience.head, proxy::announced(&mut stream, peer)).await {
            Passed::Done(Ok(client)) => peer = client,
            Passed::Draining => return,
            Passed::Done(Err(_)) | Passed::TimedOut => {
                return port.handler.refused(Refused::BadProxyHeader, peer);
            }
        }
    }
    let Some(_place) = port.peers.admit(peer.ip()) else {
        return turn_away(rewound(stream), peer, &port, Refused::PeerFull, BRIEF).await;
    };
    if let Some(tls) = port.tls.clone() {
        secured(rewound(stream), peer, port, &tls).await;
    } else if port.h2c {
        plain(stream, peer, port).await;
    } else {
        connection::run(rewound(stream), peer, port).await;
    }
}

/// The line that a stream is which was looked into.
fn rewound(stream: Rewound<Line>) -> Line {
    stream.into_inner().unwrap_or_else(|stream| Line::Rewound(Box::new(stream)))
}

/// TLS, and inside it what was agreed on (RFC 7301).
///
/// What fails is told before the stream is closed.
async fn secured<H: Handler>(stream: Line, peer: SocketAddr, port: Arc<Port<H>>, tls: &Tls) {
    let mut handshake = pin!(tls.acceptor().accept(stream).into_fallible());
    let handshake = poll_fn(|cx| {
        // A step of it takes as long as fifty hits.
        send_what_was_put_off();
        handshake.as_mut().poll(cx)
    });
    match in_time(&port, port.patience.head, handshake).await {
        Passed::Done(Ok(stream)) => {
            let http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
            let stream = Line::Tls(Box::new(stream));
            if http2 {
                http2::run(stream, peer, port).await;
            } else {
                connection::run(stream, peer, port).await;
            }
        }
        Passed::Draining => {}
        Passed::Done(Err(_)) | Passed::TimedOut => port.handler.refused(Refused::TlsFailed, peer),
    }
}

/// HTTP/2 for who begins with its preface (RFC 9113 §3.3), HTTP/1.1 for all others.
async fn plain<H: Handler>(mut stream: Rewound<Line>, peer: SocketAddr, port: Arc<Port<H>>) {
    loop {
        let ahead = stream.ahead();
        if ahead.len() >= PREFACE.len() || !PREFACE.starts_with(ahead) {
            break;
        }
        let begun = !ahead.is_empty();
        let patience = if begun { port.patience.head } else { port.patience.idle };
        match in_time(&port, patience, stream.more()).await {
            Passed::Done(Ok(read)) if read > 0 => {}
            // What there is goes to HTTP/1.1, which knows what to make of half a head.
            Passed::Done(_) => break,
            Passed::Draining => return,
            Passed::TimedOut => {
                let why = if begun { Refused::SlowHead } else { Refused::Idle };
                return port.handler.refused(why, peer);
            }
        }
    }
    let http2 = stream.ahead().starts_with(PREFACE);
    if http2 {
        http2::run(rewound(stream), peer, port).await;
    } else {
        connection::run(rewound(stream), peer, port).await;
    }
}

/// How something that takes time came out.
enum Passed<T> {
    Done(T),
    TimedOut,
    Draining,
}

/// What comes first: `work`'s end, its time's end, or the drain.
async fn in_time<H: Handler, T>(
    port: &Port<H>,
    patience: Duration,
    work: impl Future<Output = T>,
) -> Passed<T> {
    let mut drain_began = pin!(port.drain.began.notified());
    drain_began.as_mut().enable();
    if port.draining() {
        return Passed::Draining;
    }
    tokio::select! {
        biased;
        done = timeout(patience, work) => done.map_or(Passed::TimedOut, Passed::Done),
        () = drain_began => Passed::Draining,
    }
}

/// A connection in the handler's count.
struct Counted<'a, H: Handler>(&'a H);

impl<'a, H: Handler> Counted<'a, H> {
    fn new(handler: &'a H) -> Self {
        handler.connections(Change::Opened);
        Self(handler)
    }
}

impl<H: Handler> Drop for Counted<'_, H> {
    fn drop(&mut self) {
        self.0.connections(Change::Closed);
    }
}

/// How long who has too many connections may hold one more: it is a place that others could have.
const BRIEF: Duration = Duration::from_millis(50);
