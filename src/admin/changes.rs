//! What operators may change over their port, and who may: `POST /purge`, `POST /reload`.
//!
//! *Invariants*
//! 1. Without a token in the configuration nothing can be changed, whatever the address: the endpoints do
//!    not exist.
//! 2. A web page can't do it, even in an operator's browser: the token is asked for, the `Host` must be an
//!    address, `localhost` or a configured name, and an `Origin` must be this port itself.
//! 3. The token is kept as a digest, and compared in a time that tells nothing of it.
//!
//! *Why not the same for what only shows:* a scraper asks by the name of a service, which nobody could have
//! named here; and what a page could read by pointing its own name at this port holds no secret.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONNECTION, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use parking_lot::RwLock;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{problem, problem_with, reply};
use crate::cache::generation::Strength;
use crate::cache::purge::{Purge, Purged, Several};
use crate::fields::only;

/// What operators may change.
pub struct Changes {
    /// Who may.
    pub access: Arc<RwLock<Access>>,
    /// Ends what is stored.
    #[expect(clippy::type_complexity, reason = "it is said once")]
    pub purge: Arc<dyn Fn(&Purge, Strength) -> Result<Purged, Several> + Send + Sync>,
    /// Loads the configuration again, or tells what is wrong with it.
    pub reload: Arc<dyn Fn() -> Result<Reloaded, Vec<String>> + Send + Sync>,
}

/// Who may change something, and by which names; a reload replaces it.
#[derive(Debug, Default)]
pub struct Access {
    /// Who may; `None` = nobody.
    pub pass: Option<Pass>,
    /// Names by which it may be asked for, in lower case.
    pub hosts: Vec<String>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The keys that changed.
    pub changed: Vec<String>,
    /// The keys that changed in the file and take a restart.
    pub restart: Vec<String>,
    /// What is allowed but doubtful.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changes(…)")
    }
}

/// The operators' token, as a digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pass(blake3::Hash);

impl Pass {
    /// The pass that `token` opens.
    pub fn of(token: &[u8]) -> Self {
        Self(blake3::hash(token))
    }

    /// Whether `fields` carry the token (RFC 6750 §2.1).
    fn opens_for(&self, fields: &HeaderMap) -> bool {
        let Some(value) = only(fields, &AUTHORIZATION) else { return false };
        let (scheme, token) = value.as_bytes().split_at_checked(SCHEME.len()).unwrap_or_default();
        // Equality of digests takes the same time whatever they are.
        scheme.eq_ignore_ascii_case(SCHEME) && blake3::hash(token.trim_ascii()) == self.0
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass(…)")
    }
}

/// A change that was not made.
struct Refused {
    status: StatusCode,
    code: &'static str,
    text: &'static str,
}

impl Changes {
    /// Answers a request for [`PURGE`] or [`RELOAD`].
    pub(super) async fn make(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let made = match request.uri().path() {
            RELOAD => self.reloaded(request).await,
            _ => self.purged(request).await,
        };
        match made {
            Ok(response) => response,
            Err(Refused { status, code, text }) => {
                let mut response = problem(status, code, text);
                let fields = response.headers_mut();
                // What is left of the request is not read.
                fields.insert(CONNECTION, HeaderValue::from_static("close"));
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    fields.insert(ALLOW, HeaderValue::from_static("POST"));
                }
                if status == StatusCode::UNAUTHORIZED {
                    fields.insert(WWW_AUTHENTICATE, CHALLENGE);
                }
                response
            }
        }
    }

    async fn purged(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refused> {
        self.access.read().admit(request.method(), request.headers())?;
        let body = Limited::new(request.into_body(), LARGEST).collect();
        let body = timeout(PATIENCE, body).await.ok().and_then(Result::ok).ok_or(UNREAD)?;
        let (purge, strength) = wanted(&body.to_bytes()).ok_or(UNCLEAR)?;
        let work = Arc::clone(&self.purge);
        // It scans all that is stored: beside this port's only thread, so that health is told meanwhile.
        let purged = tokio::task::spawn_blocking(move || work(&purge, strength)).await;
        Ok(match purged.map_err(|_panicked| LOST)? {
            Ok(Purged { entries, fetches }) => {
                let soft = strength == Strength::Soft;
                let told = json!({ "entries": entries, "fetches": fetches, "soft": soft });
                reply(StatusCode::OK, "application/json", format!("{told}\n"))
            }
            Err(Several(callers)) => several(&callers),
        })
    }

    async fn reloaded(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refused> {
        self.access.read().admit(request.method(), request.headers())?;
        let work = Arc::clone(&self.reload);
        // It reads files.
        let reloaded = tokio::task::spawn_blocking(move || work()).await;
        Ok(match reloaded.map_err(|_panicked| LOST)? {
            Ok(Reloaded { changed, restart, warnings }) => {
                let told = json!({
                    "changed": changed, "needs_restart": restart, "warnings": warnings,
                });
                reply(StatusCode::OK, "application/json", format!("{told}\n"))
            }
            Err(mistakes) => problem_with(
                StatusCode::UNPROCESSABLE_ENTITY,
                "config_invalid",
                "The configuration has mistakes; the one before stays in force.",
                [("mistakes".to_owned(), json!(mistakes))],
            ),
        })
    }
}

impl Access {
    /// Whether a change may be made.
    fn admit(&self, method: &Method, fields: &HeaderMap) -> Result<(), Refused> {
        let pass = self.pass.as_ref().ok_or(CLOSED)?;
        if *method != Method::POST {
            return Err(NOT_POST);
        }
        let host = only(fields, &HOST).and_then(|host| host.to_str().ok()).ok_or(STRANGE_HOST)?;
        if !self.is_ours(host) {
            return Err(STRANGE_HOST);
        }
        if fields.contains_key(ORIGIN) && !is_same_origin(fields, host) {
            return Err(STRANGE_ORIGIN);
        }
        if pass.opens_for(fields) { Ok(()) } else { Err(NO_PASS) }
    }

    /// Whether a `Host` is one that no stranger's name server can point here.
    fn is_ours(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let known = |known: &String| known.eq_ignore_ascii_case(name);
        !host.contains('@')
            && (bare.parse::<IpAddr>().is_ok()
                || name.eq_ignore_ascii_case("localhost")
                || self.hosts.iter().any(known))
    }
}

/// Whether the page that asks, if one does, was served by this port (RFC 6454 §7).
fn is_same_origin(fields: &HeaderMap, host: &str) -> bool {
    let origin = only(fields, &ORIGIN).and_then(|origin| origin.to_str().ok());
    let origin = origin.and_then(|origin| {
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
    });
    origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host))
}

