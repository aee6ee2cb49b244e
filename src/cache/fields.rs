//! [`Fields`]: the fields of a stored response and the target that they are about, in little memory.
//!
//! *Invariants*
//! 1. What is read is what was put in: order, repeated lines and every byte (RFC 9110 §5.3).
//! 2. Nothing points into a connection's read buffer.
//!
//! *Why packed:* a list of names and values takes some 600 bytes for the five fields of a usual answer, as
//! much as its bookkeeping; the values in one piece and the names shared take a sixth of it. A hit copies
//! them, which costs what cloning them did: of values that are shared, each entry would hold 40 bytes more.

use std::sync::{Arc, LazyLock};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

/// The fields of a stored response.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Without lines none.
    names: Option<Arc<Names>>,
    /// The length of the target and its bytes; then for each line the number of one of [`USUAL`], or above those
    /// the length of a value and its bytes. Empty where there is nothing.
    packed: Box<[u8]>,
}

/// The names of some lines. Boxed once more: what points at it takes half the memory.
type Names = Box<[HeaderName]>;

impl Fields {
    /// Copies fields out of whatever buffer they were parsed from, with the canonical target that they are about.
    pub fn about<'a>(
        target: &str,
        lines: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    ) -> Self {
        let mut lines = lines.into_iter().peekable();
        if target.is_empty() && lines.peek().is_none() {
            return Self::default();
        }
        let mut names = Vec::with_capacity(lines.size_hint().0);
        let mut packed = Vec::with_capacity(ROOM);
        write(target.len(), target.as_bytes(), &mut packed);
        for (name, value) in lines {
            names.push(name.clone());
            pack(value, &mut packed);
        }
        let names = (!names.is_empty()).then(|| shared(names));
        Self { names, packed: packed.as_slice().into() }
    }

    /// The target's bytes; none where it was not told.
    pub fn target(&self) -> &[u8] {
        let target = read(&self.packed, 0);
        target.and_then(|(length, from)| self.packed.get(from..from + length)).unwrap_or_default()
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.names().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_none()
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
        self.cut_by(Bytes::copy_from_slice)
    }

    /// All fields in order, their values cut from one copy of all of them, which `copy` makes.
    pub fn cut_by(
        &self,
        copy: impl FnOnce(&[u8]) -> Bytes,
    ) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
        let mut left = copy(self.packed.get(self.lines_at()..).unwrap_or_default());
        self.names().iter().map_while(move |name| Some((name, cut(&mut left)?)))
    }

    /// The first line of `name`.
    pub fn get(&self, name: &HeaderName) -> Option<HeaderValue> {
        let mut at = self.lines_at();
        for other in self.names() {
            let (number, from) = read(&self.packed, at)?;
            at = from + number.saturating_sub(USUAL.len());
            if other == name {
                let own = || HeaderValue::from_bytes(self.packed.get(from..at)?).ok();
                return USUAL.get(number).cloned().or_else(own);
            }
        }
        None
    }

    /// The same with `value` as the only line of `name`.
    #[must_use]
    pub fn with(&self, name: &HeaderName, value: HeaderValue) -> Self {
        let mut map = self.to_map();
        map.insert(name, value);
        Self::about(str::from_utf8(self.target()).unwrap_or_default(), &map)
    }

    /// As a map, for rules that need one.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.len());
        for (name, value) in self.iter() {
            map.append(name, value);
        }
        map
    }

    /// Memory it takes, in bytes; its names where nobody shares them.
    pub fn bytes(&self) -> usize {
        let own = self.names.as_ref().filter(|names| Arc::strong_count(names) == 1);
        self.packed.len() + own.map_or(0, |names| size_of_val(&names[..]))
    }

    /// Where the lines begin, after the target.
    fn lines_at(&self) -> usize {
        read(&self.packed, 0).map_or(0, |(length, from)| from + length)
    }

    fn names(&self) -> &[HeaderName] {
        self.names.as_deref().map_or(&[], |names| names)
    }
}

/// The same value in memory of its own: a parsed one shares its connection's whole read buffer.
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_impossible| value.clone())
}

fn pack(value: &HeaderValue, out: &mut Vec<u8>) {
    match USUAL.iter().position(|usual| usual == value) {
        Some(usual) => write(usual, &[], out),
        None => write(USUAL.len() + value.len(), value.as_bytes(), out),
    }
}

