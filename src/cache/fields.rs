//! [`Fields`]: the fields of a stored response and what it answers, in little memory.
//!
//! *Invariants*
//! 1. What is read is what was put in: order, repeated lines and every byte (RFC 9110 §5.3).
//! 2. Nothing points into a connection's read buffer.
//!
//! *Why packed:* a list of names and values takes some 600 bytes for the five fields of a usual answer, and its
//! target, route and windows another 100. What answers of one route have alike is kept once, and of the rest only
//! what can't be worked out: some 20 bytes. A hit writes the values anew, which costs what cloning them did.

use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;

use super::forms::{Form, pack_about, with_about};
use super::packed::{Packed, Reader};
use super::times::Windows;
use crate::mask::{Masked, Tag};

/// The fields of a stored response, and what it answers.
#[derive(Clone, Debug)]
pub struct Fields {
    kind: Arc<Kind>,
    /// How many values the masker changed and the end of the target; then for each line what its form keeps.
    packed: Packed,
}

/// What responses have alike.
#[derive(Debug)]
struct Kind {
    terms: Terms,
    prefix: Box<str>,
    lines: Box<[(HeaderName, Form)]>,
}

/// How a response may be used, as far as many have it alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The number of the route that it was asked by, where it may be kept.
    pub route: u16,
    /// The configuration that made it; under another one it is a miss.
    pub made_under: u64,
    /// Its status.
    pub status: StatusCode,
    /// Its windows.
    pub windows: Windows,
}

/// What a response is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// How it may be used.
    pub terms: Terms,
    /// The canonical target that it answers, where it may be kept.
    pub target: &'a str,
    /// What the targets of its route begin with; kept once for them, if this one does.
    pub prefix: &'a str,
    /// How many values the masker changed.
    pub fields_masked: u32,
}

impl Fields {
    /// Copies fields out of whatever buffer they were parsed from, to be shown with this body.
    pub fn of<'a>(
        about: &About<'_>,
        body: &Masked,
        lines: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    ) -> Self {
        Self::made(about, body.tag(), lines)
    }

    /// Likewise, of fields that no body is shown with; `None` of none.
    pub fn hidden<'a>(
        lines: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    ) -> Option<Self> {
        let mut lines = lines.peekable();
        let any = lines.peek().is_some();
        any.then(|| Self::made(&About::default(), None, lines))
    }

    fn made<'a>(
        about: &About<'_>,
        tag: Option<Tag>,
        lines: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    ) -> Self {
        let (prefix, end) = match about.target.strip_prefix(about.prefix) {
            Some(end) => (about.prefix, end),
            None => ("", about.target),
        };
        let mut bytes = Vec::with_capacity(ROOM);
        pack_about(about.fields_masked, end, &mut bytes);
        let lines = lines.into_iter();
        let mut forms = Vec::with_capacity(lines.size_hint().0);
        forms.extend(lines.map(|(name, value)| (name.clone(), Form::pack(value, tag, &mut bytes))));
        Self { kind: Kind::shared(about.terms, prefix, forms), packed: Packed::from(&bytes[..]) }
    }

    /// How the response may be used.
    pub fn terms(&self) -> &Terms {
        &self.kind.terms
    }

    /// How many values the masker changed.
    pub fn fields_masked(&self) -> u32 {
        with_about(&mut self.kept(), |masked, _end| masked)
    }

    /// Whether it answers this target: each byte is the same.
    pub fn answers(&self, target: &str) -> bool {
        let end = target.strip_prefix(&*self.kind.prefix);
        end.is_some_and(|end| with_about(&mut self.kept(), |_masked, kept| kept == end.as_bytes()))
    }

    /// Its lines, shown with the body that has this tag, the one that they were kept with.
    pub(super) fn lines(&self, tag: Option<Tag>) -> Lines<'_> {
        Lines { fields: self, tag }
    }

    /// Memory it takes elsewhere, in bytes; what is alike only where nobody shares it at the moment, not even the
    /// response whose place it takes.
    pub fn bytes(&self) -> usize {
        let alone = Arc::strong_count(&self.kind) <= WITH_THE_TABLE;
        self.packed.apart() + if alone { self.kind.bytes() } else { 0 }
    }

    /// The canonical target.
    pub(super) fn target(&self) -> String {
        with_about(&mut self.kept(), |_masked, end| {
            [&*self.kind.prefix, &String::from_utf8_lossy(end)].concat()
        })
    }

    fn kept(&self) -> Reader<'_> {
        Reader(self.packed.bytes())
    }
}

/// Fields as they are shown.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    fields: &'a Fields,
    tag: Option<Tag>,
}

