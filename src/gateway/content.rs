//! [`Content`]: what a response carries (RFC 9110 §6.4), its bytes left where they are.
//!
//! *Why not [`Bytes`]:* as such, each stored body would need 40 bytes more for what counts its readers; a response
//! has what was stored anyway, and keeps it.

use std::ops::Range;

use bytes::{Buf, Bytes};

use crate::cache::Held;

/// What a response carries: the body of what is stored, a part of it, or our own words.
#[derive(Clone, Debug)]
pub struct Content(Source);

#[derive(Clone, Debug)]
enum Source {
    Ours(Bytes),
    /// What is left to be sent of a body; within it.
    Stored(Held, Range<usize>),
}

impl Content {
    /// Nothing.
    pub(super) const NONE: Self = Self(Source::Ours(Bytes::new()));

    /// Our own words.
    pub(super) fn ours(words: Bytes) -> Self {
        Self(Source::Ours(words))
    }

    /// A part of a body; what lies beyond its end is left out.
    pub(super) fn part(stored: Held, range: Range<usize>) -> Self {
        let end = range.end.min(stored.body.len());
        Self(Source::Stored(stored, range.start.min(end)..end))
    }
}

impl Buf for Content {
    fn remaining(&self) -> usize {
        match &self.0 {
            Source::Ours(words) => words.len(),
            Source::Stored(_, left) => left.len(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.0 {
            Source::Ours(words) => words,
            Source::Stored(stored, left) => {
                stored.body.bytes().get(left.clone()).unwrap_or_default()
            }
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.0 {
            Source::Ours(words) => words.advance(count),
            Source::Stored(_, left) => {
                assert!(count <= left.len(), "nobody reads past the end");
                left.start += count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::stored::Stored;
    use crate::config::Config;
    use crate::mask::Masker;

    fn read(mut content: Content, step: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while content.has_remaining() {
            let count = step.min(content.chunk().len());
            read.extend_from_slice(&content.chunk()[..count]);
            content.advance(count);
        }
        read
    }

    #[test]
    fn what_is_read_is_what_was_given_in_whatever_steps() {
        let masker = Masker::new(&Config::default().secrets, &[]);
        let body = masker.verbatim(Bytes::from_static(b"0123456789"));
        let stored = Held::new(Stored { body, ..Stored::sample(None, 0, "/a") });
        let parts = [(0..10, &b"0123456789"[..]), (3..5, b"34"), (8..99, b"89"), (20..30, b"")];
        for step in 1..4 {
            for (range, wanted) in parts.clone() {
                assert_eq!(read(Content::part(Held::clone(&stored), range), step), wanted);
            }
            assert_eq!(read(Content::ours(Bytes::from_static(b"ours")), step), b"ours");
            assert_eq!(read(Content::NONE, step), b"");
        }
    }
}
