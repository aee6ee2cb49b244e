//! `Cache-Status`: what is told is a valid structured list, whatever was told before.
//!
//! An input's first line decides about our member; all others are lines of the caches before us.
//!
//! *Claims*
//! 1. Our member is valid, says what it was made of, and has exactly one of `hit` and `fwd` (RFC 9211 §2).
//! 2. The field is a list once ours is appended, whatever stood there, and ours is its last member.
//! 3. A list that stood there is kept to the byte; what was no list is gone.

use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, List, ListEntry, Parser, TokenRef};
use unitgate::cache::policy::{CacheStatus, Outcome};

use super::{Draw, lines};

/// Panics unless the claims of this file hold for `data`.
pub(crate) fn cache_status(data: &[u8]) {
    let mut lines = lines(data);
    let status = status(&mut Draw(lines.next().unwrap_or_default()));
    let member = status.member(NAME);
    says_what_it_was_made_of(&status, &member);
    let mut fields = HeaderMap::new();
    for line in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        fields.append(FIELD, line);
    }
    let (before, stood) = (values(&fields), members(&fields));
    status.append_to(NAME, &mut fields);
    let after = values(&fields);
    let all = members(&fields).unwrap_or_else(|| panic!("no list: {after:?}"));
    let (ours, others) = all.split_last().expect("ours was appended");
    assert_eq!(ours, &item(&member));
    assert_eq!(others, stood.as_deref().unwrap_or_default());
    assert_eq!(after.last(), Some(&member));
    if stood.is_some_and(|members| !members.is_empty()) {
        assert_eq!(after[..after.len() - 1], before);
    }
    status.append_to(NAME, &mut fields);
    assert_eq!(members(&fields).map(|members| members.len()), Some(all.len() + 1));
}

fn status(draw: &mut Draw<'_>) -> CacheStatus {
    let outcome = Outcome::ALL[draw.below(Outcome::ALL.len())];
    let ttl = [(); 8].map(|()| draw.byte());
    let fwd_status = [(); 2].map(|()| draw.byte());
    let (start, end) = (draw.below(DETAILS.len()), draw.below(DETAILS.len()));
    CacheStatus {
        outcome,
        ttl: draw.flag().then_some(i64::from_le_bytes(ttl)),
        fwd_status: draw.flag().then_some(u16::from_le_bytes(fwd_status)),
        stored: draw.flag(),
        collapsed: draw.flag(),
        detail: draw.flag().then(|| DETAILS.get(start..end)).flatten(),
    }
}

fn says_what_it_was_made_of(status: &CacheStatus, member: &HeaderValue) {
    let ListEntry::Item(item) = item(member) else { panic!("a list in a list: {member:?}") };
    assert_eq!(item.bare_item.as_token().map(TokenRef::as_str), Some(NAME));
    let said = |name: &str| {
        let mut found = item.params.iter().filter(|(key, _)| key.as_str() == name);
        found.next().map(|(_, value)| value)
    };
    let flag = |name: &str| said(name).is_some_and(|said| *said == BareItem::Boolean(true));
    let hit = status.outcome == Outcome::Hit;
    assert_eq!((flag("hit"), said("fwd").is_some()), (hit, !hit));
    assert_eq!(flag("stored"), status.stored && !hit);
    assert_eq!(flag("collapsed"), status.collapsed && !hit);
    let reason = said("fwd").and_then(|said| said.as_token()).map(TokenRef::as_str);
    assert_eq!(reason, (!hit).then_some(status.outcome.as_str()));
    let integer = |name| said(name).and_then(BareItem::as_integer).map(i64::from);
    assert_eq!(integer("fwd-status"), status.fwd_status.filter(|_| !hit).map(i64::from));
    let most = 999_999_999_999_999;
    assert_eq!(integer("ttl"), status.ttl.map(|ttl| ttl.clamp(-most, most)));
    let detail = said("detail").map(|said| match said {
        BareItem::String(text) => text.as_str(),
        BareItem::Token(text) => text.as_str(),
        other => panic!("{other:?}"),
    });
    let printable = |text: &str| text.chars().filter(|one| matches!(one, ' '..='~')).collect();
    assert_eq!(detail.map(str::to_owned), status.detail.map(printable));
}

fn item(member: &HeaderValue) -> ListEntry {
    let list =
        Parser::new(member).parse::<List>().unwrap_or_else(|error| panic!("{member:?}: {error}"));
    assert_eq!(list.len(), 1, "{member:?}");
    list.into_iter().next().expect("counted")
}

fn values(fields: &HeaderMap) -> Vec<HeaderValue> {
    fields.get_all(FIELD).into_iter().cloned().collect()
}

/// The members of the field over all its lines (RFC 9651 §4.2); `None` when it is no list.
fn members(fields: &HeaderMap) -> Option<List> {
    let lines: Vec<&[u8]> = fields.get_all(FIELD).into_iter().map(HeaderValue::as_bytes).collect();
    Parser::new(&lines.join(&b", "[..])).parse().ok()
}

const NAME: &str = "unitgate";

const FIELD: HeaderName = HeaderName::from_static("cache-status");

/// Text of which every piece may be a detail.
const DETAILS: &str = "budget_spent *star 9 a:b/c \"quoted\" back\\slash \u{e9}\u{1f600}\t\r\n\0\u{7f} ~!#$%&'()<>@,;=?{}|^`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stood_there_before_us_the_field_is_a_list() {
        for before in [
            "origin; hit",
            "origin; hit\ncdn; fwd=stale",
            "a, b, c",
            "(((",
            "a,",
            "\"open",
            "a;b=(c)",
        ] {
            cache_status(format!("\n{before}").as_bytes());
        }
    }
}
