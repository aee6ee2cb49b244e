//! What is learnt on the walk through the configuration: which keys there are, where each was given,
//! and all that is wrong.
//!
//! *Invariants*
//! 1. A mistake never ends the walk; its key keeps the default, and no check that involves the key
//!    adds a second complaint.
//! 2. Mistakes are told in the order of the file; those without a line come last.

use std::collections::{BTreeMap, BTreeSet};

use super::env::Settings;
use super::fault::{ConfigError, ConfigErrors, Fault, Place, Warning};
use super::nearest::nearest;

/// What is known while the configuration is read.
pub(super) struct Walk<'a> {
    /// The overrides from the environment.
    pub(super) settings: &'a Settings<'a>,
    file: &'a str,
    text: &'a str,
    /// Where each line of the text ends.
    ends: Vec<usize>,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
    unknown: Vec<Unknown>,
    /// The keys that were asked for.
    known: BTreeSet<String>,
    /// Where each key that is set was given.
    places: BTreeMap<String, Place>,
    /// The keys that have a mistake already.
    failed: BTreeSet<String>,
    /// Lines that are no TOML: what was recovered from them is a guess.
    garbled: BTreeSet<usize>,
    /// The first line from which on it is a guess too which section a key belongs to.
    lost: Option<usize>,
}

/// A key that nobody asked for.
pub(super) struct Unknown {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) place: Place,
    /// What can stand in that section.
    pub(super) here: Vec<&'static str>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, settings: &'a Settings<'a>) -> Self {
        Self {
            settings,
            file,
            text,
            ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            errors: Vec::new(),
            warnings: Vec::new(),
            unknown: Vec::new(),
            known: BTreeSet::new(),
            places: BTreeMap::new(),
            failed: BTreeSet::new(),
            garbled: BTreeSet::new(),
            lost: None,
        }
    }

    /// The line of a byte, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at).saturating_add(1)
    }

    /// Takes note that a key exists.
    pub(super) fn ask(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    /// Takes note of where a key or a section stands.
    pub(super) fn found(&mut self, key: &str, place: &Place) {
        self.places.insert(key.to_owned(), place.clone());
    }

    /// Takes note of what nobody asked for; it is told at the end, when all keys are known.
    pub(super) fn unasked(&mut self, unknown: impl IntoIterator<Item = Unknown>) {
        self.unknown.extend(unknown);
    }

    /// Where a key or a section stands.
    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        self.places.get(key)
    }

    /// The mistake at a place where the text is no TOML; one per line, since recovery repeats itself.
    pub(super) fn garbled(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or_default();
        let line = self.line(span.start);
        if !self.garbled.insert(line) {
            return;
        }
        let problem = error.message();
        if !CONTAINED.iter().any(|contained| problem.starts_with(contained)) {
            self.lost = Some(self.lost.map_or(line, |lost| lost.min(line)));
        }
        let fault = match self.text.get(span) {
            Some(key) if problem == "duplicate key" => {
                Fault::new(format!("{key:?} is given twice"), "keep one of the two")
            }
            _ => Fault::new(problem, "write key = value, with text, durations and sizes in quotes"),
        };
        self.errors.push(ConfigError::new(self.file, &Place::Line(line), String::new(), fault));
    }

    /// Whether a key has a mistake.
    pub(super) fn failed(&self, key: &str) -> bool {
        self.failed.contains(key)
    }

    /// A mistake in a value.
    pub(super) fn fault(&mut self, key: &str, place: &Place, fault: Fault) {
        self.failed.insert(key.to_owned());
        // Where the text is no TOML that has been told; what was recovered from there proves nothing.
        let guess = match place {
            Place::Line(line) => {
                self.garbled.contains(line) || self.lost.is_some_and(|lost| lost <= *line)
            }
            Place::File => self.lost.is_some(),
            Place::Variable(_) => false,
        };
        if !guess {
            self.errors.push(ConfigError::new(self.file, place, key.to_owned(), fault));
        }
    }

    /// A key that has to be there and is not, in a section at `place`.
    pub(super) fn missing(&mut self, key: &str, place: &Place, example: &str) {
        if self.lost.is_some() {
            self.failed.insert(key.to_owned());
        } else {
            self.fault(key, place, Fault::new("is missing", format!("add {example}")));
        }
    }

    /// A mistake between keys, told at the first of them that is set; none if one has failed already.
    pub(super) fn clash(&mut self, keys: &[impl AsRef<str>], fault: Fault) {
        if let Some((key, place)) = self.blame(keys) {
            self.fault(&key, &place, fault);
        }
    }

    /// Something doubtful, told at the first of the keys that is set.
    pub(super) fn warn(&mut self, keys: &[impl AsRef<str>], fault: Fault) {
        if let Some((key, place)) = self.blame(keys) {
            self.warnings.push(Warning(ConfigError::new(self.file, &place, key, fault)));
        }
    }

    fn blame(&self, keys: &[impl AsRef<str>]) -> Option<(String, Place)> {
        let mut keys = keys.iter().map(AsRef::as_ref);
        if self.lost.is_some() || keys.clone().any(|key| self.failed(key)) {
            return None;
        }
        let first = keys.clone().next()?;
        let set = keys.find_map(|key| Some((key, self.places.get(key)?)));
        let (key, place) = set.unwrap_or((first, &Place::File));
        Some((key.to_owned(), place.clone()))
    }

    /// The end of the walk: everything that was wrong, in the order of the file.
    pub(super) fn end(mut self) -> Result<Vec<Warning>, ConfigErrors> {
        for unknown in std::mem::take(&mut self.unknown) {
            let fault = self.explain(&unknown);
            self.fault(&join(&unknown.section, &unknown.key), &unknown.place, fault);
        }
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        self.errors.sort_by_key(|error| error.line().unwrap_or(usize::MAX));
        Err(ConfigErrors(self.errors))
    }

    fn explain(&self, unknown: &Unknown) -> Fault {
        let Unknown { section, key, here, .. } = unknown;
        let what = if section.is_empty() { "section" } else { "key" };
        let remedy = if let Some(name) = here
            .iter()
            .find(|name| key.strip_prefix(**name).is_some_and(|rest| rest.starts_with('.')))
        {
            format!("give {name} as a whole, written as in the file")
        } else if let Some(elsewhere) = self.elsewhere(key) {
            format!("it belongs in [{elsewhere}]")
        } else if let Some(near) = nearest(key, here) {
            format!("did you mean {near:?}?")
        } else {
            format!("known here: {}", here.join(", "))
        };
        Fault::new(format!("no such {what}"), remedy)
    }

    /// The section in which a key of that name can stand.
    fn elsewhere(&self, key: &str) -> Option<&str> {
        let fits = |known: &&String| known.rsplit_once('.').is_some_and(|(_, last)| last == key);
        let known = self.known.iter().filter(|known| !known.starts_with("routes["));
        known.filter(fits).find_map(|known| Some(known.rsplit_once('.')?.0))
    }

    /// The keys that were asked for and are not set in the file.
    #[cfg(test)]
    pub(super) fn unset(&self) -> Vec<&str> {
        let set = |key: &str| matches!(self.places.get(key), Some(Place::Line(_)));
        self.known.iter().map(String::as_str).filter(|key| !set(key)).collect()
    }
}

/// The whole name of a key.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// The ways to be no TOML that end with their line, as the parser words them. With any other, fewer
/// mistakes are told at once, and none that may not be one.
const CONTAINED: [&str; 4] = [
    "duplicate key",
    "string values must be quoted",
    "invalid basic string",
    "invalid literal string",
];