/// The next value of those that are left.
fn cut(left: &mut Bytes) -> Option<HeaderValue> {
    let (number, from) = read(left, 0)?;
    left.advance(from);
    if let Some(usual) = USUAL.get(number) {
        return Some(usual.clone());
    }
    let length = Some(number - USUAL.len()).filter(|length| *length <= left.len())?;
    HeaderValue::from_maybe_shared(left.split_to(length)).ok()
}

/// A number in sevens of bits, the lowest first, and what it tells of.
fn write(number: usize, bytes: &[u8], out: &mut Vec<u8>) {
    let mut left = number;
    while left > LOW {
        let [low, ..] = left.to_le_bytes();
        out.push(low | MORE);
        left >>= 7;
    }
    let [last, ..] = left.to_le_bytes();
    out.push(last);
    out.extend_from_slice(bytes);
}

/// The number at `at`, and where it ends.
fn read(packed: &[u8], at: usize) -> Option<(usize, usize)> {
    let byte = *packed.get(at)?;
    if byte & MORE == 0 {
        return Some((byte.into(), at + 1));
    }
    let (high, end) = read(packed, at + 1)?;
    Some((high << 7 | usize::from(byte ^ MORE), end))
}

/// One list of names for all that have equal ones.
fn shared(names: Vec<HeaderName>) -> Arc<Names> {
    let mut lists = LISTS.lock();
    if let Some(list) = lists.iter().find(|list| list[..] == names[..]) {
        return Arc::clone(list);
    }
    let list = Arc::new(names.into_boxed_slice());
    if lists.len() < MOST_LISTS {
        lists.push(Arc::clone(&list));
    }
    list
}

/// The first lists of names that were seen: an upstream's answers have a handful of them.
static LISTS: LazyLock<Mutex<Vec<Arc<Names>>>> = LazyLock::new(Mutex::default);

const MOST_LISTS: usize = 64;

/// What a target and the values of its fields mostly fit into, before they are copied into what they take.
const ROOM: usize = 256;

/// Values that nearly every answer has.
static USUAL: [HeaderValue; 5] = [
    HeaderValue::from_static("application/json"),
    HeaderValue::from_static("application/json; charset=utf-8"),
    HeaderValue::from_static("authorization"),
    HeaderValue::from_static("private, max-age=60"),
    HeaderValue::from_static("private, no-store"),
];

/// Marks a byte of a number that has higher ones after it.
const MORE: u8 = 1 << 7;

/// What one byte can tell without it.
const LOW: usize = 127;

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, ETAG, LINK, VARY};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_lists_of_names_are_one() {
        let of = |tag: &'static str| {
            let mut map = HeaderMap::new();
            map.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            map.append(ETAG, HeaderValue::from_static(tag));
            Fields::about("", &map)
        };
        let (one, other) = (of("\"1\""), of("\"2\""));
        assert!(std::ptr::eq(one.names(), other.names()));
        assert_eq!(one.get(&ETAG).unwrap(), "\"1\"");
        assert_eq!(one.get(&VARY), None);
    }

    #[test]
    fn one_line_replaces_all_of_its_name() {
        let mut map = HeaderMap::new();
        for link in ["<a>", "<b>"] {
            map.append(LINK, HeaderValue::from_static(link));
        }
        map.append(VARY, HeaderValue::from_static("authorization"));
        let fields = Fields::about("", &map).with(&LINK, HeaderValue::from_static("<c>")).to_map();
        assert_eq!(fields.get_all(LINK).iter().collect::<Vec<_>>(), ["<c>"]);
        assert_eq!(fields.len(), 2);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_put_in(
            lines in proptest::collection::vec(("[a-c]{1,2}", "[ -~\u{80}-\u{ff}]{0,300}"), 0..8),
            usual in 0..USUAL.len(),
            target in "[/a-z]{0,200}",
        ) {
            let mut map = HeaderMap::new();
            for (name, value) in &lines {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
                map.append(name, USUAL[usual].clone());
            }
            let fields = Fields::about(&target, &map);
            prop_assert_eq!(fields.target(), target.as_bytes());
            prop_assert_eq!(fields.len(), map.len());
            let read: Vec<_> = fields.iter().map(|(name, value)| (name.clone(), value)).collect();
            let put: Vec<_> = map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            prop_assert_eq!(read, put);
            prop_assert_eq!(fields.to_map(), map);
        }
    }
}
