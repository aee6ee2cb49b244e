//! [`Inbound`]: a request as it came, and what of its head is refused before anything else is asked.
//!
//! *Invariants*
//! 1. A head that two readers could frame or address differently gets no further than here.
//! 2. A body is read whole, up to `limits.request_body`, within `listen.body`; it is never logged.
//! 3. No piece of a body is kept that has not taken its part of `upstream.max_buffered` before.

use std::borrow::Cow;
use std::mem::take;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, HOST, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE,
    TRANSFER_ENCODING, USER_AGENT, VIA,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use parking_lot::Mutex;

use super::Gateway;
use super::values;
use crate::alphabet::hex_pair;
use crate::clock::{Dice, Now};
use crate::config;
use crate::error::Error;
use crate::listener::{FramingError, framing};
use crate::telemetry::Arrival;
use crate::upstream::fields::{self, FieldError, Hops};
use crate::upstream::{Growing, Intake, Upstreams};

/// A body that a request can have.
pub trait Payload:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin
{
}

impl<B> Payload for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin
{
}

/// A request as it came.
pub(super) struct Inbound<'a, B> {
    line: &'a RequestLine,
    fields: HeaderMap,
    body: Mutex<Option<B>>,
}

/// What is known of a request without its fields and its body; its record is about this.
pub(super) struct RequestLine {
    method: Method,
    uri: Uri,
    version: Version,
    /// Which of the fields that rarely come did.
    rare: Rare,
    /// Whose connection it came over.
    pub(super) peer: IpAddr,
    /// When its head was complete.
    pub(super) at: Now,
    pub(super) id: RequestId,
}

/// What a request is known by.
pub(super) enum RequestId {
    /// As its client said: plain, and without a key in it.
    Clients(HeaderValue),
    /// Made here.
    Ours([u8; 32]),
}

impl RequestId {
    fn of(fields: &HeaderMap, rare: Rare, gateway: &Gateway) -> Self {
        let said = if rare.has(Rare::ID) { fields::request_id(fields) } else { None };
        // An id that holds a key must be neither logged nor sent on.
        match said.filter(|id| gateway.0.follows.masker.field(id) == **id) {
            Some(id) => Self::Clients(id.clone()),
            None => Self::Ours(new_id(&gateway.0.dice)),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Clients(id) => id.as_bytes(),
            Self::Ours(id) => id,
        }
    }

    /// As a field of a reply.
    pub(super) fn value(&self) -> HeaderValue {
        match self {
            Self::Clients(id) => id.clone(),
            Self::Ours(id) => values::make(|out| out.extend_from_slice(id)),
        }
    }

    /// As a field of a request upstream, in memory of its own.
    pub(super) fn detached(&self) -> HeaderValue {
        let id = match self {
            Self::Clients(id) => Bytes::copy_from_slice(id.as_bytes()),
            // Owned, not copied: its clones need no allocation then.
            Self::Ours(id) => Bytes::from_owner(*id),
        };
        HeaderValue::from_maybe_shared(id)
            .unwrap_or_else(|_impossible| HeaderValue::from_static(""))
    }
}

impl RequestLine {
    /// Takes its part out of a request.
    pub(super) fn of<B>(
        request: &mut Request<B>,
        peer: IpAddr,
        at: Now,
        gateway: &Gateway,
    ) -> Self {
        let rare = Rare::of(request.headers());
        let id = RequestId::of(request.headers(), rare, gateway);
        let version = request.version();
        let (method, uri) = (take(request.method_mut()), take(request.uri_mut()));
        Self { method, uri, version, rare, peer, at, id }
    }

    /// What the record begins with.
    pub(super) fn arrival(&self) -> Arrival<'_> {
        let target = self.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let id = self.id.as_bytes();
        Arrival { started: self.at, id, peer: self.peer, method: &self.method, target }
    }
}

/// Which fields a request has of those that few have: one pass over its names, where a look for each field
/// costs as much as the pass.
#[derive(Clone, Copy)]
struct Rare(u8);

