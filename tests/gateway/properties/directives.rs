//! Cache directives: no spelling, order or noise hides a restriction.
//!
//! An input is the field lines of one message: `!…` of a targeted field, `?…` of `Pragma`, all others of
//! `Cache-Control`.
//!
//! *Claims*
//! 1. Times are at most 2^31 seconds (RFC 9111 §1.2.2).
//! 2. Case says nothing, nor whether an argument is quoted (RFC 9111 §5.2).
//! 3. Several lines are one list (RFC 9110 §5.3), and their order says nothing.
//! 4. Whatever stands before it, an added `no-store` counts, and changes nothing else.
//! 5. A further line never takes a restriction back.
//! 6. A targeted field replaces `Cache-Control` exactly when it is a dictionary that isn't empty (RFC 9213
//!    §2.2).
//! 7. `Pragma` counts in requests only, and only without `Cache-Control` (RFC 9111 §5.4).

use std::time::Duration;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};
use sfv::{Dictionary, Parser};
use unitgate::cache::policy::{CacheControl, Scope};

use super::{field_value, is_token, lines, parts, trimmed};

/// Panics unless the claims of this file hold for `data`.
pub(crate) fn directives(data: &[u8]) {
    let fields = message(data);
    let lines = values(&fields, &CACHE_CONTROL);
    let control = CacheControl::of(&fields);
    times_are_bounded(&control);
    spelling_says_nothing(&lines, &control);
    lines_are_one_list(&lines, &control);
    no_store_cannot_be_hidden(&lines, &control);
    lines_only_restrict(&lines);
    requests(&fields, &control);
    responses(&fields, &control);
}

fn message(data: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines(data) {
        let (name, value) = match line {
            [b'!', value @ ..] => (TARGET, value),
            [b'?', value @ ..] => (PRAGMA, value),
            value => (CACHE_CONTROL, value),
        };
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            fields.append(name, value);
        }
    }
    fields
}

fn values(fields: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
    fields.get_all(name).into_iter().map(|value| value.as_bytes().to_vec()).collect()
}

/// The directives of these lines of `Cache-Control`.
fn read<L: AsRef<[u8]>>(lines: impl IntoIterator<Item = L>) -> CacheControl {
    let mut fields = HeaderMap::new();
    for line in lines {
        fields.append(CACHE_CONTROL, field_value(line.as_ref()));
    }
    CacheControl::of(&fields)
}

fn times_are_bounded(control: &CacheControl) {
    let most = Duration::from_secs(1 << 31);
    let any_staleness = Some(Duration::MAX);
    for time in [
        control.max_age,
        control.s_maxage,
        control.max_stale.filter(|_| control.max_stale != any_staleness),
        control.min_fresh,
        control.stale_while_revalidate,
        control.stale_if_error,
    ] {
        assert!(time.is_none_or(|time| time <= most), "{time:?}");
    }
}

fn spelling_says_nothing(lines: &[Vec<u8>], control: &CacheControl) {
    // Arguments are numbers and names of fields, which have no case either.
    assert_eq!(read(lines.iter().map(|line| line.to_ascii_uppercase())), *control);
    assert_eq!(read(lines.iter().map(|line| line.to_ascii_lowercase())), *control);
    // Where no string is open or closed, one can be put around each argument that is a token.
    if lines.iter().all(|line| !line.contains(&b'"')) {
        assert_eq!(read(lines.iter().map(|line| quoted(line))), *control);
    }
}

fn quoted(line: &[u8]) -> Vec<u8> {
    let directives = parts(line).into_iter().map(|part| {
        let mut halves = trimmed(part).splitn(2, |byte| *byte == b'=');
        match (halves.next(), halves.next()) {
            (Some(name), Some(argument)) if is_token(argument) => {
                [name, b"=\"", argument, b"\""].concat()
            }
            _ => part.to_vec(),
        }
    });
    directives.collect::<Vec<_>>().join(&b","[..])
}

fn lines_are_one_list(lines: &[Vec<u8>], control: &CacheControl) {
    let apart: Vec<&[u8]> = lines.iter().flat_map(|line| parts(line)).collect();
    assert_eq!(read(&apart), *control);
    assert_eq!(sorted(read(apart.iter().rev())), sorted(control.clone()));
}

