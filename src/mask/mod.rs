//! Masking: body in, [`Masked`] and [`Facts`] out, in one pass that finds the secrets, masks them
//! and keeps every other byte; what cannot be proven is refused.
//!
//! # Invariants
//! 1. Only this module makes a [`Masked`], and only [`Masked`] can be stored or sent.
//! 2. A body without unmasked secrets is returned as it came: the same bytes in the same
//!    allocation.
//! 3. Masking is idempotent, linear in the size of its input, and knows no depth that it cannot
//!    follow.
//! 4. Names and text are judged as their reader sees them, after unescaping.
//! 5. Nothing of a body is ever quoted: not by an error, not by `Debug`.
//!
//! # What it does not see
//! Secrets under names that are not listed and without a known shape, and secrets that are encoded,
//! in base64 say.
//!
//! # Why not believe `isTokenMasked`?
//! It is the upstream's claim. The value is looked at; the claim is only corrected.
//!
//! `scan.rs` walks the grammar on the tokens of `lex.rs`; `rules.rs` decides on each name
//! (`names.rs`) and value (`value.rs`, `key_shape.rs`), `unescape.rs` shows both as their reader
//! sees them, and `edits.rs` makes the changes.

mod bodies;
mod edits;
mod facts;
mod key_shape;
mod lex;
mod names;
mod rules;
mod scan;
mod self_test;
mod target;
mod unescape;
mod updated_at;
mod value;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

use crate::config::Secrets;

pub use self::bodies::{Bodies, Tag};
pub use self::facts::{Facts, UnitFact};
pub use self::self_test::SelfTestError;

use self::bodies::Body;
use self::names::Names;
use self::scan::Scan;

/// Masks bodies, fields and text by rules that are compiled once from the configuration.
#[derive(Debug)]
pub struct Masker {
    names: Names,
    /// For the sample of the self-test.
    secrets: Secrets,
    fingerprint: u64,
}

impl Masker {
    /// A masker for the secret names of `secrets`, which reports the units found under
    /// `unit_members`.
    pub fn new(secrets: &Secrets, unit_members: &[String]) -> Self {
        Self {
            names: Names::new(secrets, unit_members),
            secrets: secrets.clone(),
            fingerprint: fingerprint(secrets, unit_members),
        }
    }

    /// `body` with every secret masked, and what the pass saw.
    ///
    /// A byte order mark is no JSON here (RFC 8259 §8.1 forbids to send one). Escaped lone
    /// surrogates are kept.
    ///
    /// # Errors
    /// When `body` can't be proven masked: it isn't exactly one JSON value in UTF-8, two member
    /// names became equal by masking, or the result would be out of all proportion.
    pub fn json(&self, body: Bytes) -> Result<(Masked, Facts), MaskError> {
        self.pass(body, true)
    }

    /// The same where nobody asks which units it names, nor how new it is: of the facts only what was masked
    /// is told.
    ///
    /// # Errors
    /// Those of [`Self::json`].
    pub fn json_unasked(&self, body: Bytes) -> Result<(Masked, Facts), MaskError> {
        self.pass(body, false)
    }

    fn pass(&self, body: Bytes, gathers: bool) -> Result<(Masked, Facts), MaskError> {
        let mut scan = Scan::new(&body, self, edits::limit(body.len()), gathers);
        scan.run()?;
        if scan.clash {
            return Err(MaskError::NameClash);
        }
        let (edits, facts) = scan.finish();
        Ok((proven(edits.apply(body)), facts))
    }

    /// `body` as it is, for a route that opts out of masking by name in the configuration.
    pub fn verbatim(&self, body: Bytes) -> Masked {
        proven(body)
    }

    /// The body of an answer that has none.
    pub fn empty(&self) -> Masked {
        Masked(Body::NONE)
    }

    /// `value` with key-shaped strings masked, also where they are percent-encoded as in
    /// `Location`.
    pub fn field(&self, value: &HeaderValue) -> HeaderValue {
        let Cow::Owned(masked) = key_shape::replace_in_uri(value.as_bytes()) else {
            return value.clone();
        };
        // A mask is visible ASCII, so what was a field value stays one; were it none, the mask
        // alone tells nothing.
        let mut masked = HeaderValue::from_maybe_shared(Bytes::from(masked))
            .unwrap_or(HeaderValue::from_static(MASKED_FIELD));
        masked.set_sensitive(value.is_sensitive());
        masked
    }