impl Rare {
    /// X-Request-Id.
    const ID: u8 = 1;
    /// What is about a hop: Connection, Transfer-Encoding, Via.
    const HOP: u8 = 2;
    /// If-None-Match and the like, Range.
    const CONDITION: u8 = 4;
    /// What marks its way and goes on: Via, traceparent.
    const MARK: u8 = 8;

    fn of(fields: &HeaderMap) -> Self {
        Self(fields.keys().fold(0, |all, name| all | Self::bit(name)))
    }

    fn bit(name: &HeaderName) -> u8 {
        if [HOST, AUTHORIZATION, ACCEPT, USER_AGENT].contains(name) {
            0
        } else if [CONNECTION, TRANSFER_ENCODING].contains(name) {
            Self::HOP
        } else if *name == VIA {
            Self::HOP | Self::MARK
        } else if [IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE].contains(name) {
            Self::CONDITION
        } else if *name == fields::X_REQUEST_ID {
            Self::ID
        } else if *name == fields::TRACEPARENT {
            Self::MARK
        } else {
            0
        }
    }

    fn has(self, what: u8) -> bool {
        self.0 & what != 0
    }
}

impl<'a, B> Inbound<'a, &'a mut B> {
    /// What is left of a request beside its line.
    pub(super) fn new(line: &'a RequestLine, request: &'a mut Request<B>) -> Self {
        let fields = take(request.headers_mut());
        Self { line, fields, body: Mutex::new(Some(request.body_mut())) }
    }
}

impl<'a, B> Inbound<'a, B> {
    pub(super) fn line(&self) -> &'a RequestLine {
        self.line
    }

    pub(super) fn method(&self) -> &'a Method {
        &self.line.method
    }

    pub(super) fn uri(&self) -> &'a Uri {
        &self.line.uri
    }

    pub(super) fn version(&self) -> Version {
        self.line.version
    }

    pub(super) fn fields(&self) -> &HeaderMap {
        &self.fields
    }

    /// Whether it is a conditional request, or one for a range.
    pub(super) fn has_conditions(&self) -> bool {
        self.line.rare.has(Rare::CONDITION)
    }

    /// Whether it came with marks that go on beside ours.
    pub(super) fn has_marks(&self) -> bool {
        self.line.rare.has(Rare::MARK)
    }

    /// An empty map for the reply's fields, in the memory of the request's: hyper keeps it for the next
    /// request of the connection, so that none of a connection's hits allocates one.
    pub(super) fn into_reply_fields(self) -> HeaderMap {
        let mut fields = self.fields;
        fields.clear();
        fields
    }

    /// Its fields as far as they may select an answer: what Connection lists goes no further, and so
    /// chooses nothing upstream (RFC 9110 §7.6.1).
    pub(super) fn selecting(&self) -> Cow<'_, HeaderMap> {
        let usual = |value: &HeaderValue| {
            [&b"keep-alive"[..], b"close"]
                .iter()
                .any(|it| value.as_bytes().eq_ignore_ascii_case(it))
        };
        if self.fields().get_all(CONNECTION).iter().all(usual) {
            return Cow::Borrowed(self.fields());
        }
        let mut fields = self.fields().clone();
        fields::hop_by_hop(&mut fields);
        Cow::Owned(fields)
    }

    /// The host it is for; `None` where it names none that is valid.
    pub(super) fn host(&self) -> Option<&str> {
        fields::host(self.version(), self.uri(), self.fields()).ok().flatten()
    }

    /// GET or HEAD: what a cache may answer.
    pub(super) fn is_safe_read(&self) -> bool {
        matches!(*self.method(), Method::GET | Method::HEAD)
    }

    /// Whether this is as far as it may go (RFC 9110 §7.6.2).
    pub(super) fn ends_here(&self) -> bool {
        fields::max_forwards(self.method(), self.fields()) == Hops::None
    }

    /// Refuses a head that can't be acted on without guessing.
    pub(super) fn check(&self, via: &str, bounds: &Bounds) -> Result<(), Error> {
        bounds.check(self.version(), self.uri(), self.fields())?;
        fields::host(self.version(), self.uri(), self.fields())?;
        if !self.line.rare.has(Rare::HOP) {
            return Ok(());
        }
        fields::connection_is_honest(self.fields())?;
        match framing(&self.fields) {
            Ok(()) => {}
            Err(FramingError::NotImplemented) => return Err(Error::TransferCoding),
            Err(FramingError::Bad) => return Err(Error::Framing),
        }
        if fields::is_loop(self.fields(), via) {
            return Err(Error::Loop);
        }
        Ok(())
    }
}

