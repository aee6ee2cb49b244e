//! Content negotiation: which requests a stored response answers.
//!
//! An input is field lines: those of `vary` are the response's, all others the request's.
//!
//! *Claims*
//! 1. There is a variant exactly when each member of `Vary` is the name of a field: `*` matches nothing.
//! 2. A request always matches what it got, and so does one that differs in fields that are not nominated.
//! 3. White space around commas, and how members are spread over lines, never matter.
//! 4. A request that lacks a nominated field, has it when it was lacking, or has another value of it never
//!    matches.
//! 5. Of weighted names neither case nor order matter; of all else both do.
//! 6. The order of names in `Vary` makes no other variant.

use http::header::{ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};
use unitgate::cache::policy::Variant;

use super::{field_value, is_token, lines, parts, trimmed};

/// Panics unless the claims of this file hold for `data`.
pub(crate) fn vary(data: &[u8]) {
    let (response, request) = messages(data);
    let variant = Variant::of(&response, &request);
    assert_eq!(variant.is_some(), nominated(&response).is_some());
    let Some(variant) = variant else { return };
    what_matches(&variant, &response, &request);
    let names = nominated(&response).unwrap_or_default();
    assert!(variant.nominated().eq(&names), "{names:?}");
    for name in &names {
        what_does_not_match(&variant, &request, name);
        if [ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name) {
            weighted_names(&variant, &request, name);
        } else {
            exact_values(&variant, &request, name);
        }
    }
}

fn messages(data: &[u8]) -> (HeaderMap, HeaderMap) {
    let (mut response, mut request) = (HeaderMap::new(), HeaderMap::new());
    for line in lines(data) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let name = halves.next().and_then(|name| HeaderName::from_bytes(name).ok());
        let value = halves.next().and_then(|value| HeaderValue::from_bytes(value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            if name == VARY { &mut response } else { &mut request }.append(name, value);
        }
    }
    (response, request)
}

/// What `Vary` nominates, sorted; `None` when no request can match.
fn nominated(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let lines = response.get_all(VARY);
    let members = lines.into_iter().flat_map(|line| parts(line.as_bytes())).map(trimmed);
    let mut names = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        if member == b"*" || !is_token(member) {
            return None;
        }
        names.push(HeaderName::from_bytes(member).unwrap());
    }
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    Some(names)
}

/// `fields` with the lines of each field made anew.
fn rewritten(fields: &HeaderMap, lines: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in fields {
        for line in lines(value.as_bytes()) {
            all.append(name, field_value(&line));
        }
    }
    all
}

fn what_matches(variant: &Variant, response: &HeaderMap, request: &HeaderMap) {
    assert!(variant.matches(request));
    let spaced = rewritten(request, |line| {
        let members: Vec<&[u8]> = parts(line).into_iter().map(trimmed).collect();
        vec![[b" ", &*members.join(&b"\t , "[..]), b" \t"].concat()]
    });
    let apart = rewritten(request, |line| parts(line).into_iter().map(<[u8]>::to_vec).collect());
    for same in [&spaced, &apart] {
        assert!(variant.matches(same), "{request:?} {same:?}");
        assert_eq!(Variant::of(response, same).as_ref(), Some(variant));
    }
    let mut more = request.clone();
    if variant.nominated().all(|name| *name != OTHER) {
        more.insert(OTHER, field_value(b"1"));
    }
    assert!(variant.matches(&more));
    let lines: Vec<&HeaderValue> = response.get_all(VARY).into_iter().collect();
    let mut reversed = HeaderMap::new();
    for part in lines.iter().rev().flat_map(|line| parts(line.as_bytes()).into_iter().rev()) {
        reversed.append(VARY, field_value(&part.to_ascii_uppercase()));
    }
    assert_eq!(Variant::of(&reversed, request).as_ref(), Some(variant));
    reversed.append(VARY, field_value(b"*"));
    assert_eq!(Variant::of(&reversed, request), None);
}

fn what_does_not_match(variant: &Variant, request: &HeaderMap, name: &HeaderName) {
    let mut other = request.clone();
    if other.remove(name).is_some() {
        assert!(!variant.matches(&other), "{request:?} without {name}");
        let mut longer = request.clone();
        longer.append(name, field_value(b"~"));
        assert!(!variant.matches(&longer), "{request:?} with more of {name}");
    } else {
        other.insert(name, field_value(b""));
        assert!(!variant.matches(&other), "{request:?} with an empty {name}");
    }
}

fn weighted_names(variant: &Variant, request: &HeaderMap, name: &HeaderName) {
    let mut other = request.clone();
    let Some(_) = other.remove(name) else { return };
    other.insert(name, field_value(b" , ,"));
    for line in request.get_all(name) {
        for part in parts(line.as_bytes()).into_iter().rev() {
            other.append(name, field_value(&part.to_ascii_uppercase()));
        }
    }
    assert!(variant.matches(&other), "{request:?} {other:?}");
}

fn exact_values(variant: &Variant, request: &HeaderMap, name: &HeaderName) {
    let values: Vec<&[u8]> = request.get_all(name).into_iter().map(HeaderValue::as_bytes).collect();
    let Some(first) = values.first() else { return };
    // A byte that separates nothing: with another in its place the value is another.
    let ordinary = |byte: &u8| !matches!(byte, b' ' | b'\t' | b',' | b'"' | b'\\');
    if let Some(place) = first.iter().rposition(ordinary) {
        let mut changed = first.to_vec();
        changed[place] = if changed[place] == b'a' { b'A' } else { b'a' };
        let mut other = request.clone();
        other.insert(name, field_value(&changed));
        for value in &values[1..] {
            other.append(name, field_value(value));
        }
        assert!(!variant.matches(&other), "{request:?} {other:?}");
    }
    if values.len() > 1 {
        return;
    }
    // Of two lines the members are compared, and nothing but them.
    let members = |line| parts(line).into_iter().map(trimmed).collect::<Vec<_>>();
    for value in request.values() {
        let mut other = request.clone();
        other.insert(name, value.clone());
        let same = members(value.as_bytes()) == members(first);
        assert_eq!(variant.matches(&other), same, "{request:?} {other:?}");
    }
}

const OTHER: HeaderName = HeaderName::from_static("x-nominated-by-nobody");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_lists_in_nominated_fields_hold() {
        for value in ["", ",", "\"a,b", "a\\\"b, \"c", " \"1 , 2\" ,,3", "\u{e9}"] {
            for name in ["foo", "accept-language"] {
                vary(format!("vary: {name}\n{name}:{value}\nbar:{value}x").as_bytes());
            }
        }
    }
}
