//! The part of the table that is about upstreams: why one was not asked, and what went wrong when it was.
//!
//! *Invariant:* as of [`super::Error::profile`]: no `_` arm.

use super::{Profile, client, gateway, upstream_fault};
use crate::upstream::UpstreamError;
use crate::upstream::guard::Why;

/// Of a refusal to ask.
pub(super) fn not_asked(why: Why) -> Profile {
    match why {
        Why::Open => upstream_fault(
            503,
            "upstream_open",
            "The upstream has failed too often and is left alone; wait as long as Retry-After says.",
        ),
        Why::HeldBack => client(
            429,
            "upstream_throttled",
            "The upstream wants fewer requests; wait as long as Retry-After says.",
        ),
        Why::Busy => gateway(
            503,
            "upstream_busy",
            "As many requests are with the upstream as it bears; wait as long as Retry-After says.",
        ),
    }
}

/// Of an exchange that failed.
pub(super) fn failed(error: &UpstreamError) -> Profile {
    match error {
        UpstreamError::Target => client(400, "bad_target", "The target can't be put in a request."),
        UpstreamError::Resolve(_) | UpstreamError::Connect(_) | UpstreamError::Tls(_) => {
            upstream_fault(502, "upstream_unreachable", "The upstream can't be reached; try again.")
        }
        UpstreamError::ConnectTimeout
        | UpstreamError::FirstByteTimeout
        | UpstreamError::TotalTimeout => upstream_fault(
            504,
            "upstream_timeout",
            "The upstream did not answer in time; try again, a write only after checking whether it took effect.",
        ),
        UpstreamError::Memory => gateway(
            503,
            "buffers_full",
            "Too many large answers are under way; wait as long as Retry-After says, a write only after checking whether it took effect.",
        ),
        UpstreamError::Reset
        | UpstreamError::Protocol
        | UpstreamError::Status
        | UpstreamError::TooLarge
        | UpstreamError::TooManyFields
        | UpstreamError::Truncated
        | UpstreamError::Coding(_) => upstream_fault(
            502,
            "upstream_broken",
            "The upstream's answer is broken or too large; after a write, check whether it took effect.",
        ),
    }
}