/// With the names of a scope in one order.
fn sorted(mut control: CacheControl) -> CacheControl {
    for scope in [&mut control.no_cache, &mut control.private] {
        if let Scope::Fields(names) = scope {
            names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        }
    }
    control
}

fn no_store_cannot_be_hidden(lines: &[Vec<u8>], control: &CacheControl) {
    let restricted = CacheControl { no_store: true, ..control.clone() };
    let one_more = |added: &'static [u8]| lines.iter().map(Vec::as_slice).chain([added]);
    assert_eq!(read(one_more(b"no-store")), restricted);
    if let Some((last, others)) = lines.split_last() {
        let longer = [last.as_slice(), b", no-store"].concat();
        assert_eq!(read(others.iter().chain([&longer])), restricted);
    }
}

fn lines_only_restrict(lines: &[Vec<u8>]) {
    let mut allowed = CacheControl::default();
    for count in 1..=lines.len().min(MOST_LINES) {
        let now = read(&lines[..count]);
        for (earlier, later) in [
            (allowed.max_age, now.max_age),
            (allowed.s_maxage, now.s_maxage),
            (allowed.max_stale, now.max_stale),
            (allowed.stale_while_revalidate, now.stale_while_revalidate),
            (allowed.stale_if_error, now.stale_if_error),
        ] {
            assert!(earlier.is_none_or(|earlier| later.is_some_and(|later| later <= earlier)));
        }
        assert!(allowed.min_fresh <= now.min_fresh);
        for (earlier, later) in [
            (allowed.no_store, now.no_store),
            (allowed.must_revalidate, now.must_revalidate),
            (allowed.proxy_revalidate, now.proxy_revalidate),
            (allowed.must_understand, now.must_understand),
            (allowed.only_if_cached, now.only_if_cached),
        ] {
            assert!(later || !earlier);
        }
        assert!(covers(&now.no_cache, &allowed.no_cache), "{now:?} {allowed:?}");
        assert!(covers(&now.private, &allowed.private), "{now:?} {allowed:?}");
        allowed = now;
    }
}

fn covers(later: &Scope, earlier: &Scope) -> bool {
    match (later, earlier) {
        (Scope::Whole, _) | (_, Scope::Nothing) => true,
        (Scope::Fields(later), Scope::Fields(earlier)) => later.starts_with(earlier),
        _ => false,
    }
}

fn requests(fields: &HeaderMap, control: &CacheControl) {
    let request = CacheControl::of_request(fields);
    if fields.contains_key(CACHE_CONTROL) {
        assert_eq!(request, *control);
        return;
    }
    let pragmas = values(fields, &PRAGMA);
    let asked = pragmas
        .iter()
        .flat_map(|line| parts(line))
        .any(|part| trimmed(part).eq_ignore_ascii_case(b"no-cache"));
    let no_cache = if asked { Scope::Whole } else { Scope::Nothing };
    assert_eq!(request, CacheControl { no_cache, ..CacheControl::default() });
}

fn responses(fields: &HeaderMap, control: &CacheControl) {
    assert_eq!(CacheControl::of_response(fields, &[]), *control);
    let judged = CacheControl::of_response(fields, &[TARGET]);
    let targeted = values(fields, &TARGET);
    let dictionary = Parser::new(&targeted.join(&b", "[..])).parse::<Dictionary>();
    if !dictionary.is_ok_and(|dictionary| !dictionary.is_empty()) {
        assert_eq!(judged, *control);
        return;
    }
    assert!(judged.targeted);
    times_are_bounded(&judged);
    let mut others = fields.clone();
    others.insert(CACHE_CONTROL, field_value(b"no-store, max-age=7"));
    assert_eq!(CacheControl::of_response(&others, &[TARGET]), judged);
    others.append(TARGET, field_value(b"no-store"));
    let restricted = CacheControl { no_store: true, ..judged };
    assert_eq!(CacheControl::of_response(&others, &[TARGET]), restricted);
}

/// Each line is read with all before it, so of many only these.
const MOST_LINES: usize = 16;

const TARGET: HeaderName = HeaderName::from_static("cdn-cache-control");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_in_odd_places_hide_no_directive() {
        for line in ["a=\"b, no-store", "a=\"\\, b\\", "\"\\\",\",private=\"a\\\"", "=,=\"=\",\\\""]
        {
            directives(line.as_bytes());
        }
    }
}
