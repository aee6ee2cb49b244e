//! The closed enums whose values are labels.
//!
//! *Invariants*
//! 1. A label value comes from an enum, the configuration or a list of ours, never from a request.
//! 2. `ALL` of an enum stands in the order of its declaration, so that a value is its own index.

use http::StatusCode;

use crate::cache::Status;
use crate::error::Side;

/// How a request ended; every request ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with what the upstream once said; the status is the one of `Cache-Status`.
    Cache(Status),
    /// Refused, the client's fault: 400, 401, 404, 405, 413, 422, ….
    Refused,
    /// Refused by a limiter: 429 of our own.
    Limited,
    /// The upstream gave no answer that could be sent on.
    UpstreamFailed,
    /// We could not do our part: 503 and the like.
    GatewayFailed,
    /// The client hung up before its answer was ready.
    ClientGone,
}

impl Outcome {
    /// Every outcome, by index.
    pub const ALL: [Self; 12] = [
        Self::Cache(Status::Hit),
        Self::Cache(Status::StaleWhileRevalidate),
        Self::Cache(Status::StaleIfError),
        Self::Cache(Status::Revalidated),
        Self::Cache(Status::Miss),
        Self::Cache(Status::Coalesced),
        Self::Cache(Status::Forwarded),
        Self::Refused,
        Self::Limited,
        Self::UpstreamFailed,
        Self::GatewayFailed,
        Self::ClientGone,
    ];

    /// What an error of ours with this `side` and `status` ends a request as.
    pub fn of_error(side: Side, status: StatusCode) -> Self {
        match side {
            Side::Client if status == StatusCode::TOO_MANY_REQUESTS => Self::Limited,
            Side::Client => Self::Refused,
            Side::Upstream => Self::UpstreamFailed,
            Side::Gateway => Self::GatewayFailed,
        }
    }

    /// The classes of status this outcome can have, one series each.
    pub const fn classes(self) -> &'static [Class] {
        match self {
            // 304 and 412 are made from a stored answer; an open route stores any final status.
            Self::Cache(_) => &[Class::Success, Class::Redirect, Class::Client, Class::Server],
            // 501 for a transfer coding we do not know is the client's fault too; an upstream's 4xx
            // whose body could not be proven masked keeps its status.
            Self::Refused | Self::UpstreamFailed => &[Class::Client, Class::Server],
            Self::Limited => &[Class::Client],
            // A panic of ours sends nothing.
            Self::GatewayFailed => &[Class::Server, Class::None],
            Self::ClientGone => &[Class::None],
        }
    }
}

impl Label for Outcome {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        match self {
            Self::Cache(status) => status.as_str(),
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::UpstreamFailed => "upstream_failed",
            Self::GatewayFailed => "gateway_failed",
            Self::ClientGone => "client_gone",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Cache(status) => status as usize,
            Self::Refused => 7,
            Self::Limited => 8,
            Self::UpstreamFailed => 9,
            Self::GatewayFailed => 10,
            Self::ClientGone => 11,
        }
    }
}

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// Every value, by index.
    const ALL: &'static [Self];

    /// The value in metrics and logs.
    fn as_str(self) -> &'static str;

    /// The place in `ALL`.
    fn index(self) -> usize;
}

/// The class of a status code (RFC 9110 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No answer was sent.
    None,
    /// 2xx, and 1xx where one should ever be final.
    Success,
    /// 3xx.
    Redirect,
    /// 4xx.
    Client,
    /// 5xx and above.
    Server,
}

impl Class {
    /// The class of `status`; `None` where no answer was sent.
    pub fn of(status: Option<StatusCode>) -> Self {
        match status.map(|status| status.as_u16()) {
            None => Self::None,
            Some(..300) => Self::Success,
            Some(300..400) => Self::Redirect,
            Some(400..500) => Self::Client,
            Some(500..) => Self::Server,
        }
    }
}

impl Label for Class {
    const ALL: &'static [Self] =
        &[Self::None, Self::Success, Self::Redirect, Self::Client, Self::Server];

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::Client => "4xx",
            Self::Server => "5xx",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why the upstream was asked; each upstream request has exactly one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing usable was stored.
    Miss,
    /// A stale answer is validated while the client waits.
    Revalidate,
    /// A stale answer was served and is renewed behind it.
    Refresh,
    /// A read that is not looked up: no cache policy, or the request forbade it.
    Forward,
    /// A method that may change something.
    Write,
    /// A second try on a fresh connection, whatever the first was for.
    Retry,
}

