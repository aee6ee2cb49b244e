//! What can go wrong with an exchange, and what is known of it.
//!
//! *Invariants*
//! 1. No text of an error quotes a target, a field or a byte that an upstream sent. HTTP/2 prints
//!    an upstream's debug data, so of protocol errors only the kind is kept.
//! 2. [`Sent::Nothing`] is said only when it is certain.

use std::error::Error;
use std::io;

use super::Trip;
use super::connect::{ConnectError, find};
use super::decode::DecodeError;

/// An exchange without a usable answer.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// What went wrong.
    #[source]
    pub error: UpstreamError,
    /// Times and tries.
    pub trip: Trip,
    /// Whether the upstream may have acted on the request.
    pub sent: Sent,
}

/// What an upstream may have seen of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Certainly nothing.
    Nothing,
    /// Perhaps some, perhaps all of it: the outcome of a write is unknown.
    Maybe,
}

/// Why an upstream gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The target can't be put in a request; nothing was sent.
    #[error("the target can't be put in a request")]
    Target,
    /// The upstream's name has no address.
    #[error("the upstream's name could not be resolved")]
    Resolve(#[source] Box<dyn Error + Send + Sync>),
    /// No address of the upstream accepted a connection.
    #[error("the upstream could not be connected to")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The TLS handshake failed.
    #[error("the TLS handshake with the upstream failed")]
    Tls(#[source] Box<dyn Error + Send + Sync>),
    /// `upstream.connect` passed.
    #[error("connecting to the upstream took too long")]
    ConnectTimeout,
    /// `upstream.first_byte` passed.
    #[error("the upstream did not begin to answer in time")]
    FirstByteTimeout,
    /// `upstream.total` passed.
    #[error("the upstream did not finish its answer in time")]
    TotalTimeout,
    /// The connection was closed or reset where an answer should have come or gone on.
    #[error("the upstream closed the connection")]
    Reset,
    /// The answer breaks the protocol: malformed head, differing lengths, broken chunks.
    #[error("the upstream's answer is malformed")]
    Protocol,
    /// Status 101, which nobody asked for, or one outside 100 to 599.
    #[error("the upstream's status is none that can be passed on")]
    Status,
    /// The body exceeds `upstream.max_body`.
    #[error("the upstream's body is too large")]
    TooLarge,
    /// No memory came free in time for the body: `upstream.max_buffered`.
    #[error("no memory came free for the upstream's body")]
    Memory,
    /// The head exceeds `upstream.max_fields` or its share of memory.
    #[error("the upstream's answer has too many fields")]
    TooManyFields,
    /// The body ended before its announced end.
    #[error("the upstream's body is incomplete")]
    Truncated,
    /// The content coding can't be undone.
    #[error("the upstream's content coding can't be undone")]
    Coding(#[from] DecodeError),
}

impl UpstreamError {
    /// Every label that [`Self::kind`] gives.
    pub const KINDS: [&str; 15] = [
        "target",
        "resolve",
        "connect",
        "tls",
        "connect_timeout",
        "first_byte_timeout",
        "total_timeout",
        "reset",
        "protocol",
        "status",
        "too_large",
        "memory",
        "too_many_fields",
        "truncated",
        "coding",
    ];

    /// A stable label for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Resolve(_) => "resolve",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::ConnectTimeout => "connect_timeout",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Memory => "memory",
            Self::TooManyFields => "too_many_fields",
            Self::Truncated => "truncated",
            Self::Coding(_) => "coding",
        }
    }

    /// Whether a deadline passed: 504 rather than 502 (RFC 9110 §15.6.5).
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::FirstByteTimeout | Self::TotalTimeout)
    }

    /// What broke while a body was read.
    pub(super) fn from_body(error: &hyper::Error) -> Self {
        match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::UnexpectedEof) => Self::Truncated,
            Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => Self::Protocol,
            None if error.is_incomplete_message() => Self::Truncated,
            _ => Self::Reset,
        }
    }
}

/// What became of a request that got no head.
#[derive(Debug)]
pub(super) struct NoHead {
    pub(super) error: UpstreamError,
    /// Nothing was sent, though not for want of a connection: worth another try.
    pub(super) unsent: bool,
    /// The connection ended instead of answering.
    pub(super) closed: bool,
}

impl NoHead {
    /// No connection came about.
    pub(super) fn from_connecting(cause: ConnectError) -> Self {
        let kind = match cause {
            ConnectError::Resolve(_) => UpstreamError::Resolve,
            ConnectError::Tcp(_) => UpstreamError::Connect,
            ConnectError::Tls(_) => UpstreamError::Tls,
            ConnectError::TimedOut => return Self::broken(UpstreamError::ConnectTimeout),
        };
        Self::broken(kind(Box::new(cause)))
    }

    /// A connection did not answer; `unsent`: nor was any byte of the request written to it.
    pub(super) fn from_sending(cause: &hyper::Error, unsent: bool) -> Self {
        if unsent {
            Self { unsent, ..Self::closed() }
        } else if cause.is_parse_too_large() {
            Self::broken(UpstreamError::TooManyFields)
        } else if cause.is_parse_status() {
            Self::broken(UpstreamError::Status)
        } else if cause.is_parse() {
            Self::broken(UpstreamError::Protocol)
        } else {
            Self::closed()
        }
    }

    /// The connection ended.
    pub(super) fn closed() -> Self {
        Self { error: UpstreamError::Reset, unsent: false, closed: true }
    }

    /// A failure that another try would not mend.
    pub(super) fn broken(error: UpstreamError) -> Self {
        Self { error, unsent: false, closed: false }
    }
}