    /// `text` with key-shaped strings masked, also where they are percent-encoded as in request
    /// targets.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match key_shape::replace_in_uri(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(masked) => Cow::Owned(String::from_utf8_lossy(&masked).into_owned()),
        }
    }

    /// Whether the body of a request has a mask where a secret belongs: under a secret name or
    /// anywhere below one, or below a name that keeps its shape.
    ///
    /// # Errors
    /// When `body` isn't exactly one JSON value in UTF-8.
    pub fn masked_secret(&self, body: &[u8]) -> Result<bool, MaskError> {
        let mut scan = Scan::new(body, self, usize::MAX, false);
        scan.run()?;
        Ok(scan.mask_seen)
    }

    /// Changes whenever the rules or their configuration do, and only then; the same in every
    /// process.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Masks a sample that is put together here from the configured names, and checks that no
    /// secret is left.
    ///
    /// # Errors
    /// When one is, or the sample is refused: this masker must not be relied on.
    pub fn self_test(&self) -> Result<(), SelfTestError> {
        self_test::run(self, &self.secrets)
    }
}

/// Body bytes that may be stored and sent. Clones share them.
#[derive(Clone)]
pub struct Masked(Body);

impl Masked {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The same bytes, which keep `what` for as long as anybody reads them.
    #[must_use]
    pub fn keeping(self, what: impl Send + Sync + 'static) -> Self {
        if self.is_empty() { self } else { proven(Bytes::from_owner(Keeping(self, what))) }
    }

    /// Its tag, of what is shared.
    pub fn tag(&self) -> Option<Tag> {
        self.0.tag()
    }

    /// Memory that what is shared takes, in bytes.
    pub fn memory(&self) -> usize {
        self.0.memory()
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Bytes that were masked, or need not be. Not a function of [`Masked`]: nobody is to be shown it as a way.
fn proven(bytes: Bytes) -> Masked {
    Masked(Body::passing(bytes))
}

/// Bytes, and what lives as long as they do.
struct Keeping<T>(Masked, T);

impl<T> AsRef<[u8]> for Keeping<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Masked({} bytes)", self.len())
    }
}

/// Why a body can't be proven masked. Never quotes the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum MaskError {
    /// Not the grammar of RFC 8259; also an empty body.
    #[error("the body is not JSON")]
    NotJson,
    /// It ends before its value does.
    #[error("the body is truncated JSON")]
    Truncated,
    /// A string in it isn't UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Something follows the value.
    #[error("bytes follow the JSON value")]
    TrailingBytes,
    /// Two member names of one object would be equal once they are masked.
    #[error("two member names are equal once they are masked")]
    NameClash,
    /// Masking would make the body larger than twice its size and 16 MiB.
    #[error("the masked body would be too large")]
    TooLarge,
}

impl MaskError {
    /// All of them, for metrics that start at 0.
    pub const ALL: [Self; 6] = [
        Self::NotJson,
        Self::Truncated,
        Self::NotUtf8,
        Self::TrailingBytes,
        Self::NameClash,
        Self::TooLarge,
    ];

    /// A stable label for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::Truncated => "truncated",
            Self::NotUtf8 => "not_utf8",
            Self::TrailingBytes => "trailing_bytes",
            Self::NameClash => "name_clash",
            Self::TooLarge => "too_large",
        }
    }
}

/// FNV-1a over the version of the rules and the names, each with its length and the lists with
/// theirs.
fn fingerprint(secrets: &Secrets, unit_members: &[String]) -> u64 {
    let normalised = |names: &[String]| {
        let mut names: Vec<_> =
            names.iter().map(|name| names::normalised(name.as_bytes())).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let members = unit_members.iter().map(|member| member.as_bytes().to_vec()).collect();
    let mut hash = FNV_OFFSET;
    let mut write = |bytes: &[u8]| {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    };
    write(&RULES_VERSION.to_le_bytes());
    for list in [normalised(&secrets.names), normalised(&secrets.objects), members] {
        write(&(list.len() as u64).to_le_bytes());
        for name in &list {
            write(name);
        }
    }
    hash
}

/// To be raised with every change of what is masked or reported: entries that were stored under
/// another are misses.
const RULES_VERSION: u32 = 1;

/// What a field is replaced by if its masked form were no field value.
const MASKED_FIELD: &str = "****************";

const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

#[cfg(test)]
mod tests;
