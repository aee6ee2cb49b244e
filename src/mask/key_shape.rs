//! Key-shaped strings: `cal_`, `cal_live_` or `cal_test_` and 16 or more of `[A-Za-z0-9]`, not
//! preceded by one of them.
//!
//! # Invariants
//! 1. Text is judged as its reader sees it: the units given are characters after unescaping, each
//!    with its place in the bytes.
//! 2. Linear: each unit is looked at once, and nothing is remembered but the current run and the
//!    prefix before it.
//! 3. What replaces a key can neither be one nor complete one: its last byte is an asterisk, and so
//!    is no letter.
//!
//! # Why not a regular expression, or a search for `cal_`?
//! Both judge bytes, and a key spelled `ca\u006c_…` has other bytes. "Not preceded by a letter or
//! digit" means that the `cal` before the underscore is a whole run of letters and digits, which
//! makes the search a walk from run to run. Only text without escapes is searched for the prefix
//! ([`plain_key`]): a body full of keys is masked in two thirds of the time.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;

use super::value::{PREFIX, PREFIXED, PREFIXES};

/// One character after unescaping: its byte if it is ASCII and any other byte if not, and where it
/// stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    /// The character, or what is no letter, digit or underscore.
    pub(super) byte: u8,
    /// The first of its bytes as written.
    pub(super) start: usize,
    /// Behind the last of its bytes as written.
    pub(super) end: usize,
}

/// The place of the first key-shaped string. What follows can be searched by itself, from its end
/// on: the next byte is no letter or digit.
pub(super) fn first_key(units: impl Iterator<Item = Unit>) -> Option<Range<usize>> {
    let mut before = Before::Nothing;
    let mut run = Run::default();
    for unit in units {
        if unit.byte.is_ascii_alphanumeric() {
            run.extend(unit);
            continue;
        }
        if let Some(key) = before.completed(run) {
            return Some(key);
        }
        before = if unit.byte == b'_' { before.with(run) } else { Before::Nothing };
        run = Run::default();
    }
    before.completed(run)
}

/// Where the prefix of all keys first stands in `text`.
#[inline]
pub(super) fn prefix(text: &[u8]) -> Option<usize> {
    FINDER.find(text)
}

/// The length of the key at `start` of `text`, where the prefix of all keys stands, if it is one.
///
/// For text without escapes: asked at each prefix in turn it finds what [`first_key`] does.
pub(super) fn plain_key(text: &[u8], start: usize) -> Option<usize> {
    let (before, key) = text.split_at_checked(start)?;
    if before.last().is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    let prefix = PREFIXES.iter().find(|prefix| key.starts_with(prefix))?.len();
    let run = key.iter().skip(prefix).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    (run >= SHORTEST).then_some(prefix + run)
}

/// `text` with each key-shaped run replaced by its mask; borrowed when there is none.
pub(super) fn replace(text: &[u8]) -> Cow<'_, [u8]> {
    if prefix(text).is_none() {
        return Cow::Borrowed(text);
    }
    replace_in(text, plain)
}

/// [`replace`], and once more with `%XX` read as the octet that it stands for (RFC 3986 §2.1), as
/// in URIs.
///
/// Both readings, as either can show a key which the other hides: `%20cal_…` and `%cal_…`.
pub(super) fn replace_in_uri(text: &[u8]) -> Cow<'_, [u8]> {
    // As most field values: an octet takes a byte at least, encoded or not.
    if text.len() < PREFIX.len() + SHORTEST {
        return Cow::Borrowed(text);
    }
    let once = replace(text);
    if memchr::memchr(b'%', &once).is_none() {
        return once;
    }
    match replace_in(&once, percent) {
        Cow::Borrowed(_) => once,
        Cow::Owned(twice) => Cow::Owned(twice),
    }
}

/// `units` are those of a text from a place on.
fn replace_in<'a, Units>(text: &'a [u8], units: impl Fn(&'a [u8], usize) -> Units) -> Cow<'a, [u8]>
where
    Units: Iterator<Item = Unit> + 'a,
{
    let mut masked = Vec::new();
    let mut copied = 0;
    while let Some(key) = first_key(units(text, copied)) {
        masked.extend_from_slice(text.get(copied..key.start).unwrap_or_default());
        masked.extend_from_slice(PREFIXED);
        copied = key.end;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    masked.extend_from_slice(text.get(copied..).unwrap_or_default());
    Cow::Owned(masked)
}

/// Each byte for itself, from `start` on: text without escapes.
fn plain(text: &[u8], start: usize) -> impl Iterator<Item = Unit> {
    let place = |(start, &byte)| Unit { byte, start, end: start + 1 };
    text.iter().enumerate().skip(start).map(place)
}

/// Percent-encoded octets, and what isn't encoded, from `start` on.
fn percent(text: &[u8], mut start: usize) -> impl Iterator<Item = Unit> {
    std::iter::from_fn(move || {
        let (&first, rest) = text.get(start..)?.split_first()?;
        let octet = match first {
            b'%' => rest.first_chunk().copied().and_then(hex_octet),
            _ => None,
        };
        let end = start + if octet.is_some() { 3 } else { 1 };
        let unit = Unit { byte: octet.unwrap_or(first), start, end };
        start = end;
        Some(unit)
    })
}

fn hex_octet(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits
        .map(|digit| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()));
    Some(high? << 4 | low?)
}

/// Made once: making it costs more than the search in a target or a field.
static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(PREFIX));

/// What stands directly before the current run, as far as it matters.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    /// `cal_`, from the given place.
    Cal(usize),
    /// `cal_live_` or `cal_test_`, from the given place.
    CalKind(usize),
}

impl Before {
    /// What stands before the next run, when `run` has ended in an underscore.
    fn with(self, run: Run) -> Self {
        match (self, run.spelling()) {
            (_, Some(b"cal")) => Self::Cal(run.start),
            (Self::Cal(start), Some(b"live" | b"test")) => Self::CalKind(start),
            _ => Self::Nothing,
        }
    }

    /// The key that `run`, now that it has ended, completes.
    fn completed(self, run: Run) -> Option<Range<usize>> {
        match self {
            Self::Cal(start) | Self::CalKind(start) if run.length >= SHORTEST => {
                Some(start..run.end)
            }
            _ => None,
        }
    }
}

/// A run of letters and digits that is whole: no letter or digit touches it.
#[derive(Clone, Copy, Default)]
struct Run {
    start: usize,
    end: usize,
    length: usize,
    /// The first bytes: no word that matters is longer.
    head: [u8; 4],
}

impl Run {
    fn extend(&mut self, unit: Unit) {
        if self.length == 0 {
            self.start = unit.start;
        }
        if let Some(place) = self.head.get_mut(self.length) {
            *place = unit.byte;
        }
        self.length += 1;
        self.end = unit.end;
    }

    /// The run's letters, when they are few enough to be a part of a prefix.
    fn spelling(&self) -> Option<&[u8]> {
        self.head.get(..self.length)
    }
}

/// Letters and digits behind the prefix, at least.
const SHORTEST: usize = 16;
