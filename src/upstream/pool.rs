//! The clients that keep connections, and what is known of the connection under a request.
//!
//! *Invariants*
//! 1. No client retries by itself.
//! 2. A retired connection carries no further request.

use std::time::Duration;

use bytes::Bytes;
use http::Extensions;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::CaptureConnection;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::{Connector, Span};
use crate::config;

/// A client whose pool keeps connections for `idle`; without one, each request gets its own.
pub(super) fn client(
    limits: &config::Upstream,
    connector: &Connector,
    idle: Option<Duration>,
) -> Client<Connector, Full<Bytes>> {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        // Its own retries would be uncounted, and could meet the next dead connection.
        .retry_canceled_requests(false)
        .set_host(true)
        .http1_max_headers(limits.max_fields)
        .http1_max_buf_size(HEAD_SIZE)
        .http2_max_header_list_size(HTTP2_HEAD_SIZE)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING);
    if idle.is_none() {
        builder.pool_max_idle_per_host(0);
    }
    builder.build(connector.clone())
}

/// The connection that a request was given, if it was given one.
pub(super) fn span(line: &CaptureConnection) -> Option<Span> {
    let mut extras = Extensions::new();
    line.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.get().copied()
}

/// Keeps a connection from being used again.
pub(super) fn retire(line: &CaptureConnection) {
    if let Some(connected) = line.connection_metadata().as_ref() {
        connected.poison();
    }
}

/// Most bytes of an HTTP/1.1 head; the read that passes it may bring some more.
pub(super) const HEAD_SIZE: usize = 64 << 10;

/// The same for HTTP/2, counted as RFC 9113 §6.5.2 does.
const HTTP2_HEAD_SIZE: u32 = 64 << 10;

/// HTTP/2 connections with open streams are asked this often whether they are alive.
const PING: Duration = Duration::from_secs(5);
