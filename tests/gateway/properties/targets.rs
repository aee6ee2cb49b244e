//! Targets: which of them a route takes, and which of them a write ends.
//!
//! An input has up to five lines: a method, a request target, a status, `Location`, `Content-Location`.
//!
//! *Claims*
//! 1. Resolving is deterministic, and takes the first route of the table whose template and method fit.
//! 2. A canonical target is path and query byte for byte as sent: no authority, no fragment, nothing
//!    decoded. A fragment or another authority makes no other.
//! 3. On a route with a token or a parameter, no reader of a path that resolved finds a dot segment, another
//!    slash or a control in it, and a token route's parameters are ids.
//! 4. What is refused is refused for the reason that is given.
//! 5. A write ends its own target and those that `Location` and `Content-Location` name on its own origin,
//!    as RFC 3986 §5.2 resolves them; never one of another origin.

use std::sync::LazyLock;

use http::header::{CONTENT_LOCATION, LOCATION};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use unitgate::cache::policy::invalidated_targets;
use unitgate::config::{CallerMode, Config, Methods, Route};
use unitgate::route::{Match, RouteError, Routes};

use super::{decoded, lines, trimmed};

/// Panics unless the claims of this file hold for `data`.
pub(crate) fn targets(data: &[u8]) {
    let mut lines = lines(data);
    let mut next = || lines.next().unwrap_or_default();
    let Ok(method) = Method::from_bytes(next()) else { return };
    let Ok(sent) = std::str::from_utf8(next()) else { return };
    let Ok(uri) = sent.parse::<Uri>() else { return };
    for routes in &*TABLES {
        resolving(routes, &method, sent, &uri);
    }
    let status = std::str::from_utf8(next()).ok().and_then(|digits| digits.parse().ok());
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::OK);
    let mut response = HeaderMap::new();
    for name in [LOCATION, CONTENT_LOCATION] {
        if let Ok(value) = HeaderValue::from_bytes(next()) {
            response.append(name, value);
        }
    }
    invalidating(&method, status, &uri, &response);
}

fn resolving(routes: &Routes, method: &Method, sent: &str, uri: &Uri) {
    let found = routes.resolve(method, uri);
    assert_eq!(shown(&found), shown(&routes.resolve(method, uri)));
    let fitting: Vec<(&unitgate::route::Route, Vec<&str>)> = routes
        .iter()
        .filter_map(|route| Some((route, parameters(&route.config.path, uri.path())?)))
        .collect();
    let serving = fitting.iter().find(|(route, _)| route.config.methods.contains(method));
    let guarded =
        |route: &unitgate::route::Route| route.wants_token() || route.config.path.contains('{');
    match (&found, serving) {
        (Ok(found), Some((route, parameters))) => {
            assert_eq!(found.route.index, route.index);
            is_as_sent(found, sent, uri);
            assert!(!guarded(route) || is_plain(uri.path()), "{sent}");
            let ids = parameters.iter().all(|one| is_id(one));
            assert!(!route.wants_token() || ids, "{sent}");
            assert!(found.unit.is_none_or(|unit| is_id(unit) && parameters.contains(&unit)));
            let query = uri.query().unwrap_or_default();
            assert!(accepts(route, query), "{sent}");
        }
        (Err(RouteError::NotFound), None) => assert!(fitting.is_empty(), "{sent}"),
        (Err(RouteError::MethodNotAllowed { allow }), None) => {
            assert!(
                !fitting.is_empty() && !allow.split(", ").any(|one| one == method.as_str()),
                "{sent}"
            );
        }
        (Err(RouteError::NotImplemented), _) => assert_eq!(*method, Method::CONNECT),
        (Err(RouteError::AmbiguousPath), Some((route, _))) => {
            assert!(guarded(route) && !is_plain(uri.path()), "{sent}");
        }
        (Err(RouteError::BadParameter), Some((_, parameters))) => {
            assert!(!parameters.iter().all(|one| is_id(one)), "{sent}");
        }
        (Err(RouteError::UnknownParameter), Some((route, _))) => {
            assert!(!accepts(route, uri.query().unwrap_or_default()), "{sent}");
        }
        (found, serving) => panic!("{sent}: {found:?}, {}", serving.is_some()),
    }
    a_fragment_or_an_authority_says_nothing(routes, method, sent, uri);
}

/// What of an outcome can be compared.
fn shown(
    found: &Result<Match<'_>, RouteError>,
) -> Result<(u16, String, Option<String>), RouteError> {
    let found = found.clone()?;
    Ok((found.route.index, found.target.to_owned(), found.unit.map(str::to_owned)))
}

/// What stands where a template has parameters, `{*rest}` left out, if the path is of this template.
fn parameters<'a>(template: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut segments = path.split('/');
    let mut found = Vec::new();
    for piece in template.split('/') {
        let segment = segments.next()?;
        if piece.starts_with("{*") {
            return Some(found);
        }
        if piece.starts_with('{') && !segment.is_empty() {
            found.push(segment);
        } else if piece != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(found)
}

