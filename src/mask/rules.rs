//! What becomes of each name and value: the rules of masking.
//!
//! # Invariants
//! 1. What is a mask already is kept byte for byte, wherever it stands.
//! 2. `null`, `true`, `false` and the empty string are never masked.
//! 3. No fact is taken from a value that was masked.
//!
//! # `isTokenMasked`
//! It becomes `true` when a value of the same object was masked, before or behind it: a value by
//! itself, in an array, or anywhere below a name that keeps its shape. Whatever scalar it is,
//! `false`, `null`, a number or a string, is replaced; an array or an object under that name is
//! only treated as any other.

use std::borrow::Cow;
use std::collections::HashMap;

use super::MaskError;
use super::key_shape;
use super::lex::{self, Text};
use super::names::Role;
use super::scan::{MASKED, MaskedName, Scan};
use super::unescape::{unescape, units};
use super::updated_at;
use super::value::{PREFIX, PREFIXED, QUOTED, is_mask, mask_of};

impl<'a> Scan<'a> {
    /// What the name at `start..end`, which has no underscore, hyphen or escape, says about its
    /// value.
    #[inline]
    pub(super) fn usual_role(&self, start: usize, end: usize) -> Role {
        match self.element {
            Role::Gone => Role::Gone,
            element => inherit(element, self.masker.names.role(self.body, start, end)),
        }
    }

    /// The end of any other name, whose quote is before `start`, and what it says about its value;
    /// masks what is key-shaped in it.
    #[cold]
    pub(super) fn unusual_name(&mut self, start: usize) -> Result<(usize, Role), MaskError> {
        let name = lex::string(self.body, start)?;
        if self.element == Role::Gone {
            return Ok((name.end, Role::Gone));
        }
        let renamed = self.mask_runs(name)?;
        if renamed {
            self.facts.count_masked();
        }
        let plain = self.plain(name);
        if renamed || memchr::memchr(b'*', &plain).is_some() {
            self.remember_name(name, renamed);
        }
        let said = self.masker.names.role_of(&plain, &mut self.scratch);
        Ok((name.end, inherit(self.element, said)))
    }

    /// The string whose quote is at `start`; returns the place behind it.
    #[inline]
    pub(super) fn string(&mut self, start: usize, role: Role) -> Result<usize, MaskError> {
        let text = lex::string(self.body, start + 1)?;
        match role {
            Role::Plain => {
                self.mask_keys(text)?;
            }
            Role::Secret | Role::Shape => self.secret_string(text)?,
            Role::Flag => self.flag_string(text)?,
            Role::Unit(member) => {
                if !self.mask_keys(text)? && self.gathers {
                    let unit = self.plain(text);
                    self.units.note(&mut self.facts, member, &unit);
                }
            }
            Role::UpdatedAt => {
                if !self.mask_keys(text)? && self.gathers {
                    let time = updated_at::parse(&self.plain(text));
                    self.facts.newest_updated_at = self.facts.newest_updated_at.max(time);
                }
            }
            Role::Gone => self.mask_seen |= is_mask(&self.plain(text)),
        }
        Ok(text.end + 1)
    }

    /// The number at `start`; returns the place behind it.
    #[inline]
    pub(super) fn number(&mut self, start: usize, role: Role) -> Result<usize, MaskError> {
        let end = lex::number(self.body, start)?;
        match role {
            Role::Secret | Role::Shape => self.mask(start, end, QUOTED)?,
            Role::Flag => self.remember_flag(start, end),
            // A unit id may be all digits; its sign, point or exponent would make it none.
            Role::Unit(member) if self.gathers => {
                let digits = self.body.get(start..end).unwrap_or_default();
                if digits.iter().all(u8::is_ascii_digit) {
                    self.units.note(&mut self.facts, member, digits);
                }
            }
            Role::Plain | Role::Unit(_) | Role::UpdatedAt | Role::Gone => {}
        }
        Ok(end)
    }

    /// `true`, `false` or `null` at `start`; returns the place behind it.
    #[inline]
    pub(super) fn literal(&mut self, start: usize, role: Role) -> Result<usize, MaskError> {
        let end = lex::literal(self.body, start)?;
        if role == Role::Flag && self.body.get(start) != Some(&b't') {
            self.remember_flag(start, end);
        }
        Ok(end)
    }

