//! JSON strings as their reader sees them: escapes resolved, leniently where Unicode is concerned.
//!
//! # Invariants
//! 1. Only strings that the lexer has accepted come here; for any other bytes the result is some
//!    bytes, never a panic.
//! 2. A lone surrogate (`\ud800`) is kept as its three-byte generalised UTF-8 form, so that
//!    different names stay different.

use super::key_shape::Unit;

/// The bytes between the quotes with every escape resolved (RFC 8259 §7).
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let literal = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
        plain.extend_from_slice(rest.get(..literal).unwrap_or_default());
        at += literal;
        let Some((code, length)) = escape_at(text, at) else {
            continue;
        };
        at += length;
        match code {
            0xD800..=0xDBFF => match escape_at(text, at) {
                Some((low @ 0xDC00..=0xDFFF, length)) => {
                    at += length;
                    push_code(&mut plain, 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00));
                }
                _ => push_code(&mut plain, code),
            },
            _ => push_code(&mut plain, code),
        }
    }
    plain
}

/// The characters at `start..end` of `body`, which is a string or the rest of one, for the search
/// for keys.
pub(super) fn units(body: &[u8], mut start: usize, end: usize) -> impl Iterator<Item = Unit> {
    let text = body.get(..end).unwrap_or_default();
    std::iter::from_fn(move || {
        let &first = text.get(start)?;
        let (byte, length) = match first {
            b'\\' => escape_at(text, start)
                .map_or((OTHER, 1), |(code, length)| (u8::try_from(code).unwrap_or(OTHER), length)),
            _ => (first, 1),
        };
        let unit = Unit { byte, start, end: start + length };
        start += length;
        Some(unit)
    })
}

/// The value of four hexadecimal digits.
pub(super) fn hex4(digits: [u8; 4]) -> Option<u32> {
    digits
        .into_iter()
        .try_fold(0, |value, digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

/// The UTF-16 code unit of the escape at `at`, and the escape's length.
fn escape_at(text: &[u8], at: usize) -> Option<(u32, usize)> {
    let rest = text.get(at..)?.strip_prefix(b"\\")?;
    let (&kind, digits) = rest.split_first()?;
    let code = match kind {
        b'u' => return Some((hex4(*digits.first_chunk()?)?, 6)),
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        other => other,
    };
    Some((u32::from(code), 2))
}

/// Appends a code point in UTF-8; surrogates in the generalised form, as `char` cannot hold them.
fn push_code(plain: &mut Vec<u8>, code: u32) {
    if let Some(character) = char::from_u32(code) {
        plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        let [.., high, low] = code.to_be_bytes();
        plain.extend_from_slice(&[
            0xE0 | high >> 4,
            0x80 | (high & 0x0F) << 2 | low >> 6,
            0x80 | low & 0x3F,
        ]);
    }
}

/// Stands for a character that is no ASCII.
const OTHER: u8 = 0xFF;
