//! What goes out: a success made of a stored response.
//!
//! *Invariants*
//! 1. A stored response goes to its owner alone: asked once more here, whatever the lookup said.
//! 2. The client's own conditions are answered here, over what it may see (RFC 9110 §13).

use std::ops::Range;
use std::time::Duration;

use http::header::{AGE, CACHE_CONTROL, CONNECTION, CONTENT_RANGE, ETAG, IF_MODIFIED_SINCE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use super::content::Content;
use super::inbound::{Inbound, Payload};
use super::landing::{Landed, Origin, TripFacts};
use super::problem::{RATELIMIT, RATELIMIT_POLICY, refuse};
use super::values;
use super::{Account, Gateway};
use crate::cache::flight::Role;
use crate::cache::policy::{self, CacheStatus, Forward, RangeAnswer};
use crate::cache::stored::{Owner, Stored};
use crate::cache::{Held, Status};
use crate::clock::Now;
use crate::error::Error;
use crate::mask::Masked;
use crate::telemetry::{self, Outcome};
use crate::upstream::fields::X_REQUEST_ID;

/// A success on its way out.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) stored: Held,
    pub(super) status: Status,
    pub(super) trip: Option<TripFacts>,
    /// When it was decided: what its age is counted to.
    at: Now,
    forward: Option<Forward>,
    fwd_status: Option<StatusCode>,
    kept: bool,
}

impl Reply {
    /// From memory, fresh.
    pub(super) fn hit(stored: Held, now: Now) -> Self {
        Self::of(stored, Status::Hit, now)
    }

    /// From memory, stale, while it is being refreshed.
    pub(super) fn stale(stored: Held, now: Now) -> Self {
        Self::of(stored, Status::StaleWhileRevalidate, now)
    }

    /// From memory, since the upstream failed when it was asked: with this status, if it had one.
    pub(super) fn stale_if_error(
        stored: Held,
        why: Forward,
        failed: Option<&Self>,
        now: Now,
    ) -> Self {
        Self {
            forward: Some(why),
            fwd_status: failed.and_then(|failed| failed.fwd_status),
            trip: failed.and_then(|failed| failed.trip),
            ..Self::of(stored, Status::StaleIfError, now)
        }
    }

    /// From a flight.
    pub(super) fn landed(landed: &Landed, role: Role, why: Forward, now: Now) -> Self {
        let stored = Held::clone(match role {
            Role::Leader => &landed.stored,
            Role::Joiner => &landed.shared,
        });
        let (status, fwd_status) = match (landed.origin, role) {
            (Origin::Store, _) => return Self::hit(stored, now),
            (Origin::Renewed, Role::Leader) => (Status::Revalidated, StatusCode::NOT_MODIFIED),
            (Origin::Upstream(status), Role::Leader) => (Status::Miss, status),
            (Origin::Renewed, Role::Joiner) => (Status::Coalesced, StatusCode::NOT_MODIFIED),
            (Origin::Upstream(status), Role::Joiner) => (Status::Coalesced, status),
        };
        Self {
            trip: landed.trip.filter(|_| role == Role::Leader),
            forward: Some(why),
            fwd_status: Some(fwd_status),
            kept: landed.kept.is_ok(),
            ..Self::of(stored, status, now)
        }
    }

    /// From a route or method without a cache.
    pub(super) fn forwarded(landed: &Landed, why: Forward, now: Now) -> Self {
        let fwd_status = Some(landed.stored.status());
        let reply = Self::of(Held::clone(&landed.stored), Status::Forwarded, now);
        Self { forward: Some(why), fwd_status, trip: landed.trip, ..reply }
    }

    /// Made here in the upstream's place, without asking the cache.
    pub(super) fn of_ours(stored: Held) -> Self {
        let now = stored.times.received();
        Self::of(stored, Status::Forwarded, now)
    }

    fn of(stored: Held, status: Status, at: Now) -> Self {
        Self { stored, status, trip: None, at, forward: None, fwd_status: None, kept: false }
    }

    /// Whether a stale copy may stand in for it (RFC 5861 §4; likewise for an upstream's 429).
    pub(super) fn is_excusable(&self) -> bool {
        matches!(self.stored.status().as_u16(), 429 | 500 | 502 | 503 | 504)
    }

    fn cache_status(&self, age: Duration) -> CacheStatus {
        let ttl = self.stored.life().ttl(age);
        let Some(forward) = self.forward else { return CacheStatus::hit(ttl) };
        let mut status = CacheStatus::forwarded(forward);
        status.fwd_status = self.fwd_status.map(|status| status.as_u16());
        status.stored = self.kept;
        status.collapsed = self.status == Status::Coalesced;
        if self.status == Status::StaleIfError {
            status.detail = Some("stale-if-error");
        }
        if self.kept || self.status == Status::StaleIfError {
            status.ttl = Some(ttl);
        }
        status
    }

    /// Whether the reply came out of the store, now or a moment ago.
    fn is_from_cache(&self) -> bool {
        match self.status {
            Status::Hit | Status::StaleWhileRevalidate | Status::StaleIfError => true,
            Status::Revalidated | Status::Miss | Status::Coalesced | Status::Forwarded => false,
        }
    }
}

