//! Masking: no secret comes through, and nothing else is changed.
//!
//! An input's first line decides what is planted, and where. All that follows is tried as a body, as the
//! value of a field and as a request target; `$k` in it stands for letters and digits that make a key of
//! `cal_$k`, so that no file holds one.
//!
//! *Claims*
//! 1. Masking twice is masking once; a body with nothing to mask stays where it is.
//! 2. What comes through is JSON, and all JSON comes through unless masked names clash or it would grow too
//!    large; what doesn't is an error.
//! 3. Exactly what the rules name is masked, by a mask of the right form: judged anew here, on the values
//!    that a reader of the body sees before and after.
//! 4. All else is kept to the byte, and in its order.
//! 5. A secret planted under a listed name, or a key planted in any text, at any depth and in any spelling,
//!    is nowhere in what comes out, nor among the facts.
//! 6. A request made of an answer with masks where secrets belong is known by them.
//! 7. Fields, texts and request targets have no key left in either reading, percent-decoded or not, nor a
//!    secret parameter; otherwise they are kept.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderValue;
use unitgate::mask::{MaskError, Masker};

use super::json::Node;
use super::secrets::{BARE, Role, SECRETS, has_key, judge, normalised};
use super::{Draw, decoded};

/// Panics unless the claims of this file hold for `data`.
pub(crate) fn masking(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (decisions, rest) = data.split_at(cut);
    let input = expanded(rest.get(1..).unwrap_or_default());
    let mut draw = Draw(decisions);
    if a_body(&input) {
        a_planted_secret(&input, &mut draw);
        a_planted_key(&input, &mut draw);
    }
    if let Ok(mut value) = HeaderValue::from_bytes(&input) {
        value.set_sensitive(draw.flag());
        a_field(&value);
    }
    if let Ok(text) = std::str::from_utf8(&input) {
        a_text(text);
        a_target(text);
        a_planted_parameter(text, &mut draw);
    }
}

fn expanded(input: &[u8]) -> Vec<u8> {
    let mut rest = input;
    let mut all = Vec::with_capacity(input.len());
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"$k") {
            all.extend_from_slice("a1B2".repeat(6).as_bytes());
            rest = after;
        } else {
            all.push(*first);
            rest = after;
        }
    }
    all
}

/// Claims 1 to 4; whether it came through.
fn a_body(input: &[u8]) -> bool {
    let body = Bytes::copy_from_slice(input);
    let before = Node::read(input);
    let (masked, facts) = match MASKER.json(body.clone()) {
        Ok(masked) => masked,
        Err(error) => {
            let ours = matches!(error, MaskError::NameClash | MaskError::TooLarge);
            assert!(ours || before.is_none(), "{error}");
            let guard = MASKER.masked_secret(input);
            assert_eq!(guard.err(), (!ours).then_some(error));
            return false;
        }
    };
    assert!(MASKER.masked_secret(input).is_ok());
    let after = masked.bytes();
    let (again, facts_again) =
        MASKER.json(Bytes::copy_from_slice(after)).expect("it came through before");
    assert_eq!(again.bytes(), after);
    assert_eq!(facts_again.fields_masked, 0);
    let changed = after.as_ptr() != body.as_ptr();
    assert_eq!(changed, *after != body[..]);
    assert_eq!(changed, facts.unmasked_seen());
    is_kept(input, after);
    for unit in &facts.units {
        assert!(!has_key(unit.id.as_bytes()));
    }
    if let Some(before) = before {
        let after = Node::read(after).expect("a mask is JSON where a value was");
        judge(&before, &after, Role::Plain);
    } else {
        // The grammar allows what no reader of Rust values takes.
        let reason =
            serde_json::from_slice::<serde_json::Value>(input).map_err(|error| error.to_string());
        let lone = input.windows(3).any(|three| three.eq_ignore_ascii_case(b"\\ud"));
        let knowingly = |reason: &str| {
            lone || reason.contains("out of range") || reason.contains("recursion limit")
        };
        assert!(reason.as_ref().is_err_and(|reason| knowingly(reason)), "{reason:?}");
    }
    true
}

/// Each part between masks, and each `true`, stands in what was sent, in the same order.
fn is_kept(before: &[u8], after: &[u8]) {
    let mut left = before;
    let mut rest = after;
    let mut start = 0;
    let mut at = 0;
    let mut first = true;
    while at <= rest.len() {
        let tail = &rest[at..];
        let mask = MASKS.iter().find(|mask| tail.starts_with(mask));
        if mask.is_none() && !tail.is_empty() {
            at += 1;
            continue;
        }
        let part = &rest[start..at];
        let place = match (first, mask) {
            (true, _) => left.starts_with(part).then_some(0),
            (false, None) => left.len().checked_sub(part.len()).filter(|_| left.ends_with(part)),
            (false, Some(_)) => memchr::memmem::find(left, part),
        };
        let place =
            place.unwrap_or_else(|| panic!("{:?} was not sent", String::from_utf8_lossy(part)));
        left = &left[place + part.len()..];
        let Some(mask) = mask else { return };
        rest = &rest[at + mask.len()..];
        (start, at, first) = (0, 0, false);
    }
}

