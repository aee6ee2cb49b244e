//! [`Dial`]: connections to upstreams that somebody else makes, such as a simulated network.
//!
//! *Invariants*
//! 1. Whoever gives none has TCP; what a connection costs then is one branch for each read and write.
//! 2. TLS, deadlines and the pool lie above and are the same for both.
//!
//! *Why no type parameter:* it would reach through the pool, the gateway and the process, and all of
//! them would be compiled once for each network.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::connect::{ConnectError, Tcp};
use crate::socket::Socket;

/// Opens a connection to the upstream of a URI.
#[derive(Clone)]
#[expect(clippy::type_complexity, reason = "it is said once")]
pub struct Dial(
    Arc<dyn Fn(Uri) -> Pin<Box<dyn Future<Output = io::Result<Given>> + Send>> + Send + Sync>,
);

impl Dial {
    /// Calls `open` for each connection. Name, port and scheme are in the URI.
    pub fn new<F, S>(open: impl Fn(Uri) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Arc::new(move |uri| {
            let opening = open(uri);
            Box::pin(async move { Ok(Given(Box::new(opening.await?))) })
        }))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial(…)")
    }
}

/// A connection that was given.
struct Given(Box<dyn Stream>);

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How connections are opened.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By the system.
    Tcp(Tcp),
    /// As a test says.
    Given(Dial),
}

impl Service<Uri> for Way {
    type Response = Carrier;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Carrier, ConnectError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_ready(cx),
            Self::Given(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Tcp(tcp) => {
                let connecting = tcp.call(uri);
                Box::pin(async move { connecting.await.map(Carrier::Tcp) })
            }
            Self::Given(dial) => {
                let opening = (dial.0)(uri);
                Box::pin(async move {
                    let opened = opening.await.map_err(ConnectError::from_tcp)?;
                    Ok(Carrier::Given(TokioIo::new(opened.0)))
                })
            }
        }
    }
}

/// What carries a connection's bytes.
pub(super) enum Carrier {
    Tcp(TokioIo<Socket>),
    Given(TokioIo<Box<dyn Stream>>),
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier(…)")
    }
}

impl Connection for Carrier {
    fn connected(&self) -> Connected {
        // Its addresses would be copied to each answer, where nobody asks for them.
        Connected::new()
    }
}

impl Read for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Given(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Write for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Given(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Given(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Given(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Given(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Given(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}
