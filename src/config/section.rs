//! One table of the file with its overrides, whose keys are asked for one by one.
//!
//! *Invariants*
//! 1. What is asked for is noted; [`Section::close`] reports whatever else stands there.
//! 2. The environment wins over the file.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place};
use super::value::Value;
use super::walk::{Unknown, Walk, join};

/// One table, whose keys are asked for one by one.
pub(super) struct Section<'w, 'a> {
    pub(super) walk: &'w mut Walk<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// The variable whose text the table is, if it is not in the file.
    variable: Option<String>,
    seen: Vec<&'static str>,
}

/// A value that was found.
pub(super) struct Given<'a> {
    pub(super) value: Value<'a>,
    /// The whole key, as in `cache.ttl`.
    pub(super) path: String,
    place: Place,
}

impl<'w, 'a> Section<'w, 'a> {
    /// The file's outermost table.
    pub(super) fn root(walk: &'w mut Walk<'a>, table: &'a DeTable<'a>) -> Self {
        Self { walk, path: String::new(), table: Some(table), variable: None, seen: Vec::new() }
    }

    /// The value of a key, if it is given.
    pub(super) fn given(&mut self, key: &'static str) -> Option<Given<'a>> {
        self.seen.push(key);
        let path = join(&self.path, key);
        self.walk.ask(&path);
        let (value, place) = self.find(key)?;
        self.walk.found(&path, &place);
        Some(Given { value, path, place })
    }

    /// Reads a key into its slot; without it, or with a mistake in it, the slot keeps what it has.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        slot: &mut T,
        reader: impl Fn(Value<'a>) -> Result<T, Fault>,
    ) {
        if let Some(given) = self.given(key) {
            match reader(given.value) {
                Ok(value) => *slot = value,
                Err(fault) => self.refuse(&given, fault),
            }
        }
    }

    /// Reads a key that has no default; without it, that is the mistake.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        example: &str,
        reader: impl Fn(Value<'a>) -> Result<T, Fault>,
    ) -> Option<T> {
        let mut value = None;
        self.read(key, &mut value, |given| reader(given).map(Some));
        let path = join(&self.path, key);
        if value.is_none() && !self.walk.failed(&path) {
            let place = self.place();
            self.walk.missing(&path, &place, example);
        }
        value
    }

    /// Reads a key whose value is a table, or the text `none` for none.
    pub(super) fn group<T>(
        &mut self,
        key: &'static str,
        none: &str,
        example: &str,
        slot: &mut Option<T>,
        build: impl FnOnce(&mut Section<'_, 'a>) -> Option<T>,
    ) {
        let Some(given) = self.given(key) else { return };
        if given.value.as_text() == Some(none) {
            *slot = None;
        } else if let Some(mut inner) = self.open(&given) {
            *slot = build(&mut inner);
            inner.close();
        } else {
            self.refuse(&given, given.value.unexpected(&format!("{example}, or {none:?}")));
        }
    }

    /// A table of this one by name, whether it is there or not.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'_, 'a> {
        self.seen.push(key);
        let found = self.table.and_then(|table| table.get_key_value(key));
        let table = found.and_then(|(name, value)| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                let place = self.line(name);
                let fault = Value::Toml(value.get_ref())
                    .unexpected(&format!("[{key}], and its keys below it"));
                self.walk.fault(&join(&self.path, key), &place, fault);
            }
            table
        });
        let path = join(&self.path, key);
        Section { walk: self.walk, path, table, variable: None, seen: vec![] }
    }

    /// A table that is a value of this one, if it is a table.
    pub(super) fn open(&mut self, given: &Given<'a>) -> Option<Section<'_, 'a>> {
        let table = given.value.as_table()?;
        let variable = match &given.place {
            Place::Variable(name) => Some(name.clone()),
            Place::Line(_) | Place::File => None,
        };
        let path = given.path.clone();
        Some(Section { walk: self.walk, path, table: Some(table), variable, seen: vec![] })
    }

    /// The tables of this one, whatever their names: `[upstreams.NAME]`.
    pub(super) fn named(&self) -> Vec<&'a str> {
        let table = self.table.into_iter();
        table.flat_map(DeTable::keys).map(|key| key.get_ref().as_ref()).collect()
    }

    /// A table of this one under a name of the operator's choice.
    pub(super) fn under(&mut self, name: &str) -> Section<'_, 'a> {
        let found = self.table.and_then(|table| table.get_key_value(name));
        let path = join(&self.path, name);
        let table = found.and_then(|(key, value)| {
            let place = self.line(key);
            let table = value.get_ref().as_table();
            if table.is_none() {
                let wanted = format!("[{path}], and its keys below it");
                let fault = Value::Toml(value.get_ref()).unexpected(&wanted);
                self.walk.fault(&path, &place, fault);
            }
            self.walk.found(&path, &place);
            table
        });
        Section { walk: self.walk, path, table, variable: None, seen: vec![] }
    }

    /// The tables of `[[key]]`; `None` where the key is not given.
    pub(super) fn tables(&mut self, key: &'static str) -> Option<Vec<&'a Spanned<DeValue<'a>>>> {
        self.seen.push(key);
        let (name, value) = self.table?.get_key_value(key)?;
        let items: Vec<_> =
            value.get_ref().as_array().into_iter().flat_map(|items| items.iter()).collect();
        if items.is_empty() || items.iter().any(|item| !item.get_ref().is_table()) {
            let place = self.line(name);
            let fault = Fault::new(
                "is no list of tables",
                format!("write [[{key}]] once for each, or nothing for the shipped ones"),
            );
            self.walk.fault(key, &place, fault);
            return None;
        }
        Some(items)
    }

    /// One of [`Self::tables`], counted from 1.
    pub(super) fn item(
        &mut self,
        key: &str,
        number: usize,
        item: &'a Spanned<DeValue<'a>>,
    ) -> Section<'_, 'a> {
        let path = format!("{key}[{number}]");
        let place = Place::Line(self.walk.line(item.span().start));
        self.walk.found(&path, &place);
        let table = item.get_ref().as_table();
        Section { walk: self.walk, path, table, variable: None, seen: vec![] }
    }

    /// Reports a mistake in the section as a whole.
    pub(super) fn fault(&mut self, fault: Fault) {
        let place = self.place();
        self.walk.fault(&self.path, &place, fault);
    }

    /// Reports a mistake in a value that was found.
    pub(super) fn refuse(&mut self, given: &Given<'a>, fault: Fault) {
        self.walk.fault(&given.path, &given.place, fault);
    }

    /// The end of a section: every key that nobody asked for is a mistake.
    pub(super) fn close(self) {
        let keys = self.table.into_iter().flat_map(DeTable::keys);
        let in_file = keys.map(|key| (key.get_ref().as_ref(), self.line(key)));
        let variable = |name: &str| Place::Variable(name.to_owned());
        let overrides = self.walk.settings.section(&self.path);
        let in_env = overrides.map(|(key, setting)| (key, variable(setting.variable)));
        // Of the whole, the sections are the keys.
        let sections = self.walk.settings.all().filter(|_| self.path.is_empty());
        let tops = sections.map(|(section, setting)| {
            let top = section.split_once('.').map_or(section, |(top, _)| top);
            (top, variable(setting.variable))
        });
        let left = in_file.chain(in_env).chain(tops);
        let left = left.filter(|(key, _)| !self.seen.contains(key)).map(|(key, place)| Unknown {
            section: self.path.clone(),
            key: key.to_owned(),
            place,
            here: self.seen.clone(),
        });
        let left: Vec<Unknown> = left.collect();
        self.walk.unasked(left);
    }

    fn find(&self, key: &str) -> Option<(Value<'a>, Place)> {
        if let Some(setting) = self.walk.settings.find(&self.path, key) {
            return Some((setting.value(), Place::Variable(setting.variable.to_owned())));
        }
        let (name, value) = self.table?.get_key_value(key)?;
        Some((Value::Toml(value.get_ref()), self.line(name)))
    }

    /// Where this section stands.
    fn place(&self) -> Place {
        match &self.variable {
            Some(name) => Place::Variable(name.clone()),
            None => self.walk.place(&self.path).cloned().unwrap_or(Place::File),
        }
    }

    /// Where a key of this section stands.
    fn line<T>(&self, key: &Spanned<T>) -> Place {
        match &self.variable {
            Some(name) => Place::Variable(name.clone()),
            None => Place::Line(self.walk.line(key.span().start)),
        }
    }
}
