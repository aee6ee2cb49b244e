//! [`Error`]: every way a request is refused, in one table of status, code, side and public text.
//!
//! *Invariants*
//! 1. [`Error::profile`] is the only place that turns a failure into a status; it has no `_` arm, so a
//!    new failure does not compile until it has all four.
//! 2. The public text is written here: it quotes nothing of the request, the upstream or a token.
//!
//! An upstream's 401, 403 or 404 is an answer, not an [`Error`].

mod upstreams;

use std::fmt;

use http::StatusCode;

use crate::caller::CallerError;
use crate::limit::{Limiter, Throttled};
use crate::mask::MaskError;
use crate::route::RouteError;
use crate::upstream::fields::FieldError;
use crate::upstream::guard::Refused;
use crate::upstream::{DecodeError, UpstreamError};

/// Why a request gets no answer from the upstream or the cache.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No place in the route table.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Nobody could be identified.
    #[error(transparent)]
    Caller(#[from] CallerError),
    /// `Host`, `Connection` or another field of the request that we may not act on.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// More requests in flight than `listen.requests`.
    #[error("too many requests are waiting for the upstream")]
    Overloaded,
    /// The request's framing is wrong.
    #[error("the request's transfer coding is malformed")]
    Framing,
    /// A transfer coding that nobody here implements (RFC 9112 §6.1).
    #[error("the request's transfer coding is not implemented")]
    TransferCoding,
    /// This instance's own name stands in `Via`.
    #[error("the request has passed here before")]
    Loop,
    /// Over a limit.
    #[error("throttled by the {} limit", .0.by.as_str())]
    Throttled(Throttled),
    /// The request's body is larger than `limits.request_body`.
    #[error("the request body is larger than the limit")]
    BodyTooLarge,
    /// The request's body did not arrive in time.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// The request's body broke off or was malformed.
    #[error("the request body broke off")]
    BodyBroken,
    /// No memory came free in time for the request's body: `upstream.max_buffered`. The upstream was not asked.
    #[error("no memory came free for the request body")]
    NoRoom,
    /// A coded request body: the masker's guard could not look into it.
    #[error("the request body has a content coding")]
    BodyCoded,
    /// A secret field of the request holds a mask.
    #[error("a secret field of the request body holds a mask")]
    MaskedSecretInWrite,
    /// `only-if-cached` and nothing suitable in the cache (RFC 9111 §5.2.1.7).
    #[error("only-if-cached, and nothing suitable is stored")]
    OnlyIfCached,
    /// The upstream was not asked: it is ill, busy, or wants to be left alone.
    #[error(transparent)]
    NotAsked(#[from] Refused),
    /// The exchange with the upstream failed.
    #[error("the exchange with the upstream failed")]
    Upstream(#[source] std::sync::Arc<UpstreamError>),
    /// The upstream's body could not be decoded.
    #[error("the upstream's body could not be decoded")]
    Decode(#[from] DecodeError),
    /// The upstream's body could not be proven masked.
    #[error("the upstream's body could not be proven masked")]
    Unmaskable(#[from] MaskError),
    /// The upstream's body is not in UTF-8, by its own word (RFC 8259 §8.1).
    #[error("the upstream's body names a charset other than UTF-8")]
    Charset,
    /// A status that does not answer what was asked: 206 or 304 unasked, an interim one.
    #[error("the upstream answered with a status that fits no request of ours")]
    UnaskedStatus,
    /// The flight that this request had joined was lost to a panic.
    #[error("the fetch was lost")]
    Lost,
    /// The flight that this request had joined took too long.
    #[error("the fetch did not land in time")]
    TimedOut,
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The request's.
    Client,
    /// The upstream's.
    Upstream,
    /// Ours.
    Gateway,
}

impl Side {
    /// The stable label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

/// What is told of an error, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The status of the reply.
    pub status: StatusCode,
    /// The stable code: `type` and `code` of the problem, label of the metric, field of the log.
    pub code: &'static str,
    /// Whose fault it is.
    pub side: Side,
    /// The text for the client, with the next step.
    pub text: &'static str,
}

impl Error {
    /// The table.
    pub fn profile(&self) -> Profile {
        match self {
            Self::Route(error) => route(error),
            Self::Caller(error) => caller(*error),
            Self::Field(error) => field(*error),
            Self::Throttled(throttled) => limited(throttled.by),
            Self::NotAsked(refused) => upstreams::not_asked(refused.why),
            Self::Upstream(error) => upstreams::failed(error),
            Self::Overloaded => gateway(503, "overloaded", OVERLOADED),
            Self::Framing => {
                client(400, "bad_framing", "The request's Transfer-Encoding is malformed.")
            }
            Self::TransferCoding => client(
                501,
                "unknown_transfer_coding",
                "Only the chunked transfer coding is implemented.",
            ),
            Self::Loop => client(
                508,
                "loop",
                "The request has passed this gateway before; check the base URL.",
            ),
            Self::BodyTooLarge => {
                client(413, "request_too_large", "The request body is larger than is accepted.")
            }
            Self::BodyTimeout => {
                client(408, "request_timeout", "The request body did not arrive in time.")
            }
            Self::BodyBroken => {
                client(400, "request_broken", "The request body broke off or was malformed.")
            }
            Self::NoRoom => gateway(503, "buffers_full", NO_ROOM),
            Self::BodyCoded => {
                client(415, "request_coded", "Send the request body without Content-Encoding.")
            }
            Self::MaskedSecretInWrite => client(
                422,
                "masked_secret_in_write",
                "A secret field holds a mask; writing it would overwrite the real secret. Leave the field out or send the real value.",
            ),
            Self::OnlyIfCached => client(
                504,
                "only_if_cached",
                "Nothing suitable is stored; ask without only-if-cached.",
            ),
            Self::Decode(_) => upstream_fault(502, "undecodable_answer", UNPROVEN),
            Self::Unmaskable(_) => upstream_fault(502, "unmaskable_answer", UNPROVEN),
            Self::Charset => upstream_fault(502, "answer_not_utf8", UNPROVEN),
            Self::UnaskedStatus => {
                upstream_fault(502, "unasked_status", "The upstream's answer fits no request.")
            }
            Self::Lost => {
                gateway(502, "fetch_lost", "The fetch was lost inside the gateway; try again.")
            }
            Self::TimedOut => {
                gateway(504, "fetch_timed_out", "The upstream did not answer in time.")
            }
        }
    }

    /// Whether stale-if-error excuses it: the upstream failed, or we refused to ask (RFC 5861 §4).
    pub fn is_excusable(&self) -> bool {
        match self {
            Self::Throttled(_) | Self::NotAsked(_) => true,
            other => other.profile().side != Side::Client,
        }
    }

    /// Every code that [`Error::profile`] can give: the series of the metric.
    pub const CODES: &'static [&'static str] = &[
        "no_route",
        "method_not_allowed",
        "method_not_implemented",
        "ambiguous_path",
        "bad_parameter",
        "unknown_parameter",
        "token_missing",
        "token_malformed",
        "token_repeated",
        "token_too_long",
        "bad_host",
        "bad_connection",
        "target_too_long",
        "head_too_large",
        "overloaded",
        "bad_framing",
        "unknown_transfer_coding",
        "loop",
        "peer_limited",
        "caller_limited",
        "upstream_limited",
        "lane_full",
        "request_too_large",
        "request_timeout",
        "request_broken",
        "request_coded",
        "masked_secret_in_write",
        "only_if_cached",
        "upstream_open",
        "upstream_throttled",
        "upstream_busy",
        "upstream_unreachable",
        "upstream_timeout",
        "buffers_full",
        "upstream_broken",
        "bad_target",
        "undecodable_answer",
        "unmaskable_answer",
        "answer_not_utf8",
        "unasked_status",
        "fetch_lost",
        "fetch_timed_out",
    ];
}

impl From<Throttled> for Error {
    fn from(throttled: Throttled) -> Self {
        Self::Throttled(throttled)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn route(error: &RouteError) -> Profile {
    match error {
        RouteError::NotFound => {
            client(404, "no_route", "No route serves this path; check the base URL.")
        }
        RouteError::MethodNotAllowed { .. } => client(
            405,
            "method_not_allowed",
            "The path is served with the methods listed in Allow.",
        ),
        RouteError::NotImplemented => {
            client(501, "method_not_implemented", "The method is not implemented.")
        }
        RouteError::AmbiguousPath => client(
            400,
            "ambiguous_path",
            "The path holds dot segments, escaped slashes, controls or broken escapes; send it without them.",
        ),
        RouteError::BadParameter => client(
            400,
            "bad_parameter",
            "A path parameter is no id: 1 to 128 of A-Z a-z 0-9 . _ ~ - are accepted.",
        ),
        RouteError::UnknownParameter => client(
            400,
            "unknown_parameter",
            "The route does not accept a query parameter of this name.",
        ),
    }
}

fn caller(error: CallerError) -> Profile {
    match error {
        CallerError::Missing => client(401, "token_missing", "Send Authorization: Bearer TOKEN."),
        CallerError::Malformed => client(
            401,
            "token_malformed",
            "The Authorization field is not of the form Bearer TOKEN.",
        ),
        CallerError::Repeated => {
            client(401, "token_repeated", "Send exactly one Authorization field.")
        }
        CallerError::TooLong => {
            client(401, "token_too_long", "The token is longer than 7000 characters.")
        }
    }
}

fn limited(by: Limiter) -> Profile {
    match by {
        Limiter::Peer => client(
            429,
            "peer_limited",
            "Too many failed requests from this address; wait as long as Retry-After says.",
        ),
        Limiter::Caller => client(
            429,
            "caller_limited",
            "Too many requests with this token; wait as long as Retry-After says.",
        ),
        Limiter::Upstream => client(
            429,
            "upstream_limited",
            "Too many requests with this token had to go upstream; wait as long as Retry-After says.",
        ),
        Limiter::Lane => gateway(
            503,
            "lane_full",
            "Too many tokens that the upstream has not accepted yet are waiting; wait as long as Retry-After says.",
        ),
    }
}

fn field(error: FieldError) -> Profile {
    match error {
        FieldError::HostMissing | FieldError::HostRepeated | FieldError::HostInvalid => {
            client(400, "bad_host", "Send exactly one valid Host field.")
        }
        FieldError::TargetTooLong => {
            client(414, "target_too_long", "Path and query are longer than is accepted.")
        }
        FieldError::TooLarge => client(
            431,
            "head_too_large",
            "The fields are larger or more than is accepted; send fewer.",
        ),
        FieldError::ConnectionNames => client(
            400,
            "bad_connection",
            "Connection names a field that is meant for every recipient.",
        ),
    }
}

const fn client(status: u16, code: &'static str, text: &'static str) -> Profile {
    profile(status, code, Side::Client, text)
}

const fn upstream_fault(status: u16, code: &'static str, text: &'static str) -> Profile {
    profile(status, code, Side::Upstream, text)
}

const fn gateway(status: u16, code: &'static str, text: &'static str) -> Profile {
    profile(status, code, Side::Gateway, text)
}

const fn profile(status: u16, code: &'static str, side: Side, text: &'static str) -> Profile {
    let status = match StatusCode::from_u16(status) {
        Ok(status) => status,
        Err(_) => StatusCode::BAD_GATEWAY,
    };
    Profile { status, code, side, text }
}

const UNPROVEN: &str = "The upstream's answer can't be proven free of secrets and is not shown.";

const NO_ROOM: &str =
    "Too many bodies are under way and nothing was sent; wait as long as Retry-After says.";

const OVERLOADED: &str = "Too many requests are waiting; wait as long as Retry-After says.";
