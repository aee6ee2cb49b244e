//! [`Alphabet`]: the bytes that a word may be made of.
//!
//! *Why a table:* tokens, hosts and ids are looked at byte by byte for every request; a table answers in one
//! step where a chain of comparisons takes ten.

/// A set of bytes.
#[derive(Debug)]
pub struct Alphabet([bool; 256]);

impl Alphabet {
    /// The set of these.
    #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
    pub const fn of(mut letters: &[u8]) -> Self {
        let mut table = [false; 256];
        while let [letter, rest @ ..] = letters {
            table[*letter as usize] = true;
            letters = rest;
        }
        Self(table)
    }

    /// How many bytes of `text`, from its first, are in the set.
    #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
    pub fn prefix(&self, text: &[u8]) -> usize {
        text.iter().position(|byte| !self.0[usize::from(*byte)]).unwrap_or(text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_the_first_byte_that_is_not_in_the_set() {
        const AB: Alphabet = Alphabet::of(b"ab\xff");
        for (text, length) in
            [(&b""[..], 0), (b"abba", 4), (b"ab\xffc\0", 3), (b"ca", 0), (b"\0", 0)]
        {
            assert_eq!(AB.prefix(text), length, "{text:?}");
        }
    }
}