/// Claims 5 and 6 for a secret under a listed name.
fn a_planted_secret(input: &[u8], draw: &mut Draw<'_>) {
    let kept_shape = draw.flag();
    let listed = if kept_shape { &SECRETS.objects } else { &SECRETS.names };
    let name = disguised(&listed[draw.below(listed.len())], draw);
    let value = match draw.below(if kept_shape { 4 } else { 6 }) {
        0 => format!("\"{PLANTED}\""),
        1 => format!("\"{}\"", escaped(PLANTED, draw)),
        2 => DIGITS.to_owned(),
        3 => format!("[[\"{PLANTED}\"],{{\"a\":\"cal_{PLANTED}\"}}]"),
        4 => format!("[{{\"{PLANTED}\":{DIGITS}}}]"),
        _ => format!("{{\"a\":\"\\\"{PLANTED}\",\"{PLANTED}\":null}}"),
    };
    let after = planted(input, &name, &value, draw);
    if let Some(after) = after {
        assert_eq!(MASKER.masked_secret(&after), Ok(true), "{name}: {value}");
    }
}

/// Claim 5 for a key in a text or in a name.
fn a_planted_key(input: &[u8], draw: &mut Draw<'_>) {
    let before = *draw.one_of(&[&"", &" ", &"x_", &"\\n", &"\u{e9}", &"cal_", &"\\\"", &"*"]);
    let kind = *draw.one_of(&[&"cal_", &"cal_live_", &"cal_test_"]);
    let key = escaped(&format!("{kind}{PLANTED}"), draw);
    let behind = *draw.one_of(&[&"", &" ", &"_", &".", &"\\u0000", &"\u{e9}", &"\\\\"]);
    let text = format!("{before}{key}{behind}");
    if draw.flag() {
        planted(input, &text, "null", draw);
    } else {
        planted(input, "note", &format!("\"{text}\""), draw);
    }
}