    /// Whether a name that was masked is equal to another, of those remembered from the index
    /// `first` on.
    pub(super) fn has_equal_names(&self, first: usize) -> bool {
        let mut seen = HashMap::new();
        let names = self.masked_names.get(first..).unwrap_or_default();
        names.iter().any(|MaskedName { name, renamed, .. }| {
            let masked = key_shape::replace(&self.plain(*name)).into_owned();
            let before = seen.insert(masked, *renamed);
            before.is_some_and(|renamed_before| renamed_before || *renamed)
        })
    }

    fn secret_string(&mut self, text: Text) -> Result<(), MaskError> {
        let plain = self.plain(text);
        if plain.is_empty() {
            return Ok(());
        }
        if is_mask(&plain) {
            self.mask_seen = true;
            return Ok(());
        }
        let mask = mask_of(&plain);
        self.mask(text.start, text.end, mask)
    }

    /// A key in `isTokenMasked` itself is masked by the `true` that it becomes.
    fn flag_string(&mut self, text: Text) -> Result<(), MaskError> {
        let plain = self.plain(text);
        let (start, end) = (text.start - 1, text.end + 1);
        if is_mask(&plain) {
            self.mask_seen |= self.element == Role::Shape;
        } else if self.element == Role::Shape && !plain.is_empty()
            || key_shape::replace(&plain) != plain
        {
            self.mask(start, end, b"true")?;
        } else {
            self.remember_flag(start, end);
        }
        Ok(())
    }

    /// Masks what is key-shaped in a string value, and says whether there was any.
    #[inline]
    fn mask_keys(&mut self, text: Text) -> Result<bool, MaskError> {
        // Unless an escape hides one, each key has its prefix in plain bytes.
        if !text.disguised && self.next_prefix >= text.end {
            return Ok(false);
        }
        let found = self.mask_runs(text)?;
        if found {
            self.facts.count_masked();
            self.level |= MASKED;
        }
        Ok(found)
    }

    /// Masks what is key-shaped in a name or value, and says whether there was any.
    #[inline(never)]
    fn mask_runs(&mut self, text: Text) -> Result<bool, MaskError> {
        if text.escaped {
            return self.mask_escaped_runs(text);
        }
        let mut found = false;
        let mut at = text.start;
        while self.has_prefix(at, text.end) {
            let start = self.next_prefix;
            let key = key_shape::plain_key(self.raw(text), start - text.start);
            at = start + key.unwrap_or(PREFIX.len());
            if key.is_some() {
                found = true;
                self.edits.replace(start, at, PREFIXED)?;
            }
        }
        Ok(found)
    }

    /// The same where escapes are: only all that is before a prefix tells whether it begins a word.
    fn mask_escaped_runs(&mut self, text: Text) -> Result<bool, MaskError> {
        let mut found = false;
        let mut at = text.start;
        while text.disguised || self.has_prefix(at, text.end) {
            let Some(key) = key_shape::first_key(units(self.body, at, text.end)) else {
                break;
            };
            (found, at) = (true, key.end);
            self.edits.replace(key.start, key.end, PREFIXED)?;
        }
        Ok(found)
    }

    /// Whether the prefix of a key stands at `start..end`, which lies behind all that was asked
    /// before.
    fn has_prefix(&mut self, start: usize, end: usize) -> bool {
        if self.next_prefix < start {
            let rest = self.body.get(start..).unwrap_or_default();
            let found = key_shape::prefix(rest);
            self.next_prefix = found.map_or(usize::MAX, |place| start + place);
        }
        self.next_prefix < end
    }

    /// Replaces the value, or what is between its quotes.
    fn mask(&mut self, start: usize, end: usize, with: &'static [u8]) -> Result<(), MaskError> {
        self.facts.count_masked();
        self.level |= MASKED;
        self.edits.replace(start, end, with)
    }

    fn raw(&self, text: Text) -> &'a [u8] {
        self.body.get(text.start..text.end).unwrap_or_default()
    }

    fn plain(&self, text: Text) -> Cow<'a, [u8]> {
        let raw = self.raw(text);
        if text.escaped { Cow::Owned(unescape(raw)) } else { Cow::Borrowed(raw) }
    }
}

/// The role of a member whose name says `said`, where elements are `element`.
fn inherit(element: Role, said: Role) -> Role {
    match (element, said) {
        (Role::Plain, _) | (Role::Shape, Role::Secret | Role::Flag) => said,
        _ => element,
    }
}
