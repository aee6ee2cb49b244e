//! Validation: asking the upstream whether a stored response still holds, and answering a client
//! that asks the same (RFC 9110 §13, RFC 9111 §4.3).
//!
//! *Invariants*
//! 1. Only a 304 whose validator is the stored one renews a stored response (RFC 9111 §4.3.4).
//! 2. The stored bytes never get the length, coding or range of others: a 304 does not change
//!    those.
//! 3. `If-None-Match` is judged before, and instead of, `If-Modified-Since` (RFC 9110 §13.2.2).
//!
//! *Why not the quoted-string rules for entity tags?* An entity tag has no escapes: in it a
//! backslash is a byte like any other (RFC 9110 §8.8.3).

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_RANGES, AGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
        IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
    },
};

use super::{date::parse_date, list::only_line, storing::remove_hop_by_hop};

/// The validators of a response (RFC 9110 §8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// A well-formed `ETag`, weak or strong.
    pub etag: Option<HeaderValue>,
    /// `Last-Modified`, if it is a date.
    pub last_modified: Option<HeaderValue>,
}

impl Validators {
    /// The validators in a response's fields. A repeated or unreadable one is none.
    pub fn of(response: &HeaderMap) -> Self {
        let etag = only_line(response, &ETAG).and_then(EntityTag::parse);
        // Whether it is a date does not depend on the century of a two-digit year.
        let modified = only_line(response, &LAST_MODIFIED)
            .and_then(|modified| parse_date(modified, Duration::ZERO));
        Self {
            etag: etag.and_then(|_| response.get(ETAG).cloned()),
            last_modified: modified.and_then(|_| response.get(LAST_MODIFIED).cloned()),
        }
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    /// Puts these in place of the validators among `fields`.
    pub fn replace(&self, fields: &mut HeaderMap) {
        for (name, value) in [(ETAG, &self.etag), (LAST_MODIFIED, &self.last_modified)] {
            fields.remove(&name);
            if let Some(value) = value {
                fields.insert(name, value.clone());
            }
        }
    }

    /// Makes `request` conditional on these validators (RFC 9111 §4.3.1). Whatever conditions and
    /// range it had are removed: they are the client's, and are judged here.
    pub fn condition(&self, request: &mut HeaderMap) {
        for name in
            [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE]
        {
            request.remove(name);
        }
        if let Some(etag) = &self.etag {
            request.insert(IF_NONE_MATCH, etag.clone());
        }
        if let Some(modified) = &self.last_modified {
            request.insert(IF_MODIFIED_SINCE, modified.clone());
        }
    }
}

/// Whether a 304 with these fields is about the stored response that `stored` validates (RFC 9111
/// §4.3.4). Without a validator, or with another one, it is not: it must not be used, and the
/// target is fetched anew without conditions.
pub fn matches_304(stored: &Validators, update: &HeaderMap) -> bool {
    let new = Validators::of(update);
    match (tag(stored.etag.as_ref()), tag(new.etag.as_ref())) {
        (Some(stored), Some(new)) if new.weak => stored.weakly_equals(&new),
        (Some(stored), Some(new)) => stored.strongly_equals(&new),
        (None, Some(_)) => false,
        (_, None) if update.contains_key(ETAG) => false,
        (_, None) => new.last_modified.is_some() && new.last_modified == stored.last_modified,
    }
}

/// The stored fields after a 304 (RFC 9111 §3.2): each field it has replaces all stored lines of
/// that name, new ones are added, the others stay. Not taken over are hop-by-hop fields, and
/// `Content-Length`, `-Encoding` and `-Range`, which describe the stored bytes. `Age` and `Date` go
/// with the exchange: the stored ones are dropped even if the 304 has none.
pub fn merge_304(stored: &HeaderMap, update: &HeaderMap) -> HeaderMap {
    let mut update = update.clone();
    remove_hop_by_hop(&mut update);
    let mut merged = stored.clone();
    merged.remove(AGE);
    merged.remove(DATE);
    for name in update.keys().filter(|name| !DESCRIBES_BYTES.contains(name)) {
        merged.remove(name);
        for value in update.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    merged
}

/// Whether the fields of a 200 to HEAD renew a stored GET response of `length` bytes (RFC 9111
/// §4.3.5): its validators and its length must be the stored ones, as far as it has them. If so,
/// [`merge_304`] joins them; if not, the stored response is to be taken as stale.
pub fn head_freshens(stored: &HeaderMap, head: &HeaderMap, length: u64) -> bool {
    let same = |name: &HeaderName| !head.contains_key(name) || head.get(name) == stored.get(name);
    let same_length = match head.get(CONTENT_LENGTH).map(HeaderValue::to_str) {
        None => true,
        Some(said) => said.is_ok_and(|said| said.parse() == Ok(length)),
    };
    same(&ETAG) && same(&LAST_MODIFIED) && same_length
}

/// Whether a GET or HEAD with these fields is answered by 304 (RFC 9110 §13.1.2 and §13.1.3, RFC
/// 9111 §4.3.2), given the entity tag and the modification time (wall, [`modified_at`]) of what a
/// 200 would carry. `None` for the time: `If-Modified-Since` is not honoured.
pub fn not_modified(
    request: &HeaderMap,
    etag: Option<&HeaderValue>,
    modified: Option<Duration>,
) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return none_match_fails(request, tag(etag).as_ref());
    }
    let (Some(modified), Some(since)) = (modified, only_line(request, &IF_MODIFIED_SINCE)) else {
        return false;
    };
    // A two-digit year is read relative to the response's own time.
    parse_date(since, modified).is_some_and(|since| modified <= since)
}

