//! What a unit's id may be: said once, for the path that names one and the body that does.

use crate::alphabet::Alphabet;

/// Whether `text` can be a unit's id: `[A-Za-z0-9._~-]{1,128}`, but not `.` or `..`.
///
/// These are the unreserved characters of RFC 3986 §2.3, without the two dot segments of §3.3.
pub fn is_unit_id(text: &[u8]) -> bool {
    let dots = matches!(text, b"." | b"..");
    (1..=128).contains(&text.len()) && !dots && UNRESERVED.prefix(text) == text.len()
}

static UNRESERVED: Alphabet = Alphabet::alphanumeric_and(b"-._~");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_ids_are_unreserved_characters_and_no_dot_segments() {
        for unit in ["a", "..a", "...", "~._-", "6f1c2a3b-0000", &"x".repeat(128)] {
            assert!(is_unit_id(unit.as_bytes()), "{unit}");
        }
        for unit in ["", ".", "..", "a/b", "a b", "a%20", "é", &"x".repeat(129)] {
            assert!(!is_unit_id(unit.as_bytes()), "{unit}");
        }
    }
}
