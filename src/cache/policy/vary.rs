//! Content negotiation: which requests a stored response answers (RFC 9111 §4.1).
//!
//! *Invariants*
//! 1. All lines of `Vary` count, and all lines of the request fields that it names.
//! 2. `*`, or a member that is no field name, matches no request at all.
//! 3. Values are normalised only where that cannot change their meaning.
//!
//! *Why not a secondary key?* Variants of one target are few; comparing the captured fields needs
//! no second index and no hash of what a client sent.

use http::{
    HeaderMap, HeaderName,
    header::{ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY},
};

use super::list::{Members, members};

/// The request fields a response was selected by. Two that are equal stand for the same variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variant {
    /// Sorted by name.
    selecting: Box<[Selecting]>,
}

/// A nominated field as the request had it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selecting {
    name: HeaderName,
    /// Normalised; `None`: the request did not have the field.
    value: Option<Box<[u8]>>,
}

impl Variant {
    /// Captures what `response`'s `Vary` nominates out of the request that it answers; `None` when
    /// no later request can match it.
    pub fn of(response: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        let mut names = nominated(response)?;
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        let selecting = names
            .into_iter()
            .map(|name| {
                let value = normalised(request, &name);
                Selecting { name, value }
            })
            .collect();
        Some(Self { selecting })
    }

    /// Whether `request` selects this variant: each nominated field is absent from both, or equal.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.selecting.iter().all(|field| field.value == normalised(request, &field.name))
    }

    /// The nominated fields.
    pub fn nominated(&self) -> impl Iterator<Item = &HeaderName> {
        self.selecting.iter().map(|field| &field.name)
    }

    /// Bytes held beside the struct itself.
    pub fn size(&self) -> usize {
        let values = self.selecting.iter().map(|field| {
            field.name.as_str().len() + field.value.as_ref().map_or(0, |value| value.len())
        });
        size_of_val(&*self.selecting) + values.sum::<usize>()
    }
}

/// The field names in `Vary`; `None` when one of them is `*` or no field name.
fn nominated(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    members(response, &VARY)
        .map(|member| if member == b"*" { None } else { HeaderName::from_bytes(member).ok() })
        .collect()
}

/// The value of a request field in a form that equal meanings share (RFC 9111 §4.1): lines are
/// joined and the white space around commas goes. Where RFC 9110 §12.5 makes the members a weighted
/// set of names compared without case, their case and order go too.
fn normalised(request: &HeaderMap, name: &HeaderName) -> Option<Box<[u8]>> {
    let mut lines = request.get_all(name).into_iter().peekable();
    lines.peek()?;
    let members = lines.flat_map(|line| Members::of(line.as_bytes()));
    if ![ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name) {
        return Some(members.collect::<Vec<_>>().join(&b","[..]).into());
    }
    let mut preferences: Vec<Vec<u8>> =
        members.map(preference).filter(|it| !it.is_empty()).collect();
    preferences.sort_unstable();
    Some(preferences.join(&b","[..]).into())
}

/// `gzip; Q=0.5` → `gzip;q=0.5`
fn preference(member: &[u8]) -> Vec<u8> {
    let kept = member.iter().filter(|byte| !matches!(byte, b' ' | b'\t'));
    kept.map(u8::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, line) in lines {
            fields.append(*name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        fields
    }

    /// Whether a response to `first` that varies on `vary` answers `second`.
    fn answers(
        vary: &str,
        first: &[(&'static str, &str)],
        second: &[(&'static str, &str)],
    ) -> bool {
        let variant = Variant::of(&fields(&[("vary", vary)]), &fields(first));
        variant.is_some_and(|variant| variant.matches(&fields(second)))
    }

    #[test]
    fn each_nominated_field_must_match_and_no_other() {
        let first = [("foo", "1"), ("bar", "abc")];
        assert!(answers("Foo, Bar", &first, &[("bar", "abc"), ("foo", "1"), ("other", "x")]));
        assert!(!answers("Foo, Bar", &first, &[("foo", "2"), ("bar", "abc")]));
        assert!(!answers("Foo, Bar", &first, &[("foo", "1"), ("bar", "abC")]));
        assert!(!answers("Foo, Bar", &first, &[("foo", "1")]));
        assert!(!answers("Foo", &[], &[("foo", "1")]));
        assert!(!answers("Foo", &[], &[("foo", "")]));
        assert!(answers("Foo, Bar, Baz", &first, &first));
        assert!(answers("", &first, &[]));
    }

    #[test]
    fn an_asterisk_or_an_unreadable_name_matches_nothing() {
        for vary in ["*", "*, *", ", *", "*, Foo", "Foo, *", "foo bar", "foo, b@r"] {
            assert!(!answers(vary, &[], &[]), "{vary}");
        }
        let lines = fields(&[("vary", ""), ("vary", "*")]);
        assert_eq!(Variant::of(&lines, &HeaderMap::new()), None);
    }

    #[test]
    fn lines_are_joined_and_white_space_around_commas_goes() {
        assert!(answers("foo", &[("foo", "1,2")], &[("foo", " 1, 2 ")]));
        assert!(answers("foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]));
        assert!(!answers("foo", &[("foo", "1, 2")], &[("foo", "2, 1")]));
        assert!(!answers("foo", &[("foo", "1,,2")], &[("foo", "1,2")]));
        assert!(!answers("foo", &[("foo", "a b")], &[("foo", "ab")]));
        assert!(!answers("foo", &[("foo", r#""1, 2""#)], &[("foo", r#""1,2""#)]));
    }

    #[test]
    fn weighted_names_lose_case_and_order() {
        let all = "accept-language, accept-encoding";
        let first = [("accept-language", "en, de;q=0.5"), ("accept-encoding", "gzip,br")];
        for second in [
            [("accept-language", "de; Q=0.5,EN"), ("accept-encoding", "br, gzip")],
            [("accept-language", ", en ,, de ;q=0.5"), ("accept-encoding", "GZIP,br")],
        ] {
            assert!(answers(all, &first, &second), "{second:?}");
        }
        assert!(!answers(
            all,
            &first,
            &[("accept-language", "en, de"), ("accept-encoding", "gzip, br")]
        ));
        assert!(!answers("accept", &[("accept", "a/b;x=Y")], &[("accept", "a/b;x=y")]));
    }

    #[test]
    fn the_order_of_names_in_vary_makes_no_other_variant() {
        let request = fields(&[("a", "1"), ("b", "2")]);
        let one = Variant::of(&fields(&[("vary", "A, b")]), &request);
        let other = Variant::of(&fields(&[("vary", "B"), ("vary", "a, a")]), &request);
        assert_eq!(one, other);
        assert!(one.unwrap().nominated().eq(["a", "b"]));
    }

    proptest! {
        #[test]
        fn a_request_always_matches_what_it_got(
            vary in "[a-c, ]{0,8}",
            lines in proptest::collection::vec(("[abc]", proptest::collection::vec(0x20_u8..=0xff, 0..12)), 0..6),
        ) {
            let mut request = HeaderMap::new();
            for (name, line) in &lines {
                if let Ok(line) = HeaderValue::from_bytes(line) {
                    request.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), line);
                }
            }
            if let Some(variant) = Variant::of(&fields(&[("vary", &vary)]), &request) {
                prop_assert!(variant.matches(&request));
            }
        }
    }
}
