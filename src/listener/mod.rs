//! The public port: accepts connections, speaks HTTP/1.1, 1.0 and 2 on them, plain or in TLS, ends whoever stalls.
//!
//! *Invariants*
//! 1. Every connection ends: while a request is not being worked on, one of the head, idle and write
//!    timers is running; while it is, its handler's own deadlines are.
//! 2. Each thing that ends a connection otherwise than in order is told to the handler once.
//! 3. At most as many connections as [`Places`] has are served; further ones are answered 503, a few at a
//!    time, the rest of them wait in the kernel's backlog.
//! 4. Closing closes the sockets at once; draining idle connections at once, and the others after the
//!    answer that is under way, which says `Connection: close`, or after GOAWAY.
//! 5. No timer is touched and nothing is allocated here per request of HTTP/1.1.
//!
//! *Why not hyper's own timer:* it starts when a connection goes idle, so that idle and head time
//! are one; it is set anew for each request, which costs 7 % of a small answer; and there is none for
//! a client that does not read.
//!
//! *Why answer 503 above the most connections* instead of leaving them in the backlog: there a client waits
//! without a word until its own patience ends, and a load balancer takes us for well.
//!
//! *Where things are:* `entrance` finds out what a connection speaks (`proxy`, `tls`, `rewound`); `connection`
//! serves HTTP/1.1 over `io`, `http2` serves HTTP/2 over `pulse` (`answers`, `room`) and `frames`.

mod ahead;
mod answers;
mod bind;
mod connection;
mod entrance;
mod framed;
mod frames;
mod framing;
mod given;
mod http2;
mod io;
mod line;
mod peers;
mod places;
mod proxy;
mod pulse;
mod rewound;
mod room;
#[cfg(test)]
mod tests;
mod tls;
mod wear;
mod workers;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::clock::{Clock, Dice};
use crate::config;
use crate::shutdown::Shutdown;
use crate::socket::Socket;

pub use ahead::Ahead;
pub use bind::{BindError, Lowered, bind, connection_cap};
pub use framing::{FramingError, framing};
pub use given::{ADMIN as ADMIN_SOCKET, Given, GivenError};
pub use places::Places;
pub use tls::{Tls, TlsError};
pub use workers::{Pulse, Workers};

use connection::{FAREWELL, Port};
use line::Line;
use places::Place;

/// What answers the requests, and is told what the listener sees.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of its answers. Its bytes are at hand: idle time counts from when an answer is handed
    /// over, or from the last byte of it that was written.
    type Body: http_body::Body<Data: Buf + Send, Error = Infallible> + Send + Unpin + 'static;

    /// What it knows of a connection from one request to the next.
    type Session: Send + Sync + 'static;

    /// A connection of `peer` begins.
    fn session(&self, peer: SocketAddr) -> Self::Session;

    /// Answers one request, and takes out of it what it needs. How long the request's body may take is its own
    /// business; it is dropped when the client leaves. Interim responses go `ahead`.
    ///
    /// *Why lent:* a request that is given is copied into each future on its way, and once more as each begins.
    fn call(
        &self,
        request: &mut Request<Incoming>,
        session: &Self::Session,
        ahead: &Ahead,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// A connection of `peer` ended otherwise than in order.
    fn refused(&self, why: Refused, peer: SocketAddr) {
        let _ = (why, peer);
    }

    /// So many requests of an HTTP/2 connection were refused before they became one: malformed, too large a
    /// head, or more at once than the client was told it may.
    fn streams_refused(&self, count: u64) {
        let _ = count;
    }

    /// The files of certificate and key have changed, and were taken over or can't be.
    fn certificate_changed(&self, outcome: Result<(), TlsError>) {
        drop(outcome);
    }

    /// A connection was opened or closed.
    fn connections(&self, change: Change) {
        let _ = change;
    }

    /// A connection could not be accepted, such as for want of file descriptors. After most errors the
    /// listener rests for a moment, so this is called at most some 20 times a second for each `serve`.
    fn accept_failed(&self, error: &Error) {
        let _ = error;
    }
}

