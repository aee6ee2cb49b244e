//! [`Fields`]: the fields of a stored response, in little memory.
//!
//! *Invariants*
//! 1. What is read is what was put in: order, repeated lines and every byte (RFC 9110 §5.3).
//! 2. Nothing points into a connection's read buffer.
//!
//! *Why packed:* a list of names and values takes some 600 bytes for the five fields of a usual answer, as
//! much as its bookkeeping; the values in one piece and the names shared take a third of it. Cutting a value
//! out at a hit costs what cloning it did, and a look at its bytes.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

/// The fields of a stored response; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    names: Arc<[HeaderName]>,
    /// For each line what value it has: one of [`USUAL`], or its length and its bytes.
    values: Bytes,
}

impl Fields {
    /// Copies `fields` out of whatever buffer they were parsed from.
    pub fn copied(fields: &HeaderMap) -> Self {
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (name, value) in fields {
            names.push(name.clone());
            pack(value, &mut values);
        }
        if names.is_empty() {
            return Self::default();
        }
        Self { names: shared(names), values: Bytes::from(values.into_boxed_slice()) }
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
        let mut at = 0;
        self.names.iter().map_while(move |name| {
            let (value, end) = unpack(&self.values, at)?;
            at = end;
            Some((name, value))
        })
    }

    /// The first line of `name`.
    pub fn get(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The same with `value` as the only line of `name`.
    #[must_use]
    pub fn with(&self, name: &HeaderName, value: HeaderValue) -> Self {
        let mut map = self.to_map();
        map.insert(name, value);
        Self::copied(&map)
    }

    /// As a map, for rules that need one.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.len());
        for (name, value) in self.iter() {
            map.append(name, value);
        }
        map
    }

    /// Memory it takes, in bytes, its names counted as if they were its own: those of many upstreams are.
    pub fn bytes(&self) -> usize {
        self.values.len() + size_of_val(&*self.names)
    }
}

/// The same value in memory of its own: a parsed one shares its connection's whole read buffer.
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_impossible| value.clone())
}

fn pack(value: &HeaderValue, out: &mut Vec<u8>) {
    let usual = USUAL.iter().position(|usual| usual == value).and_then(|at| u8::try_from(at).ok());
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if let Some(at) = usual {
        return out.push(at);
    }
    out.push(OWN);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value.as_bytes());
}

/// The value at `at`, and where it ends.
fn unpack(values: &Bytes, at: usize) -> Option<(HeaderValue, usize)> {
    let (kind, rest) = values.get(at..)?.split_first()?;
    if *kind != OWN {
        return Some((USUAL.get(usize::from(*kind))?.clone(), at + 1));
    }
    let length = usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()?;
    let start = at + 1 + size_of::<u32>();
    let end = start.checked_add(length).filter(|end| *end <= values.len())?;
    Some((HeaderValue::from_maybe_shared(values.slice(start..end)).ok()?, end))
}

/// One list of names for all that have equal ones.
fn shared(names: Vec<HeaderName>) -> Arc<[HeaderName]> {
    let mut lists = LISTS.lock();
    if let Some(list) = lists.iter().find(|list| ***list == names[..]) {
        return Arc::clone(list);
    }
    let list: Arc<[HeaderName]> = names.into();
    if lists.len() < MOST_LISTS {
        lists.push(Arc::clone(&list));
    }
    list
}

/// The first lists of names that were seen: an upstream's answers have a handful of them.
static LISTS: LazyLock<Mutex<Vec<Arc<[HeaderName]>>>> = LazyLock::new(Mutex::default);

const MOST_LISTS: usize = 64;

/// Values that nearly every answer has.
static USUAL: [HeaderValue; 5] = [
    HeaderValue::from_static("application/json"),
    HeaderValue::from_static("application/json; charset=utf-8"),
    HeaderValue::from_static("authorization"),
    HeaderValue::from_static("private, max-age=60"),
    HeaderValue::from_static("private, no-store"),
];

/// Marks a value that is none of [`USUAL`].
const OWN: u8 = u8::MAX;

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
            Fields::copied(&map)
        };
        let (one, other) = (of("\"1\""), of("\"2\""));
        assert!(Arc::ptr_eq(&one.names, &other.names));
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
        let fields = Fields::copied(&map).with(&LINK, HeaderValue::from_static("<c>")).to_map();
        assert_eq!(fields.get_all(LINK).iter().collect::<Vec<_>>(), ["<c>"]);
        assert_eq!(fields.len(), 2);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_put_in(
            lines in proptest::collection::vec(("[a-c]{1,2}", "[ -~\u{80}-\u{ff}]{0,300}"), 0..8),
            usual in 0..USUAL.len(),
        ) {
            let mut map = HeaderMap::new();
            for (name, value) in &lines {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
                map.append(name, USUAL[usual].clone());
            }
            let fields = Fields::copied(&map);
            prop_assert_eq!(fields.len(), map.len());
            let read: Vec<_> = fields.iter().map(|(name, value)| (name.clone(), value)).collect();
            let put: Vec<_> = map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            prop_assert_eq!(read, put);
            prop_assert_eq!(fields.to_map(), map);
        }
    }
}
