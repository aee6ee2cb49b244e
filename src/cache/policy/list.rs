//! Members of list-valued fields (RFC 9110 §5.6.1): comma-separated, over all lines of the field.
//!
//! *Invariants*
//! 1. A comma inside a quoted string separates nothing.
//! 2. A quote that is never closed is an ordinary byte: it cannot hide the members that follow it.
//! 3. Each line is read by itself: a quote cannot reach into the next one.

use http::{HeaderMap, HeaderName};

use crate::fields::only;

/// The members of one field line, with the white space around them removed; empty ones included.
pub(super) struct Members<'a> {
    rest: Option<&'a [u8]>,
    /// Whether quotes still mean something: not after one that is never closed.
    quotes: bool,
}

impl<'a> Members<'a> {
    /// Reads `line`, a field line's value.
    pub(super) fn of(line: &'a [u8]) -> Self {
        Self { rest: Some(line), quotes: true }
    }

    /// Where the next comma outside a quoted string is. Linear over the whole line: a quote that is
    /// not closed is looked for once.
    fn comma(&mut self, rest: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            match rest.get(at)? {
                b',' => return Some(at),
                b'"' if self.quotes => match rest.get(at + 1..).and_then(closing_quote) {
                    Some(end) => at += end + 2,
                    None => self.quotes = false,
                },
                _ => at += 1,
            }
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (member, after) = match self.comma(rest).and_then(|at| rest.split_at_checked(at)) {
            Some((member, after)) => (member, after.split_first().map(|(_, after)| after)),
            None => (rest, None),
        };
        self.rest = after;
        Some(trim(member))
    }
}

/// The non-empty members of the field `name` over all its lines (RFC 9110 §5.6.1.2).
pub(super) fn members<'a>(
    fields: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .get_all(name)
        .into_iter()
        .flat_map(|line| Members::of(line.as_bytes()))
        .filter(|member| !member.is_empty())
}

/// The only line of the field `name`; `None` when there is none or more than one.
pub(super) fn only_line<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    only(fields, name).map(|line| trim(line.as_bytes()))
}

/// Removes optional white space, space and tab (RFC 9110 §5.6.3), at both ends.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// What a quoted string says (RFC 9110 §5.6.4), unescaped; `None` when `bytes` are not exactly one.
pub(super) fn unquote(bytes: &[u8]) -> Option<Vec<u8>> {
    let (b'"', inner) = bytes.split_first()? else {
        return None;
    };
    let end = closing_quote(inner)?;
    if end + 1 != inner.len() {
        return None;
    }
    let mut said = Vec::with_capacity(end);
    let mut bytes = inner.iter().take(end);
    while let Some(&byte) = bytes.next() {
        said.push(if byte == b'\\' { *bytes.next()? } else { byte });
    }
    Some(said)
}

/// Where the quoted string that `inner` continues is closed.
fn closing_quote(inner: &[u8]) -> Option<usize> {
    let mut bytes = inner.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at),
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(line: &str) -> Vec<&str> {
        Members::of(line.as_bytes()).map(|member| std::str::from_utf8(member).unwrap()).collect()
    }

    #[test]
    fn members_are_separated_by_commas_outside_quotes() {
        for (line, members) in [
            ("", vec![""]),
            ("a", vec!["a"]),
            (" a ,\tb", vec!["a", "b"]),
            ("a,,b,", vec!["a", "", "b", ""]),
            (r#"a="b,c",d"#, vec![r#"a="b,c""#, "d"]),
            (r#"a="b\",c",d"#, vec![r#"a="b\",c""#, "d"]),
            (r#"a="b\\",c"#, vec![r#"a="b\\""#, "c"]),
        ] {
            assert_eq!(split(line), members, "{line}");
        }
    }

    #[test]
    fn an_open_quote_hides_nothing() {
        assert_eq!(split(r#"a="b, no-store"#), [r#"a="b"#, "no-store"]);
        assert_eq!(split(r#"a="b"", no-store, "c"#), [r#"a="b"", no-store, "c"#]);
        assert_eq!(split("\", \\"), ["\"", "\\"]);
    }

    #[test]
    fn a_long_line_of_open_quotes_is_read_in_one_pass() {
        // Looked for anew at each comma, the closing quote would take minutes.
        assert_eq!(Members::of(&br#""","#.repeat(100_000)).count(), 100_001);
    }

    #[test]
    fn all_lines_are_one_list_without_empty_members() {
        let mut fields = HeaderMap::new();
        fields.append("vary", "a, ,b".parse().unwrap());
        fields.append("vary", "c".parse().unwrap());
        let found: Vec<_> = members(&fields, &http::header::VARY).collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
        assert_eq!(only_line(&fields, &http::header::VARY), None);
    }

    #[test]
    fn a_quoted_string_is_unescaped() {
        assert_eq!(unquote(br#""a\"b\\""#).unwrap(), br#"a"b\"#);
        assert_eq!(unquote(br#""""#).unwrap(), b"");
        for bytes in [&b"a"[..], b"\"", b"\"a", b"\"a\"b", b"\"a\\\"", b""] {
            assert_eq!(unquote(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn members_hold_every_byte_but_the_separators(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let members: Vec<_> = Members::of(&line).collect();
            let held: usize = members.iter().map(|member| member.len()).sum();
            let separators = members.len() - 1;
            let blanks = line.iter().filter(|byte| matches!(byte, b' ' | b'\t')).count();
            prop_assert!(held + separators <= line.len());
            prop_assert!(held + separators + blanks >= line.len());
            let _ = unquote(&line);
        }
    }
}
