//! Tokens of JSON (RFC 8259): strings, numbers, literals, white space. Strict, and as fast as plain
//! words allow.
//!
//! # Invariants
//! 1. What is accepted is exactly the grammar of RFC 8259 §6 and §7; only UTF-8 is left to the
//!    caller, who learns of any byte above ASCII.
//! 2. A string is walked once, eight bytes at a time, and the walk says all that later
//!    decisions need.
//!
//! # Why not SIMD intrinsics?
//! They need `unsafe`, which this crate forbids. Words of eight bytes do nearly as well for the
//! short strings of which bodies are made.

use super::MaskError;
use super::unescape::hex4;

/// A string between its quotes: where it is, and what was seen in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    /// Behind the opening quote.
    pub(super) start: usize,
    /// The closing quote.
    pub(super) end: usize,
    /// It has an escape.
    pub(super) escaped: bool,
    /// An escape stands for a letter, a digit, an underscore or an asterisk: the bytes hide what
    /// they say.
    pub(super) disguised: bool,
}

/// Walks the string behind the quote before `start`. The high bits of `seen` tell whether there
/// was a byte above ASCII; perhaps they are those of a byte close behind, but none is missed.
#[inline]
pub(super) fn string(body: &[u8], start: usize, seen: &mut u64) -> Result<Text, MaskError> {
    let (end, stop) = walk(body, start, seen, text_stops);
    if stop == b'"' {
        return Ok(Text { start, end, escaped: false, disguised: false });
    }
    escaped_string(body, start, end, seen)
}

/// A name behind the quote before `start`, if it is made of what names usually are made of: no
/// escape, underscore, hyphen, space or other byte below the digits.
#[inline]
pub(super) fn usual_name(body: &[u8], start: usize, seen: &mut u64) -> Option<usize> {
    let (end, stop) = walk(body, start, seen, name_stops);
    (stop == b'"').then_some(end)
}

/// Behind the number at `at` (RFC 8259 §6).
#[inline]
pub(super) fn number(body: &[u8], at: usize) -> Result<usize, MaskError> {
    let whole = at + usize::from(body.get(at) == Some(&b'-'));
    let leading_zero = body.get(whole) == Some(&b'0');
    let mut end = if leading_zero { whole + 1 } else { digits(body, whole)? };
    if body.get(end) == Some(&b'.') {
        end = digits(body, end + 1)?;
    }
    if matches!(body.get(end), Some(b'e' | b'E')) {
        let signed = matches!(body.get(end + 1), Some(b'+' | b'-'));
        end = digits(body, end + 1 + usize::from(signed))?;
    }
    Ok(end)
}

/// Behind `true`, `false` or `null`, one of which has to stand at `at`.
#[inline]
pub(super) fn literal(body: &[u8], at: usize) -> Result<usize, MaskError> {
    let rest = body.get(at..).unwrap_or_default();
    match rest.first_chunk() {
        Some(b"true" | b"null") => Ok(at + 4),
        Some(b"fals") if rest.get(4) == Some(&b'e') => Ok(at + 5),
        _ if [&b"true"[..], b"false", b"null"].iter().any(|word| word.starts_with(rest)) => {
            Err(MaskError::Truncated)
        }
        _ => Err(MaskError::NotJson),
    }
}

/// The first byte from `at` on that is no white space (RFC 8259 §2), and its place; none at the
/// end.
#[inline]
pub(super) fn significant(body: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        let byte = *body.get(at)?;
        // White space is rare: the bodies of APIs are compact.
        if byte > b' ' {
            return Some((byte, at));
        }
        if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            return Some((byte, at));
        }
        at += 1;
    }
}

/// Whether a byte above ASCII is among what [`string`] and [`usual_name`] have seen.
pub(super) fn is_wide(seen: u64) -> bool {
    seen & HIGH != 0
}

