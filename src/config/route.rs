//! `[[routes]]`: the types of one line of the route table.

use http::Method;

use super::{CachePolicy, Methods, Rate};

/// `[[routes]]`: one line of the route table.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Label in metrics and logs; unique, `[a-z0-9_-]{1,64}`.
    pub name: String,
    /// Template: literal segments, `{parameter}` for one segment, `{*rest}` last for any number.
    pub path: String,
    /// Methods served; others are 405.
    pub methods: Methods,
    /// Name in `[upstreams]`.
    pub upstream: String,
    /// Who is asked for a token.
    pub caller: CallerMode,
    /// What of the request crosses.
    pub forward: ForwardMode,
    /// Query parameters accepted; `None` = any.
    pub query: Option<Vec<String>>,
    /// Cache policy; `None` = straight upstream.
    pub cache: Option<CachePolicy>,
    /// Family of routes whose answers show the same resources; what a write invalidates.
    pub family: Option<String>,
    /// For writes: the member of an answer that names the unit whose cached lists a success drops.
    pub invalidates: Option<Invalidates>,
    /// Secret handling of answers.
    pub secrets: SecretsMode,
    /// Refuse request bodies whose secret field holds a mask (422).
    pub refuse_masked_write: bool,
    /// Rate per caller on this route instead of `limits.caller`.
    pub rate: Option<Rate>,
}

impl Route {
    /// A route with every other key as it is when left out: `GET` and `HEAD` for callers with a token,
    /// reduced to the key, masked, straight upstream.
    pub fn new(name: &str, path: &str, upstream: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            methods: [Method::GET, Method::HEAD].into(),
            upstream: upstream.to_owned(),
            caller: CallerMode::Token,
            forward: ForwardMode::Key,
            query: None,
            cache: None,
            family: None,
            invalidates: None,
            secrets: SecretsMode::Mask,
            refuse_masked_write: true,
            rate: None,
        }
    }
}

/// `caller = "token" | "open"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerMode {
    /// `Authorization: Bearer` is required; each caller has a partition of the cache.
    Token,
    /// Nobody is identified; a shared cache.
    Open,
}

/// `forward = "key" | "all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardMode {
    /// Only the key, the token and what can't change the answer.
    Key,
    /// Every end-to-end field; needs `caller = "open"`.
    All,
}

/// `secrets = "mask" | "verbatim"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretsMode {
    /// Each answer is masked, or refused if that can't be proven.
    Mask,
    /// Opted out by name: bodies pass as they are; needs `caller = "open"`.
    Verbatim,
}

/// `invalidates = { member = "unitId", family = "calcom" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidates {
    /// Member of the answer, at any depth, that holds the unit's id.
    pub member: String,
    /// The family whose cached answers are dropped.
    pub family: String,
}
