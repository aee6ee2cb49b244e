//! The one pass over a body: the grammar of RFC 8259, with a decision per name and value made by
//! `rules.rs`.
//!
//! # Invariants
//! 1. Only bytes that the grammar allows are passed over: a body that comes through is one JSON
//!    value and nothing else.
//! 2. No recursion: one byte of state per open array or object, so depth costs no more memory than
//!    the body itself.
//! 3. Linear: each byte is walked a bounded number of times, and whatever is remembered for an
//!    object is dropped once, when it closes.
//!
//! # Why not `serde_json`?
//! It reads numbers and escapes into values and writes others; every byte that is no secret has to
//! stay. It is also a third as fast.

use super::edits::Edits;
use super::facts::{Facts, UnitIndex};
use super::key_shape;
use super::lex::{self, Text};
use super::names::Role;
use super::value::QUOTED;
use super::{MaskError, Masker};

/// The state of a pass. Has no `Debug`, as that would show the body.
pub(super) struct Scan<'a> {
    pub(super) body: &'a [u8],
    pub(super) masker: &'a Masker,
    pub(super) edits: Edits,
    pub(super) facts: Facts,
    /// Whether facts beside what is masked are asked for.
    pub(super) gathers: bool,
    /// A mask was seen where a secret belongs.
    pub(super) mask_seen: bool,
    /// Two names of one object became equal by masking.
    pub(super) clash: bool,
    /// What the open array or object has come to, a set of the bits below.
    pub(super) level: u8,
    /// The same for those around it, the outermost first.
    around: Vec<u8>,
    /// What an element of an array is here, and a member without a name that says more.
    pub(super) element: Role,
    /// The depth of the outermost object that keeps its shape, while inside it.
    shape: Option<usize>,
    /// The depth and the start of the secret array or object that is replaced whole, while inside
    /// it.
    gone: Option<(usize, usize)>,
    /// `isTokenMasked` values that may have to become true, with their object's depth.
    flags: Vec<(usize, usize)>,
    /// Names that hold a mask, after masking; looked at only if one of their object was masked.
    pub(super) masked_names: Vec<MaskedName>,
    /// Room for a name without what doesn't count in it.
    pub(super) scratch: Vec<u8>,
    /// Which units are in the facts already.
    pub(super) units: UnitIndex,
    /// Where the prefix of a key stands next, as far as it was looked for.
    pub(super) next_prefix: usize,
}

impl<'a> Scan<'a> {
    /// A pass over `body`, whose output may grow up to `limit` bytes, and which gathers all facts or only what
    /// is masked.
    pub(super) fn new(body: &'a [u8], masker: &'a Masker, limit: usize, gathers: bool) -> Self {
        Self {
            body,
            masker,
            edits: Edits::new(body.len(), limit),
            facts: Facts::default(),
            gathers,
            mask_seen: false,
            clash: false,
            level: 0,
            around: Vec::new(),
            element: Role::Plain,
            shape: None,
            gone: None,
            flags: Vec::new(),
            masked_names: Vec::new(),
            scratch: Vec::new(),
            units: UnitIndex::default(),
            next_prefix: key_shape::prefix(body).unwrap_or(usize::MAX),
        }
    }

    /// The whole of the pass.
    pub(super) fn run(&mut self) -> Result<(), MaskError> {
        if lex::significant(self.body, 0).is_none() {
            return Err(MaskError::NotJson);
        }
        let end = self.document()?;
        if lex::significant(self.body, end).is_some() {
            return Err(MaskError::TrailingBytes);
        }
        // Outside of strings the grammar is ASCII, so this is about strings only.
        if simdutf8::basic::from_utf8(self.body).is_err() {
            return Err(MaskError::NotUtf8);
        }
        Ok(())
    }

    /// What is to be done, and what was seen.
    pub(super) fn finish(self) -> (Edits, Facts) {
        (self.edits, self.facts)
    }

