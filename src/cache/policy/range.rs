//! Ranges of a complete stored response (RFC 9110 §14).
//!
//! *Invariants*
//! 1. A range that is answered lies within the content.
//! 2. What cannot be read, or is more than one range, gets the whole: `Range` may be ignored (RFC
//!    9110 §14.2).
//! 3. `If-Range` compares strongly; a doubt gets the whole (RFC 9110 §13.1.5).
//!
//! *Why not several ranges?* Nothing the gateway stands before asks for them, and
//! `multipart/byteranges` is a well-known way to make a server send more than it has.

use std::{ops::RangeInclusive, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{DATE, ETAG, EXPIRES, IF_RANGE, LAST_MODIFIED, RANGE},
};

use super::{
    date::parse_date,
    list::{only_line, trim},
    validation::{EntityTag, stays_in_304, tag},
};

/// What a GET gets of a complete 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeAnswer {
    /// All of it, as a 200.
    Whole,
    /// These bytes, first and last, as a 206.
    Partial(RangeInclusive<u64>),
    /// A 416.
    Unsatisfiable,
}

/// Judges `Range` and `If-Range` of a GET against the complete 200 with these fields and `length`
/// bytes. Conditions come first: this is asked only when there is no 304 (RFC 9110 §13.2.2).
pub fn range_answer(request: &HeaderMap, fields: &HeaderMap, length: u64) -> RangeAnswer {
    let Some(range) = only_line(request, &RANGE).and_then(ByteRange::parse) else {
        return RangeAnswer::Whole;
    };
    if request.contains_key(IF_RANGE) && !if_range_holds(request, fields) {
        return RangeAnswer::Whole;
    }
    range.of(length)
}

/// `Content-Range` of a 206 (RFC 9110 §14.4).
pub fn content_range(range: &RangeInclusive<u64>, length: u64) -> HeaderValue {
    written(&format!("bytes {}-{}/{length}", range.start(), range.end()))
}

/// `Content-Range` of a 416 (RFC 9110 §14.4).
pub fn unsatisfied_range(length: u64) -> HeaderValue {
    written(&format!("bytes */{length}"))
}

/// Whether a field of the 200 stays in a 416 in its place. That answers the range alone: what describes the
/// content is left out, and what would let a cache after us keep it as the target's answer (RFC 9111 §3 lets
/// any final status be kept).
pub fn stays_in_416(name: &HeaderName) -> bool {
    stays_in_304(name, true)
        && *name != ETAG
        && *name != EXPIRES
        // Targeted ones among them (RFC 9213).
        && !name.as_str().ends_with("cache-control")
}

/// One range of bytes, as asked for (RFC 9110 §14.1.2).
enum ByteRange {
    From(u64, Option<u64>),
    Last(u64),
}

impl ByteRange {
    fn parse(value: &[u8]) -> Option<Self> {
        let equals = value.iter().position(|&byte| byte == b'=')?;
        let (unit, range) = value.split_at_checked(equals)?;
        let range = trim(range.get(1..)?);
        let dash = range.iter().position(|&byte| byte == b'-')?;
        let (first, last) = range.split_at_checked(dash)?;
        let last = last.get(1..)?;
        if !unit.eq_ignore_ascii_case(b"bytes") {
            return None;
        }
        match (position(first), position(last)) {
            (Some(first), Some(last)) => (first <= last).then_some(Self::From(first, Some(last))),
            (Some(first), None) => last.is_empty().then_some(Self::From(first, None)),
            (None, Some(last)) => first.is_empty().then_some(Self::Last(last)),
            (None, None) => None,
        }
    }

    /// The part of `length` bytes that is asked for.
    fn of(&self, length: u64) -> RangeAnswer {
        let Some(end) = length.checked_sub(1) else {
            return match self {
                // The last bytes of nothing are all of it.
                Self::Last(1..) => RangeAnswer::Whole,
                _ => RangeAnswer::Unsatisfiable,
            };
        };
        match *self {
            Self::Last(0) => RangeAnswer::Unsatisfiable,
            Self::Last(count) => RangeAnswer::Partial(length.saturating_sub(count)..=end),
            Self::From(first, _) if first > end => RangeAnswer::Unsatisfiable,
            Self::From(first, last) => {
                RangeAnswer::Partial(first..=last.map_or(end, |last| last.min(end)))
            }
        }
    }
}

/// A number of digits only; one that does not fit is the largest.
fn position(digits: &[u8]) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    [first].into_iter().chain(rest).try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