/// Several callers have the same first digits: they are told in full.
fn several(callers: &[String]) -> Response<Full<Bytes>> {
    let text = "Several callers have this fingerprint; name one of these in full.";
    problem_with(
        StatusCode::CONFLICT,
        "several_callers",
        text,
        [("callers".to_owned(), json!(callers))],
    )
}

/// What a body asks for: one of `unit`, `caller`, `url` and `all`, and whether softly.
fn wanted(body: &[u8]) -> Option<(Purge, Strength)> {
    let mut members: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let strength = match members.remove("soft") {
        None | Some(Value::Bool(false)) => Strength::Hard,
        Some(Value::Bool(true)) => Strength::Soft,
        Some(_) => return None,
    };
    let mut members = members.into_iter();
    let (Some(what), None) = (members.next(), members.next()) else { return None };
    let purge = match (what.0.as_str(), what.1) {
        ("all", Value::Bool(true)) => Purge::All,
        ("unit", Value::String(unit)) if !unit.is_empty() => Purge::Unit(unit),
        ("caller", Value::String(digits)) => Purge::Caller(fingerprint(&digits)?),
        ("url", Value::String(url)) => Purge::Target(target(&url)?),
        _ => return None,
    };
    Some((purge, strength))
}

/// 12 to 64 hexadecimal digits.
fn fingerprint(digits: &str) -> Option<String> {
    let fits = (12..=64).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_hexdigit());
    fits.then(|| digits.to_ascii_lowercase())
}

/// The target of a URL or a path: scheme, authority and fragment are left out.
fn target(url: &str) -> Option<PathAndQuery> {
    let url = url.split('#').next().unwrap_or_default();
    if url.starts_with('/') {
        return url.parse().ok();
    }
    url.parse::<Uri>().ok().filter(|uri| uri.authority().is_some())?.path_and_query().cloned()
}

const fn refused(status: StatusCode, code: &'static str, text: &'static str) -> Refused {
    Refused { status, code, text }
}

const CLOSED: Refused = refused(
    StatusCode::NOT_FOUND,
    "changes_off",
    "This port changes nothing: set admin.token_file to purge and reload over it.",
);
const NOT_POST: Refused =
    refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "A change takes POST.");
const STRANGE_HOST: Refused = refused(
    StatusCode::FORBIDDEN,
    "strange_host",
    "Ask by IP address or localhost, or name the host in admin.hosts.",
);
const STRANGE_ORIGIN: Refused = refused(
    StatusCode::FORBIDDEN,
    "strange_origin",
    "A page of another origin may change nothing here.",
);
const NO_PASS: Refused = refused(
    StatusCode::UNAUTHORIZED,
    "admin_token_wrong",
    "Send Authorization: Bearer with the token in admin.token_file.",
);
const UNREAD: Refused = refused(
    StatusCode::BAD_REQUEST,
    "request_broken",
    "The body broke off, is larger than 16 KiB or took longer than 5 s.",
);
const UNCLEAR: Refused = refused(
    StatusCode::BAD_REQUEST,
    "purge_unclear",
    "Send JSON with one of {\"unit\": ID}, {\"caller\": 12 to 64 HEX DIGITS}, {\"url\": URL or PATH}, {\"all\": true}, and \"soft\": true to make stale only.",
);

const LOST: Refused = refused(
    StatusCode::INTERNAL_SERVER_ERROR,
    "change_lost",
    "The change failed; report it with the log's panicked line, and try again.",
);

/// Where to purge.
pub(super) const PURGE: &str = "/purge";

/// Where to reload.
pub(super) const RELOAD: &str = "/reload";

const SCHEME: &[u8] = b"Bearer ";
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"unitgate operators\"");

/// Largest body of a change.
const LARGEST: usize = 16 << 10;

/// Longest time for it to come.
const PATIENCE: Duration = Duration::from_secs(5);