impl Label for Cause {
    const ALL: &'static [Self] =
        &[Self::Miss, Self::Revalidate, Self::Refresh, Self::Forward, Self::Write, Self::Retry];

    fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Revalidate => "revalidate",
            Self::Refresh => "refresh",
            Self::Forward => "forward",
            Self::Write => "write",
            Self::Retry => "retry",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Who limits, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// Per peer address.
    Peer,
    /// Per caller and route.
    Caller,
    /// Per caller toward the upstream.
    Upstream,
    /// The lane of callers that the upstream has not accepted yet.
    Lane,
}

impl Label for Limiter {
    const ALL: &'static [Self] = &[Self::Peer, Self::Caller, Self::Upstream, Self::Lane];

    fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Caller => "caller",
            Self::Upstream => "upstream",
            Self::Lane => "lane",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// What a limiter decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let through.
    Admitted,
    /// Refused.
    Throttled,
}

impl Label for Decision {
    const ALL: &'static [Self] = &[Self::Admitted, Self::Throttled];

    fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Throttled => "throttled",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why an entry left the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// To make room.
    Size,
    /// Its last window ended.
    Expired,
    /// A newer answer took its place.
    Replaced,
    /// The upstream's word, or an invalidation, ended it.
    Ended,
}

impl Label for Eviction {
    const ALL: &'static [Self] = &[Self::Size, Self::Expired, Self::Replaced, Self::Ended];

    fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Ended => "ended",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// The window a stale answer was served in (RFC 5861).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleWindow {
    /// RFC 5861 §3.
    WhileRevalidate,
    /// RFC 5861 §4.
    IfError,
}

impl Label for StaleWindow {
    const ALL: &'static [Self] = &[Self::WhileRevalidate, Self::IfError];

    fn as_str(self) -> &'static str {
        match self {
            Self::WhileRevalidate => "while_revalidate",
            Self::IfError => "if_error",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// One of the two logs that share an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// One line per exchange.
    Access,
    /// Everything else.
    Diagnostics,
}

impl Label for Log {
    const ALL: &'static [Self] = &[Self::Access, Self::Diagnostics];

    fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Diagnostics => "diagnostics",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn every_value_is_its_own_index_and_named_once<L: Label + PartialEq + std::fmt::Debug>() {
        let mut names = BTreeSet::new();
        for (place, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), place, "{label:?}");
            assert!(names.insert(label.as_str()), "{label:?}");
        }
    }

    #[test]
    fn every_label_is_its_own_index_and_named_once() {
        every_value_is_its_own_index_and_named_once::<Outcome>();
        every_value_is_its_own_index_and_named_once::<Class>();
        every_value_is_its_own_index_and_named_once::<Cause>();
        every_value_is_its_own_index_and_named_once::<Limiter>();
        every_value_is_its_own_index_and_named_once::<Decision>();
        every_value_is_its_own_index_and_named_once::<Eviction>();
        every_value_is_its_own_index_and_named_once::<StaleWindow>();
        every_value_is_its_own_index_and_named_once::<Log>();
    }

    #[test]
    fn every_cache_status_is_an_outcome_of_its_own() {
        assert_eq!(Outcome::ALL.len(), Status::ALL.len() + 5);
        for (place, status) in Status::ALL.iter().enumerate() {
            assert_eq!(Outcome::Cache(*status).index(), place);
        }
    }

    #[test]
    fn an_error_of_ours_ends_a_request_by_whose_fault_it_is() {
        let outcome = |side, status| Outcome::of_error(side, StatusCode::from_u16(status).unwrap());
        assert_eq!(outcome(Side::Client, 404), Outcome::Refused);
        assert_eq!(outcome(Side::Client, 429), Outcome::Limited);
        assert_eq!(outcome(Side::Upstream, 502), Outcome::UpstreamFailed);
        assert_eq!(outcome(Side::Gateway, 503), Outcome::GatewayFailed);
    }
}