fn is_as_sent(found: &Match<'_>, sent: &str, uri: &Uri) {
    let without_fragment = sent.split('#').next().unwrap_or_default();
    // Behind an authority the path may be empty, which is the path `/` (RFC 9110 §4.2.3).
    let empty = uri.authority().is_some() && uri.path() == "/";
    assert!(found.target.starts_with('/') || empty && found.target.starts_with('?'), "{sent}");
    assert!(!found.target.contains('#'), "{sent}");
    assert!(without_fragment.ends_with(found.target) || empty && found.target == "/", "{sent}");
    if uri.authority().is_none() {
        assert_eq!(found.target, without_fragment);
    }
}

/// Whether all readers agree on the segments of a path (RFC 3986 §6.2.2).
fn is_plain(path: &str) -> bool {
    path.split('/').all(|segment| {
        let read = decoded(segment.as_bytes());
        // Decoding shortens by two octets for each escape that isn't broken.
        let escapes = segment.matches('%').count();
        let broken = read.len() + 2 * escapes != segment.len();
        let odd = |byte: &u8| matches!(byte, b'/' | b'\\') || byte.is_ascii_control();
        !broken && read != b"." && read != b".." && !read.iter().any(odd)
    })
}

/// Whether it is made of unreserved characters (RFC 3986 §2.3), and no dot segment.
fn is_id(text: &str) -> bool {
    let unreserved = |one: char| one.is_ascii_alphanumeric() || "-._~".contains(one);
    (1..=128).contains(&text.len()) && text != "." && text != ".." && text.chars().all(unreserved)
}

fn accepts(route: &unitgate::route::Route, query: &str) -> bool {
    let Some(accepted) = &route.config.query else { return true };
    let names = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next());
    names.flatten().all(|name| accepted.iter().any(|one| one == name))
}

fn a_fragment_or_an_authority_says_nothing(
    routes: &Routes,
    method: &Method,
    sent: &str,
    uri: &Uri,
) {
    let found = shown(&routes.resolve(method, uri));
    if sent.contains('#') || !sent.starts_with('/') {
        return;
    }
    let others = [format!("{sent}#a/../b?c"), format!("http://elsewhere.example:81{sent}")];
    for other in others.iter().filter_map(|other| other.parse::<Uri>().ok()) {
        assert_eq!(shown(&routes.resolve(method, &other)), found, "{other}");
    }
}

fn invalidating(method: &Method, status: StatusCode, target: &Uri, response: &HeaderMap) {
    let ended = invalidated_targets(method, status, target, response);
    if method.is_safe() || !(status.is_success() || status.is_redirection()) {
        assert!(ended.is_empty(), "{method} {status}: {ended:?}");
        return;
    }
    // Other forms of a request target are of no resource (RFC 9110 §7.1).
    let Some(own) = target.path_and_query().filter(|own| own.path().starts_with('/')) else {
        return;
    };
    let Some((first, others)) = ended.split_first() else {
        // The registry knows more safe methods than the crate `http` does.
        assert!(["PROPFIND", "QUERY", "REPORT", "SEARCH"].contains(&method.as_str()));
        return;
    };
    assert_eq!(first, own);
    // Where the target has no origin that can be compared, nothing is claimed.
    let scheme = target.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
    let place = target.authority().map(Authority::as_str);
    if place.is_some_and(|place| scheme.and_then(|scheme| origin(scheme, place)).is_none()) {
        return;
    }
    let references: Vec<&str> = [LOCATION, CONTENT_LOCATION]
        .iter()
        .filter_map(|name| std::str::from_utf8(trimmed(response.get(name)?.as_bytes())).ok())
        .collect();
    let named: Vec<Option<String>> =
        references.iter().map(|reference| resolved(target, reference)).collect();
    for other in others {
        assert!(
            named.contains(&Some(other.as_str().to_owned())),
            "{target} {references:?} {ended:?}"
        );
    }
    for (reference, named) in references.iter().zip(named) {
        // What no reference may hold needs not be understood.
        let telling = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~-?=&".contains(&byte);
        let Some(named) = named.filter(|_| reference.bytes().all(telling)) else { continue };
        assert!(
            ended.iter().any(|ended| ended.as_str() == named),
            "{target} {reference} {ended:?}"
        );
    }
}

