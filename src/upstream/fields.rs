//! What crosses and what does not: fields of requests and answers, as pure functions.
//!
//! *Invariants*
//! 1. Hop-by-hop fields, and those that Connection lists, cross in neither direction.
//! 2. On token routes only what is named here crosses; no such field can shape an answer.
//! 3. A Connection that names a field meant for every recipient never removes it: in a request it
//!    is an error, in an answer it is not obeyed, since it could take a `no-store` away.
//!
//! *Why the Host of a request is checked here:* hyper hands over requests with none or several.

use std::str;
use std::sync::LazyLock;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LANGUAGE,
    CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, EXPECT, HOST, LINK, MAX_FORWARDS, RETRY_AFTER,
    USER_AGENT, VIA, WWW_AUTHENTICATE,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use crate::alphabet::Alphabet;
use crate::fields::{HOP_BY_HOP, is_date, only};

/// What marks a request on its way through: Via, a request id, a trace. None can change an answer.
#[derive(Clone, Debug)]
pub struct Marks {
    /// The Via that goes upstream: what was there, and this instance.
    pub via: HeaderValue,
    /// The request's id.
    pub request_id: HeaderValue,
    /// The client's `traceparent` if it is well-formed.
    pub traceparent: Option<HeaderValue>,
}

impl Marks {
    /// The marks of a request that came in `version` with `fields` to the instance called `name`.
    pub fn of(fields: &HeaderMap, version: Version, name: &str, request_id: HeaderValue) -> Self {
        let traceparent = only(fields, &TRACEPARENT).filter(|value| is_traceparent(value));
        Self { via: via(fields, version, name), request_id, traceparent: traceparent.cloned() }
    }

    fn put_on(&self, fields: &mut HeaderMap) {
        fields.insert(VIA, self.via.clone());
        fields.insert(X_REQUEST_ID, self.request_id.clone());
        if let Some(traceparent) = &self.traceparent {
            fields.insert(TRACEPARENT, traceparent.clone());
        }
    }
}

/// Which content codings a request on a `forward = "all"` route may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codings {
    /// None: the answer will be masked.
    Identity,
    /// What the client accepts: the answer passes verbatim.
    Client,
}

/// Why the head of a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Path and query are longer than `listen.target_size` (RFC 9110 §15.5.15).
    #[error("the target is too long")]
    TargetTooLong,
    /// The fields are larger than `listen.head_size` or more than `listen.fields` (RFC 6585 §5).
    #[error("the fields are too large or too many")]
    TooLarge,
    /// HTTP/1.1 without Host, or a request for no host at all.
    #[error("the request has no Host")]
    HostMissing,
    /// More than one Host.
    #[error("the request has more than one Host")]
    HostRepeated,
    /// A Host that is none.
    #[error("the request's Host is invalid")]
    HostInvalid,
    /// Connection names a field that is meant for every recipient.
    #[error("the request's Connection names a field that is not its own")]
    ConnectionNames,
}

/// How far a TRACE or OPTIONS may go (RFC 9110 §7.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hops {
    /// As far as it takes.
    Any,
    /// Not past this gateway: it has to answer itself.
    None,
    /// Onward with this many left.
    Left(u64),
}

/// The fields of a request that is made from a cache key and a token (`forward = "key"`).
///
/// A token route brings its `authorization`, a write its `content_type`. The caller adds validators
/// of its own.
pub fn request_for_key(
    authorization: Option<HeaderValue>,
    content_type: Option<HeaderValue>,
    marks: &Marks,
) -> HeaderMap {
    let mut fields = USUAL.clone();
    match authorization {
        Some(mut authorization) => {
            authorization.set_sensitive(true);
            fields.insert(AUTHORIZATION, authorization);
        }
        None => drop(fields.remove(AUTHORIZATION)),
    }
    if let Some(content_type) = content_type {
        fields.insert(CONTENT_TYPE, content_type);
    }
    marks.put_on(&mut fields);
    fields
}

