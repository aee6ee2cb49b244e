//! What a write ends (RFC 9111 §4.4).
//!
//! *Invariants*
//! 1. Only a non-error answer, 2xx or 3xx, to a method that is not known to be safe ends anything.
//! 2. Another origin's targets are never touched, whatever `Location` says.
//! 3. Targets come out in the form requests have them: path and query, dot segments resolved, no
//!    fragment.

use http::{
    HeaderMap, Method, StatusCode, Uri,
    header::{CONTENT_LOCATION, LOCATION},
    uri::{Authority, PathAndQuery, Scheme},
};

use super::list::only_line;

/// The targets whose stored responses are ended by this answer: the request's own, and those of
/// `Location` and `Content-Location` on the same origin. Empty where it ends nothing.
///
/// `target` is the request's URI. Where it has no scheme or no authority, only relative references
/// are of the same origin.
pub fn invalidated_targets(
    method: &Method,
    status: StatusCode,
    target: &Uri,
    response: &HeaderMap,
) -> Vec<PathAndQuery> {
    if is_safe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut targets: Vec<PathAndQuery> = target.path_and_query().cloned().into_iter().collect();
    for name in [LOCATION, CONTENT_LOCATION] {
        let reference =
            only_line(response, &name).and_then(|value| std::str::from_utf8(value).ok());
        let named = reference.and_then(|reference| resolve(target, reference));
        targets.extend(named.filter(|named| !targets.contains(named)));
    }
    targets
}

/// Whether the method is known to be safe (RFC 9110 §9.2.1 and the method registry).
fn is_safe(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PROPFIND" | "QUERY" | "REPORT" | "SEARCH"
    )
}

/// Path and query of a reference relative to `base` (RFC 3986 §5.2); `None` when it is of another
/// origin or unreadable.
fn resolve(base: &Uri, reference: &str) -> Option<PathAndQuery> {
    let reference = reference.split('#').next().unwrap_or_default();
    let local = match split_authority(reference) {
        Some((scheme, authority, local)) => {
            same_origin(base, scheme, authority).then_some(local)?
        }
        None => reference,
    };
    let is_absolute = local.len() != reference.len();
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    let (path, query) = match path {
        "" if is_absolute => ("/".to_owned(), query),
        "" => (base.path().to_owned(), query.or_else(|| base.query())),
        path if path.starts_with('/') => (without_dots(path), query),
        // `mailto:` and its like; a relative path has no colon in its first segment.
        path if path.split('/').next().is_some_and(|first| first.contains(':')) => {
            return None;
        }
        path => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            (without_dots(&format!("{folder}/{path}")), query)
        }
    };
    let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    PathAndQuery::try_from(target).ok()
}

/// Splits `scheme://authority/rest` and `//authority/rest`; `None` for a reference without
/// authority.
fn split_authority(reference: &str) -> Option<(Option<&str>, &str, &str)> {
    let (scheme, rest) = reference.split_once("//")?;
    let scheme = match scheme.strip_suffix(':') {
        Some(scheme) => Some(scheme),
        None if scheme.is_empty() => None,
        None => return None,
    };
    // What looks like one further on belongs to a path or a query.
    if scheme.is_some_and(|scheme| scheme.contains(['/', '?'])) {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, local) = rest.split_at_checked(end)?;
    Some((scheme, authority, local))
}

/// Whether scheme, host and port are those of `base` (RFC 9110 §4.3.1), without case, default ports
/// written out or not.
fn same_origin(base: &Uri, scheme: Option<&str>, authority: &str) -> bool {
    let (Some(ours), Some(our_scheme)) = (base.authority(), base.scheme_str()) else {
        return false;
    };
    let scheme = scheme.unwrap_or(our_scheme);
    let Ok(theirs) = authority.parse::<Authority>() else {
        return false;
    };
    scheme.eq_ignore_ascii_case(our_scheme)
        && !authority.contains('@')
        && ours.host().eq_ignore_ascii_case(theirs.host())
        && port(ours, scheme).is_some_and(|ours| port(&theirs, scheme) == Some(ours))
}