/// Plants a member somewhere in a body, in an object of its own where it falls into an array. What came out.
fn planted(input: &[u8], name: &str, value: &str, draw: &mut Draw<'_>) -> Option<Bytes> {
    let places = openings(input);
    let shown = [PLANTED, DIGITS].into_iter().any(|secret| holds(input, secret));
    if shown {
        return None;
    }
    let member = format!("\"{name}\":{value}");
    let body = if places.is_empty() {
        [b"[{", member.as_bytes(), b"},", input, b"]"].concat()
    } else {
        let (head, tail) = input.split_at(places[draw.below(places.len())]);
        let member = if head.last() == Some(&b'[') { format!("{{{member}}}") } else { member };
        let empty = tail.trim_ascii_start().first().is_some_and(|byte| b"]}".contains(byte));
        [head, member.as_bytes(), if empty { b"" } else { b"," }, tail].concat()
    };
    match MASKER.json(Bytes::from(body.clone())) {
        Err(error) => {
            assert!(matches!(error, MaskError::NameClash | MaskError::TooLarge), "{error}");
            None
        }
        Ok((masked, facts)) => {
            let after = masked.bytes();
            let facts = format!("{facts:?}");
            let node = Node::read(after);
            for secret in [PLANTED, DIGITS] {
                let left = holds(after, secret) || facts.contains(secret);
                let read = node.as_ref().is_some_and(|node| node.shows(secret));
                assert!(!left && !read, "{}", String::from_utf8_lossy(&body));
            }
            is_kept(&body, after);
            Some(Bytes::copy_from_slice(after))
        }
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// The places behind brackets that open an array or an object.
fn openings(body: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let (mut inside, mut escaped) = (false, false);
    for (at, byte) in body.iter().enumerate() {
        match byte {
            b'"' if !escaped => inside = !inside,
            b'[' | b'{' if !inside => places.push(at + 1),
            _ => {}
        }
        escaped = inside && !escaped && *byte == b'\\';
    }
    places
}

/// A name that is compared equal: without case, `_` and `-`, each letter an escape or not.
fn disguised(name: &str, draw: &mut Draw<'_>) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        let choice = draw.byte();
        text.push_str(["", "", "_", "-", "\\u005f", "\\u002D"][usize::from(choice) % 6]);
        let letter = match choice >> 4 & 1 {
            0 => letter,
            _ if letter.is_ascii_lowercase() => letter.to_ascii_uppercase(),
            _ => letter.to_ascii_lowercase(),
        };
        text.push_str(&escape_or_not(letter, choice >> 6 == 3));
    }
    text
}

fn escaped(text: &str, draw: &mut Draw<'_>) -> String {
    text.chars().map(|letter| escape_or_not(letter, draw.byte() & 3 == 3)).collect()
}

fn escape_or_not(letter: char, escape: bool) -> String {
    if escape { format!("\\u{:04x}", u32::from(letter)) } else { letter.to_string() }
}

/// Claim 7 for the value of a field.
fn a_field(value: &HeaderValue) {
    let masked = MASKER.field(value);
    assert_eq!(masked.is_sensitive(), value.is_sensitive());
    assert_eq!(MASKER.field(&masked), masked);
    shows_no_key(value.as_bytes(), masked.as_bytes());
}

fn a_text(text: &str) {
    let masked = MASKER.text(text);
    assert_eq!(MASKER.text(&masked), masked);
    shows_no_key(text.as_bytes(), masked.as_bytes());
}

fn shows_no_key(before: &[u8], after: &[u8]) {
    let has_key = |text: &[u8]| has_key(text) || has_key(&decoded(text));
    assert!(!has_key(after), "{} shows a key", String::from_utf8_lossy(after));
    assert_eq!(before == after, !has_key(before), "{}", String::from_utf8_lossy(before));
    is_kept(before, after);
}

/// Claim 7 for a request target.
fn a_target(target: &str) {
    let shown = MASKER.target(target);
    assert_eq!(MASKER.target(&shown), shown);
    assert!(!has_key(shown.as_bytes()) && !has_key(&decoded(shown.as_bytes())), "{shown}");
    is_kept(target.as_bytes(), shown.as_bytes());
    let text = MASKER.text(target);
    let mut secret = false;
    if let Some((_, query)) = text.split_once('?') {
        let (_, shown) = shown.split_once('?').expect("the query is still one");
        assert_eq!(query.split('&').count(), shown.split('&').count());
        for (pair, shown) in query.split('&').zip(shown.split('&')) {
            if tells_a_secret(pair) {
                let (name, _) = pair.split_once('=').expect("it has a value");
                assert_eq!(shown, format!("{name}={BARE}"));
                secret = true;
            } else {
                assert_eq!(pair, shown);
            }
        }
    }
    let same = matches!(&shown, Cow::Borrowed(shown) if *shown == target);
    assert_eq!(same, text == target && !secret, "{target}");
}

fn tells_a_secret(pair: &str) -> bool {
    let Some((name, value)) = pair.split_once('=') else { return false };
    let name = String::from_utf8_lossy(&decoded(name.as_bytes())).into_owned();
    let listed = matches!(Role::of(&name, Role::Plain), Role::Secret | Role::Shape);
    !value.is_empty() && (listed || ["accesstoken", "token"].contains(&&*normalised(&name)))
}

/// Claim 7 for a parameter in any spelling, behind whatever stands in a query.
fn a_planted_parameter(query: &str, draw: &mut Draw<'_>) {
    if query.contains(PLANTED) {
        return;
    }
    let tokens = ["token", "access_token"].map(str::to_owned);
    let all: Vec<&String> = SECRETS.names.iter().chain(&SECRETS.objects).chain(&tokens).collect();
    let mut name = String::new();
    for letter in all[draw.below(all.len())].chars() {
        let choice = draw.byte();
        name.push_str(["", "", "_", "-", "%5f", "%2D"][usize::from(choice) % 6]);
        let letter = if choice >> 4 & 1 == 1 { letter.to_ascii_uppercase() } else { letter };
        if choice >> 6 == 3 {
            write!(name, "%{:02x}", u32::from(letter)).unwrap();
        } else {
            name.push(letter);
        }
    }
    let target = format!("/a?{query}&{name}={PLANTED}&b=1");
    let shown = MASKER.target(&target);
    assert!(!shown.contains(PLANTED), "{target} is shown as {shown}");
    assert!(shown.ends_with(&format!("={BARE}&b=1")), "{target} is shown as {shown}");
}

static MASKER: LazyLock<Masker> = LazyLock::new(|| Masker::new(&SECRETS, &["unitId".to_owned()]));

/// What stands for a secret, the longest form first; `true` where `isTokenMasked` was said.
const MASKS: [&[u8]; 4] =
    [b"\"****************\"", b"cal_****************", b"****************", b"true"];

/// Letters and digits that no other input holds.
const PLANTED: &str = "Zz9Yy8Xx7Ww6Vv5Uu4Tt3";

const DIGITS: &str = "918273645546372819";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "was not sent")]
    fn a_byte_that_was_not_sent_is_noticed() {
        is_kept(b"[1,\"a\"]", b"[1,\"****************\",]");
    }
}