/// The end-to-end fields of a client's request (`forward = "all"`).
///
/// Host and Content-Length are left to the exchange. The client's own `X-Forwarded-*` pass: on open
/// routes nothing depends on them.
pub fn request_for_all(
    client: &HeaderMap,
    method: &Method,
    codings: Codings,
    marks: &Marks,
) -> HeaderMap {
    let mut fields = client.clone();
    hop_by_hop(&mut fields);
    for name in [HOST, CONTENT_LENGTH, EXPECT, TRACEPARENT] {
        fields.remove(name);
    }
    if codings == Codings::Identity {
        fields.insert(ACCEPT_ENCODING, IDENTITY);
    }
    for name in [AUTHORIZATION, COOKIE] {
        for (_, value) in fields.iter_mut().filter(|(other, _)| **other == name) {
            value.set_sensitive(true);
        }
    }
    count_hop(method, client, &mut fields);
    marks.put_on(&mut fields);
    fields
}

/// Sends a client's Max-Forwards on with one hop less, where it counts (RFC 9110 §7.6.2).
pub fn count_hop(method: &Method, client: &HeaderMap, fields: &mut HeaderMap) {
    if let Hops::Left(left) = max_forwards(method, client) {
        fields.insert(MAX_FORWARDS, HeaderValue::from(left));
    }
}

/// What of an answer's fields reaches a client on a token route.
///
/// Values are as the upstream sent them, not masked yet.
pub fn answer_allowed(status: StatusCode, answer: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(4);
    let mut keep = |name: HeaderName, value: Option<&HeaderValue>| {
        if let Some(value) = value {
            fields.insert(name, value.clone());
        }
    };
    keep(CONTENT_TYPE, only(answer, &CONTENT_TYPE));
    keep(CONTENT_LANGUAGE, only(answer, &CONTENT_LANGUAGE));
    keep(DATE, only(answer, &DATE).filter(|value| is_date(value)));
    if status.is_client_error() || status.is_server_error() {
        keep(RETRY_AFTER, only(answer, &RETRY_AFTER).filter(|value| is_delay(value)));
    }
    if status == StatusCode::UNAUTHORIZED {
        for value in answer.get_all(WWW_AUTHENTICATE) {
            fields.append(WWW_AUTHENTICATE, value.clone());
        }
    }
    fields
}

/// What of an interim response's fields reaches a client on a token route: where to look meanwhile
/// (RFC 8297 §2).
pub fn interim_allowed(interim: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for value in interim.get_all(LINK) {
        fields.append(LINK, value.clone());
    }
    fields
}

/// The end-to-end fields of an answer, for open routes. Content-Length is computed anew later.
pub fn answer_all(answer: &HeaderMap) -> HeaderMap {
    let mut fields = answer.clone();
    hop_by_hop(&mut fields);
    fields.remove(CONTENT_LENGTH);
    fields
}

/// Removes what is meant for one connection only (RFC 9110 §7.6.1).
pub fn hop_by_hop(fields: &mut HeaderMap) {
    let listed: Vec<HeaderName> = connection_options(fields)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| !is_for_everyone(name.as_str().as_bytes()))
        .collect();
    for name in listed.into_iter().chain(HOP_BY_HOP) {
        fields.remove(name);
    }
}

/// Refuses a request whose Connection would remove what is meant for every recipient.
///
/// # Errors
/// [`FieldError::ConnectionNames`] for Authorization, Host, Cache-Control and `Content-*`.
pub fn connection_is_honest(fields: &HeaderMap) -> Result<(), FieldError> {
    if connection_options(fields).any(is_for_everyone) {
        return Err(FieldError::ConnectionNames);
    }
    Ok(())
}

/// The host that a request is for: the target's authority, else Host (RFC 9112 §3.2). `None` only
/// for HTTP/1.0, which may lack one.
///
/// # Errors
/// When Host is missing, repeated or invalid, also where an absolute-form target replaces it.
pub fn host<'a>(
    version: Version,
    target: &'a Uri,
    fields: &'a HeaderMap,
) -> Result<Option<&'a str>, FieldError> {
    let mut hosts = fields.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(FieldError::HostRepeated);
    }
    let host = host.map(|value| valid_host(value.as_bytes())).transpose()?;
    let authority = target.authority().map(|a| valid_host(a.as_str().as_bytes())).transpose()?;
    match authority.or(host) {
        None if version > Version::HTTP_10 => Err(FieldError::HostMissing),
        Some(_) if version == Version::HTTP_11 && host.is_none() => Err(FieldError::HostMissing),
        found => Ok(found),
    }
}

