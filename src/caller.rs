//! Who asks: `Authorization: Bearer …` → [`Caller`], a token to spend and a digest to be known by.
//!
//! *Invariants*
//! 1. A token can be shown by nothing: no `Display`, no `Serialize`, no `Hash`; `Debug` prints `Token(…)`,
//!    and its field value is marked sensitive.
//! 2. A caller is told apart by a keyed 32-byte digest. Never by a short or unkeyed hash: two tokens that
//!    collide would share a cache.
//! 3. Equal tokens are one caller however their field was spelled (`bearer`, more spaces): the digest is
//!    over the token alone, and so is what goes upstream.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::alphabet::{Alphabet, hex_pair};

/// An identified caller: the token it may spend, and the digest it is known by.
#[derive(Clone)]
pub struct Caller<'a> {
    /// Known everywhere by this.
    pub id: CallerId,
    /// The token's; the request's own where it is spelled so, whose holders a hit need not count.
    field: Cow<'a, HeaderValue>,
}

impl Caller<'_> {
    /// Spent on the exchange, or moved into the flight it began.
    pub fn token(&self) -> Token {
        Token::of(HeaderValue::clone(&self.field))
    }
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.id).finish_non_exhaustive()
    }
}

/// Digest key of the process, or of the fleet when it comes from a file.
#[derive(Clone)]
pub struct Callers {
    key: [u8; 32],
}

impl Callers {
    /// A key of this process alone: fingerprints change with every start.
    ///
    /// # Errors
    /// If the operating system has no entropy to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { key })
    }

    /// A key from a file's bytes, so that fingerprints outlive restarts.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self { key: blake3::derive_key("unitgate 2026 caller digest key", secret) }
    }

    /// The caller of a request (RFC 6750 §2.1), the one of the connection's last request where the field is
    /// the same to the byte: that is known in a quarter of the time, of a long token in much less.
    ///
    /// # Errors
    /// What was wrong with its `Authorization`, never what was in it.
    pub fn identify<'a>(
        &self,
        fields: &'a HeaderMap,
        last: &LastCaller,
    ) -> Result<Caller<'a>, CallerError> {
        let mut values = fields.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(CallerError::Missing)?;
        if values.next().is_some() {
            return Err(CallerError::Repeated);
        }
        let mut last = last.0.lock();
        if let Some(known) = last.as_ref().filter(|known| *known.field == *value) {
            return Ok(Caller { id: known.id, field: Cow::Borrowed(value) });
        }
        let token = Token::parse(value)?;
        let id = self.digest(token.bytes());
        // A field that is spelled otherwise than ours would never be found the same.
        let canonical = token.0 == *value;
        *last = canonical.then(|| Caller { id, field: Cow::Owned(token.authorization()) });
        let field = if canonical { Cow::Borrowed(value) } else { Cow::Owned(token.0) };
        Ok(Caller { id, field })
    }

    /// A keyed digest of anything else that a log should match but not show.
    pub fn fingerprint_of(&self, bytes: &[u8]) -> [u8; 12] {
        self.digest(bytes).fingerprint()
    }

    fn digest(&self, bytes: &[u8]) -> CallerId {
        CallerId(*blake3::keyed_hash(&self.key, bytes).as_bytes())
    }
}

/// Who asked last over a connection. It forgets a token when another comes, and when the connection ends.
#[derive(Debug, Default)]
pub struct LastCaller(Mutex<Option<Caller<'static>>>);

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callers(…)")
    }
}

/// The keyed digest of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallerId([u8; 32]);

impl Hash for CallerId {
    /// A part of it: it is a digest already, under a key that nobody knows.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let part = self.0.first_chunk().copied().unwrap_or_default();
        state.write_u64(u64::from_le_bytes(part));
    }
}

impl CallerId {
    /// The whole digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The whole digest in hexadecimal.
    pub fn hex(&self) -> String {
        self.0.iter().flat_map(|byte| hex_pair(*byte)).map(char::from).collect()
    }

    /// The first 12 hex digits: what logs show.
    pub fn fingerprint(&self) -> [u8; 12] {
        let mut hex = [b'0'; 12];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&hex_pair(byte));
        }
        hex
    }

    /// A made-up digest for tests of what only needs callers to differ.
    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerId({})", String::from_utf8_lossy(&self.fingerprint()))
    }
}

