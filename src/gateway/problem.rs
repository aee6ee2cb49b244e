//! What goes out instead of an answer: a problem (RFC 9457) made of an [`Error`].
//!
//! *Invariant:* a problem quotes nothing but our own table, and is never cached.

use bytes::{Bytes, BytesMut};
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use super::Account;
use super::content::Content;
use super::inbound::{Inbound, Payload};
use super::reply::NAME;
use super::values;
use crate::cache::policy::CacheStatus;
use crate::caller::CallerError;
use crate::error::Error;
use crate::limit::{Limiter, Quota, Throttled};
use crate::route::RouteError;
use crate::telemetry::{self, Outcome};
use crate::upstream::UpstreamError;

/// Has a response be a problem (RFC 9457) made of an error.
pub(super) fn refuse<B: Payload>(
    inbound: &Inbound<'_, B>,
    error: &Error,
    account: &Account<'_>,
    response: &mut Response<Full<Content>>,
) -> telemetry::Reply {
    let profile = error.profile();
    let policy = match error {
        Error::Throttled(Throttled { by: Limiter::Caller, .. }) => Some("caller"),
        Error::Throttled(Throttled { by: Limiter::Upstream, .. }) => Some("upstream"),
        _ => None,
    };
    let id = std::str::from_utf8(inbound.line().id.as_bytes()).ok();
    let body = problem(profile.status, profile.code, profile.text, policy, id);
    let head = *inbound.method() == Method::HEAD;
    let length = u64::try_from(body.len()).unwrap_or_default();
    *response.body_mut() = Full::new(if head { Content::NONE } else { Content::ours(body) });
    *response.status_mut() = profile.status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, PROBLEM_JSON);
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let cut = matches!(
        error,
        Error::BodyTooLarge | Error::BodyTimeout | Error::BodyBroken | Error::NoRoom
    );
    if cut || inbound.leaves_body() {
        // The rest of the request is not read, so nothing can follow it.
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if head {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    explain(fields, error);
    if let Some(forward) = account.forward {
        let status = CacheStatus { detail: Some(profile.code), ..CacheStatus::forwarded(forward) };
        status.append_to(NAME, fields);
    }
    telemetry::Reply {
        status: profile.status,
        outcome: Outcome::of_error(profile.side, profile.status),
        bytes: if head { 0 } else { length },
        age: None,
        error: Some((profile.code, profile.side)),
    }
}

/// The fields that some refusals owe.
fn explain(fields: &mut HeaderMap, error: &Error) {
    match error {
        Error::Route(RouteError::MethodNotAllowed { allow }) => {
            if let Ok(allow) = HeaderValue::from_str(allow) {
                fields.insert(ALLOW, allow);
            }
        }
        Error::Caller(error) => {
            fields.insert(WWW_AUTHENTICATE, challenge(*error));
        }
        Error::Overloaded | Error::NoRoom => {
            fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Error::Throttled(throttled) => {
            fields.insert(RETRY_AFTER, HeaderValue::from(throttled.retry_after));
            if let (Some(quota), Limiter::Upstream) = (&throttled.quota, throttled.by) {
                fields.insert(RATELIMIT_POLICY, quota_policy("upstream", quota));
                fields.insert(
                    RATELIMIT,
                    values::make(|out| write_rate_limit("upstream", quota, out)),
                );
            }
            if let (Some(quota), Limiter::Caller) = (&throttled.quota, throttled.by) {
                fields.insert(RATELIMIT_POLICY, quota_policy("caller", quota));
                fields
                    .insert(RATELIMIT, values::make(|out| write_rate_limit("caller", quota, out)));
            }
        }
        Error::Upstream(error) if matches!(**error, UpstreamError::Memory) => {
            fields.insert(RETRY_AFTER, HeaderValue::from(1));
        }
        Error::NotAsked(refused) => {
            fields.insert(RETRY_AFTER, HeaderValue::from(refused.retry_after));
        }
        _ => {}
    }
}

/// RFC 6750 §3.1: no error code where no token was sent.
fn challenge(error: CallerError) -> HeaderValue {
    HeaderValue::from_static(match error {
        CallerError::Missing => "Bearer realm=\"unitgate\"",
        CallerError::Malformed | CallerError::Repeated => {
            "Bearer realm=\"unitgate\", error=\"invalid_request\""
        }
        CallerError::TooLong => "Bearer realm=\"unitgate\", error=\"invalid_token\"",
    })
}

/// Writes `"NAME";r=…;t=…` (draft-ietf-httpapi-ratelimit-headers §4).
pub(super) fn write_rate_limit(name: &str, quota: &Quota, out: &mut BytesMut) {
    let (mut remaining, mut reset) = (itoa::Buffer::new(), itoa::Buffer::new());
    for part in
        ["\"", name, "\";r=", remaining.format(quota.remaining), ";t=", reset.format(quota.reset)]
    {
        out.extend_from_slice(part.as_bytes());
    }
}

/// `"NAME";q=…;w=…` (draft-ietf-httpapi-ratelimit-headers §3).
fn quota_policy(name: &str, quota: &Quota) -> HeaderValue {
    list_item(&format!("\"{name}\";q={};w={}", quota.limit, quota.window))
}

fn list_item(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_impossible| HeaderValue::from_static(""))
}

/// The body of a problem that stands for an upstream's own words.
pub(super) fn problem_body(status: StatusCode, code: &str, text: &str) -> Bytes {
    problem(status, code, text, None, None)
}

fn problem(
    status: StatusCode,
    code: &str,
    text: &str,
    violated: Option<&str>,
    request_id: Option<&str>,
) -> Bytes {
    let mut problem = serde_json::json!({
        "type": violated.map_or_else(|| format!("urn:unitgate:problem:{code}"), |_| QUOTA.to_owned()),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": text,
        "code": code,
    });
    if let Some(members) = problem.as_object_mut() {
        if let Some(id) = request_id {
            members.insert("request_id".to_owned(), id.into());
        }
        if let Some(policy) = violated {
            members.insert("violated-policies".to_owned(), serde_json::json!([policy]));
        }
    }
    Bytes::from(problem.to_string())
}

/// The registered problem type of an exceeded quota.
const QUOTA: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
pub(super) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