/// Why a connection ended otherwise than in order: hyper or the listener answered by itself, or
/// nobody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// All places for connections are taken: answered 503, with TLS closed only.
    Shed,
    /// The address has too many connections: answered 503, with TLS closed only.
    PeerFull,
    /// A trusted peer began with no PROXY header that can be read: closed.
    BadProxyHeader,
    /// The TLS handshake failed or took longer than `listen.head`: closed.
    TlsFailed,
    /// What came is no head of HTTP/1: answered 400. For an HTTP/2 preface closed only.
    MalformedHead,
    /// The fields are too large or too many: answered 431.
    LargeHead,
    /// The request line alone is longer than a head may be: answered 414.
    LongTarget,
    /// A head took longer than `listen.head`: answered 408.
    SlowHead,
    /// No request came for `listen.idle`: closed.
    Idle,
    /// The client took nothing of an answer for `listen.write`: reset, in HTTP/2 where it takes others after
    /// GOAWAY and once more as long.
    WriteStalled,
    /// The client sent more frames of HTTP/2 that bring nothing than it may: closed.
    Flood,
    /// The client broke the rules of HTTP/2, or reset more streams than hyper lets it: GOAWAY.
    Http2,
    /// The client left in the middle of a request or an answer.
    Aborted,
    /// The handler's answer could not be framed, a mistake of ours: closed.
    BadReply,
}

impl Refused {
    /// All of them, in the order of a connection's life.
    pub const ALL: [Self; 14] = [
        Self::Shed,
        Self::PeerFull,
        Self::BadProxyHeader,
        Self::TlsFailed,
        Self::MalformedHead,
        Self::LargeHead,
        Self::LongTarget,
        Self::SlowHead,
        Self::Idle,
        Self::WriteStalled,
        Self::Flood,
        Self::Http2,
        Self::Aborted,
        Self::BadReply,
    ];

    /// Its name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shed => "shed",
            Self::PeerFull => "peer_full",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::TlsFailed => "tls_failed",
            Self::MalformedHead => "malformed_head",
            Self::LargeHead => "large_head",
            Self::LongTarget => "long_target",
            Self::SlowHead => "slow_head",
            Self::Idle => "idle",
            Self::WriteStalled => "write_stalled",
            Self::Flood => "flood",
            Self::Http2 => "http2",
            Self::Aborted => "aborted",
            Self::BadReply => "bad_reply",
        }
    }
}

/// What happened to the number of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One more.
    Opened,
    /// One less.
    Closed,
}

/// What a port is served with beside its sockets and its configuration.
#[derive(Debug)]
pub struct Ground {
    /// The places for connections.
    pub places: Places,
    /// Who serves the connections.
    pub workers: Workers,
    /// TLS, if it is on.
    pub tls: Option<Tls>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
    /// The process's way to its end.
    pub shutdown: Shutdown,
}