/// Whether the client's part is of these very bytes (RFC 9110 §13.1.5).
fn if_range_holds(request: &HeaderMap, fields: &HeaderMap) -> bool {
    let Some(asked) = only_line(request, &IF_RANGE) else {
        return false;
    };
    if let Some(theirs) = EntityTag::parse(asked) {
        return tag(fields.get(ETAG)).is_some_and(|ours| ours.strongly_equals(&theirs));
    }
    // A date must be, to the byte, the very `Last-Modified`, and that must be strong: older than
    // `Date` by a second or more, so that no second change can hide in it (RFC 9110 §8.8.2.2).
    let date = |name| only_line(fields, name);
    let (Some(modified), Some(made)) = (date(&LAST_MODIFIED), date(&DATE)) else {
        return false;
    };
    let Some(made) = parse_date(made, Duration::ZERO) else {
        return false;
    };
    asked == modified && parse_date(modified, made).is_some_and(|modified| modified < made)
}

fn written(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("digits and ASCII marks are a field value")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, line) in lines {
            fields.append(*name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        fields
    }

    fn answer(range: &str, length: u64) -> RangeAnswer {
        range_answer(&fields(&[("range", range)]), &HeaderMap::new(), length)
    }

    #[test]
    fn one_range_is_cut_to_the_content() {
        for (range, first, last) in [
            ("bytes=0-1", 0, 1),
            ("Bytes=0-0", 0, 0),
            ("bytes=1-", 1, 9),
            ("bytes=9-9", 9, 9),
            ("bytes=5-99999999999999999999999", 5, 9),
            ("bytes=-1", 9, 9),
            ("bytes=-10", 0, 9),
            ("bytes=-99", 0, 9),
            ("bytes= 2-3 ", 2, 3),
        ] {
            assert_eq!(answer(range, 10), RangeAnswer::Partial(first..=last), "{range}");
        }
    }

    #[test]
    fn what_lies_outside_is_unsatisfiable() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(answer(range, 10), RangeAnswer::Unsatisfiable, "{range}");
        }
        assert_eq!(answer("bytes=0-", 0), RangeAnswer::Unsatisfiable);
        assert_eq!(answer("bytes=-5", 0), RangeAnswer::Whole);
    }

    #[test]
    fn what_is_no_single_range_of_bytes_gets_the_whole() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=0-1,3-4",
            "bytes=0-1,",
            "items=0-1",
            "bytes=0-1-2",
            "bytes=+0-1",
            "bytes=0 - 1",
            "bytes=1-x",
            "bytes=x-1",
        ] {
            assert_eq!(answer(range, 10), RangeAnswer::Whole, "{range}");
        }
        let twice = fields(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]);
        assert_eq!(range_answer(&twice, &HeaderMap::new(), 10), RangeAnswer::Whole);
    }

    #[test]
    fn if_range_compares_strongly() {
        let old = "Sun, 06 Nov 1994 08:49:37 GMT";
        let new = "Sun, 06 Nov 1994 08:49:38 GMT";
        let strong = &[("etag", "\"a\""), ("last-modified", old), ("date", new)][..];
        for (asked, reply, holds) in [
            ("\"a\"", strong, true),
            ("\"b\"", strong, false),
            ("W/\"a\"", strong, false),
            ("W/\"a\"", &[("etag", "W/\"a\"")], false),
            ("\"a\"", &[("etag", "W/\"a\"")], false),
            ("\"a\"", &[], false),
            (old, strong, true),
            (new, strong, false),
            (old, &[("last-modified", old), ("date", old)], false),
            (old, &[("last-modified", old)], false),
            ("junk", strong, false),
        ] {
            let request = fields(&[("range", "bytes=0-1"), ("if-range", asked)]);
            let part = range_answer(&request, &fields(reply), 10) == RangeAnswer::Partial(0..=1);
            assert_eq!(part, holds, "{asked} {reply:?}");
        }
    }

    #[test]
    fn content_range_tells_the_part_and_the_whole() {
        assert_eq!(content_range(&(2..=3), 10), "bytes 2-3/10");
        assert_eq!(unsatisfied_range(10), "bytes */10");
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_content(range in "bytes=[0-9]{0,20}-[0-9]{0,20}", length: u64) {
            if let RangeAnswer::Partial(part) = answer(&range, length) {
                prop_assert!(part.start() <= part.end() && *part.end() < length);
            }
        }
    }
}