/// The wall time a response was modified at, for `If-Modified-Since`: its `Last-Modified`, else its
/// `Date`, else its receipt (RFC 9111 §4.3.2).
pub fn modified_at(fields: &HeaderMap, received_at: Duration) -> Duration {
    let date = |name| only_line(fields, name).and_then(|date| parse_date(date, received_at));
    date(&LAST_MODIFIED)
        .or_else(|| date(&DATE))
        // In whole seconds, as the date a client may have made of it.
        .unwrap_or_else(|| Duration::from_secs(received_at.as_secs()))
}

/// Whether a field of a 200 stays in the 304 that stands for it (RFC 9110 §15.4.5): all but those that
/// describe the content it does not have. `ETag`, `Date`, `Cache-Control`, `Expires`, `Vary` and
/// `Content-Location` are among what stays; `Last-Modified` only where there is no `ETag` (`tagged`).
pub fn stays_in_304(name: &HeaderName, tagged: bool) -> bool {
    !(OF_CONTENT.contains(name) || tagged && *name == LAST_MODIFIED)
}

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntityTag<'a> {
    pub(super) weak: bool,
    opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Reads `bytes` as exactly one entity tag.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (tag, rest) = Self::split(bytes)?;
        rest.is_empty().then_some(tag)
    }

    /// Reads the entity tag that `bytes` begin with.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, quoted) = match bytes {
            [b'W', b'/', rest @ ..] => (true, rest),
            _ => (false, bytes),
        };
        let (b'"', inner) = quoted.split_first()? else {
            return None;
        };
        let end = inner.iter().position(|&byte| byte == b'"')?;
        let (opaque, rest) = inner.split_at_checked(end)?;
        let is_etagc = |byte: &u8| *byte > b' ' && *byte != 0x7f;
        opaque.iter().all(is_etagc).then_some((Self { weak, opaque }, rest.get(1..)?))
    }

    /// RFC 9110 §8.8.3.2.
    pub(super) fn weakly_equals(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }

    /// RFC 9110 §8.8.3.2.
    pub(super) fn strongly_equals(&self, other: &Self) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }
}

/// A field value that is an entity tag.
pub(super) fn tag(value: Option<&HeaderValue>) -> Option<EntityTag<'_>> {
    value.and_then(|value| EntityTag::parse(super::list::trim(value.as_bytes())))
}

/// Whether `If-None-Match` names what we have: by weak comparison, or `*` for anything.
fn none_match_fails(request: &HeaderMap, ours: Option<&EntityTag<'_>>) -> bool {
    if only_line(request, &IF_NONE_MATCH) == Some(b"*") {
        return true;
    }
    let Some(ours) = ours else { return false };
    let mut lines = request.get_all(IF_NONE_MATCH).into_iter();
    lines.any(|line| names(line.as_bytes(), ours))
}

/// Whether a list of entity tags has `ours`; what is no entity tag is skipped up to the next comma.
fn names(mut list: &[u8], ours: &EntityTag<'_>) -> bool {
    while let Some(start) = list.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b',')) {
        let member = list.get(start..).unwrap_or_default();
        let (rest, found) = match EntityTag::split(member) {
            Some((theirs, rest)) => (rest, theirs.weakly_equals(ours)),
            None => (member, false),
        };
        let comma = rest.iter().position(|&byte| byte == b',').unwrap_or(rest.len());
        let (between, after) = rest.split_at_checked(comma).unwrap_or((rest, &[]));
        // Something glued to it makes it another thing.
        if found && super::list::trim(between).is_empty() {
            return true;
        }
        list = after;
    }
    false
}

/// Fields that describe content.
const OF_CONTENT: [HeaderName; 6] = [
    ACCEPT_RANGES,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
];

