//! Tokens of JSON (RFC 8259): strings, numbers, literals, white space. Strict, and as fast as plain
//! words allow.
//!
//! # Invariants
//! 1. What is accepted is exactly the grammar of RFC 8259 §6 and §7; only UTF-8 is left to the
//!    caller.
//! 2. A string is walked once, and the walk says all that later decisions need.
//!
//! # Why not SIMD intrinsics?
//! They need `unsafe`, which this crate forbids. Words of eight bytes do nearly as well for the
//! short strings of which bodies are made, and for long ones the compiler makes SIMD of a plain
//! loop over a window.

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

/// Walks the string behind the quote before `start`.
#[inline]
pub(super) fn string(body: &[u8], start: usize) -> Result<Text, MaskError> {
    let (end, stop) = first_stop(body, start, text_stops);
    if stop == b'"' {
        return Ok(Text { start, end, escaped: false, disguised: false });
    }
    long_string(body, start, end)
}

/// A name behind the quote before `start`, if it is made of what names usually are made of: no
/// escape, underscore, hyphen, space or other byte below the digits, and is shorter than a window.
#[inline]
pub(super) fn usual_name(body: &[u8], start: usize) -> Option<usize> {
    let (end, stop) = first_stop(body, start, name_stops);
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

/// Goes on with a string at `at`, where the first window of it has no closing quote.
#[inline(never)]
fn long_string(body: &[u8], start: usize, mut at: usize) -> Result<Text, MaskError> {
    let mut text = Text { start, end: start, escaped: false, disguised: false };
    loop {
        at = behind_plain(body, at);
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
    }
}

/// The first place from `at` on that is no plain text: its end, an escape or a control byte, or the
/// end of the body.
#[inline]
fn behind_plain(body: &[u8], mut at: usize) -> usize {
    while let Some(window) = window(body, at)
        && is_plain(window)
    {
        at += WINDOW;
    }
    // The window that isn't plain has a stop, and so has the last one.
    first_stop(body, at, text_stops).0
}

/// Whether no byte of the window ends plain text.
///
/// The same as [`text_stops`], in a form of which the compiler makes SIMD: a text of 18 kB is masked
/// in 1.6 µs, by words it was 3.4. (With the quote compared by itself it makes poor code.)
#[inline]
fn is_plain(window: &[u8; WINDOW]) -> bool {
    // Flipping bit 1 moves the quote directly behind the control bytes.
    let stops = |byte: u8| byte ^ 0x02 < 0x21 || byte == b'\\';
    !window.iter().fold(false, |any, &byte| any | stops(byte))
}

/// The first place in the window at `at` that `stops` marks, and the byte there; the end of the
/// window and zero if there is none. The end of the body is marked always.
#[inline(always)]
#[expect(clippy::inline_always, reason = "this loop is the pass: as a call it costs a third more")]
fn first_stop(body: &[u8], at: usize, stops: impl Fn(u64) -> u64) -> (usize, u8) {
    let padded;
    let window = if let Some(window) = window(body, at) {
        window
    } else {
        padded = last_window(body, at);
        &padded
    };
    let mut place = at;
    for word in window.as_chunks().0 {
        let word = u64::from_le_bytes(*word);
        let found = stops(word);
        if found != 0 {
            // The lowest marked byte, in bits.
            let bits = found.trailing_zeros() & !7;
            return (place + bits as usize / 8, (word >> bits).to_le_bytes()[0]);
        }
        place += 8;
    }
    (place, 0)
}

/// The window at `at`, if the body is long enough.
#[inline]
fn window(body: &[u8], at: usize) -> Option<&[u8; WINDOW]> {
    body.get(at..)?.first_chunk()
}

/// What is left from `at` on, less than a window, and zeros behind it, which stop everything.
#[cold]
fn last_window(body: &[u8], at: usize) -> [u8; WINDOW] {
    let mut window = [0; WINDOW];
    let rest = body.get(at..).unwrap_or_default();
    window.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    window
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

/// So many bytes are looked at together: most strings are shorter.
const WINDOW: usize = 32;