impl<'a> Lines<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.fields.kind.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.kind.lines.is_empty()
    }

    /// All in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a HeaderName, HeaderValue)> + use<'a> {
        let mut written = BytesMut::new();
        self.write(&mut written);
        self.cut(written.freeze())
    }

    /// Writes what [`Self::cut`] cuts the values from.
    pub fn write(&self, out: &mut BytesMut) {
        let mut kept = self.values();
        for (_, form) in &self.fields.kind.lines {
            form.write(&mut kept, self.tag, out);
        }
    }

    /// All in order, their values cut from what was written.
    pub fn cut(
        self,
        mut written: Bytes,
    ) -> impl Iterator<Item = (&'a HeaderName, HeaderValue)> + use<'a> {
        let mut kept = self.values();
        let lines = self.fields.kind.lines.iter();
        lines.filter_map(move |(name, form)| Some((name, form.cut(&mut kept, &mut written)?)))
    }

    /// The first of `name`.
    pub fn get(&self, name: &HeaderName) -> Option<HeaderValue> {
        let mut kept = self.values();
        for (other, form) in &self.fields.kind.lines {
            if other == name {
                let mut written = BytesMut::new();
                form.write(&mut kept.clone(), self.tag, &mut written);
                return form.cut(&mut kept, &mut written.freeze());
            }
            form.skip(&mut kept);
        }
        None
    }

    /// The one of `name`; none of several.
    pub fn only(&self, name: &HeaderName) -> Option<HeaderValue> {
        let lines = self.fields.kind.lines.iter().filter(|(other, _)| other == name);
        (lines.count() == 1).then(|| self.get(name))?
    }

    /// Whether there is one of `name`.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.fields.kind.lines.iter().any(|(other, _)| other == name)
    }

    /// The same with `value` as the only line of `name`.
    #[must_use]
    pub fn with(&self, name: &HeaderName, value: HeaderValue) -> Fields {
        let mut map = self.to_map();
        map.insert(name, value);
        let Kind { terms, prefix, .. } = &*self.fields.kind;
        let about = About {
            terms: *terms,
            target: &self.fields.target(),
            prefix,
            fields_masked: self.fields.fields_masked(),
        };
        Fields::made(&about, self.tag, &map)
    }

    /// As a map, for rules that need one.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.len());
        for (name, value) in self.iter() {
            map.append(name, value);
        }
        map
    }

    /// What is kept of the values.
    fn values(&self) -> Reader<'a> {
        let mut kept = self.fields.kept();
        with_about(&mut kept, |_masked, _end| ());
        kept
    }
}

impl Kind {
    /// One for all that have it alike.
    fn shared(terms: Terms, prefix: &str, lines: Vec<(HeaderName, Form)>) -> Arc<Self> {
        let hash = HASHER.hash_one((terms, prefix, &lines[..]));
        let is_it = |kind: &Arc<Self>| {
            kind.terms == terms && *kind.prefix == *prefix && kind.lines[..] == lines[..]
        };
        let mut kinds = KINDS.lock();
        if let Some(kind) = kinds.table.find(hash, is_it) {
            return Arc::clone(kind);
        }
        if kinds.table.len() >= kinds.most {
            kinds.prune();
        }
        let kind = Arc::new(Self { terms, prefix: prefix.into(), lines: lines.into() });
        kinds.table.insert_unique(hash, Arc::clone(&kind), Kinds::hash);
        kind
    }

    fn bytes(&self) -> usize {
        let names = self.lines.iter().map(|(name, _)| name.as_str().len());
        let lists = self.prefix.len() + size_of_val(&*self.lines);
        size_of::<Self>() + lists + names.sum::<usize>()
    }
}

/// The kinds of what is stored: a handful for each route.
struct Kinds {
    table: HashTable<Arc<Kind>>,
    /// With so many, those that nothing is of any more are let go of.
    most: usize,
}

impl Kinds {
    /// Lets go of those that nothing is of any more.
    fn prune(&mut self) {
        self.table.retain(|kind| Arc::strong_count(kind) > 1);
        self.most = (2 * self.table.len()).max(FEW_KINDS);
        self.table.shrink_to(self.most, Self::hash);
    }

    fn hash(kind: &Arc<Kind>) -> u64 {
        HASHER.hash_one((kind.terms, &*kind.prefix, &*kind.lines))
    }
}

/// Lets go of what only responses that are gone had alike.
pub(super) fn prune() {
    KINDS.lock().prune();
}

static KINDS: Mutex<Kinds> = Mutex::new(Kinds { table: HashTable::new(), most: FEW_KINDS });

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

const FEW_KINDS: usize = 64;

/// How many hold a kind that one response and the table do.
const WITH_THE_TABLE: usize = 2;

/// The same value in memory of its own: a parsed one shares its connection's whole read buffer.
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_impossible| value.clone())
}