/// Fields a 304 does not change: they describe the stored bytes (RFC 9111 §3.2).
const DESCRIBES_BYTES: [&HeaderName; 3] = [&CONTENT_LENGTH, &CONTENT_ENCODING, &CONTENT_RANGE];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, line) in lines {
            fields.append(*name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        fields
    }

    fn validators(lines: &[(&'static str, &str)]) -> Validators {
        Validators::of(&fields(lines))
    }

    #[test]
    fn a_revalidation_asks_with_our_validators_only() {
        let mut request = fields(&[
            ("if-none-match", "\"theirs\""),
            ("if-none-match", "\"more\""),
            ("if-range", "\"theirs\""),
            ("range", "bytes=0-1"),
            ("accept", "a/b"),
        ]);
        validators(&[("etag", "W/\"ours\""), ("last-modified", OLD)]).condition(&mut request);
        let asked = fields(&[
            ("accept", "a/b"),
            ("if-none-match", "W/\"ours\""),
            ("if-modified-since", OLD),
        ]);
        assert_eq!(request, asked);
    }

    #[test]
    fn an_unreadable_or_repeated_validator_is_none() {
        for lines in [
            &[("etag", "abc")][..],
            &[("etag", "\"a\"x")],
            &[("etag", "w/\"a\"")],
            &[("etag", "\"a b\"")],
            &[("etag", "\"a\""), ("etag", "\"a\"")],
            &[("last-modified", "yesterday")],
            &[("last-modified", OLD), ("last-modified", OLD)],
        ] {
            assert!(!validators(lines).any(), "{lines:?}");
        }
        assert!(validators(&[("etag", "\"\"")]).any());
    }

    #[test]
    fn only_a_304_with_the_stored_validator_is_about_the_stored_response() {
        let strong = &[("etag", "\"a\""), ("last-modified", OLD)][..];
        let weak = &[("etag", "W/\"a\"")][..];
        let dated = &[("last-modified", OLD)][..];
        for (stored, update, matches) in [
            (strong, &[("etag", "\"a\"")][..], true),
            (strong, &[("etag", "W/\"a\"")], true),
            (strong, &[("etag", "\"a\""), ("last-modified", NEW)], true),
            (strong, &[("etag", "\"b\""), ("last-modified", OLD)], false),
            (strong, &[("last-modified", OLD)], true),
            (strong, &[("last-modified", NEW)], false),
            (strong, &[("etag", "junk"), ("last-modified", OLD)], false),
            (strong, &[], false),
            (weak, &[("etag", "W/\"a\"")], true),
            (weak, &[("etag", "\"a\"")], false),
            (dated, &[("last-modified", OLD)], true),
            (dated, &[("etag", "\"a\""), ("last-modified", OLD)], false),
            (dated, &[], false),
            (&[], &[], false),
        ] {
            let found = matches_304(&validators(stored), &fields(update));
            assert_eq!(found, matches, "{stored:?} {update:?}");
        }
    }

    #[test]
    fn a_304_updates_all_fields_but_those_about_the_bytes() {
        let stored = fields(&[
            ("content-type", "text/plain"),
            ("content-length", "10"),
            ("content-encoding", "gzip"),
            ("link", "</a>"),
            ("link", "</b>"),
            ("kept", "1"),
            ("age", "100"),
            ("date", OLD),
        ]);
        let update = fields(&[
            ("content-type", "text/html"),
            ("content-length", "0"),
            ("content-encoding", "br"),
            ("content-range", "bytes 0-1/2"),
            ("link", "</c>"),
            ("link", "</d>"),
            ("new", "2"),
            ("connection", "hop, close"),
            ("hop", "3"),
            ("keep-alive", "4"),
        ]);
        let merged = fields(&[
            ("content-type", "text/html"),
            ("content-length", "10"),
            ("content-encoding", "gzip"),
            ("link", "</c>"),
            ("link", "</d>"),
            ("kept", "1"),
            ("new", "2"),
        ]);
        assert_eq!(merge_304(&stored, &update), merged);
    }

    #[test]
    fn a_head_renews_only_what_it_agrees_with() {
        let stored = fields(&[("etag", "\"a\""), ("last-modified", OLD)]);
        for (head, freshens) in [
            (&[][..], true),
            (&[("etag", "\"a\""), ("content-length", "10")], true),
            (&[("etag", "\"b\"")], false),
            (&[("last-modified", NEW)], false),
            (&[("content-length", "11")], false),
            (&[("content-length", "x")], false),
        ] {
            assert_eq!(head_freshens(&stored, &fields(head), 10), freshens, "{head:?}");
        }
        assert!(!head_freshens(&HeaderMap::new(), &fields(&[("etag", "\"a\"")]), 10));
    }

    #[test]
    fn if_none_match_compares_weakly_over_all_members_and_lines() {
        for (lines, hit) in [
            (&["\"a\""][..], true),
            (&["W/\"a\""], true),
            (&["\"x\", \"a\" , \"y\""], true),
            (&["\"x\",\"a\""], true),
            (&["\"x\"", "\"a\""], true),
            (&[" * "], true),
            (&[",, \"a\""], true),
            (&["\"b,\", \"a\""], true),
            (&["junk, \"a\""], true),
            (&["\"x\\\", \"a\""], true),
            (&["\"b\""], false),
            (&["a"], false),
            (&["\"A\""], false),
            (&["\"a\"x"], false),
            (&["\"a"], false),
            (&["w/\"a\""], false),
            (&["\"x\", *"], false),
            (&[""], false),
        ] {
            let asked: Vec<_> = lines.iter().map(|line| ("if-none-match", *line)).collect();
            for etag in ["\"a\"", "W/\"a\""] {
                let etag = HeaderValue::from_static(etag);
                assert_eq!(not_modified(&fields(&asked), Some(&etag), None), hit, "{lines:?}");
            }
        }
        let asked = fields(&[("if-none-match", "*")]);
        assert!(not_modified(&asked, None, None));
        assert!(!not_modified(&fields(&[("if-none-match", "\"a\"")]), None, None));
    }

    #[test]
    fn if_modified_since_counts_only_without_if_none_match() {
        let at = |date: &str| parse_date(date.as_bytes(), Duration::ZERO);
        let since = |date: &str| fields(&[("if-modified-since", date)]);
        assert!(not_modified(&since(OLD), None, at(OLD)));
        assert!(not_modified(&since(NEW), None, at(OLD)));
        assert!(not_modified(&since("Sunday, 06-Nov-94 08:49:37 GMT"), None, at(OLD)));
        assert!(!not_modified(&since(OLD), None, at(NEW)));
        assert!(!not_modified(&since("junk"), None, at(OLD)));
        assert!(!not_modified(&since(OLD), None, None));
        assert!(!not_modified(&HeaderMap::new(), None, at(OLD)));
        let both = fields(&[("if-none-match", "\"b\""), ("if-modified-since", NEW)]);
        let etag = HeaderValue::from_static("\"a\"");
        assert!(!not_modified(&both, Some(&etag), at(OLD)));
        let twice = fields(&[("if-modified-since", OLD), ("if-modified-since", OLD)]);
        assert!(!not_modified(&twice, None, at(OLD)));
    }

    #[test]
    fn what_has_no_last_modified_was_modified_when_it_was_made() {
        let received = Duration::from_millis(784_111_999_500);
        let seconds = |lines: &[_]| modified_at(&fields(lines), received).as_secs();
        assert_eq!(seconds(&[("last-modified", OLD), ("date", NEW)]), 784_111_777);
        assert_eq!(seconds(&[("last-modified", "junk"), ("date", NEW)]), 784_111_778);
        assert_eq!(modified_at(&HeaderMap::new(), received), Duration::from_secs(784_111_999));
    }

    #[test]
    fn a_304_carries_what_guides_a_cache_and_nothing_about_content() {
        let kept = [
            ("etag", "\"a\""),
            ("date", NEW),
            ("cache-control", "max-age=5"),
            ("expires", NEW),
            ("vary", "a"),
            ("content-location", "/a"),
            ("age", "1"),
        ];
        let mut all = fields(&kept);
        all.extend(fields(&[
            ("content-type", "a/b"),
            ("content-length", "1"),
            ("last-modified", OLD),
        ]));
        let stays: Vec<_> = all.keys().filter(|name| stays_in_304(name, true)).collect();
        let kept = fields(&kept);
        assert_eq!(stays, kept.keys().collect::<Vec<_>>());
        assert!(stays_in_304(&LAST_MODIFIED, false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(
            asked in proptest::collection::vec(any::<u8>(), 0..40),
            etag in proptest::collection::vec(any::<u8>(), 0..10),
        ) {
            if let (Ok(asked), Ok(etag)) = (HeaderValue::from_bytes(&asked), HeaderValue::from_bytes(&etag)) {
                let mut request = HeaderMap::new();
                request.insert(IF_NONE_MATCH, asked);
                let _ = not_modified(&request, Some(&etag), None);
            }
        }

        #[test]
        fn an_entity_tag_is_found_among_others(before in "[a-z,\\\\]{0,6}", ours in "[a-z,\\\\]{0,6}") {
            let etag = HeaderValue::try_from(format!("\"{ours}\"")).unwrap();
            let asked = format!("\"{before}\", W/\"{ours}\" ,");
            prop_assert!(not_modified(&fields(&[("if-none-match", &asked)]), Some(&etag), None));
        }
    }
}
