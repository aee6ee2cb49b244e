//! What is wrong with a configuration, told to people.
//!
//! *Invariants*
//! 1. Each mistake says where it stands, which key it is about, what is wrong and what to do.
//! 2. A value is quoted escaped, and never where it may hold a password (user info, unknown keys).

use std::fmt::{self, Display, Formatter};

/// Every mistake of a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// The mistakes, at least one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// The one mistake of a file that can't be read at all.
    pub(super) fn one(file: &str, fault: Fault) -> Self {
        Self(vec![ConfigError::new(file, &Place::File, String::new(), fault)])
    }
}

/// One paragraph for each mistake.
impl Display for ConfigErrors {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// One mistake: `file:line: key: what is wrong`, and the remedy on the next line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    place: String,
    line: Option<usize>,
    key: String,
    fault: Fault,
}

impl ConfigError {
    pub(super) fn new(file: &str, place: &Place, key: String, fault: Fault) -> Self {
        let (place, line, key) = match place {
            Place::Line(line) => (format!("{file}:{line}"), Some(*line), key),
            Place::File => (file.to_owned(), None, key),
            Place::Variable(name) => ("environment".to_owned(), None, in_variable(name, &key)),
        };
        Self { place, line, key, fault }
    }

    /// The line in the file, counted from 1; `None` where no line is to blame.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The key, as in `cache.ttl`, or the environment variable; empty for the whole file.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}\n    {}", self.fault.problem, self.fault.remedy)
    }
}

/// Something allowed but doubtful, in the same shape as a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub(super) ConfigError);

impl Display for Warning {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A line of the file, counted from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
    /// Nowhere in particular: a default, or the file as a whole.
    File,
}

/// What is wrong, before it is known where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// The name of a variable, with the key where the name alone does not say it.
fn in_variable(name: &str, key: &str) -> String {
    let said = format!("UNITGATE__{}", key.replace('.', "__"));
    if key == name || said.eq_ignore_ascii_case(name) {
        name.to_owned()
    } else {
        format!("{name}: {key}")
    }
}