/// What a target and the values of its fields mostly fit into, before they are copied into what they take.
const ROOM: usize = 128;

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, ETAG, LINK, VARY};
    use proptest::prelude::*;

    use super::*;
    use crate::numbered;

    const BODY: &[u8] = b"{}";

    fn of(lines: &HeaderMap) -> Fields {
        Fields::made(&About::default(), None, lines)
    }

    #[test]
    fn what_responses_have_alike_is_kept_once() {
        let of = |tag: &'static str, target| {
            let mut map = HeaderMap::new();
            map.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            map.append(ETAG, HeaderValue::from_static(tag));
            let terms = Terms { route: 7, ..Terms::default() };
            let about = About { terms, target, prefix: "/unit/", ..About::default() };
            Fields::made(&about, None, &map)
        };
        let (one, other) = (of("\"1\"", "/unit/1"), of("\"2\"", "/unit/2"));
        assert!(Arc::ptr_eq(&one.kind, &other.kind));
        assert_eq!(one.lines(None).get(&ETAG).unwrap(), "\"1\"");
        assert_eq!(one.lines(None).get(&VARY), None);
        let elsewhere = of("\"1\"", "/calendar/1");
        assert!(!Arc::ptr_eq(&one.kind, &elsewhere.kind) && elsewhere.answers("/calendar/1"));
    }

    #[test]
    fn one_line_replaces_all_of_its_name() {
        let mut map = HeaderMap::new();
        for link in ["<a>", "<b>"] {
            map.append(LINK, HeaderValue::from_static(link));
        }
        map.append(VARY, HeaderValue::from_static("authorization"));
        let about = About { target: "/a", fields_masked: 300, ..About::default() };
        let fields = Fields::made(&about, None, &map);
        let fields = fields.lines(None).with(&LINK, HeaderValue::from_static("<c>"));
        assert!(fields.answers("/a") && fields.fields_masked() == 300);
        let fields = fields.lines(None).to_map();
        assert_eq!(fields.get_all(LINK).iter().collect::<Vec<_>>(), ["<c>"]);
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn kinds_that_are_gone_make_room_for_others() {
        let of = |number: usize| {
            let lines = HeaderMap::from_iter([(VARY, HeaderValue::from_static("a"))]);
            let made_under = u64::try_from(number).unwrap() + (1 << 40);
            let about =
                About { terms: Terms { made_under, ..Terms::default() }, ..About::default() };
            Fields::made(&about, None, &lines)
        };
        for number in 0..3 * FEW_KINDS {
            let (one, other) = (of(number), of(number));
            assert!(Arc::ptr_eq(&one.kind, &other.kind), "{number}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_put_in(
            lines in proptest::collection::vec(("[a-c]{1,2}", "[ -~\u{80}-\u{ff}]{0,300}"), 0..8),
            usual in prop_oneof![
                "authorization|private, max-age=[1-9][0-9]?|\"[0-9a-f]{32}\"",
                any::<u32>().prop_map(|second| numbered::date(second).to_str().unwrap().to_owned()),
                Just(String::from_utf8(Tag::over(BODY).text().to_vec()).unwrap()),
            ],
            tag in prop_oneof![Just(None), Just(Some(Tag::over(BODY)))],
            target in "[/a-z]{0,200}|/units/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
            prefix in "/?|/units/",
            fields_masked in any::<u32>(),
            route in any::<u16>(),
        ) {
            let mut map = HeaderMap::new();
            for (name, value) in &lines {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
                map.append(name, HeaderValue::from_str(&usual).unwrap());
            }
            let terms = Terms { route, ..Terms::default() };
            let about = About { terms, target: &target, prefix: &prefix, fields_masked };
            let fields = Fields::made(&about, tag, &map);
            prop_assert!(fields.answers(&target) && fields.target() == target);
            let others = [format!("{target}/"), format!("/{target}")];
            prop_assert!(!others.iter().any(|other| fields.answers(other)));
            prop_assert_eq!((fields.fields_masked(), *fields.terms()), (fields_masked, terms));
            let fields = fields.lines(tag);
            prop_assert_eq!(fields.len(), map.len());
            let read: Vec<_> = fields.iter().map(|(name, value)| (name.clone(), value)).collect();
            let put: Vec<_> = map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            prop_assert_eq!(read, put);
            for name in map.keys() {
                let first = fields.get(name);
                prop_assert_eq!(first.as_ref(), map.get(name));
                prop_assert_eq!(fields.only(name).is_some(), map.get_all(name).iter().count() == 1);
            }
            prop_assert_eq!(fields.to_map(), map);
        }
    }

    #[test]
    fn nothing_is_little() {
        let (one, other) = (of(&HeaderMap::new()), of(&HeaderMap::new()));
        assert_eq!((one.bytes(), other.bytes()), (0, 0));
        assert!(one.lines(None).is_empty() && Fields::hidden(HeaderMap::new().iter()).is_none());
    }
}