impl Gateway {
    /// Fills in the response of a result, which is empty; tells what the record says of it.
    ///
    /// *Why filled in:* a response that is handed on is copied each time.
    pub(super) fn conclude<B: Payload>(
        &self,
        inbound: Inbound<'_, B>,
        result: Result<Reply, Error>,
        account: &Account<'_>,
        response: &mut Response<Full<Content>>,
    ) -> telemetry::Reply {
        let id = &inbound.line().id;
        let record = match result {
            Ok(reply) if reply.stored.owner() == account.owner => present(inbound, reply, response),
            Ok(_another_callers) => {
                tracing::error!("an answer was about to go to another caller; it was refused");
                refuse(&inbound, &Error::Lost, account, response)
            }
            Err(error) => refuse(&inbound, &error, account, response),
        };
        let fields = response.headers_mut();
        fields.insert(X_REQUEST_ID, id.value());
        if self.0.shutdown.is_leaving() {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // A refusal tells of the limit that refused.
        let told = record.error.is_some() && fields.contains_key(RATELIMIT);
        if let Some(quota) = account.quota.filter(|_| !told) {
            let plan = account.route.and_then(|route| self.0.follows.plans.get(route));
            if let Some(told) = plan.and_then(|plan| plan.told.as_ref()) {
                fields.insert(RATELIMIT_POLICY, told.policy());
                fields.insert(RATELIMIT, told.left(&quota));
            }
        }
        record
    }
}

/// Has a response be a success made of a stored one.
fn present<B>(
    inbound: Inbound<'_, B>,
    reply: Reply,
    response: &mut Response<Full<Content>>,
) -> telemetry::Reply {
    let stored = &*reply.stored;
    let age = stored.age(&reply.at);
    let shown = Shown::of(&inbound, stored);
    let is_head = *inbound.method() == Method::HEAD;
    let fields = response.headers_mut();
    *fields = inbound.into_reply_fields();
    let (status, part) = shown.of_response(stored, fields);
    // RFC 9111 §5.1: the upstream's own answer, just arrived, has no age of ours to tell.
    if reply.is_from_cache() || age >= Duration::from_secs(1) && reply.kept {
        fields.insert(AGE, values::age(age));
    }
    if reply.forward.is_some() || reply.is_from_cache() {
        let status = reply.cache_status(age);
        policy::append_member(fields, values::cache_status(&status));
    }
    let record = telemetry::Reply {
        status,
        outcome: Outcome::Cache(reply.status),
        bytes: part.as_ref().filter(|_| !is_head).map_or(0, |part| wide(part.len())),
        age: reply.is_from_cache().then_some(age),
        error: None,
    };
    *response.status_mut() = status;
    if let Some(part) = part {
        *response.body_mut() = Full::new(Content::part(reply.stored, part));
    }
    record
}

/// What of a stored response answers a request.
enum Shown {
    /// Nothing, since the client has it already: 304 (RFC 9110 §15.4.5).
    Unchanged,
    /// All of it, or a range of it (RFC 9110 §14).
    Content(RangeAnswer),
}

impl Shown {
    /// What the request's conditions and its Range make of it.
    fn of<B>(inbound: &Inbound<'_, B>, stored: &Stored) -> Self {
        let asked = inbound.has_conditions() && inbound.is_safe_read();
        if !asked || stored.status() != StatusCode::OK {
            return Self::Content(RangeAnswer::Whole);
        }
        let fields = inbound.fields();
        // A token route shows no Last-Modified, so no date of it can be meant, and no ranges.
        let open = stored.owner() == Owner::Open;
        let dated = open && fields.contains_key(IF_MODIFIED_SINCE);
        let modified = dated
            .then(|| policy::modified_at(&stored.lines().to_map(), stored.times.received().wall));
        if policy::not_modified(fields, stored.etag().as_ref(), modified) {
            return Self::Unchanged;
        }
        let ranged = open && *inbound.method() == Method::GET && fields.contains_key(RANGE);
        let range = ranged
            .then(|| policy::range_answer(fields, &stored.lines().to_map(), length(&stored.body)));
        Self::Content(range.unwrap_or(RangeAnswer::Whole))
    }

    /// What the response is made of: its status, its fields, in `fields`, which are empty, and the part of the body
    /// that it carries.
    fn of_response(
        self,
        stored: &Stored,
        fields: &mut HeaderMap,
    ) -> (StatusCode, Option<Range<usize>>) {
        match self {
            Self::Unchanged => {
                let tagged = stored.lines().contains(&ETAG);
                append(fields, stored, |name| policy::stays_in_304(name, tagged));
                (StatusCode::NOT_MODIFIED, None)
            }
            Self::Content(RangeAnswer::Whole) => {
                append(fields, stored, |_name| true);
                (stored.status(), Some(0..stored.body.len()))
            }
            Self::Content(RangeAnswer::Partial(range)) => {
                append(fields, stored, |_name| true);
                let told = policy::content_range(&range, length(&stored.body));
                fields.insert(CONTENT_RANGE, told);
                let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                let (from, to) = (at(*range.start()), at(range.end().saturating_add(1)));
                (StatusCode::PARTIAL_CONTENT, Some(from..to))
            }
            Self::Content(RangeAnswer::Unsatisfiable) => {
                append(fields, stored, policy::stays_in_416);
                fields.insert(CONTENT_RANGE, policy::unsatisfied_range(length(&stored.body)));
                fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                (StatusCode::RANGE_NOT_SATISFIABLE, None)
            }
        }
    }
}

fn append(fields: &mut HeaderMap, stored: &Stored, keep: impl Fn(&HeaderName) -> bool) {
    let lines = stored.lines();
    fields.reserve(lines.len() + OUR_FIELDS);
    let written = values::piece(|out| lines.write(out));
    for (name, value) in lines.cut(written).filter(|(name, _)| keep(name)) {
        fields.append(name, value);
    }
}

fn length(body: &Masked) -> u64 {
    wide(body.len())
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Our name in `Cache-Status`.
pub(super) const NAME: &str = "unitgate";

/// Fields added to those of a stored response.
const OUR_FIELDS: usize = 6;
