//! Request targets as a log may show them.
//!
//! *Invariant:* no value of a parameter that is named like a secret or a token is shown, however its
//! name is escaped; nor is any key-shaped string.

use std::borrow::Cow;

use super::names::{Role, normalised};
use super::{Masker, value};

impl Masker {
    /// A request target with its secrets masked, for logs.
    pub fn target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        // As most: a key has an underscore, if only an escaped one, and a parameter stands behind a question mark.
        if memchr::memchr3(b'_', b'%', b'?', target.as_bytes()).is_none() {
            return Cow::Borrowed(target);
        }
        let shown = self.text(target);
        let Some((path, query)) = shown.split_once('?') else { return shown };
        if !query.split('&').any(|pair| self.tells_a_secret(pair)) {
            return shown;
        }
        let pairs: Vec<Cow<'_, str>> = query.split('&').map(|pair| self.parameter(pair)).collect();
        Cow::Owned(format!("{path}?{}", pairs.join("&")))
    }

    fn parameter<'a>(&self, pair: &'a str) -> Cow<'a, str> {
        match pair.split_once('=') {
            Some((name, _)) if self.tells_a_secret(pair) => {
                Cow::Owned(format!("{name}={}", String::from_utf8_lossy(value::BARE)))
            }
            _ => Cow::Borrowed(pair),
        }
    }

    fn tells_a_secret(&self, pair: &str) -> bool {
        let Some((name, value)) = pair.split_once('=') else { return false };
        let name = unescaped(name);
        let secret =
            matches!(self.names.role_of(&name, &mut Vec::new()), Role::Secret | Role::Shape);
        !value.is_empty() && (secret || TOKENS.contains(&&*normalised(&name)))
    }
}

/// A name without its percent escapes; broken ones stay as they are.
fn unescaped(name: &str) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut left = name.as_bytes();
    while let Some((first, rest)) = left.split_first() {
        let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            plain.push(u8::try_from(high * 16 + low).unwrap_or_default());
            left = rest.get(2..).unwrap_or_default();
        } else {
            plain.push(*first);
            left = rest;
        }
    }
    plain
}

/// Where RFC 6750 §2.3 and others put bearer tokens, normalised.
const TOKENS: [&[u8]; 2] = [b"accesstoken", b"token"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secrets;

    #[test]
    fn no_value_of_a_secret_parameter_is_shown_however_its_name_is_escaped() {
        let masker = Masker::new(&Secrets::default(), &[]);
        for name in [
            "apiKey",
            "api_key",
            "ap%69Key",
            "access_token",
            "TOKEN",
            "secretId",
            "%61ccess%5Ftoken",
        ] {
            let target = format!("/a?x=1&{name}=hunter2&y=2");
            let shown = masker.target(&target).into_owned();
            assert_eq!(shown, format!("/a?x=1&{name}=****************&y=2"));
        }
    }

    #[test]
    fn no_key_is_shown_wherever_it_stands_and_however_it_is_escaped() {
        let masker = Masker::new(&Secrets::default(), &[]);
        for key in ["cal_", "cal_live_", "cal%5Flive%5f", "%63al_", "%20cal_"] {
            for target in [format!("/a/{key}0123456789abcdef/b"), format!("/{key}0123456789abcdef")]
            {
                let shown = masker.target(&target);
                assert!(!shown.contains("0123456789abcdef"), "{shown}");
            }
        }
    }

    #[test]
    fn any_other_target_is_shown_as_it_is() {
        let masker = Masker::new(&Secrets::default(), &[]);
        for target in
            ["/a", "/a?", "/a?x=1&y", "/apiKey=1", "/a?apiKey", "/a?apiKey=", "/a?%zz=1&%=2"]
        {
            assert!(
                matches!(masker.target(target), Cow::Borrowed(shown) if shown == target),
                "{target}"
            );
        }
    }
}
