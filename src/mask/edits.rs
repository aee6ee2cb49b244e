//! What is to be replaced in a body, collected in order and done at once.
//!
//! # Invariants
//! 1. Edits are in the order of the body and do not overlap.
//! 2. Every byte outside of an edit is copied as it is, and nothing is copied when nothing changes.
//! 3. The output is allocated once, at its exact size, and that size is bounded before it is
//!    allocated.
//!
//! # Why not write while scanning?
//! `isTokenMasked` is judged by what follows it, and a secret array only ends behind its parts. A
//! reserved edit can be decided later; bytes that are written already could only be changed by
//! moving all that follow.

use bytes::Bytes;

use super::MaskError;

/// The edits of one body.
#[derive(Debug)]
pub(super) struct Edits {
    list: Vec<Edit>,
    /// The output's size so far.
    size: usize,
    limit: usize,
    /// Whether any edit replaces something.
    any: bool,
}

impl Edits {
    /// For a body of `size` bytes that may become up to `limit`.
    pub(super) fn new(size: usize, limit: usize) -> Self {
        Self { list: Vec::new(), size, limit, any: false }
    }

    /// Replaces `start..end`, which lies behind all edits so far.
    pub(super) fn replace(
        &mut self,
        start: usize,
        end: usize,
        with: &'static [u8],
    ) -> Result<(), MaskError> {
        self.list.push(Edit { start, end, with: Some(with) });
        self.account(end - start, with.len())
    }

    /// Keeps a place for `start..end`, which [`Edits::make_true`] may replace later, and returns
    /// its index.
    pub(super) fn reserve(&mut self, start: usize, end: usize) -> usize {
        self.list.push(Edit { start, end, with: None });
        self.list.len() - 1
    }

    /// Decides the reserved edit `index`: `true` takes the place of its bytes.
    pub(super) fn make_true(&mut self, index: usize) -> Result<(), MaskError> {
        let Some(edit) = self.list.get_mut(index) else {
            return Ok(());
        };
        edit.with = Some(b"true");
        let removed = edit.end - edit.start;
        self.account(removed, 4)
    }

    /// The body with the edits made; the same bytes when there are none.
    pub(super) fn apply(self, body: Bytes) -> Bytes {
        if !self.any {
            return body;
        }
        let mut masked = Vec::with_capacity(self.size);
        let mut copied = 0;
        for edit in &self.list {
            let Some(with) = edit.with else { continue };
            masked.extend_from_slice(body.get(copied..edit.start).unwrap_or_default());
            masked.extend_from_slice(with);
            copied = edit.end;
        }
        masked.extend_from_slice(body.get(copied..).unwrap_or_default());
        Bytes::from(masked)
    }

    fn account(&mut self, removed: usize, added: usize) -> Result<(), MaskError> {
        self.any = true;
        self.size = self.size.saturating_add(added).saturating_sub(removed);
        if self.size > self.limit { Err(MaskError::TooLarge) } else { Ok(()) }
    }
}

/// One place in the body.
#[derive(Debug)]
struct Edit {
    start: usize,
    end: usize,
    /// None: kept as it is.
    with: Option<&'static [u8]>,
}

/// The most that a body of `size` bytes may become.
///
/// A mask can be longer than what it stands for (18 bytes for one digit), so a body of nothing but
/// secret digits would grow ninefold. Beyond twice the body and this much it is refused: no honest
/// answer comes near.
pub(super) fn limit(size: usize) -> usize {
    size.saturating_mul(2).saturating_add(16 << 20)
}