/// A bearer token as the field value that goes upstream; dies with the exchange or flight it pays for.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// The token in an `Authorization` field: RFC 6750's `b64token`, 1 to [`Token::MAX`] characters.
    ///
    /// # Errors
    /// [`CallerError::Malformed`] for another scheme or other characters, [`CallerError::TooLong`].
    pub fn parse(value: &HeaderValue) -> Result<Self, CallerError> {
        let bytes = value.as_bytes();
        let (scheme, rest) = bytes.split_at_checked(SCHEME.len()).ok_or(CallerError::Malformed)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) || rest.first() != Some(&b' ') {
            return Err(CallerError::Malformed);
        }
        let token = rest.trim_ascii();
        if token.len() > Self::MAX {
            return Err(CallerError::TooLong);
        }
        if !is_b64token(token) {
            return Err(CallerError::Malformed);
        }
        let canonical = scheme == SCHEME && rest.len() == token.len() + 1;
        Ok(Self::of(if canonical { value.clone() } else { bearer(token)? }))
    }

    fn of(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }

    /// Most characters of a token.
    pub const MAX: usize = 7_000;

    /// The `Authorization` field that spends it, in memory of its own: a parsed one shares the whole
    /// read buffer of its connection, which a waiting fetch must not hold.
    pub fn authorization(&self) -> HeaderValue {
        let mut value =
            HeaderValue::from_bytes(self.0.as_bytes()).unwrap_or_else(|_impossible| self.0.clone());
        value.set_sensitive(true);
        value
    }

    /// When a token that is a JWT says that it ends (RFC 7519 §4.1.4), since the Unix epoch.
    ///
    /// Read, not verified: whoever forges it can only shorten how long an answer is reused.
    pub fn expires(&self) -> Option<Duration> {
        let mut parts = self.bytes().split(|byte| *byte == b'.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
        let exp = claims.get("exp")?.as_f64()?;
        Some(Duration::try_from_secs_f64(exp.max(0.0)).unwrap_or(Duration::MAX))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes().get(SCHEME.len() + 1..).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why nobody could be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// No `Authorization` field.
    #[error("the request carries no Authorization field")]
    Missing,
    /// Not `Bearer` and a `b64token`.
    #[error("the Authorization field is not of the form 'Bearer TOKEN'")]
    Malformed,
    /// More than one `Authorization` field.
    #[error("the request carries more than one Authorization field")]
    Repeated,
    /// Longer than [`Token::MAX`].
    #[error("the bearer token is longer than 7000 characters")]
    TooLong,
}

fn bearer(token: &[u8]) -> Result<HeaderValue, CallerError> {
    HeaderValue::from_bytes(&[SCHEME, b" ", token].concat())
        .map_err(|_invalid| CallerError::Malformed)
}

/// RFC 6750 §2.1: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_b64token(token: &[u8]) -> bool {
    // It never stops early, so that sixteen bytes are looked at in one step: a quarter of a table's price.
    let plain = |byte| matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'-'..=b'9' | b'_' | b'~' | b'+');
    if !token.is_empty() && token.iter().fold(true, |all, byte| all & plain(*byte)) {
        return true;
    }
    let (body, padding) = token.split_at(B64TOKEN.prefix(token));
    !body.is_empty() && padding.iter().all(|byte| *byte == b'=')
}

/// What a `b64token` is made of but for its padding.
static B64TOKEN: Alphabet = Alphabet::alphanumeric_and(b"-._~+/");

