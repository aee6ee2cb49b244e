//! What is asked of an upstream, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::{Outbound, Share, UpstreamError};
#[cfg(doc)]
use super::{decode, fields};
use crate::clock::Now;

/// What to ask of an upstream.
#[derive(Clone)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query in origin-form (RFC 9112 §3.2.1), sent as they are.
    pub target: Bytes,
    /// The fields that cross. Host and Content-Length are set here.
    pub fields: Arc<Outbound>,
    /// The whole body; empty = none.
    pub body: Bytes,
    /// What may be done when the connection fails.
    pub kind: Kind,
    /// Who hears of interim responses.
    pub interim: Option<OnInterim>,
}

/// Hears of an upstream's interim responses (RFC 9110 §15.2) as they come: all but 100, which answers an
/// expectation that never crosses. None come over HTTP/2, whose client tells of none.
#[derive(Clone)]
#[expect(clippy::type_complexity, reason = "it is said once")]
pub struct OnInterim(pub(super) Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>);

impl OnInterim {
    /// Calls `hear` for each, on the connection's task: it must not wait.
    pub fn new(hear: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }
}

/// What may be done when a connection fails under a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GET and HEAD: sent once more when a pooled connection turns out closed (RFC 9110 §9.2.2).
    Safe,
    /// Anything else: sent again only if nothing of it was sent.
    Write,
}

/// An upstream's answer, complete; of a refusal the head at least.
pub struct Answer {
    /// The final status.
    pub status: StatusCode,
    /// All fields as received, hop-by-hop ones included.
    pub fields: HeaderMap,
    /// The body as coded; [`decode()`] undoes the content coding. Trailers are dropped.
    pub body: Bytes,
    /// Why the body of a 4xx or 5xx could not be read; it is empty then, and must not be shown as such.
    pub broken: Option<UpstreamError>,
    /// Times and tries.
    pub trip: Trip,
    /// Memory for the body, until it has been decoded and looked through.
    pub share: Share,
}

/// How an exchange went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// Times the request was begun: 1, or 2 after an unseen retry.
    pub tries: u8,
    /// Whether the last try began on a pooled connection.
    pub reused: bool,
    /// Whether another try would have been safe and was too many.
    pub denied: bool,
    /// Start of the exchange, by the monotonic clock.
    pub started_at: Duration,
    /// Start of the last try: the request time of RFC 9111 §4.2.3.
    pub requested_at: Now,
    /// When the head was complete: the response time of RFC 9111 §4.2.3. Without one, the end.
    pub head_at: Now,
    /// The end, by the monotonic clock.
    pub done_at: Duration,
}
