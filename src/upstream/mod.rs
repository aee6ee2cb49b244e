//! One exchange with an upstream: pooled connections, deadlines, caps, one unseen retry.
//!
//! *Invariants*
//! 1. Every exchange ends within `upstream.total`, and no body grows past `upstream.max_body`.
//! 2. A target goes out byte for byte, or not at all.
//! 3. A write is sent at most once; a safe request at most twice, the second time on its own connection.
//! 4. Bodies under way take at most `upstream.max_buffered`, over all exchanges.
//! 5. A connection on which a deadline ran out, or that grew too old, carries no further request.
//!
//! *Why three clients:* one pool knows one idle time. Writes must not start on a connection that has been idle
//! for over a second, for its peer may be about to close it; a retry must not meet another dead connection.

mod body;
mod connect;
mod decode;
mod dial;
mod failure;
pub mod fields;
pub mod guard;
mod names;
mod origin;
mod pool;
mod retries;
mod room;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tokio::time::{Instant, timeout_at};

pub use self::body::length;
use self::body::{Inflow, announced, coded, read};
use self::connect::Connector;
pub use self::connect::{Roots, SetupError};
pub use self::decode::{DecodeError, decode};
pub use self::dial::Dial;
use self::failure::NoHead;
pub use self::failure::{Failure, Sent, UpstreamError};
use self::names::Memory;
use self::origin::{Origin, request};
use self::pool::{client, retire, span};
use self::retries::Retries;
use self::room::Room;
pub use self::room::Share;
use crate::clock::{Clock, Dice, Now};
use crate::config;

/// All upstreams and the connections to them.
#[derive(Debug)]
pub struct Upstreams {
    names: BTreeMap<String, usize>,
    origins: Vec<Origin>,
    retries: Vec<Retries>,
    room: Room,
    resolved: Memory,
    reads: Client<Connector, Full<Bytes>>,
    writes: Client<Connector, Full<Bytes>>,
    fresh: Client<Connector, Full<Bytes>>,
    limits: config::Upstream,
    roots: Roots,
    clock: Clock,
}

/// What to ask of an upstream.
#[derive(Clone)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query in origin-form (RFC 9112 §3.2.1), sent as they are.
    pub target: Bytes,
    /// The fields that cross, made by [`fields`]. Host and Content-Length are set here.
    pub fields: HeaderMap,
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
pub struct OnInterim(Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>);

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
    /// Start of the exchange.
    pub started_at: Now,
    /// Start of the last try: the request time of RFC 9111 §4.2.3.
    pub requested_at: Now,
    /// When the head was complete: the response time of RFC 9111 §4.2.3. Without one, the end.
    pub head_at: Now,
    /// The end.
    pub done_at: Now,
}

/// A head that arrived, its body still to come.
struct Head {
    response: Response<Incoming>,
    line: CaptureConnection,
    at: Now,
}

impl Upstreams {
    /// Clients for the `named` upstreams, to connect by `dial` or TCP. Reads roots and CA file only.
    ///
    /// # Errors
    /// When the CA file or a URL is unusable.
    pub fn new(
        limits: &config::Upstream,
        named: &BTreeMap<String, config::NamedUpstream>,
        clock: Clock,
        dice: Dice,
        dial: Option<Dial>,
    ) -> Result<Self, SetupError> {
        let secure = named.values().any(|upstream| upstream.url.scheme() == Some(&Scheme::HTTPS));
        let (store, roots) = connect::trusted(secure, limits.ca_file.as_deref())?;
        let resolved = Memory::default();
        let connector = Connector::new(limits, store, resolved.clone(), dice, dial)?;
        let origins = named.iter().map(|(name, upstream)| Origin::parse(name, &upstream.url));
        Ok(Self {
            retries: named.iter().map(|_| Retries::new(limits.retries)).collect(),
            room: Room::new(limits.max_buffered, limits.queue),
            resolved,
            names: named.keys().cloned().zip(0..).collect(),
            origins: origins.collect::<Result<_, _>>()?,
            reads: client(limits, &connector, Some(limits.idle)),
            writes: client(limits, &connector, Some(limits.idle.min(WRITE_IDLE))),
            fresh: client(limits, &connector, None),
            limits: limits.clone(),
            roots,
            clock,
        })
    }

    /// Where `name` stands among the upstreams; what [`Self::exchange`] takes.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// The URI of a target there; `None` for a target that can't be put in a request.
    pub fn uri(&self, upstream: usize, target: &Bytes) -> Option<Uri> {
        self.origins.get(upstream)?.uri(target)
    }

    /// How many bytes of bodies are under way.
    pub fn buffered(&self) -> usize {
        self.room.out()
    }

    /// How often a name did not resolve and its last addresses were used.
    pub fn dns_fallbacks(&self) -> u64 {
        self.resolved.fallbacks()
    }

    /// How many certificate authorities are trusted.
    pub fn roots(&self) -> Roots {
        self.roots
    }

    /// Asks an upstream and reads its answer whole.
    ///
    /// A pooled connection that turns out closed costs one more try on a fresh one, unseen.
    ///
    /// # Errors
    /// A [`Failure`] that says what went wrong and whether the upstream may have acted.
    pub async fn exchange(&self, upstream: usize, ask: Ask) -> Result<Answer, Failure> {
        let total = Instant::now() + self.limits.total;
        let now = self.clock.now();
        let mut trip = Trip {
            tries: 0,
            reused: false,
            denied: false,
            started_at: now,
            requested_at: now,
            head_at: now,
            done_at: now,
        };
        let head = match self.head(upstream, &ask, total, &mut trip).await {
            Ok(head) => head,
            Err((error, sent)) => {
                trip.head_at = self.clock.now();
                return Err(self.fail(error, sent, trip));
            }
        };
        trip.head_at = head.at;
        let (parts, incoming) = head.response.into_parts();
        let mut share = Share::default();
        let read = self.body(&ask.method, &parts, incoming, &head.line, total, &mut share).await;
        trip.done_at = self.clock.now();
        let (status, fields) = (parts.status, parts.headers);
        let refusal = status.is_client_error() || status.is_server_error();
        match read {
            Ok(body) => Ok(Answer { status, fields, body, broken: None, trip, share }),
            // A refusal counts even if its explanation broke off: a token may have been revoked by it.
            Err(error) if refusal => {
                let body = Bytes::new();
                Ok(Answer { status, fields, body, broken: Some(error), trip, share })
            }
            Err(error) => Err(self.fail(error, Sent::Maybe, trip)),
        }
    }

