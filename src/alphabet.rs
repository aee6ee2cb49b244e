//! [`Alphabet`]: the bytes that a word may be made of; and [`hex_pair`].
//!
//! *Why a table:* tokens, hosts and ids are looked at byte by byte for every request; a table answers in one
//! step where a chain of comparisons takes ten.

/// A set of bytes.
#[derive(Debug)]
pub struct Alphabet([bool; 256]);

impl Alphabet {
    /// ASCII letters, digits and these.
    #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
    pub const fn alphanumeric_and(mut marks: &[u8]) -> Self {
        let mut table = [false; 256];
        let mut byte = u8::MAX;
        while byte > 0 {
            table[byte as usize] = byte.is_ascii_alphanumeric();
            byte -= 1;
        }
        while let [mark, rest @ ..] = marks {
            table[*mark as usize] = true;
            marks = rest;
        }
        Self(table)
    }

    /// How many bytes of `text`, from its first, are in the set.
    #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
    pub fn prefix(&self, text: &[u8]) -> usize {
        text.iter().position(|byte| !self.0[usize::from(*byte)]).unwrap_or(text.len())
    }
}

/// The two hexadecimal digits of a byte.
#[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
pub fn hex_pair(byte: u8) -> [u8; 2] {
    HEX_PAIRS[usize::from(byte)]
}

/// Digits are written for every request: a look at a table is less than the arithmetic.
#[expect(clippy::indexing_slicing, reason = "a byte is below 256, four bits below 16")]
static HEX_PAIRS: [[u8; 2]; 256] = {
    let (digits, mut pairs) = (b"0123456789abcdef", [[b'0'; 2]; 256]);
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_the_first_byte_that_is_not_in_the_set() {
        const WORD: Alphabet = Alphabet::alphanumeric_and(b"-\xff");
        for (text, length) in [
            (&b""[..], 0),
            (b"a-Z9", 4),
            (b"z\xff0\xfeA", 3),
            (b"_a", 0),
            (b"\0", 0),
            (b"@A", 0),
            (b"[", 0),
        ] {
            assert_eq!(WORD.prefix(text), length, "{text:?}");
        }
    }
}
