//! `Cache-Status` (RFC 9211) and `Age` (RFC 9111 §5.1): how the cache's part in an answer is told.
//!
//! *Invariants*
//! 1. A member has exactly one of `hit` and `fwd`; `fwd-status`, `stored` and `collapsed` only with
//!    `fwd`.
//! 2. What is appended to is a valid structured list, and stays one.
//! 3. Nothing that came from outside gets into the field: every part is a number or a constant.
//!
//! *Why not a structured-field serializer?* This is written for every answer, mostly as one hit and
//! one number; a few appended constants cost an allocation and no more.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{List, Parser};

use super::directives::MOST_SECONDS;

/// The cache's part in one answer: one member of `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    /// `hit`, or `fwd` with its reason.
    pub outcome: Outcome,
    /// The status the upstream answered with; left out on a hit.
    pub fwd_status: Option<u16>,
    /// [`super::Life::ttl`] of what is sent.
    pub ttl: Option<i64>,
    /// Whether the answer was really stored; left out on a hit.
    pub stored: bool,
    /// Whether the request joined another one's fetch; left out on a hit.
    pub collapsed: bool,
    /// More for people; printable ASCII, anything else in it is left out.
    pub detail: Option<&'static str>,
}

/// Whether the cache answered. The same names serve as metric label and log field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the cache, without asking the upstream (RFC 9211 §2.1).
    Hit,
    /// By asking the upstream (RFC 9211 §2.2).
    Forwarded(Forward),
}

/// Why a request went forward (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    /// The cache was configured not to handle this request.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// Nothing stored matched the target.
    UriMiss,
    /// Something stored matched the target, but `Vary` did not match.
    VaryMiss,
    /// Nothing stored could be used.
    Miss,
    /// What is stored is fresh, but the request's directives do not allow it.
    Request,
    /// What is stored is stale.
    Stale,
    /// Only a part is stored.
    Partial,
}

impl CacheStatus {
    /// A hit with so many seconds to live.
    pub fn hit(ttl: i64) -> Self {
        Self { ttl: Some(ttl), ..Self::of(Outcome::Hit) }
    }

    /// A request that went forward.
    pub fn forwarded(reason: Forward) -> Self {
        Self::of(Outcome::Forwarded(reason))
    }

    fn of(outcome: Outcome) -> Self {
        Self { outcome, fwd_status: None, ttl: None, stored: false, collapsed: false, detail: None }
    }

    /// The member of the cache called `cache`, which is a token such as `unitgate`.
    pub fn member(&self, cache: &str) -> HeaderValue {
        let mut member = BytesMut::with_capacity(cache.len() + 24);
        self.write(cache, &mut member);
        HeaderValue::from_maybe_shared(member.freeze())
            .unwrap_or(HeaderValue::from_static("unitgate"))
    }

    /// Writes the member of the cache called `cache`.
    pub fn write(&self, cache: &str, member: &mut BytesMut) {
        member.extend_from_slice(cache.as_bytes());
        match self.outcome {
            Outcome::Hit => member.extend_from_slice(b"; hit"),
            Outcome::Forwarded(reason) => self.push_forward(member, reason),
        }
        if let Some(ttl) = self.ttl {
            member.extend_from_slice(b"; ttl=");
            let ttl = ttl.clamp(-MOST_INTEGER, MOST_INTEGER);
            member.extend_from_slice(itoa::Buffer::new().format(ttl).as_bytes());
        }
        if let Some(detail) = self.detail {
            member.extend_from_slice(b"; detail=");
            push_item(member, detail);
        }
    }

    /// Appends the member to `fields`, after those of the caches before this one (RFC 9211 §2). If
    /// theirs are no valid list, or an empty one, they are removed: they would make ours unreadable.
    pub fn append_to(&self, cache: &str, fields: &mut HeaderMap) {
        append_member(fields, self.member(cache));
    }

    fn push_forward(&self, member: &mut BytesMut, reason: Forward) {
        member.extend_from_slice(b"; fwd=");
        member.extend_from_slice(reason.as_str().as_bytes());
        if let Some(status) = self.fwd_status {
            member.extend_from_slice(b"; fwd-status=");
            member.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        }
        if self.stored {
            member.extend_from_slice(b"; stored");
        }
        if self.collapsed {
            member.extend_from_slice(b"; collapsed");
        }
    }
}

/// Appends a member of ours, as [`CacheStatus::append_to`] does.
pub fn append_member(fields: &mut HeaderMap, member: HeaderValue) {
    if fields.contains_key(&CACHE_STATUS) && !is_list(fields) {
        fields.remove(&CACHE_STATUS);
    }
    fields.append(CACHE_STATUS, member);
}

impl Outcome {
    /// Every outcome, in the order of the metric's label values.
    pub const ALL: &[Self] = &[
        Self::Hit,
        Self::Forwarded(Forward::Bypass),
        Self::Forwarded(Forward::Method),
        Self::Forwarded(Forward::UriMiss),
        Self::Forwarded(Forward::VaryMiss),
        Self::Forwarded(Forward::Miss),
        Self::Forwarded(Forward::Request),
        Self::Forwarded(Forward::Stale),
        Self::Forwarded(Forward::Partial),
    ];

    /// `hit`, or the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Forwarded(reason) => reason.as_str(),
        }
    }
}

