//! [`Template`]: the head of a token route's hit, built once and filled in for each.
//!
//! *Why:* a `HeaderMap` hashes each name that is put into it, which for the ten fields of a hit was a fifth of
//! what it costs. Names, and their order, are the same for every hit of a token route; a clone of the map
//! hashes nothing, and its values are set in order.

use http::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, DATE, ETAG, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::problem::{RATELIMIT, RATELIMIT_POLICY};
use crate::cache::policy::CACHE_STATUS;
use crate::cache::stored::Fields;
use crate::upstream::fields::X_REQUEST_ID;

/// A head whose values are still to be filled in.
#[derive(Debug)]
pub(super) struct Template(HeaderMap);

/// The values that a reply adds to those of a stored response, in the order of [`OURS`].
pub(super) struct Ours {
    pub(super) age: HeaderValue,
    pub(super) cache_status: HeaderValue,
    pub(super) request_id: HeaderValue,
    pub(super) rate_limit: HeaderValue,
    pub(super) rate_limit_policy: HeaderValue,
}

impl Template {
    pub(super) fn new() -> Self {
        let names = OURS.iter().chain(&STORED);
        Self(names.map(|name| (name.clone(), HeaderValue::from_static(""))).collect())
    }

    /// The head of a hit; `None` where the stored fields are others than usual.
    pub(super) fn filled(&self, ours: Ours, stored: &Fields) -> Option<HeaderMap> {
        let usual = stored.iter().map(|(name, _value)| name).eq(&STORED);
        if !usual {
            return None;
        }
        let Ours { age, cache_status, request_id, rate_limit, rate_limit_policy } = ours;
        let ours = [age, cache_status, request_id, rate_limit, rate_limit_policy];
        let stored = stored.iter().map(|(_name, value)| value.clone());
        let mut head = self.0.clone();
        for (slot, value) in head.values_mut().zip(ours.into_iter().chain(stored)) {
            *slot = value;
        }
        Some(head)
    }
}

/// What a reply adds.
static OURS: [HeaderName; 5] = [AGE, CACHE_STATUS, X_REQUEST_ID, RATELIMIT, RATELIMIT_POLICY];

/// What is stored of an answer on a token route, in the order in which it is composed.
static STORED: [HeaderName; 5] = [CONTENT_TYPE, DATE, ETAG, CACHE_CONTROL, VARY];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_stands_under_its_own_name() {
        let value = HeaderValue::from_static;
        let mut stored = HeaderMap::new();
        for (name, said) in STORED.iter().zip(["type", "date", "etag", "control", "vary"]) {
            stored.insert(name, value(said));
        }
        let ours = || Ours {
            age: value("age"),
            cache_status: value("status"),
            request_id: value("id"),
            rate_limit: value("left"),
            rate_limit_policy: value("policy"),
        };
        let head = Template::new().filled(ours(), &Fields::copied(&stored)).unwrap();
        for (name, said) in [
            ("age", "age"),
            ("cache-status", "status"),
            ("x-request-id", "id"),
            ("ratelimit", "left"),
            ("ratelimit-policy", "policy"),
            ("content-type", "type"),
            ("date", "date"),
            ("etag", "etag"),
            ("cache-control", "control"),
            ("vary", "vary"),
        ] {
            assert_eq!(head[name], said);
        }
        assert_eq!(head.len(), 10);
        stored.insert("content-language", value("en"));
        assert!(Template::new().filled(ours(), &Fields::copied(&stored)).is_none());
    }
}
