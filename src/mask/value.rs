//! The mask forms: which text already is a mask, and which mask a value gets.
//!
//! # Invariants
//! 1. A mask has a fixed length per form, so it tells nothing of the value that it stands for.
//! 2. Every mask that is written [`is_mask`] recognises, so masking twice changes nothing.
//!
//! # Why not keep `cal_live_` and `cal_test_` in the mask?
//! The API documents one mask for its keys, `cal_****************`; which kind of key it was is the
//! key's own affair.

/// What every known key begins with; the longer prefixes (`cal_live_`, `cal_test_`) begin with it
/// too.
pub(super) const PREFIX: &[u8] = b"cal_";

/// The mask of a value that begins with [`PREFIX`], and of each key-shaped run.
pub(super) const PREFIXED: &[u8] = b"cal_****************";

/// The mask of any other value.
pub(super) const BARE: &[u8] = b"****************";

/// [`BARE`] as a JSON string: what a number, an array or an object is replaced by.
pub(super) const QUOTED: &[u8] = b"\"****************\"";

/// Whether `text`, unescaped already, is exactly an optional known prefix and three or more
/// asterisks.
pub(super) fn is_mask(text: &[u8]) -> bool {
    if text == PREFIXED || text == BARE {
        return true;
    }
    let stars = PREFIXES.iter().find_map(|prefix| text.strip_prefix(*prefix)).unwrap_or(text);
    stars.len() >= FEWEST_STARS && stars.iter().all(|&byte| byte == b'*')
}

/// The canonical mask, without quotes, of the value `text`, unescaped already.
pub(super) fn mask_of(text: &[u8]) -> &'static [u8] {
    if text.starts_with(PREFIX) { PREFIXED } else { BARE }
}

/// The longest first, so that the rest behind the first that fits is what has to be asterisks.
pub(super) const PREFIXES: [&[u8]; 3] = [b"cal_live_", b"cal_test_", PREFIX];

/// Fewer asterisks than these may be text.
const FEWEST_STARS: usize = 3;
