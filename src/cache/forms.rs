//! [`Form`]: how a field value, or the end of a target, is kept in few bytes.
//!
//! *Invariant:* what is read is what was put in, each byte. A value that looks like one of a shorter form and would
//! be shown otherwise is kept as it is.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::packed::{self, Reader};
use crate::alphabet::hex_pair;
use crate::mask::Tag;
use crate::numbered;

/// How a field value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// Not at all: it is one of [`USUAL`].
    Usual(&'static HeaderValue),
    /// A date, as its second.
    Date,
    /// The tag of the body that it is about: not at all.
    Tag,
    /// A client's lifetime, as its number.
    MaxAge,
    /// Any other: its length and its bytes.
    Own,
}

impl Form {
    /// Keeps a value about a body with this tag; says in which form.
    pub(super) fn pack(value: &HeaderValue, tag: Option<Tag>, out: &mut Vec<u8>) -> Self {
        if let Some(usual) = USUAL.iter().find(|usual| *usual == value) {
            return Self::Usual(usual);
        }
        if value.len() == Tag::LENGTH && tag.is_some_and(|tag| tag.text() == value.as_bytes()) {
            return Self::Tag;
        }
        if let Some(second) = numbered::read_date(value.as_bytes()) {
            out.extend_from_slice(&second.to_le_bytes());
            return Self::Date;
        }
        if let Some(seconds) = numbered::read_max_age(value) {
            packed::write(usize::try_from(seconds).unwrap_or(usize::MAX), out);
            return Self::MaxAge;
        }
        packed::write(value.len(), out);
        out.extend_from_slice(value.as_bytes());
        Self::Own
    }

    /// Writes the text of a value that has none yet.
    pub(super) fn write(self, kept: &mut Reader<'_>, tag: Option<Tag>, out: &mut BytesMut) {
        match self {
            Self::Usual(_) | Self::Date | Self::MaxAge => {
                self.skip(kept);
            }
            Self::Tag => {
                debug_assert!(tag.is_some(), "fields are shown with the body they were kept with");
                out.extend_from_slice(&tag.map_or([0; Tag::LENGTH], |tag| tag.text()));
            }
            Self::Own => {
                let length = kept.number();
                out.extend_from_slice(kept.bytes(length));
            }
        }
    }

    /// Goes past what is kept of a value; says how much text was written for it.
    pub(super) fn skip(self, kept: &mut Reader<'_>) -> usize {
        match self {
            Self::Usual(_) => 0,
            Self::Tag => Tag::LENGTH,
            Self::Date => {
                kept.skip(size_of::<u32>());
                0
            }
            Self::MaxAge => {
                kept.number();
                0
            }
            Self::Own => {
                let length = kept.number();
                kept.skip(length);
                length
            }
        }
    }

    /// The value; its text, if it was written, is cut off.
    pub(super) fn cut(self, kept: &mut Reader<'_>, written: &mut Bytes) -> Option<HeaderValue> {
        let length = match self {
            Self::Usual(usual) => return Some(usual.clone()),
            Self::Date => return Some(numbered::date(u32::from_le_bytes(kept.array()))),
            Self::MaxAge => return Some(numbered::max_age(u32::try_from(kept.number()).ok()?)),
            Self::Tag | Self::Own => self.skip(kept),
        };
        let text = (length <= written.len()).then(|| written.split_to(length))?;
        HeaderValue::from_maybe_shared(text).ok()
    }
}

/// Keeps how many values were masked, which mostly is none, and the end of a target: a UUID as its 16 bytes.
pub(super) fn pack_about(masked: u32, end: &str, out: &mut Vec<u8>) {
    let uuid = unhyphenated(end.as_bytes());
    let (length, bytes) = match &uuid {
        Some(uuid) => (0, &uuid[..]),
        None => (end.len(), end.as_bytes()),
    };
    let marks = if uuid.is_some() { IS_UUID } else { 0 } | if masked > 0 { IS_MASKED } else { 0 };
    packed::write(length << MARKS | marks, out);
    if masked > 0 {
        packed::write(usize::try_from(masked).unwrap_or(usize::MAX), out);
    }
    out.extend_from_slice(bytes);
}

/// Shows them to `with`.
pub(super) fn with_about<T>(kept: &mut Reader<'_>, with: impl FnOnce(u32, &[u8]) -> T) -> T {
    let number = kept.number();
    let masked = if number & IS_MASKED == 0 { 0 } else { kept.number() };
    let masked = u32::try_from(masked).unwrap_or(u32::MAX);
    if number & IS_UUID == 0 {
        with(masked, kept.bytes(number >> MARKS))
    } else {
        with(masked, &hyphenated(kept.array()))
    }
}