/// Path and query of `reference` relative to `base` (RFC 3986 §5.2.2), if it is of the same origin.
fn resolved(base: &Uri, reference: &str) -> Option<String> {
    let reference = reference.split('#').next()?;
    let scheme = reference
        .find([':', '/', '?'])
        .and_then(|at| reference.split_at_checked(at))
        .filter(|(scheme, rest)| !scheme.is_empty() && rest.starts_with(':'));
    let hierarchical = scheme.map_or(reference, |(_, rest)| rest.get(1..).unwrap_or_default());
    let scheme = scheme.map(|(scheme, _)| scheme);
    let authority = hierarchical
        .strip_prefix("//")
        .map(|rest| rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())));
    let local = authority.map_or(hierarchical, |(_, local)| local);
    let (path, query) =
        local.split_once('?').map_or((local, None), |(path, query)| (path, Some(query)));
    let (path, query) = match (scheme, authority) {
        (None, None) if path.is_empty() => (base.path().to_owned(), query.or_else(|| base.query())),
        (None, None) if path.starts_with('/') => (without_dots(path), query),
        (None, None) => {
            let (folder, _) = base.path().rsplit_once('/')?;
            (without_dots(&format!("{folder}/{path}")), query)
        }
        (scheme, Some((authority, _))) => {
            let scheme = scheme.map_or_else(|| base.scheme_str(), Some)?;
            let ours = origin(base.scheme_str()?, base.authority()?.as_str())?;
            if authority.contains('@') || origin(scheme, authority)? != ours {
                return None;
            }
            (if path.is_empty() { "/".to_owned() } else { without_dots(path) }, query)
        }
        (Some(_), None) => return None,
    };
    Some(query.map_or_else(|| path.clone(), |query| format!("{path}?{query}")))
}

/// Scheme, host and port (RFC 9110 §4.3.1) in the one form that equal origins share; `None` without a host
/// (RFC 9110 §4.2.1) or with a port that is no number.
fn origin(scheme: &str, authority: &str) -> Option<(String, String, u64)> {
    let scheme = scheme.to_ascii_lowercase();
    let place = authority.rsplit('@').next()?;
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (place, ""),
    };
    let default = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port = match port {
        "" => default?,
        port if port.bytes().all(|digit| digit.is_ascii_digit()) => port.parse().ok()?,
        _ => return None,
    };
    (!host.is_empty()).then(|| (scheme, host.to_ascii_lowercase(), port))
}

/// `remove_dot_segments`, step by step as RFC 3986 §5.2.4 has it, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut output = String::new();
    let mut input = path.to_owned();
    while !input.is_empty() {
        if let Some(rest) = input.strip_prefix("/./") {
            input = format!("/{rest}");
        } else if input == "/." {
            "/".clone_into(&mut input);
        } else if let Some(rest) = input.strip_prefix("/../") {
            input = format!("/{rest}");
            output.truncate(output.rfind('/').unwrap_or(0));
        } else if input == "/.." {
            "/".clone_into(&mut input);
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input
                .bytes()
                .skip(1)
                .position(|byte| byte == b'/')
                .map_or(input.len(), |at| at + 1);
            let rest = input.split_off(end);
            output.push_str(&input);
            input = rest;
        }
    }
    output
}

/// The shipped table with a route of every other kind, without and with one that takes all that is left.
static TABLES: LazyLock<[Routes; 2]> = LazyLock::new(|| {
    let mut config = Config::default();
    let open = |name: &str, path: &str| Route {
        caller: CallerMode::Open,
        ..Route::new(name, path, "converflow")
    };
    config.routes.extend([
        Route::new("me", "/me", "chat"),
        Route::new("files", "/files/{*path}", "chat"),
        Route {
            query: Some(vec!["page".to_owned()]),
            ..Route::new("pages", "/pages/{page}", "chat")
        },
        Route { family: Some("calcom".to_owned()), ..open("open-unit", "/open/{unitId}/items") },
        Route { methods: Methods::Any, ..open("public", "/public/{*path}") },
        open("item", "/item/{id}"),
        open("plain", "/plain"),
    ]);
    let without = Routes::new(&config);
    config.routes.push(Route { methods: Methods::Any, ..open("all", "/{*path}") });
    [without, Routes::new(&config)]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_resolves_the_examples_of_the_rfc() {
        let base: Uri = "http://a/b/c/d;p?q".parse().unwrap();
        for (reference, target) in [
            ("g", "/b/c/g"),
            ("./g/", "/b/c/g/"),
            ("/g", "/g"),
            ("?y", "/b/c/d;p?y"),
            ("g?y#s", "/b/c/g?y"),
            ("", "/b/c/d;p?q"),
            (".", "/b/c/"),
            ("../..", "/"),
            ("../../../g", "/g"),
            ("/./g", "/g"),
            ("g..", "/b/c/g.."),
            ("./../g", "/b/g"),
            ("g/../h", "/b/c/h"),
            ("//A:080", "/"),
        ] {
            assert_eq!(resolved(&base, reference).as_deref(), Some(target), "{reference}");
        }
        for reference in ["//g", "http:g", "https://a/", "//a:81/", "//u@a/", "x:y"] {
            assert_eq!(resolved(&base, reference), None, "{reference}");
        }
    }
}