const SCHEME: &[u8] = b"Bearer";

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(value: &str) -> Result<Caller<'static>, CallerError> {
        let mut fields = HeaderMap::new();
        fields.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        Callers::from_secret(b"of a test").identify(&fields, &LastCaller::default()).map(own)
    }

    fn own(caller: Caller<'_>) -> Caller<'static> {
        Caller { id: caller.id, field: Cow::Owned(caller.field.into_owned()) }
    }

    #[test]
    fn without_authorization_nobody_is_identified() {
        let error = Callers::from_secret(b"x")
            .identify(&HeaderMap::new(), &LastCaller::default())
            .unwrap_err();
        assert_eq!(error, CallerError::Missing);
    }

    #[test]
    fn two_authorization_fields_are_refused_even_when_equal() {
        let mut fields = HeaderMap::new();
        fields.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        fields.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        let error =
            Callers::from_secret(b"x").identify(&fields, &LastCaller::default()).unwrap_err();
        assert_eq!(error, CallerError::Repeated);
    }

    #[test]
    fn only_a_b64token_is_a_token() {
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Basic abc",
            "Bearer a b",
            "Bearer a,b",
            "Bearer =",
            "Bearer a=b",
            "Bearer a\u{e9}",
            "Bearera",
            "Bearer\ta",
        ] {
            assert_eq!(identify(bad).unwrap_err(), CallerError::Malformed, "{bad}");
        }
        for good in ["Bearer a", "bearer a", "BEARER   a", "Bearer aZ09-._~+/==", "Bearer a "] {
            assert!(identify(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_token_of_7000_characters_is_taken_and_one_more_is_not() {
        assert!(identify(&format!("Bearer {}", "a".repeat(7_000))).is_ok());
        let error = identify(&format!("Bearer {}", "a".repeat(7_001))).unwrap_err();
        assert_eq!(error, CallerError::TooLong);
    }

    #[test]
    fn a_caller_is_its_token_however_the_field_was_spelled() {
        let plain = identify("Bearer abc").unwrap();
        let spelled = identify("bEARER   abc ").unwrap();
        assert_eq!(plain.id, spelled.id);
        assert_eq!(spelled.token().authorization(), "Bearer abc");
        assert_ne!(plain.id, identify("Bearer abd").unwrap().id);
    }

    #[test]
    fn over_one_connection_each_request_is_its_own_callers_whoever_asked_before() {
        let (callers, last) = (Callers::from_secret(b"of a test"), LastCaller::default());
        let asks = |value: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(AUTHORIZATION, HeaderValue::from_static(value));
            callers.identify(&fields, &last).map(own)
        };
        for value in ["Bearer a", "Bearer a", "Bearer b", "bearer a", "Bearer a", "Bearer ab"] {
            let (found, alone) = (asks(value).unwrap(), identify(value).unwrap());
            assert_eq!(found.id, alone.id, "{value}");
            assert_eq!(found.token().authorization(), alone.token().authorization(), "{value}");
        }
        assert_eq!(asks("Bearer").unwrap_err(), CallerError::Malformed);
        assert!(!format!("{last:?}").contains("ab"));
    }

    #[test]
    fn another_key_makes_another_digest() {
        let mut fields = HeaderMap::new();
        fields.insert(AUTHORIZATION, HeaderValue::from_static("Bearer abc"));
        let a = Callers::from_secret(b"a").identify(&fields, &LastCaller::default()).unwrap();
        let b = Callers::from_secret(b"b").identify(&fields, &LastCaller::default()).unwrap();
        assert_ne!(a.id, b.id);
    }

    #[test]
    fn what_goes_upstream_is_a_copy_that_is_marked_and_what_a_hit_has_is_the_requests_own() {
        let (callers, last) = (Callers::from_secret(b"of a test"), LastCaller::default());
        for (value, own) in [("Bearer a", true), ("Bearer a", true), ("bearer  a", false)] {
            let mut fields = HeaderMap::new();
            fields.insert(AUTHORIZATION, HeaderValue::from_static(value));
            let caller = callers.identify(&fields, &last).unwrap();
            assert_eq!(matches!(caller.field, Cow::Borrowed(_)), own, "{value}");
            let (token, sent) = (caller.token(), caller.token().authorization());
            assert!(token.0.is_sensitive() && sent.is_sensitive() && sent == "Bearer a");
            assert_ne!(sent.as_bytes().as_ptr(), fields[AUTHORIZATION].as_bytes().as_ptr());
        }
    }

    #[test]
    fn nothing_prints_a_token() {
        let caller = identify("Bearer very-secret").unwrap();
        let shown = format!("{caller:?} {:?} {:?}", caller.token(), caller.token().authorization());
        assert!(!shown.contains("very-secret"), "{shown}");
    }

    #[test]
    fn the_end_of_a_jwt_is_read_and_nothing_else_is_believed() {
        let jwt = |claims: &str| {
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
            identify(&format!("Bearer {token}")).unwrap().token().expires()
        };
        assert_eq!(jwt(r#"{"exp":1700000000}"#), Some(Duration::from_secs(1_700_000_000)));
        assert_eq!(jwt(r#"{"exp":1.5}"#), Some(Duration::from_millis(1_500)));
        assert_eq!(jwt(r#"{"exp":-5}"#), Some(Duration::ZERO));
        assert_eq!(jwt(r#"{"exp":1e300}"#), Some(Duration::MAX));
        assert_eq!(jwt(r#"{"exp":"soon"}"#), None);
        assert_eq!(jwt("not json"), None);
        assert_eq!(identify("Bearer opaque").unwrap().token().expires(), None);
        assert_eq!(identify("Bearer a.b.c.d").unwrap().token().expires(), None);
    }
}