/// A UUID in its usual form (RFC 9562 §4).
fn hyphenated(uuid: [u8; UUID_BYTES]) -> [u8; UUID] {
    let mut text = [b'-'; UUID];
    let mut at = 0;
    for (index, byte) in uuid.into_iter().enumerate() {
        at += usize::from(matches!(index, 4 | 6 | 8 | 10));
        if let Some(pair) = text.get_mut(at..at + 2) {
            pair.copy_from_slice(&hex_pair(byte));
        }
        at += 2;
    }
    text
}

fn unhyphenated(text: &[u8]) -> Option<[u8; UUID_BYTES]> {
    if text.len() != UUID {
        return None;
    }
    let uuid = bytes_of(text.iter().filter(|byte| **byte != b'-'))?;
    (hyphenated(uuid) == text).then_some(uuid)
}

/// What 32 lower-case hexadecimal digits tell.
fn bytes_of<'a>(mut digits: impl Iterator<Item = &'a u8>) -> Option<[u8; UUID_BYTES]> {
    let mut bytes = [0; UUID_BYTES];
    let mut digit = || match digits.next()? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for byte in &mut bytes {
        *byte = digit()? << 4 | digit()?;
    }
    digit().is_none().then_some(bytes)
}

/// Beside the length of a target's end.
const IS_UUID: usize = 1;
const IS_MASKED: usize = 2;
const MARKS: u32 = 2;

/// Bytes of a UUID, and of its text.
const UUID_BYTES: usize = 16;
const UUID: usize = 36;

/// Values that nearly every answer has.
static USUAL: [HeaderValue; 4] = [
    HeaderValue::from_static("application/json"),
    HeaderValue::from_static("application/json; charset=utf-8"),
    HeaderValue::from_static("authorization"),
    HeaderValue::from_static("private, no-store"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The form of a value about a body, what it takes, and the value as it is shown.
    fn kept(value: &str) -> (Form, usize, HeaderValue) {
        let (tag, mut out) = (Some(Tag::over(BODY)), Vec::new());
        let form = Form::pack(&HeaderValue::from_str(value).unwrap(), tag, &mut out);
        let mut text = BytesMut::new();
        form.write(&mut Reader(&out), tag, &mut text);
        let mut text = text.freeze();
        let shown = form.cut(&mut Reader(&out), &mut text).unwrap();
        assert!(text.is_empty());
        (form, out.len(), shown)
    }

    const BODY: &[u8] = b"{}";

    #[test]
    fn a_value_is_kept_in_the_form_that_it_has_to_the_letter() {
        let tag = |body| String::from_utf8(Tag::over(body).text().to_vec()).unwrap();
        for (value, form, length) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Form::Date, 4),
            (&tag(BODY), Form::Tag, 0),
            ("private, max-age=0", Form::MaxAge, 1),
            ("private, max-age=3600", Form::MaxAge, 2),
            ("private, max-age=4294967295", Form::MaxAge, 5),
            ("authorization", Form::Usual(&USUAL[2]), 0),
        ] {
            assert_eq!(kept(value), (form, length, HeaderValue::from_str(value).unwrap()));
        }
        for value in [
            "",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            &tag(b"[]"),
            &tag(BODY).to_uppercase(),
            &format!("W/{}", tag(BODY)),
            "private, max-age=060",
            "private, max-age=60, must-revalidate",
            "private, max-age=4294967296",
            "Authorization",
        ] {
            let shown = HeaderValue::from_str(value).unwrap();
            assert_eq!(kept(value), (Form::Own, value.len() + 1, shown));
        }
    }

    #[test]
    fn the_end_of_a_target_is_a_uuid_only_in_its_usual_form() {
        let uuid = "5f0c1b9e-7d0a-4a53-9f0e-2b1f5d3c8a11";
        for (end, length) in [
            (uuid, 17),
            ("", 1),
            ("unit-1", 7),
            (&uuid.to_uppercase(), 38),
            (&format!("{uuid}?"), 39),
            ("5f0c1b9e7-d0a-4a53-9f0e-2b1f5d3c8a11", 38),
            ("5f0c1b9e-7d0a-4a53-9f0e-2b1f5d3c8a-1", 38),
            ("5f0c1b9e-7d0a-4a53-9f0e-2b1f5d3c8g11", 38),
        ] {
            for (masked, more) in [(0, 0), (1, 1), (u32::MAX, 5)] {
                let mut out = Vec::new();
                pack_about(masked, end, &mut out);
                assert_eq!(out.len(), length + more, "{end}");
                let shown = |masked, kept: &[u8]| (masked, kept.to_vec());
                let told = with_about(&mut Reader(&out), shown);
                assert_eq!(told, (masked, end.as_bytes().to_vec()));
            }
        }
    }
}
