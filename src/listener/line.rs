//! [`Line`]: what a connection runs on, whatever is laid over its socket.
//!
//! *Why not a type parameter:* all that serves a connection would be compiled once for each kind of stream.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::rewound::Rewound;
use crate::socket::Socket;

/// A connection's stream.
pub(super) enum Line {
    /// A socket as it was accepted.
    Tcp(Socket),
    /// A stream that was looked into.
    Rewound(Box<Rewound<Self>>),
    /// TLS over a stream.
    Tls(Box<TlsStream<Self>>),
    /// A stream that somebody brought: what it does with bytes that were not delivered is its own business.
    Brought(Box<dyn Duplex>),
}

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Line {
    /// Has the close be a reset that drops what was not delivered: for a client that takes nothing, so
    /// that the kernel keeps none of it.
    pub(super) fn reset_on_close(&self) {
        match self {
            // Where it fails the socket is closed as usual.
            Self::Tcp(stream) => drop(stream.set_zero_linger()),
            Self::Rewound(stream) => stream.inner().reset_on_close(),
            Self::Tls(stream) => stream.get_ref().0.reset_on_close(),
            Self::Brought(_) => {}
        }
    }

    /// The socket, where it lies bare.
    pub(super) fn socket(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Tcp(socket) => Some(socket),
            _ => None,
        }
    }

    fn duplex(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Rewound(stream) => Pin::new(&mut **stream),
            Self::Tls(stream) => Pin::new(&mut **stream),
            Self::Brought(stream) => Pin::new(&mut **stream),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            other => Pin::new(other).duplex().poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.duplex().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.duplex().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.duplex().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            other => Pin::new(other).duplex().poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Rewound(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Brought(stream) => stream.is_write_vectored(),
        }
    }
}