impl Forward {
    /// The reason as RFC 9211 §2.2 writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// Writes `Age` in whole seconds (RFC 9111 §5.1), at most 2^31 (RFC 9111 §1.2.2).
pub fn write_age(age: Duration, out: &mut BytesMut) {
    out.extend_from_slice(itoa::Buffer::new().format(age.as_secs().min(MOST_SECONDS)).as_bytes());
}

/// Whether the field is a structured list over all its lines, with something in it.
fn is_list(fields: &HeaderMap) -> bool {
    let lines: Vec<&[u8]> = fields.get_all(&CACHE_STATUS).into_iter().map(AsRef::as_ref).collect();
    Parser::new(&lines.join(&b", "[..])).parse::<List>().is_ok_and(|list| !list.is_empty())
}

/// Writes a token where `text` is one, else a string (RFC 8941 §3.3.3 and §3.3.4).
fn push_item(member: &mut BytesMut, text: &str) {
    let is_token = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
    if is_token {
        member.extend_from_slice(text.as_bytes());
        return;
    }
    member.put_u8(b'"');
    for printable in text.bytes().filter(|one| matches!(one, b' '..=b'~')) {
        if matches!(printable, b'"' | b'\\') {
            member.put_u8(b'\\');
        }
        member.put_u8(printable);
    }
    member.put_u8(b'"');
}

/// The largest structured integer (RFC 8941 §3.3.1).
const MOST_INTEGER: i64 = 999_999_999_999_999;

/// The field (RFC 9211 §2).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(status: &CacheStatus) -> String {
        status.member("unitgate").to_str().unwrap().to_owned()
    }

    #[test]
    fn a_hit_has_its_time_to_live() {
        assert_eq!(text(&CacheStatus::hit(42)), "unitgate; hit; ttl=42");
        assert_eq!(text(&CacheStatus::hit(-3)), "unitgate; hit; ttl=-3");
    }

    #[test]
    fn a_forwarded_request_has_its_reason() {
        let mut status = CacheStatus::forwarded(Forward::UriMiss);
        assert_eq!(text(&status), "unitgate; fwd=uri-miss");
        status.fwd_status = Some(200);
        status.stored = true;
        status.collapsed = true;
        status.ttl = Some(60);
        status.detail = Some("budget_spent");
        assert_eq!(
            text(&status),
            "unitgate; fwd=uri-miss; fwd-status=200; stored; collapsed; ttl=60; detail=budget_spent"
        );
        status.outcome = Outcome::Hit;
        assert_eq!(text(&status), "unitgate; hit; ttl=60; detail=budget_spent");
    }

    #[test]
    fn a_detail_that_is_no_token_is_a_string() {
        let detail = |detail| text(&CacheStatus { detail: Some(detail), ..CacheStatus::hit(1) });
        assert_eq!(detail("two words"), r#"unitgate; hit; ttl=1; detail="two words""#);
        assert_eq!(detail("a\"\\é\n"), r#"unitgate; hit; ttl=1; detail="a\"\\""#);
        assert_eq!(detail(""), r#"unitgate; hit; ttl=1; detail="""#);
        assert_eq!(detail("9"), r#"unitgate; hit; ttl=1; detail="9""#);
    }

    #[test]
    fn ours_comes_after_the_caches_before_us() {
        let mut fields = HeaderMap::new();
        fields.append(CACHE_STATUS, HeaderValue::from_static("origin; hit, cdn; fwd=stale"));
        CacheStatus::hit(1).append_to("unitgate", &mut fields);
        let lines: Vec<_> = fields.get_all(CACHE_STATUS).into_iter().collect();
        assert_eq!(lines, ["origin; hit, cdn; fwd=stale", "unitgate; hit; ttl=1"]);
    }

    #[test]
    fn an_invalid_list_before_us_is_dropped() {
        let mut fields = HeaderMap::new();
        fields.append(CACHE_STATUS, HeaderValue::from_static("origin; hit,"));
        fields.append(CACHE_STATUS, HeaderValue::from_static("(((("));
        CacheStatus::hit(1).append_to("unitgate", &mut fields);
        assert_eq!(
            fields.get_all(CACHE_STATUS).into_iter().collect::<Vec<_>>(),
            ["unitgate; hit; ttl=1"]
        );
    }

    #[test]
    fn outcomes_have_names_of_their_own() {
        let mut names: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Outcome::ALL.len());
    }

    #[test]
    fn age_is_in_whole_seconds_and_bounded() {
        let written = |age| {
            let mut out = BytesMut::new();
            write_age(age, &mut out);
            out
        };
        assert_eq!(written(Duration::from_millis(1999)), b"1"[..]);
        assert_eq!(written(Duration::MAX), b"2147483648"[..]);
    }

    proptest! {
        #[test]
        fn a_member_is_always_a_valid_structured_list(
            ttl in proptest::option::of(any::<i64>()),
            fwd_status in proptest::option::of(any::<u16>()),
            (stored, collapsed, outcome) in (any::<bool>(), any::<bool>(), 0..Outcome::ALL.len()),
            detail in proptest::sample::select(vec![None, Some("token"), Some("a \"b\" \\"), Some("é")]),
        ) {
            let outcome = Outcome::ALL[outcome];
            let status = CacheStatus { outcome, fwd_status, ttl, stored, collapsed, detail };
            let member = status.member("unitgate");
            let list = Parser::new(&member).parse::<List>().unwrap();
            prop_assert_eq!(list.len(), 1);
            let sfv::ListEntry::Item(item) = &list[0] else { return Err(TestCaseError::fail("a list")) };
            let has = |name: &str| item.params.keys().any(|key| key.as_str() == name);
            prop_assert!(has("hit") != has("fwd"));
            prop_assert!(has("fwd") || !(has("fwd-status") || has("stored") || has("collapsed")));
        }
    }
}