/// Goes on with a string at its first byte, at `at`, that is no plain text.
#[cold]
fn escaped_string(
    body: &[u8],
    start: usize,
    mut at: usize,
    seen: &mut u64,
) -> Result<Text, MaskError> {
    let mut text = Text { start, end: start, escaped: false, disguised: false };
    loop {
        match body.get(at) {
            Some(b'"') => {
                text.end = at;
                return Ok(text);
            }
            Some(b'\\') => {
                let (behind, disguised) = escape(body, at)?;
                at = behind;
                text.escaped = true;
                text.disguised |= disguised;
            }
            Some(_) => return Err(MaskError::NotJson),
            None => return Err(MaskError::Truncated),
        }
        (at, _) = walk(body, at, seen, text_stops);
    }
}

/// The first place from `at` on where `stops` says that the walk ends, and the byte there; zero
/// behind the end.
#[inline(always)]
#[expect(clippy::inline_always, reason = "this loop is the pass: as a call it costs a third more")]
fn walk(body: &[u8], at: usize, seen: &mut u64, stops: impl Fn(u64) -> u64) -> (usize, u8) {
    let mut rest = body.get(at..).unwrap_or_default();
    let mut all = 0;
    let (word, found) = loop {
        let Some((chunk, behind)) = rest.split_first_chunk() else {
            let word = last_word(rest);
            all |= word;
            break (word, stops(word));
        };
        let word = u64::from_le_bytes(*chunk);
        all |= word;
        let found = stops(word);
        if found != 0 {
            break (word, found);
        }
        rest = behind;
    };
    *seen |= all;
    // The lowest marked byte, in bits.
    let bits = found.trailing_zeros() & !7;
    let byte = word.checked_shr(bits).unwrap_or_default();
    (body.len() - rest.len() + bits as usize / 8, byte.to_le_bytes()[0])
}

/// Behind the escape at `at`, and whether it stands for something that could be a part of a key or
/// a mask.
fn escape(body: &[u8], at: usize) -> Result<(usize, bool), MaskError> {
    match body.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok((at + 2, false)),
        Some(b'u') => {
            let digits = body.get(at + 2..).unwrap_or_default();
            let Some(digits) = digits.first_chunk() else {
                let cut = digits.iter().all(u8::is_ascii_hexdigit);
                return Err(if cut { MaskError::Truncated } else { MaskError::NotJson });
            };
            let code = hex4(*digits).ok_or(MaskError::NotJson)?;
            let telling = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'*');
            Ok((at + 6, u8::try_from(code).is_ok_and(telling)))
        }
        Some(_) => Err(MaskError::NotJson),
        None => Err(MaskError::Truncated),
    }
}

/// Behind the digits at `at`, of which there has to be one.
#[inline]
fn digits(body: &[u8], at: usize) -> Result<usize, MaskError> {
    let mut end = at;
    while body.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    match body.get(at) {
        _ if end > at => Ok(end),
        Some(_) => Err(MaskError::NotJson),
        None => Err(MaskError::Truncated),
    }
}

/// Fewer than eight bytes, the first the lowest, and zeros behind them, which stop every walk.
#[cold]
fn last_word(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The high bit of each byte that ends plain text: a quote, a backslash, a control byte. Above the
/// first one there may be false ones.
#[inline]
fn text_stops(word: u64) -> u64 {
    // Flipping bit 1 moves the quote directly behind the control bytes, so one comparison has both.
    let ends = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let escapes = (word ^ (ONES * 0x5C)).wrapping_sub(ONES);
    (ends | escapes) & !word & HIGH
}

/// The high bit of each byte that ends a usual name: all below the digits, and `\ ] ^ _`. Above
/// the first one there may be false ones.
#[inline]
fn name_stops(word: u64) -> u64 {
    let below_digits = word.wrapping_sub(ONES * 0x30);
    let joiners = ((word | (ONES * 0x03)) ^ (ONES * 0x5F)).wrapping_sub(ONES);
    (below_digits | joiners) & !word & HIGH
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;
