//! A sample of everything that has to be masked, and the check that it was.
//!
//! # Invariants
//! 1. The sample is put together at run time from the configured names: what is tested is what
//!    runs, and no secret scanner finds a key in this file.
//! 2. Every name is written in escapes, so that the unescaping is tested as well.

use std::fmt::Write as _;

use bytes::Bytes;
use memchr::memmem;

use crate::config::Secrets;

use super::{MaskError, Masker};

/// Why this masker must not be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelfTestError {
    /// It refuses its own sample.
    #[error("the masking self-test was refused")]
    Refused(#[from] MaskError),
    /// It left a secret in it, or changed what is none.
    #[error("the masking self-test has failed")]
    Failed,
}

/// Masks the sample and looks for what may not be left of it.
pub(super) fn run(masker: &Masker, secrets: &Secrets) -> Result<(), SelfTestError> {
    let (once, facts) = masker.json(Bytes::from(sample(secrets)))?;
    let (twice, _) = masker.json(Bytes::copy_from_slice(once.bytes()))?;
    let holds = |text: &str| memmem::find(once.bytes(), text.as_bytes()).is_some();
    let logged = masker.text(&format!("/?key={}", key())).contains(SECRET);
    let left = holds(SECRET) || holds(NUMBER) || logged;
    if left || !holds(KEPT) || !facts.unmasked_seen() || once.bytes() != twice.bytes() {
        return Err(SelfTestError::Failed);
    }
    Ok(())
}

/// One array: its elements have no names, so that no configured name can touch what has to be kept.
fn sample(secrets: &Secrets) -> String {
    let key = key();
    let mut members = vec![format!(r#""{key}":null"#)];
    for name in configured(&secrets.names) {
        members.push(format!(r#""{name}":"{SECRET}""#));
        members.push(format!(r#""{name}":{NUMBER}"#));
        members.push(format!(r#""{name}":[{{"{SECRET}":"{SECRET}"}}]"#));
    }
    for name in configured(&secrets.objects) {
        members.push(format!(r#""{name}":{{"kind":["{SECRET}",{NUMBER},null]}}"#));
    }
    let hidden = key.replacen('c', r"\u0063", 1);
    format!(r#"[{KEPT},"use {key}, {hidden}",{{{}}}]"#, members.join(","))
}

fn key() -> String {
    format!("cal_live_{SECRET}")
}

/// The names that can match at all, in escapes.
fn configured(names: &[String]) -> impl Iterator<Item = String> {
    let matching = |name: &&String| name.chars().any(|character| !matches!(character, '_' | '-'));
    names.iter().filter(matching).map(|name| escaped(name))
}

/// `name` with each UTF-16 code unit as an escape.
fn escaped(name: &str) -> String {
    name.encode_utf16().fold(String::new(), |mut text, unit| {
        // Writing to a string does not fail.
        write!(text, "\\u{unit:04x}").unwrap_or_default();
        text
    })
}

/// Has no known prefix, so by itself it is a secret by its name only.
const SECRET: &str = "a1b2c3d4e5f6a7b8c9d0";
const NUMBER: &str = "918273645.5e+10";
const KEPT: &str = r#"1.0 , 1e2,"\u00e9\/ local_development_environment""#;