/// How large a request's head may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    target: usize,
    head: usize,
    fields: usize,
}

impl Bounds {
    pub(super) fn of(listen: &config::Listen) -> Self {
        Self { target: listen.target_size, head: listen.head_size, fields: listen.fields }
    }

    /// The same with the longest target of `other`.
    pub(super) fn with_target_of(self, other: Self) -> Self {
        Self { target: other.target, ..self }
    }

    fn check(&self, version: Version, uri: &Uri, fields: &HeaderMap) -> Result<(), Error> {
        let target = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
        if target > self.target {
            return Err(FieldError::TargetTooLong.into());
        }
        // Those of HTTP/1.1 were measured as they came in.
        if version == Version::HTTP_2 && (fields.len() > self.fields || self.is_large(fields)) {
            return Err(FieldError::TooLarge.into());
        }
        Ok(())
    }

    /// RFC 9113 §6.5.2 counts 32 bytes for each field beside its name and value.
    fn is_large(&self, fields: &HeaderMap) -> bool {
        let sizes = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
        sizes.sum::<usize>() > self.head
    }
}

impl<B: Payload> Inbound<'_, B> {
    /// Whether there is a body that nobody has read.
    pub(super) fn leaves_body(&self) -> bool {
        self.body.lock().as_ref().is_some_and(|body| !body.is_end_stream())
    }

    /// Reads the body whole, with the memory that it takes.
    pub(super) async fn read_body(&self, gateway: &Gateway) -> Result<(Bytes, Intake), Error> {
        let Some(body) = self.body.lock().take() else { return Ok(Default::default()) };
        if body.is_end_stream() {
            return Ok(Default::default());
        }
        let cap = gateway.0.follows.request_body;
        if body.size_hint().lower() > u64::try_from(cap).unwrap_or(u64::MAX) {
            return Err(Error::BodyTooLarge);
        }
        let whole = collect(Limited::new(body, cap), gateway.upstreams());
        match tokio::time::timeout(gateway.0.follows.body_time, whole).await {
            Ok(body) => body,
            Err(_elapsed) => Err(Error::BodyTimeout),
        }
    }
}

/// 128 bits of chance in hexadecimal.
fn new_id(dice: &Dice) -> [u8; 32] {
    let mut digits = [b'0'; 32];
    let rolled = dice.roll_pair().into_iter().flat_map(u64::to_le_bytes);
    for (pair, byte) in digits.chunks_exact_mut(2).zip(rolled) {
        pair.copy_from_slice(&hex_pair(byte));
    }
    digits
}

/// Gathers a body, and memory for it as it comes.
async fn collect<B: Payload>(
    body: Limited<B>,
    upstreams: &Upstreams,
) -> Result<(Bytes, Intake), Error> {
    let mut body = std::pin::pin!(body);
    let (mut growing, mut intake) = (Growing::default(), Intake::default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() { Error::BodyTooLarge } else { Error::BodyBroken }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let room = upstreams.receive(&mut intake, growing.len() + data.len()).await;
        room.map_err(|_full| Error::NoRoom)?;
        growing.push(data);
    }
    Ok((growing.whole(), intake))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_ours_is_made_of_hexadecimal_digits_and_no_other_is_like_it() {
        let dice = Dice::seeded(1);
        let (one, other) = (new_id(&dice), new_id(&dice));
        assert!(one != other && one.iter().all(u8::is_ascii_hexdigit));
    }
}
