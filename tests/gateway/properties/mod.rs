//! What holds whatever the bytes: each property is a function of bytes that panics where it doesn't.
//!
//! The fuzzers in `fuzz/` call these functions with bytes of their own; here each is tried with the seeds
//! under `fuzz/seeds`, former counterexamples among them, so that it compiles and holds with every change.
//!
//! *Claims*
//! 1. Every property holds for each of its seeds, and every property has some.
//!
//! *Why not* in the sources, beside the rules? The fuzzers see the library from outside, as these tests do.

mod cache_status;
#[path = "../../common/capture.rs"]
mod capture;
mod dates;
mod directives;
mod json;
mod masking;
mod secrets;
mod targets;
mod vary;
mod whole;

use http::HeaderValue;

pub(crate) use cache_status::cache_status;
pub(crate) use dates::dates;
pub(crate) use directives::directives;
pub(crate) use masking::masking;
pub(crate) use targets::targets;
pub(crate) use vary::vary;
pub(crate) use whole::{clients, upstreams};

/// Decisions drawn from bytes, one after the other; zeros when there are no more.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// One of `0..count`.
    fn below(&mut self, count: usize) -> usize {
        let drawn = [self.byte(), self.byte()];
        usize::from(u16::from_le_bytes(drawn)) % count.max(1)
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// The lines of an input: in a field value there is no line feed, so it separates.
fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == b'\n')
}

/// Bytes that are known to be a field value.
fn field_value(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).expect("made of field values and what may stand in one")
}

/// The parts of a field line between its commas, as they stand there. A comma inside a quoted string
/// separates nothing (RFC 9110 §5.6.1); a quote that is never closed opens no string.
fn parts(line: &[u8]) -> Vec<&[u8]> {
    let mut commas = Vec::new();
    // How many commas were known when the string began that is open, if one is.
    let mut before = None;
    let mut escaped = false;
    for (at, byte) in line.iter().enumerate() {
        match byte {
            b',' => commas.push(at),
            b'"' if !escaped => {
                before = match before {
                    None => Some(commas.len()),
                    Some(known) => {
                        commas.truncate(known);
                        None
                    }
                }
            }
            _ => {}
        }
        escaped = before.is_some() && !escaped && *byte == b'\\';
    }
    commas.push(line.len());
    let starts = std::iter::once(0).chain(commas.iter().map(|comma| comma + 1));
    starts.zip(&commas).map(|(start, end)| &line[start..*end]).collect()
}

/// A part without the white space around it (RFC 9110 §5.6.3).
fn trimmed(part: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = part.iter().take_while(|byte| blank(byte)).count();
    let end = part.iter().rev().take_while(|byte| blank(byte)).count();
    part.get(start..part.len() - end).unwrap_or_default()
}

/// Whether it is a token (RFC 9110 §5.6.2), as names of fields and directives are.
fn is_token(text: &[u8]) -> bool {
    let telling = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(telling)
}

/// `text` with each percent-encoded octet decoded; broken escapes stay as they are.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octet = match rest {
            [b'%', digits @ ..] => digits.get(..2).and_then(hex),
            _ => None,
        };
        plain.push(octet.unwrap_or(*first));
        rest = if octet.is_some() { &rest[3..] } else { after };
    }
    plain
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    // It would take a sign.
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Tries `property` with each file under `fuzz/seeds/<target>`.
    fn replay(target: &str, property: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut count = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Shown only if the property fails.
            eprintln!("{}", path.display());
            property(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no seeds in {}", folder.display());
    }

    #[test]
    fn every_seed_of_directives_holds() {
        replay("directives", directives);
    }

    #[test]
    fn every_seed_of_dates_holds() {
        replay("dates", dates);
    }

    #[test]
    fn every_seed_of_vary_holds() {
        replay("vary", vary);
    }

    #[test]
    fn every_seed_of_cache_status_holds() {
        replay("cache_status", cache_status);
    }

    #[test]
    fn every_seed_of_targets_holds() {
        replay("targets", targets);
    }

    #[test]
    fn every_seed_of_masking_holds() {
        replay("masking", masking);
    }

    #[test]
    fn every_seed_of_clients_holds() {
        replay("clients", clients);
    }

    #[test]
    fn every_seed_of_upstreams_holds() {
        replay("upstreams", upstreams);
    }

    #[test]
    fn the_reference_separates_at_commas_outside_of_closed_strings() {
        let read = |line: &'static str| {
            parts(line.as_bytes())
                .into_iter()
                .map(|part| std::str::from_utf8(part).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(read(""), [""]);
        assert_eq!(read(r#"a="b,c" ,d,"#), [r#"a="b,c" "#, "d", ""]);
        assert_eq!(read(r#"a="\",b",c"#), [r#"a="\",b""#, "c"]);
        assert_eq!(read(r#"a="b,c"#), [r#"a="b"#, "c"]);
        assert_eq!(read(r#"a="\,b"#), [r#"a="\"#, "b"]);
        assert_eq!(trimmed(b" \ta b\t"), b"a b");
        assert_eq!(trimmed(b" "), b"");
    }

    #[test]
    fn the_reference_decodes_escapes_once_and_leaves_broken_ones() {
        assert_eq!(decoded(b"%41%2541%%4%+1%zz"), b"A%41%%4%+1%zz");
    }
}
