//! One exchange with an upstream: pooled connections, deadlines, caps, one unseen retry.
//!
//! *Invariants*
//! 1. Every exchange ends within `upstream.total`, and no body grows past `upstream.max_body`.
//! 2. A target goes out byte for byte, or not at all.
//! 3. A write is sent at most once; a safe request at most twice, the second time on a new connection.
//! 4. Bodies under way take at most `upstream.max_buffered`, over all exchanges.
//! 5. A connection on which a deadline ran out, or that grew too old, carries no further request.
//! 6. Under other limits, what is known of an upstream that stayed where it is lives on, and so does the bound
//!    on memory: an exchange that began under the last ones counts.
//!
//! *Why a write is choosier than a read:* it must not start on a connection that has been idle for over a second,
//! for its peer may be about to close it, and it is not sent twice. A retry never takes a kept one.

mod attempt;
mod body;
mod connect;
mod decode;
mod dial;
mod failure;
pub mod fields;
pub mod guard;
mod known;
mod message;
mod names;
mod origin;
mod outbound;
mod pool;
mod retries;
mod room;
#[cfg(test)]
mod tests;
mod via;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::uri::Scheme;
use http::{Method, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

pub use self::body::{Growing, length};
use self::body::{Inflow, announced, coded, read};
use self::connect::Connector;
pub use self::connect::{Roots, SetupError};
pub use self::decode::{DecodeError, decode};
pub use self::dial::Dial;
pub use self::failure::{Failure, Sent, UpstreamError};
use self::guard::{Pass, Refused, View};
pub use self::known::Ground;
use self::known::Known;
pub use self::message::{Answer, Ask, Kind, OnInterim, Trip};
use self::names::Memory;
use self::origin::{Origin, path};
pub use self::outbound::Outbound;
use self::pool::{Lent, Pool};
use self::room::Rooms;
pub use self::room::{Intake, Share};
pub use self::via::Via;
use crate::caller::CallerId;
use crate::config;

/// All upstreams and the connections to them.
#[derive(Debug)]
pub struct Upstreams {
    names: BTreeMap<String, usize>,
    known: Vec<Known>,
    rooms: Arc<Rooms>,
    resolved: Memory,
    pool: Pool,
    limits: config::Upstream,
    roots: Roots,
    ground: Ground,
}

impl Upstreams {
    /// Connections to the `named` upstreams, none yet. Reads roots and CA file only.
    ///
    /// # Errors
    /// When the CA file or a URL is unusable.
    pub fn new(
        limits: &config::Upstream,
        named: &BTreeMap<String, config::NamedUpstream>,
        ground: Ground,
    ) -> Result<Self, SetupError> {
        Self::after(None, limits, named, ground)
    }

    /// The same under other limits, over what is known of those upstreams whose name and URL stayed. They rule
    /// over that from [`Self::take_over`] on: until then nothing has changed.
    ///
    /// # Errors
    /// When the CA file or a URL is unusable.
    pub fn succeeded_by(
        &self,
        limits: &config::Upstream,
        named: &BTreeMap<String, config::NamedUpstream>,
    ) -> Result<Self, SetupError> {
        Self::after(Some(self), limits, named, self.ground.clone())
    }

    fn after(
        last: Option<&Self>,
        limits: &config::Upstream,
        named: &BTreeMap<String, config::NamedUpstream>,
        ground: Ground,
    ) -> Result<Self, SetupError> {
        let secure = named.values().any(|upstream| upstream.url.scheme() == Some(&Scheme::HTTPS));
        let (store, roots) = connect::trusted(secure, limits.ca_file.as_deref())?;
        let resolved = last.map(|last| last.resolved.clone()).unwrap_or_default();
        let (dice, dial) = (ground.dice.clone(), ground.dial.clone());
        let connector = Connector::new(limits, store, resolved.clone(), dice, dial)?;
        let known = named.iter().map(|(name, upstream)| {
            let origin = Origin::parse(name, &upstream.url)?;
            let last = last.and_then(|last| last.known.get(last.index(name)?));
            let same = last.filter(|last| last.origin == origin).cloned();
            Ok(same.unwrap_or_else(|| Known::new(origin, limits, &ground)))
        });
        Ok(Self {
            names: named.keys().cloned().zip(0..).collect(),
            known: known.collect::<Result<_, _>>()?,
            rooms: last.map_or_else(
                || Arc::new(Rooms::new(limits.max_buffered)),
                |last| Arc::clone(&last.rooms),
            ),
            resolved,
            pool: Pool::new(limits, connector, named.len()),
            limits: limits.clone(),
            roots,
            ground,
        })
    }

    /// Its limits rule from now on over what it has in common with the last, for exchanges under way too.
    pub fn take_over(&self) {
        self.rooms.resize(self.limits.max_buffered);
        self.known.iter().for_each(|known| known.guard.obey(&self.limits));
    }

    /// Where `name` stands among the upstreams; what [`Self::exchange`] takes.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The URI of a target there; `None` for a target that can't be put in a request.
    pub fn uri(&self, upstream: usize, target: &Bytes) -> Option<Uri> {
        self.known.get(upstream)?.origin.uri(path(target)?)
    }

    /// Whether [`Self::enter`] would refuse at once.
    ///
    /// # Errors
    /// When the breaker is open, or the upstream wants to be left alone.
    pub fn look(&self, upstream: usize, caller: Option<&CallerId>) -> Result<(), Refused> {
        self.known.get(upstream).map_or(Ok(()), |known| known.guard.look(caller))
    }

    /// Leave and a place for one exchange about `key`; `None` where there is no such upstream.
    ///
    /// # Errors
    /// When it may not be begun, now or within `upstream.queue`.
    pub async fn enter(
        &self,
        upstream: usize,
        caller: Option<&CallerId>,
        key: &[u8],
    ) -> Result<Option<Pass>, Refused> {
        let Some(known) = self.known.get(upstream) else { return Ok(None) };
        known.guard.enter(caller, key, self.limits.queue).await.map(Some)
    }

    /// What the guard of an upstream says of itself.
    pub fn view(&self, upstream: usize) -> Option<View> {
        self.known.get(upstream).map(|known| known.guard.view())
    }

    /// Memory for a request's body: what it takes grows to at least so many bytes.
    ///
    /// # Errors
    /// When none came free within `upstream.queue`.
    pub async fn receive(&self, intake: &mut Intake, bytes: usize) -> Result<(), UpstreamError> {
        self.rooms.receive(intake, bytes, self.limits.queue).await
    }

    /// How many bytes of bodies are under way.
    pub fn buffered(&self) -> usize {
        self.rooms.all.out()
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
        let began = Instant::now();
        let (now, total) = (self.ground.clock.now_at(began), began + self.limits.total);
        let mut trip = Trip {
            tries: 0,
            reused: false,
            denied: false,
            started_at: now.mono,
            requested_at: now,
            head_at: now,
            done_at: now.mono,
        };
        let head = match self.head(upstream, &ask, began, &mut trip).await {
            Ok(head) => head,
            Err((error, sent)) => {
                trip.head_at = self.ground.clock.now();
                return Err(self.fail(error, sent, trip));
            }
        };
        trip.head_at = head.at;
        let (parts, incoming) = head.response.into_parts();
        let (mut share, mut line) = (Share::default(), head.line);
        let read = self.body(&ask.method, &parts, incoming, &mut line, total, &mut share).await;
        let done = Instant::now();
        if read.is_ok() {
            line.keep(done);
        }
        trip.done_at = self.ground.clock.mono_at(done);
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

    /// Checks a head and reads the body that follows it.
    async fn body(
        &self,
        method: &Method,
        parts: &Parts,
        incoming: Incoming,
        line: &mut Lent,
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
            line.retire();
            return Err(UpstreamError::Protocol);
        }
        if chunked && fields.contains_key(CONTENT_LENGTH) {
            // RFC 9112 §6.3: the coding wins, but what follows on this connection is not trusted.
            line.retire();
        }
        let announced = if chunked { None } else { announced(fields)? };
        // RFC 9110 §6.4.1: these have none, whatever their fields say.
        let none = method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if none {
            return Ok(Bytes::new());
        }
        let (cap, wait) = (self.limits.max_body, self.limits.queue);
        let inflow = Inflow { announced, cap, room: &self.rooms.all, wait, until: total };
        let read = pin!(read(incoming, inflow, share, coded(fields)));
        timeout_at(total, read).await.map_err(|_elapsed| {
            line.retire();
            UpstreamError::TotalTimeout
        })?
    }

    fn fail(&self, error: UpstreamError, sent: Sent, trip: Trip) -> Failure {
        Failure { error, sent, trip: Trip { done_at: self.ground.clock.mono(), ..trip } }
    }
}