/// Via with this instance appended, on one line (RFC 9110 §7.6.3).
pub fn via(fields: &HeaderMap, version: Version, name: &str) -> HeaderValue {
    let mut line = Vec::with_capacity("1.1 ".len() + name.len());
    for value in fields.get_all(VIA) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(match version {
        Version::HTTP_09 | Version::HTTP_10 => b"1.0 ",
        Version::HTTP_2 => b"2.0 ",
        _ => b"1.1 ",
    });
    line.extend_from_slice(name.as_bytes());
    // A name that can't stand in a field is refused by the configuration; were one to come here,
    // forwarding without a loop's mark is better than not at all.
    HeaderValue::from_bytes(&line).unwrap_or(HeaderValue::from_static("1.1 unitgate"))
}

/// Whether a request has been through the instance called `name` before (508, RFC 5842 §7.2).
pub fn is_loop(fields: &HeaderMap, name: &str) -> bool {
    let members =
        fields.get_all(VIA).into_iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    members
        .filter_map(|member| {
            let mut words = member.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1)
        })
        .any(|by| by.eq_ignore_ascii_case(name.as_bytes()))
}

/// What Max-Forwards says of a request; it counts for TRACE and OPTIONS only.
pub fn max_forwards(method: &Method, fields: &HeaderMap) -> Hops {
    if method != Method::TRACE && method != Method::OPTIONS {
        return Hops::Any;
    }
    let value = only(fields, &MAX_FORWARDS).map(HeaderValue::as_bytes);
    match value.filter(|digits| is_number(digits)) {
        None => Hops::Any,
        Some(digits) => {
            let hops = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            hops.unwrap_or(u64::MAX).checked_sub(1).map_or(Hops::None, Hops::Left)
        }
    }
}

/// The client's `X-Request-Id` if it is `[A-Za-z0-9._-]{1,64}`.
pub fn request_id(fields: &HeaderMap) -> Option<&HeaderValue> {
    only(fields, &X_REQUEST_ID).filter(|value| {
        (1..=64).contains(&value.len())
            && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
    })
}

fn connection_options(fields: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = fields.get_all(CONNECTION).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

/// Fields that no Connection may claim for itself.
fn is_for_everyone(name: &[u8]) -> bool {
    [AUTHORIZATION, HOST, CACHE_CONTROL]
        .iter()
        .any(|other| name.eq_ignore_ascii_case(other.as_str().as_bytes()))
        || name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-"))
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2), not empty and without user info.
fn valid_host(bytes: &[u8]) -> Result<&str, FieldError> {
    let text = str::from_utf8(bytes).or(Err(FieldError::HostInvalid))?;
    if is_plain_host(bytes) {
        return Ok(text);
    }
    let authority = Authority::try_from(bytes).or(Err(FieldError::HostInvalid))?;
    let port = authority.as_str().strip_prefix(authority.host());
    let port = port.map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    let port_fits = port.is_some_and(|port| port.is_empty() || authority.port_u16().is_some());
    // A comma is two Hosts on one line.
    let odd = bytes.iter().any(|byte| b"@,".contains(byte));
    if authority.host().is_empty() || odd || !port_fits {
        return Err(FieldError::HostInvalid);
    }
    Ok(text)
}

/// What nearly every Host is, told without a parser: a name or an IPv4 address, and a port.
fn is_plain_host(bytes: &[u8]) -> bool {
    match bytes.split_at(IN_NAME.prefix(bytes)) {
        ([], _) => false,
        (_, []) => true,
        (_, [b':', port @ ..]) if port.len() <= 5 && port.iter().all(u8::is_ascii_digit) => {
            port.len() < 5 || *port <= b"65535"[..]
        }
        _ => false,
    }
}

/// W3C Trace Context: `version-trace-parent-flags` in lower-case hex, neither id all zero.
fn is_traceparent(value: &HeaderValue) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    let parts: Vec<&[u8]> = value.as_bytes().split(|byte| *byte == b'-').collect();
    match parts[..] {
        [version, trace, parent, flags] => {
            (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2)
                && [version, trace, parent, flags].into_iter().all(hex)
                && version != b"ff"
                && !zero(trace)
                && !zero(parent)
        }
        _ => false,
    }
}