    /// One value with all that is in it; returns the place behind it.
    fn document(&mut self) -> Result<usize, MaskError> {
        let mut at = 0;
        'value: loop {
            let role;
            (role, at) = self.role(at)?;
            let (first, start) = self.significant(at)?;
            at = match first {
                b'"' => self.string(start, role)?,
                b'{' | b'[' => {
                    self.open(if first == b'{' { OBJECT } else { 0 }, start, role);
                    let (byte, here) = self.significant(start + 1)?;
                    at = here;
                    // The brackets are two above their opening ones in ASCII.
                    if byte != first + 2 {
                        continue 'value;
                    }
                    here
                }
                b't' | b'f' | b'n' => self.literal(start, role)?,
                b'-' | b'0'..=b'9' => self.number(start, role)?,
                _ => return Err(MaskError::NotJson),
            };
            while !self.around.is_empty() {
                let (byte, here) = self.significant(at)?;
                at = here + 1;
                match (byte, self.level & OBJECT != 0) {
                    (b',', _) => continue 'value,
                    (b'}', true) | (b']', false) => self.close(at)?,
                    _ => return Err(MaskError::NotJson),
                }
            }
            return Ok(at);
        }
    }

    /// The role of the value that is next: in an object its name stands before it, with a colon.
    /// Returns the place behind these.
    #[inline]
    fn role(&mut self, at: usize) -> Result<(Role, usize), MaskError> {
        if self.level & OBJECT == 0 {
            return Ok((self.element, at));
        }
        let (quote, at) = self.significant(at)?;
        if quote != b'"' {
            return Err(MaskError::NotJson);
        }
        let start = at + 1;
        let (end, role) = match lex::usual_name(self.body, start) {
            Some(end) => (end, self.usual_role(start, end)),
            None => self.unusual_name(start)?,
        };
        let (colon, at) = self.significant(end + 1)?;
        if colon != b':' {
            return Err(MaskError::NotJson);
        }
        Ok((role, at + 1))
    }

    /// Opens the array or object at `start`.
    fn open(&mut self, kind: u8, start: usize, role: Role) {
        self.around.push(self.level);
        self.level = kind;
        let depth = self.around.len();
        match role {
            Role::Secret => {
                self.gone = Some((depth, start));
                self.element = Role::Gone;
            }
            Role::Shape if self.shape.is_none() => {
                self.shape = Some(depth);
                self.element = Role::Shape;
            }
            _ => {}
        }
    }

    /// Closes the innermost array or object, which ends before `end`.
    fn close(&mut self, end: usize) -> Result<(), MaskError> {
        let depth = self.around.len();
        if self.level & (FLAGGED | NAMED) != 0 {
            self.settle(depth)?;
        }
        // What was masked in an array, or anywhere below a name that keeps its shape, was masked in
        // what holds it.
        let mut passed_on =
            if self.level & OBJECT == 0 || self.shape.is_some() { self.level & MASKED } else { 0 };
        if let Some((_, start)) = self.gone.filter(|(outermost, _)| *outermost == depth) {
            self.gone = None;
            self.element = if self.shape.is_some() { Role::Shape } else { Role::Plain };
            self.edits.replace(start, end, QUOTED)?;
            self.facts.count_masked();
            passed_on = MASKED;
        }
        if self.shape == Some(depth) {
            self.shape = None;
            self.element = Role::Plain;
        }
        self.level = self.around.pop().unwrap_or_default() | passed_on;
        Ok(())
    }

    /// Does what had to wait for the end of the object at `depth`.
    #[cold]
    fn settle(&mut self, depth: usize) -> Result<(), MaskError> {
        while let Some((_, edit)) = self.flags.pop_if(|(object, _)| *object == depth) {
            if self.level & MASKED != 0 {
                self.edits.make_true(edit)?;
            }
        }
        let first = self.masked_names.partition_point(|name| name.depth < depth);
        if self.level & RENAMED != 0 {
            self.clash |= self.has_equal_names(first);
        }
        self.masked_names.truncate(first);
        Ok(())
    }

    /// Keeps in mind that `isTokenMasked` at `start..end` becomes true if a value beside it was
    /// masked.
    pub(super) fn remember_flag(&mut self, start: usize, end: usize) {
        let edit = self.edits.reserve(start, end);
        self.flags.push((self.around.len(), edit));
        self.level |= FLAGGED;
    }

    /// Keeps in mind that `name` holds a mask once masking is done, `renamed` if it was masked.
    pub(super) fn remember_name(&mut self, name: Text, renamed: bool) {
        let depth = self.around.len();
        self.masked_names.push(MaskedName { depth, name, renamed });
        self.level |= if renamed { NAMED | RENAMED } else { NAMED };
    }

    #[inline]
    fn significant(&self, at: usize) -> Result<(u8, usize), MaskError> {
        lex::significant(self.body, at).ok_or(MaskError::Truncated)
    }
}

/// A member name that holds a mask, after masking.
#[derive(Debug)]
pub(super) struct MaskedName {
    /// The depth of its object.
    depth: usize,
    /// As it is in the body.
    pub(super) name: Text,
    /// Whether it was masked.
    pub(super) renamed: bool,
}

/// It is an object, else an array.
const OBJECT: u8 = 1;
/// A value of it was masked.
pub(super) const MASKED: u8 = 2;
/// It has an `isTokenMasked` that may have to become true.
const FLAGGED: u8 = 4;
/// It has a name that holds a mask.
const NAMED: u8 = 8;
/// A name of it was masked.
const RENAMED: u8 = 16;