/// Serves `sockets` until draining begins, then finishes what is in flight; returns when no
/// connection is left. The caller bounds the wait by its deadline.
///
/// It accepts where it is called; each connection is served by one of the workers, under the `config` at its
/// beginning: what of it a reload may change is said in [`config::Listen::under`].
///
/// # Errors
/// When the runtime cannot watch a socket; nothing was accepted then.
pub async fn serve<H: Handler>(
    sockets: Vec<std::net::TcpListener>,
    mut config: watch::Receiver<config::Listen>,
    ground: Ground,
    handler: H,
) -> Result<(), Error> {
    let Ground { places, workers, tls, clock, dice, shutdown } = ground;
    let sockets: Vec<TcpListener> =
        sockets.into_iter().map(TcpListener::from_std).collect::<Result<_, _>>()?;
    let port = Arc::new(Port::new(&config.borrow_and_update(), tls, clock, dice, handler));
    let serving = async {
        let (alive, mut gone) = mpsc::channel::<Infallible>(1);
        {
            let mut closing = pin!(shutdown.closing());
            let (mut port, mut turn) = (Arc::clone(&port), 0);
            loop {
                let (stream, peer) = tokio::select! {
                    biased;
                    () = &mut closing => break,
                    accepted = accept(&sockets, &mut turn, &places, &port.handler) => accepted,
                };
                if config.has_changed().unwrap_or(false) {
                    port = Arc::new(port.under(&config.borrow_and_update()));
                }
                let Some(place) = places.take() else { continue };
                // From here to its worker: a stream belongs to the runtime that watches it.
                let Some(seat) = workers.seat() else { continue };
                let stream = stream.into_std();
                let runtime = seat.runtime.clone();
                let (port, alive) = (Arc::clone(&port), alive.clone());
                let work = async move {
                    let _held = (seat, alive);
                    match (stream.and_then(TcpStream::from_std).map(Socket::from), place) {
                        (Ok(stream), Place::Served(_place)) => {
                            entrance::run(Line::Tcp(stream), peer, port).await;
                        }
                        (Ok(stream), Place::Shed(_place)) => {
                            let (stream, why) = (Line::Tcp(stream), Refused::Shed);
                            entrance::turn_away(stream, peer, &port, why, FAREWELL).await;
                        }
                        (Err(error), _) => port.handler.accept_failed(&error),
                    }
                };
                drop(shutdown.spawn_on(&runtime, work));
            }
        }
        drop(sockets);
        drop(alive);
        tokio::select! {
            () = shutdown.draining() => port.drain(),
            _ = gone.recv() => {}
        }
        gone.recv().await;
    };
    let certificates = async {
        match &port.tls {
            Some(tls) => tls.watch(|change| port.handler.certificate_changed(change)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serving => Ok(()),
        never = port.ticks.run() => match never {},
        never = certificates => match never {},
    }
}

/// Serves one `stream` as [`serve`] does a connection of `peer` that it accepted: for a network that has
/// no sockets, such as a simulated one.
pub async fn serve_one<S, H>(
    stream: S,
    peer: SocketAddr,
    config: &config::Listen,
    clock: Clock,
    dice: Dice,
    shutdown: Shutdown,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Handler,
{
    let port = Arc::new(Port::new(config, None, clock, dice, handler));
    let line = Line::Brought(Box::new(Box::pin(stream)));
    let mut serving = pin!(entrance::run(line, peer, Arc::clone(&port)));
    let drained = async {
        shutdown.draining().await;
        port.drain();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = &mut serving => {}
        () = drained => {}
        never = port.ticks.run() => match never {},
    }
}

/// The next connection, once there is a place for it. Outlives every error: those of a single
/// connection that is gone already are passed over, after any other (out of descriptors) it rests.
async fn accept<H: Handler>(
    sockets: &[TcpListener],
    turn: &mut usize,
    places: &Places,
    handler: &H,
) -> (TcpStream, SocketAddr) {
    places.any().await;
    loop {
        match accept_any(sockets, turn).await {
            Ok((stream, peer)) => {
                // An answer is written at once and whole; waiting for more to send would only delay
                // it. Fails only for a client that has left already, which the first read finds out.
                stream.set_nodelay(true).ok();
                return (stream, peer);
            }
            Err(error) => {
                handler.accept_failed(&error);
                if !is_of_one_connection(&error) {
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }
}

/// Accepts from whichever socket has a connection, beginning with another one each time.
async fn accept_any(
    sockets: &[TcpListener],
    turn: &mut usize,
) -> Result<(TcpStream, SocketAddr), Error> {
    *turn = turn.wrapping_add(1);
    let first = turn.checked_rem(sockets.len()).unwrap_or_default();
    poll_fn(|cx| {
        let (before, after) = sockets.split_at(first);
        for socket in after.iter().chain(before) {
            if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether an error took its connection out of the backlog, so that accepting may go on at once.
fn is_of_one_connection(error: &Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// How long accepting rests after an error that would come again at once.
const REST: Duration = Duration::from_millis(50);