/// Seconds or a date (RFC 9110 §10.2.3).
fn is_delay(value: &HeaderValue) -> bool {
    is_number(value.as_bytes()) || is_date(value)
}

fn is_number(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

/// What requests that are made here have, with places for what differs from one to the next: to copy it
/// takes half of what it takes to put it together.
static USUAL: LazyLock<HeaderMap> = LazyLock::new(|| {
    let place = HeaderValue::from_static("");
    let fields = [
        (HOST, place.clone()),
        (AUTHORIZATION, place.clone()),
        (ACCEPT, HeaderValue::from_static("application/json")),
        (ACCEPT_ENCODING, IDENTITY),
        (USER_AGENT, HeaderValue::from_static(OUR_NAME)),
        (VIA, place.clone()),
        (X_REQUEST_ID, place),
    ];
    HeaderMap::from_iter(fields)
});

/// The request id's field, in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The field of a trace (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a plain host's name is made of.
static IN_NAME: Alphabet = Alphabet::alphanumeric_and(b"-._");

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const OUR_NAME: &str = concat!("unitgate/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use http::header::{ETAG, SET_COOKIE};

    use super::*;

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            fields.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        fields
    }

    fn lines(fields: &HeaderMap) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let mut lines: Vec<_> = fields.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn marks(client: &HeaderMap) -> Marks {
        Marks::of(client, Version::HTTP_11, "me", HeaderValue::from_static("id-1"))
    }

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_for_one_connection_crosses_no_further() {
        let mut both = fields(&[
            ("connection", "close, X-Mine"),
            ("Connection", " x-other ,, ;bad;"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "x"),
            ("http2-settings", "x"),
            ("x-end", "kept"),
        ]);
        hop_by_hop(&mut both);
        assert_eq!(lines(&both), ["x-end: kept"]);
    }

    #[test]
    fn a_connection_cannot_claim_what_is_for_everyone() {
        for name in ["Authorization", "host", "CACHE-control", "content-length", "Content-X"] {
            let claimed = fields(&[("connection", "close"), ("connection", &format!("x, {name}"))]);
            assert_eq!(connection_is_honest(&claimed), Err(FieldError::ConnectionNames), "{name}");
        }
        let honest = fields(&[("connection", "keep-alive, contents, x-content-y")]);
        assert_eq!(connection_is_honest(&honest), Ok(()));
        let mut answer = fields(&[("connection", "cache-control"), ("cache-control", "no-store")]);
        hop_by_hop(&mut answer);
        assert_eq!(lines(&answer), ["cache-control: no-store"]);
    }

    #[test]
    fn exactly_one_valid_host_is_wanted() {
        let find = |version, target: &'static str, hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let target = Uri::from_static(target);
            let fields = fields(&hosts);
            host(version, &target, &fields).map(|host| host.map(str::to_owned))
        };
        let (h10, h11, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        let some = |host: &str| Ok(Some(host.to_owned()));
        assert_eq!(find(h11, "/", &["a.example"]), some("a.example"));
        assert_eq!(find(h11, "/", &["[::1]:80"]), some("[::1]:80"));
        assert_eq!(find(h11, "/", &["a:65535"]), some("a:65535"));
        assert_eq!(find(h11, "/", &["a:"]), some("a:"));
        assert_eq!(find(h11, "http://b/", &["a"]), some("b"));
        assert_eq!(find(h11, "/", &[]), Err(FieldError::HostMissing));
        assert_eq!(find(h11, "http://b/", &[]), Err(FieldError::HostMissing));
        assert_eq!(find(h11, "/", &["a", "a"]), Err(FieldError::HostRepeated));
        assert_eq!(find(h11, "http://b/", &["a", "b"]), Err(FieldError::HostRepeated));
        assert_eq!(find(h10, "/", &[]), Ok(None));
        assert_eq!(find(h10, "/", &["a", "b"]), Err(FieldError::HostRepeated));
        assert_eq!(find(h2, "https://b/", &[]), some("b"));
        assert_eq!(find(h2, "/", &[]), Err(FieldError::HostMissing));
        for host in [
            "", "a b", "a,b", "u@a", "a/b", "a:x", "a:65536", "a:99999", "a:123456", ":80",
            "a\u{e9}", "a?b", "[::1",
        ] {
            assert_eq!(find(h11, "/", &[host]), Err(FieldError::HostInvalid), "{host:?}");
            assert_eq!(find(h11, "http://b/", &[host]), Err(FieldError::HostInvalid), "{host:?}");
        }
    }

    #[test]
    fn a_request_by_key_holds_nothing_of_the_clients_choosing() {
        let client = fields(&[
            ("x-request-id", "abc"),
            ("traceparent", TRACE),
            ("tracestate", "a=b"),
            ("baggage", "a=b"),
            ("accept-language", "fr"),
            ("x-forwarded-for", "1.2.3.4"),
            ("via", "1.0 edge"),
        ]);
        let authorization = HeaderValue::from_static("Bearer t");
        let request = request_for_key(Some(authorization.clone()), None, &marks(&client));
        let want = [
            "accept-encoding: identity".to_owned(),
            "accept: application/json".to_owned(),
            "authorization: Bearer t".to_owned(),
            "host: ".to_owned(),
            format!("traceparent: {TRACE}"),
            format!("user-agent: {OUR_NAME}"),
            "via: 1.0 edge, 1.1 me".to_owned(),
            "x-request-id: id-1".to_owned(),
        ];
        assert_eq!(lines(&request), want);
        assert!(request[AUTHORIZATION].is_sensitive());
        let json = HeaderValue::from_static("application/json");
        let write = request_for_key(Some(authorization), Some(json), &marks(&client));
        assert_eq!(write[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn a_request_for_all_holds_every_end_to_end_field() {
        let client = fields(&[
            ("host", "a"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("expect", "100-continue"),
            ("accept-encoding", "br"),
            ("cookie", "s=1"),
            ("accept", "a/b"),
            ("accept", "c/d"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-request-id", "not valid!"),
            ("traceparent", "nonsense"),
        ]);
        let request = request_for_all(&client, &Method::GET, Codings::Client, &marks(&client));
        let id = request[X_REQUEST_ID].to_str().unwrap();
        let want = [
            "accept-encoding: br",
            "accept: a/b",
            "accept: c/d",
            "cookie: s=1",
            "via: 1.1 me",
            "x-forwarded-for: 1.2.3.4",
            &format!("x-request-id: {id}"),
        ];
        assert_eq!(lines(&request), want);
        assert!(request[COOKIE].is_sensitive());
        let masked = request_for_all(&client, &Method::GET, Codings::Identity, &marks(&client));
        assert_eq!(masked[ACCEPT_ENCODING], "identity");
    }

    #[test]
    fn a_token_route_passes_few_fields_of_an_answer() {
        let answer = fields(&[
            ("content-type", "application/json"),
            ("content-language", "en"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("retry-after", "7"),
            ("www-authenticate", "Bearer"),
            ("www-authenticate", "Basic"),
            ("etag", "\"x\""),
            ("set-cookie", "s=1"),
            ("location", "/"),
            ("access-control-allow-origin", "*"),
            ("content-encoding", "gzip"),
            ("x-request-id", "theirs"),
            ("cache-control", "max-age=1"),
        ]);
        let always = [
            "content-language: en",
            "content-type: application/json",
            "date: Sun, 06 Nov 1994 08:49:37 GMT",
        ];
        assert_eq!(lines(&answer_allowed(StatusCode::OK, &answer)), always);
        let busy = [&always[..], &["retry-after: 7"]].concat();
        assert_eq!(lines(&answer_allowed(StatusCode::SERVICE_UNAVAILABLE, &answer)), busy);
        let who = [&busy[..], &["www-authenticate: Basic", "www-authenticate: Bearer"]].concat();
        assert_eq!(lines(&answer_allowed(StatusCode::UNAUTHORIZED, &answer)), who);
    }

    #[test]
    fn a_date_is_looked_at_anew_where_it_changes() {
        let (one, other) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        let none = "Sun, 06 Nov 1994 08:49:61 GMT";
        for (date, passes) in
            [(none, false), (one, true), (none, false), (one, true), (other, true)]
        {
            let passed = answer_allowed(StatusCode::OK, &fields(&[("date", date)]));
            assert_eq!(passed.contains_key(DATE), passes, "{date}");
        }
    }

    #[test]
    fn fields_that_are_not_what_they_should_be_do_not_pass() {
        for value in ["-1", "1.5", "soon", "", "7 "] {
            let answer = fields(&[("retry-after", value), ("date", value)]);
            assert!(
                answer_allowed(StatusCode::SERVICE_UNAVAILABLE, &answer).is_empty(),
                "{value:?}"
            );
        }
        let twice = fields(&[("content-type", "application/json"), ("content-type", "text/html")]);
        assert!(answer_allowed(StatusCode::OK, &twice).is_empty());
    }

    #[test]
    fn an_open_route_passes_every_end_to_end_field_of_an_answer() {
        let answer = fields(&[
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("etag", "\"x\""),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ]);
        let passed = answer_all(&answer);
        assert_eq!(passed.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert!(passed.contains_key(ETAG) && passed.len() == 3);
    }

    #[test]
    fn via_grows_and_a_loop_is_found_by_the_whole_name() {
        let before = fields(&[("via", "1.0 a, 2.0 b (c, d)"), ("via", "1.1 Unitgate-7")]);
        let line = via(&before, Version::HTTP_2, "me");
        assert_eq!(line, "1.0 a, 2.0 b (c, d), 1.1 Unitgate-7, 2.0 me");
        let after = HeaderMap::from_iter([(VIA, line)]);
        for name in ["a", "b", "unitgate-7", "me", "ME"] {
            assert!(is_loop(&after, name), "{name}");
        }
        for name in ["unitgate", "unitgate-70", "1.1", "c"] {
            assert!(!is_loop(&after, name), "{name}");
        }
    }

    #[test]
    fn max_forwards_counts_down_for_trace_and_options_only() {
        let left = |method, value| max_forwards(&method, &fields(&[("max-forwards", value)]));
        assert_eq!(left(Method::GET, "0"), Hops::Any);
        assert_eq!(left(Method::OPTIONS, "0"), Hops::None);
        assert_eq!(left(Method::TRACE, "3"), Hops::Left(2));
        assert_eq!(left(Method::OPTIONS, "x"), Hops::Any);
        assert_eq!(left(Method::OPTIONS, &"9".repeat(40)), Hops::Left(u64::MAX - 1));
        assert_eq!(max_forwards(&Method::OPTIONS, &HeaderMap::new()), Hops::Any);
        let client = fields(&[("max-forwards", "3")]);
        let request = request_for_all(&client, &Method::OPTIONS, Codings::Client, &marks(&client));
        assert_eq!(request[MAX_FORWARDS], "2");
    }

    #[test]
    fn a_request_id_is_taken_over_only_if_it_is_harmless() {
        let taken = |id: &str| request_id(&fields(&[("x-request-id", id)])).is_some();
        assert!(["a", "A.b_c-9", &"a".repeat(64)].into_iter().all(taken));
        assert!(!["", "a b", "a\"", "é", "a/b", &"a".repeat(65)].into_iter().any(taken));
        assert_eq!(request_id(&fields(&[("x-request-id", "a"), ("x-request-id", "a")])), None);
    }

    #[test]
    fn only_a_valid_traceparent_is_passed_on() {
        let passes = |value: &str| marks(&fields(&[("traceparent", value)])).traceparent.is_some();
        assert!(passes(TRACE));
        for value in [
            &TRACE.to_uppercase(),
            &TRACE.replace("00-0", "ff-0"),
            &format!("{TRACE}-x"),
            &TRACE.replace("b7ad6b7169203331", "0000000000000000"),
            &TRACE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &TRACE.replace("-01", "-1"),
            "",
        ] {
            assert!(!passes(value), "{value}");
        }
    }
}