    /// Sends the request, if need be twice, until a head is there.
    async fn head(
        &self,
        upstream: usize,
        ask: &Ask,
        total: Instant,
        trip: &mut Trip,
    ) -> Result<Head, (UpstreamError, Sent)> {
        let uri = self.uri(upstream, &ask.target);
        let uri = uri.ok_or((UpstreamError::Target, Sent::Nothing))?;
        if let Some(retries) = self.retries.get(upstream) {
            retries.asked(self.clock.mono());
        }
        let pooled = match ask.kind {
            Kind::Safe => &self.reads,
            Kind::Write => &self.writes,
        };
        let (refused, sent) = match self.attempt(pooled, request(ask, &uri), total, trip).await {
            Ok(head) => return Ok(head),
            Err(refused) => refused,
        };
        let lost = refused.closed && trip.reused && ask.kind == Kind::Safe;
        if !refused.unsent && !lost {
            return Err((refused.error, sent));
        }
        // What was not sent asks nothing more of the upstream when it is.
        trip.denied = !refused.unsent && !self.may_retry(upstream);
        if trip.denied {
            return Err((refused.error, sent));
        }
        self.attempt(&self.fresh, request(ask, &uri), total, trip).await.map_err(
            |(refused, again)| (refused.error, if sent == Sent::Maybe { sent } else { again }),
        )
    }

    fn may_retry(&self, upstream: usize) -> bool {
        self.retries.get(upstream).is_some_and(|retries| retries.retry(self.clock.mono()))
    }

    /// One try: a request on a connection of `client`, up to the end of the head.
    async fn attempt(
        &self,
        client: &Client<Connector, Full<Bytes>>,
        mut request: Request<Full<Bytes>>,
        total: Instant,
        trip: &mut Trip,
    ) -> Result<Head, (NoHead, Sent)> {
        let began = Instant::now();
        trip.tries += 1;
        trip.requested_at = self.clock.now();
        let first_byte = began + self.limits.first_byte;
        let line = capture_connection(&mut request);
        let outcome = timeout_at(total.min(first_byte), client.request(request)).await;
        let at = self.clock.now();
        let span = span(&line);
        trip.reused = span.is_some_and(|span| span.opened < began);
        // Without a connection there was nothing to send on.
        let sent = span.map_or(Sent::Nothing, |_| Sent::Maybe);
        match outcome {
            Ok(Ok(response)) => {
                // The pool may hand a connection out again for as long as `idle`.
                if span.is_some_and(|span| span.left() <= self.limits.idle) {
                    retire(&line);
                }
                Ok(Head { response, line, at })
            }
            Ok(Err(error)) => {
                let refused = NoHead::from_client(error);
                let sent = if refused.unsent { Sent::Nothing } else { sent };
                Err((refused, sent))
            }
            Err(_elapsed) => {
                retire(&line);
                let error = if first_byte < total {
                    UpstreamError::FirstByteTimeout
                } else {
                    UpstreamError::TotalTimeout
                };
                Err((NoHead::broken(error), sent))
            }
        }
    }

    /// Checks a head and reads the body that follows it.
    async fn body(
        &self,
        method: &Method,
        parts: &Parts,
        incoming: Incoming,
        line: &CaptureConnection,
        total: Instant,
        share: &mut Share,
    ) -> Result<Bytes, UpstreamError> {
        let (status, fields) = (parts.status, &parts.headers);
        // RFC 9110 §15.2.2: 101 answers an Upgrade, and none is ever sent.
        if status.is_informational() || status.as_u16() > 599 {
            return Err(UpstreamError::Status);
        }
        if fields.len() > self.limits.max_fields {
            return Err(UpstreamError::TooManyFields);
        }
        let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
        let coding = codings.next();
        let chunked = coding.is_some();
        if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
            || codings.next().is_some()
        {
            // RFC 9112 §6.1: none other was asked for, and hyper looks at the last one only.
            retire(line);
            return Err(UpstreamError::Protocol);
        }
        if chunked && fields.contains_key(CONTENT_LENGTH) {
            // RFC 9112 §6.3: the coding wins, but what follows on this connection is not trusted.
            retire(line);
        }
        let announced = if chunked { None } else { announced(fields)? };
        // RFC 9110 §6.4.1: these have none, whatever their fields say.
        let none = method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if none {
            return Ok(Bytes::new());
        }
        let inflow =
            Inflow { announced, cap: self.limits.max_body, room: &self.room, until: total };
        let read = timeout_at(total, read(incoming, inflow, share, coded(fields))).await;
        read.map_err(|_elapsed| {
            retire(line);
            UpstreamError::TotalTimeout
        })?
    }

    fn fail(&self, error: UpstreamError, sent: Sent, trip: Trip) -> Failure {
        Failure { error, sent, trip: Trip { done_at: self.clock.now(), ..trip } }
    }
}

/// Longest idle time of a connection on which a write may start.
const WRITE_IDLE: Duration = Duration::from_secs(1);
