//! Reading an answer's body: whole, within the cap, of the length that was announced.
//!
//! *Invariants*
//! 1. Never more than the cap is held; a larger announced length is refused before reading.
//!    Nor more than there is memory for: an announced length is reserved before it is read, others as
//!    they grow.
//! 2. A body of another length than announced is an error, in HTTP/1.1 and in HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::UpstreamError;
use super::room::{Room, Share};

/// The length that Content-Length announces; several that differ are an error (RFC 9112 §6.3).
pub(super) fn announced(fields: &HeaderMap) -> Result<Option<u64>, UpstreamError> {
    let mut announced = None;
    for line in fields.get_all(CONTENT_LENGTH) {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            let length = number(member.trim_ascii()).ok_or(UpstreamError::Protocol)?;
            if *announced.get_or_insert(length) != length {
                return Err(UpstreamError::Protocol);
            }
        }
    }
    Ok(announced)
}

/// Digits and nothing else, as many as fit.
fn number(digits: &[u8]) -> Option<u64> {
    let one_more = |number: u64, digit: &u8| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    digits.iter().try_fold(0, one_more).filter(|_| !digits.is_empty())
}

/// The length of a whole body, as a head tells it: none where a coding delimits the body (RFC 9112 §6.3).
pub fn length(fields: &HeaderMap) -> Option<u64> {
    if fields.contains_key(TRANSFER_ENCODING) { None } else { announced(fields).ok().flatten() }
}

/// What bounds the reading of a body.
pub(super) struct Inflow<'r> {
    pub(super) announced: Option<u64>,
    /// Most bytes.
    pub(super) cap: usize,
    pub(super) room: &'r Arc<Room>,
    /// Longest wait for memory.
    pub(super) wait: Duration,
    /// When the exchange ends.
    pub(super) until: Instant,
}

/// A body as it comes in; one that comes in a single piece is not copied.
#[derive(Debug, Default)]
pub struct Growing {
    first: Bytes,
    all: BytesMut,
    announced: Option<usize>,
}

impl Growing {
    /// How much of it is here.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    /// The next piece.
    pub fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            let room = self.announced.unwrap_or(2 * (self.first.len() + data.len()));
            self.all.reserve(room);
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&data);
    }

    /// All of it.
    pub fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// Whether a body will be decoded.
pub(super) fn coded(fields: &HeaderMap) -> bool {
    fields
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Reads a body whole; one that came in a single piece is not copied. `coded`: it will be decoded.
pub(super) async fn read(
    mut body: Incoming,
    inflow: Inflow<'_>,
    share: &mut Share,
    coded: bool,
) -> Result<Bytes, UpstreamError> {
    let Inflow { announced, cap, room, wait, until } = inflow;
    let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > cap) {
        return Err(UpstreamError::TooLarge);
    }
    // JSON grows to some four times its size when it is decoded, and is held beside what it came from.
    let held =
        |bytes: usize| if coded { bytes.saturating_add((4 * bytes).min(cap)) } else { bytes };
    room.grow(share, held(announced.unwrap_or_default()), wait, until).await?;
    let mut growing = Growing { announced, ..Growing::default() };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| UpstreamError::from_body(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = growing.len() + data.len();
        if length > cap {
            return Err(UpstreamError::TooLarge);
        }
        room.grow(share, held(length), wait, until).await?;
        growing.push(data);
    }
    let whole = growing.whole();
    match announced {
        Some(length) if whole.len() < length => Err(UpstreamError::Truncated),
        Some(length) if whole.len() > length => Err(UpstreamError::Protocol),
        _ => Ok(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_as_many_as_fit() {
        for (digits, length) in [("0", 0), ("007", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(number(digits.as_bytes()), Some(length), "{digits}");
        }
        for none in ["", "+1", "-1", "1 ", "0x1", "1a", "\u{661}", "18446744073709551616"] {
            assert_eq!(number(none.as_bytes()), None, "{none}");
        }
    }
}