/// The port, the scheme's own where none is written; `None` when it can't be read.
fn port(authority: &Authority, scheme: &str) -> Option<u16> {
    let (_, place) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
    let written = place.strip_prefix(authority.host())?;
    if matches!(written, "" | ":") {
        return default_port(scheme);
    }
    let digits = written.strip_prefix(':')?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case(Scheme::HTTP.as_str()) {
        Some(80)
    } else if scheme.eq_ignore_ascii_case(Scheme::HTTPS.as_str()) {
        Some(443)
    } else {
        None
    }
}

/// Resolves `.` and `..` in an absolute path (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn ended(
        method: &str,
        status: u16,
        target: &str,
        lines: &[(&'static str, &str)],
    ) -> Vec<String> {
        let mut response = HeaderMap::new();
        for (name, line) in lines {
            response.append(*name, HeaderValue::from_str(line).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        invalidated_targets(&method, status, &target.parse().unwrap(), &response)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn located(target: &str, location: &str) -> Vec<String> {
        ended("POST", 201, target, &[("location", location)])
    }

    #[test]
    fn a_successful_unsafe_method_ends_its_target() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
            assert_eq!(ended(method, 200, "/a?b", &[]), ["/a?b"], "{method}");
            assert_eq!(ended(method, 303, "/a?b", &[]), ["/a?b"], "{method}");
        }
    }

    #[test]
    fn a_failed_or_a_safe_one_ends_nothing() {
        for status in [100, 400, 404, 500, 503] {
            assert!(ended("POST", status, "/a", &[("location", "/b")]).is_empty(), "{status}");
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"] {
            assert!(ended(method, 200, "/a", &[("location", "/b")]).is_empty(), "{method}");
        }
    }

    #[test]
    fn location_and_content_location_end_theirs_once() {
        let lines = [("location", "/b"), ("content-location", "/c?d#e")];
        assert_eq!(ended("PUT", 200, "http://h/a", &lines), ["/a", "/b", "/c?d"]);
        assert_eq!(
            ended("PUT", 200, "/a", &[("location", "/a"), ("content-location", "")]),
            ["/a"]
        );
        assert_eq!(ended("PUT", 200, "/a", &[("location", "/b"), ("location", "/c")]), ["/a"]);
    }

    #[test]
    fn references_are_resolved() {
        for (location, target) in [
            ("c", "/a/c"),
            ("./c", "/a/c"),
            ("../c", "/c"),
            ("../../../c", "/c"),
            ("c/./d/../e/", "/a/c/e/"),
            ("..", "/"),
            (".", "/a/"),
            ("?x", "/a/b?x"),
            ("/x?y=a://b", "/x?y=a://b"),
            ("x?y=a://b", "/a/x?y=a://b"),
            ("c//d", "/a/c//d"),
            ("//h/c", "/c"),
            ("//h", "/"),
            ("//h?x", "/?x"),
            ("http://h/c", "/c"),
            ("HTTP://H:80/c", "/c"),
        ] {
            assert_eq!(located("http://h/a/b?q", location), ["/a/b?q", target], "{location}");
        }
    }

    #[test]
    fn another_origin_is_never_touched() {
        for location in [
            "https://h/c",
            "http://h:81/c",
            "http://other/c",
            "//other/c",
            "http://u@h/c",
            "http://h.other/c",
            "mailto:x",
            "x:y/z",
            "http://",
            "://h/c",
            "http://h/\u{7f}",
            "http://[::1/c",
        ] {
            let Ok(_) = HeaderValue::from_str(location) else {
                continue;
            };
            assert_eq!(located("http://h/a", location), ["/a"], "{location}");
        }
        assert_eq!(located("/a", "http://h/c"), ["/a"]);
    }

    proptest! {
        #[test]
        fn any_location_is_resolved_or_ignored(location in "[a-c:/.?#@%\\[\\] -]{0,20}") {
            for target in located("http://a/b/c", location.trim()) {
                prop_assert!(target.starts_with('/'), "{}", target);
                prop_assert!(!target.contains('#'));
            }
        }
    }
}
