//! Overrides from the environment: `UNITGATE__SECTION__KEY=value`.
//!
//! *Invariants*
//! 1. Two underscores set something or are a mistake; nothing that looks like a setting is passed over.
//! 2. What Kubernetes injects for a Service whose name begins with `unitgate` is no setting.
//! 3. No value is quoted here: it may be one that should have been a file.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use super::fault::Fault;
use super::value::Value;

/// The overrides by section (`cache`, `upstreams.converflow`) and key.
#[derive(Default)]
pub(super) struct Settings<'a>(BTreeMap<String, BTreeMap<String, Setting<'a>>>);

/// One override.
pub(super) struct Setting<'a> {
    /// The variable's name.
    pub(super) variable: &'a str,
    text: &'a str,
    /// The value where the text is an inline table, as for a rate.
    table: Option<Spanned<DeValue<'a>>>,
}

impl<'a> Settings<'a> {
    /// Sorts the variables that are ours; the second value holds those that set nothing.
    pub(super) fn parse(env: &'a [(String, String)]) -> (Self, Vec<(&'a str, Fault)>) {
        let mut settings = Self::default();
        let mut faults = Vec::new();
        for (variable, text) in env {
            let Some(rest) = variable.strip_prefix("UNITGATE_") else {
                continue;
            };
            if rest.strip_prefix('_').is_none() && is_injected(rest) {
                continue;
            }
            match split(rest) {
                Ok((section, key)) => {
                    let setting = Setting { variable, text, table: inline_table(text) };
                    let section = settings.0.entry(section).or_default();
                    if let Some(twin) = section.insert(key, setting) {
                        let problem = format!("sets what {} sets too", twin.variable);
                        faults
                            .push((variable.as_str(), Fault::new(problem, "keep one of the two")));
                    }
                }
                Err(fault) => faults.push((variable.as_str(), fault)),
            }
        }
        (settings, faults)
    }

    /// The override of a key.
    pub(super) fn find(&self, section: &str, key: &str) -> Option<&Setting<'a>> {
        self.0.get(section)?.get(key)
    }

    /// The overrides of a section.
    pub(super) fn section(&self, section: &str) -> impl Iterator<Item = (&str, &Setting<'a>)> {
        self.0.get(section).into_iter().flatten().map(|(key, setting)| (key.as_str(), setting))
    }

    /// All overrides, each with its section.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Setting<'a>)> {
        self.0.iter().flat_map(|(section, settings)| {
            settings.values().map(|setting| (section.as_str(), setting))
        })
    }
}

impl Setting<'_> {
    /// The value, for the readers.
    pub(super) fn value(&self) -> Value<'_> {
        match &self.table {
            Some(table) => Value::Toml(table.get_ref()),
            None => Value::Env(self.text),
        }
    }
}

/// Section and key of what follows `UNITGATE_`.
fn split(rest: &str) -> Result<(String, String), Fault> {
    let Some(path) = rest.strip_prefix('_') else {
        let remedy =
            format!("a setting has two underscores, UNITGATE__SECTION__KEY{}", meant(rest));
        return Err(Fault::new("sets nothing, since it has one underscore", remedy));
    };
    let path = path.to_ascii_lowercase();
    let Some((section, key)) = path.rsplit_once("__") else {
        return Err(Fault::new("names no key", FORM));
    };
    if section == "routes" || section.starts_with("routes__") {
        let remedy = "write [[routes]] in the file: a table has an order that variables lack";
        return Err(Fault::new("routes can't be set from the environment", remedy));
    }
    if section.is_empty() || key.is_empty() {
        return Err(Fault::new("names no section or no key", FORM));
    }
    if section == "upstreams" {
        let remedy = "write UNITGATE__UPSTREAMS__NAME__URL=https://HOST";
        return Err(Fault::new("names no upstream", remedy));
    }
    match section.split_once("__") {
        Some(("upstreams", name)) => Ok((format!("upstreams.{name}"), key.to_owned())),
        Some((top, inner)) => Ok((top.to_owned(), format!("{inner}.{key}"))),
        None => Ok((section.to_owned(), key.to_owned())),
    }
}

/// The form with two underscores of `CACHE_MAX_BYTES`.
fn meant(rest: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match rest.split_once('_') {
        Some((section, key)) if rest.bytes().all(fits) && !section.is_empty() => {
            format!(", here perhaps UNITGATE__{section}__{key}")
        }
        _ => String::new(),
    }
}

/// Whether Kubernetes makes up such a variable for a Service: for `unitgate` itself (`PORT`,
/// `SERVICE_HOST`, `PORT_8080_TCP_ADDR`, …) or for one beside it (`unitgate-admin`: `ADMIN_PORT`, …).
fn is_injected(rest: &str) -> bool {
    let of_service =
        |rest: &str| rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    let protocol = |port: &str| {
        let number = port.trim_start_matches(|digit: char| digit.is_ascii_digit());
        number.len() < port.len()
            && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| number.starts_with(protocol))
    };
    of_service(rest)
        || rest.ends_with("_PORT")
        || rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || rest
            .match_indices("_PORT_")
            .any(|(at, mark)| rest.get(at.saturating_add(mark.len())..).is_some_and(protocol))
}

/// The one kind of value whose text has a structure.
fn inline_table(text: &str) -> Option<Spanned<DeValue<'_>>> {
    text.trim_start().starts_with('{').then(|| DeValue::parse(text.trim()).ok()).flatten()
}

const FORM: &str = "write UNITGATE__SECTION__KEY=value, as in UNITGATE__CACHE__TTL=60s";
