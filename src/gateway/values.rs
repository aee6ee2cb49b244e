//! [`Values`]: the field values that are made for one reply, in one piece of memory.
//!
//! *Why:* made one by one, each is an allocation or two, and a hit has four.

use bytes::BytesMut;
use http::HeaderValue;

/// Where a reply's own field values are made.
pub(super) struct Values(BytesMut);

impl Values {
    pub(super) fn new() -> Self {
        Self(BytesMut::with_capacity(ROOM))
    }

    /// What `write` writes, as a field value; none of ours can hold what may not stand in one.
    pub(super) fn make(&mut self, write: impl FnOnce(&mut BytesMut)) -> HeaderValue {
        write(&mut self.0);
        let made = self.0.split().freeze();
        HeaderValue::from_maybe_shared(made).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Room for the values of a hit: `Cache-Status`, `Age`, `RateLimit` and a request id of ours.
const ROOM: usize = 144;
