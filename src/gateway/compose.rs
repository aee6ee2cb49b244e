//! An upstream's answer made presentable: proven masked, its fields reduced to what may pass.
//!
//! *Invariants*
//! 1. No byte of a body leaves here but as [`Masked`]; what can't be proven is refused, or for a 4xx or
//!    5xx replaced by our own problem with the upstream's status. What was cut is refused, but for a token's
//!    4xx or 5xx, and never kept.
//! 2. On a token route the fields are an allow-list, each value masked; the upstream's validators and
//!    caching fields stay inside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::Gateway;
use super::observe::unproven_reason;
use super::problem::{PROBLEM_JSON, problem_body};
use crate::cache::Held;
use crate::cache::policy::{self, Times, Validators};
use crate::cache::stored::Stored;
use crate::caller::CallerId;
use crate::clock::Now;
use crate::error::Error;
use crate::mask::{Facts, Masked, Tag};
use crate::numbered;
use crate::route::Route;
use crate::upstream::{Answer, Share, decode, fields, length};

/// What was asked, as far as it decides which answers fit.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) method: Method,
    /// Conditions or a range of the client's went upstream: 206, 304 and 412 are answers.
    pub(super) conditional: bool,
}

impl Asking {
    /// What a flight asks.
    pub(super) const PLAIN_GET: Self = Self { method: Method::GET, conditional: false };
}

/// An answer that may be shown.
#[derive(Debug)]
pub(super) struct Composed {
    pub(super) status: StatusCode,
    pub(super) facts: Facts,
    /// The fields that pass.
    pub(super) shown: HeaderMap,
    /// The upstream's fields that decide on storing.
    pub(super) ruling: HeaderMap,
    pub(super) body: Masked,
    /// The body's tag, where it was made.
    pub(super) tag: Option<Tag>,
    /// Memory for the body; what is stored is counted by the cache instead.
    pub(super) share: Share,
    /// Whether all of the answer arrived.
    pub(super) whole: bool,
    pub(super) validators: Validators,
    pub(super) times: Times,
    pub(super) received: Now,
}

impl Gateway {
    /// Proves and reduces an answer.
    ///
    /// # Errors
    /// When it fits no request of ours, or its body can't be proven masked.
    pub(super) fn compose(
        &self,
        index: u16,
        asking: &Asking,
        answer: Answer,
    ) -> Result<Composed, Error> {
        let route = self.route_at(index);
        if !fits(asking, answer.status) {
            return Err(Error::UnaskedStatus);
        }
        let times = times(&answer);
        let Answer { status, fields, body, broken, trip, share } = answer;
        let mut shown = self.shown(route, status, &fields);
        if asking.method == Method::HEAD && !route.masks() && status != StatusCode::NO_CONTENT {
            // RFC 9110 §9.3.2: what a GET would have; of masked bytes nobody knows it.
            length(&fields).map(|length| shown.insert(CONTENT_LENGTH, length.into()));
        }
        let whole = broken.is_none();
        let proven = match broken {
            // The status counts for a token; without one a part of an answer is none (RFC 9112 §8).
            Some(error) if !route.wants_token() => {
                self.note_failure(index, &error);
                return Err(Error::Upstream(Arc::new(error)));
            }
            Some(error) => Err(Error::Upstream(Arc::new(error))),
            None => self.prove(route, asking, status, &fields, body),
        };
        let (body, facts) = match proven {
            Ok(proven) => proven,
            Err(error) => {
                self.note_unproven(index, unproven_reason(&error));
                if !(status.is_client_error() || status.is_server_error()) {
                    return Err(error);
                }
                shown.insert(CONTENT_TYPE, PROBLEM_JSON);
                self.0.follows.masker.json(problem_body(
                    status,
                    "unmaskable_error_answer",
                    UNPROVEN,
                ))?
            }
        };
        self.note_masked(&facts);
        if !body.is_empty() && !shown.contains_key(CONTENT_TYPE) && route.masks() {
            shown.insert(CONTENT_TYPE, JSON);
        }
        if !shown.contains_key(DATE) {
            // RFC 9110 §6.6.1: a recipient with a clock records the time of receipt.
            shown.insert(DATE, date(trip.head_at.wall));
        }
        let tagged = route.masks() && status.is_success() && !body.is_empty();
        let tag = tagged.then(|| Tag::over(body.bytes()));
        tag.map(|tag| shown.insert(ETAG, validator(&tag)));
        Ok(Composed {
            status,
            facts,
            shown,
            validators: Validators::of(&fields),
            ruling: fields,
            body,
            tag,
            share,
            whole,
            times,
            received: trip.head_at,
        })
    }

    /// A stored answer with the fields of the 304 that confirmed it (RFC 9111 §3.2).
    pub(super) fn renewed(&self, route: u16, prior: &Stored, answer: &Answer) -> Composed {
        let route = self.route_at(route);
        let mut known = prior.lines().to_map();
        if route.wants_token() {
            // Ours, not the upstream's: made anew below.
            for ours in [CACHE_CONTROL, VARY, ETAG] {
                known.remove(ours);
            }
        }
        for (name, value) in prior.unshown.iter().flat_map(|unshown| unshown.lines()) {
            known.append(name, value);
        }
        let ruling = policy::merge_304(&known, &answer.fields);
        let mut shown = self.shown(route, prior.status(), &ruling);
        if let Some(etag) = prior.etag().filter(|_| route.masks()) {
            shown.insert(ETAG, etag);
        }
        if !shown.contains_key(DATE) {
            shown.insert(DATE, date(answer.trip.head_at.wall));
        }
        let update = Validators::of(&answer.fields);
        let before = prior.validators();
        Composed {
            status: prior.status(),
            facts: Facts { fields_masked: prior.fields.fields_masked(), ..Facts::default() },
            shown,
            ruling,
            body: prior.body.clone(),
            tag: prior.body.tag(),
            whole: true,
            validators: Validators {
                etag: update.etag.or_else(|| before.etag.clone()),
                last_modified: update.last_modified.or_else(|| before.last_modified.clone()),
            },
            times: times(answer),
            share: Share::default(),
            received: answer.trip.head_at,
        }
    }

    /// An answer of our own to an OPTIONS that goes no further: `204`, and what may be asked.
    pub(super) fn options(&self, owner: Option<CallerId>, allow: &str) -> Held {
        let now = self.0.clock.now();
        let mut shown = HeaderMap::with_capacity(2);
        shown.insert(DATE, date(now.wall));
        if let Ok(allow) = HeaderValue::from_str(allow) {
            shown.insert(ALLOW, allow);
        }
        let composed = Composed {
            status: StatusCode::NO_CONTENT,
            facts: Facts::default(),
            shown,
            ruling: HeaderMap::new(),
            body: self.0.follows.masker.empty(),
            tag: None,
            whole: true,
            validators: Validators::default(),
            times: Times { requested_at: now.wall, received_at: now.wall, delay: Duration::ZERO },
            share: Share::default(),
            received: now,
        };
        composed.unkept(owner)
    }

    /// The fields of an answer that may pass, their values masked.
    fn shown(&self, route: &Route, status: StatusCode, upstream: &HeaderMap) -> HeaderMap {
        if route.wants_token() {
            return self.cleared(route, fields::answer_allowed(status, upstream));
        }
        let mut shown = fields::answer_all(upstream);
        if route.masks() {
            for stale in BODY_BOUND {
                shown.remove(stale);
            }
        }
        self.cleared(route, shown)
    }

    /// The same fields with each value masked where the route masks, and without the one that is meant for
    /// us alone (RFC 9213 §2.2): nobody after us may act on it.
    pub(super) fn cleared(&self, route: &Route, mut shown: HeaderMap) -> HeaderMap {
        if self.plan_at(route.index).rules.targets.contains(&OWN_TARGET) {
            shown.remove(&OWN_TARGET);
        }
        if route.masks() {
            for value in shown.values_mut() {
                *value = self.0.follows.masker.field(value);
            }
        }
        shown
    }

    /// The body as [`Masked`], or why that can't be had.
    fn prove(
        &self,
        route: &Route,
        asking: &Asking,
        status: StatusCode,
        fields: &HeaderMap,
        body: Bytes,
    ) -> Result<(Masked, Facts), Error> {
        let masker = &self.0.follows.masker;
        let bodiless = asking.method == Method::HEAD
            || matches!(
                status,
                StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
            );
        if bodiless || (route.wants_token() && status.is_redirection()) {
            return Ok((masker.empty(), Facts::default()));
        }
        if !route.masks() {
            return Ok((masker.verbatim(body), Facts::default()));
        }
        // An empty 200 promised JSON; any other status promises nothing.
        if body.is_empty() && status != StatusCode::OK {
            return Ok((masker.empty(), Facts::default()));
        }
        if !is_utf8(fields) {
            return Err(Error::Charset);
        }
        let plain = decode(body, fields, self.0.follows.body_cap)?;
        // What a write's answer names is made old; a read makes nothing old.
        let reads = asking.method.is_safe();
        Ok(if reads { masker.json_unasked(plain)? } else { masker.json(plain)? })
    }

    #[expect(clippy::expect_used, reason = "a route index comes from the table itself")]
    pub(super) fn route_at(&self, index: u16) -> &Route {
        self.0.follows.routes.at(index).expect("the index was taken from a route of this table")
    }
}

/// Whether a status answers what was asked.
fn fits(asking: &Asking, status: StatusCode) -> bool {
    match status {
        StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => asking.conditional,
        status => !status.is_informational(),
    }
}

/// Whether the content's charset, if it names one, is one that JSON may be in (RFC 8259 §8.1).
fn is_utf8(fields: &HeaderMap) -> bool {
    let named = fields
        .get_all(CONTENT_TYPE)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';').skip(1));
    named
        .filter_map(|parameter| {
            let at = parameter.iter().position(|byte| *byte == b'=')?;
            let (name, value) = parameter.split_at(at);
            name.trim_ascii()
                .eq_ignore_ascii_case(b"charset")
                .then(|| value.get(1..).unwrap_or_default())
        })
        .map(|value| value.trim_ascii().trim_ascii_start())
        .all(|value| {
            let bare = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value);
            [&b"utf-8"[..], b"utf8", b"us-ascii"]
                .iter()
                .any(|known| bare.eq_ignore_ascii_case(known))
        })
}

fn validator(tag: &Tag) -> HeaderValue {
    HeaderValue::from_bytes(&tag.text()).unwrap_or(HeaderValue::from_static("\"\""))
}

fn times(answer: &Answer) -> Times {
    let (asked, head) = (&answer.trip.requested_at, &answer.trip.head_at);
    Times {
        requested_at: asked.wall,
        received_at: head.wall,
        delay: head.mono.saturating_sub(asked.mono),
    }
}

fn date(wall: Duration) -> HeaderValue {
    numbered::date(u32::try_from(wall.as_secs()).unwrap_or(u32::MAX))
}

/// Fields bound to the bytes as the upstream sent them, which masking may have changed.
const BODY_BOUND: [HeaderName; 6] = [
    ETAG,
    CONTENT_ENCODING,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// The targeted field (RFC 9213) that is ours alone.
pub(super) const OWN_TARGET: HeaderName = HeaderName::from_static("unitgate-cache-control");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const UNPROVEN: &str =
    "The upstream refused; its explanation can't be proven free of secrets and is not shown.";
