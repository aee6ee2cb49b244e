//! Readers for text with a syntax of its own: addresses, URLs, path templates, names.
//!
//! *Invariants*
//! 1. A URL with user info is refused without being quoted.
//! 2. A template that passes starts with `/`, and each of its parameters is a whole segment with a
//!    name of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use http::{HeaderName, Method, Uri};
use ipnet::IpNet;

use super::fault::Fault;
use super::value::{self, Value};
use super::{AccessLog, Methods};

/// An address with its port.
pub(super) fn address(value: Value<'_>) -> Result<SocketAddr, Fault> {
    let text = value.text(ADDRESS)?;
    text.parse().ok().ok_or_else(|| {
        let problem = format!("{text:?} is no address with a port");
        Fault::new(problem, format!("write {ADDRESS}; names are not resolved here"))
    })
}

/// An address, or `"off"`.
pub(super) fn address_or_off(value: Value<'_>) -> Result<Option<SocketAddr>, Fault> {
    match value.as_text() {
        Some("off") => Ok(None),
        _ => address(value).map(Some).map_err(|fault| {
            Fault::new(fault.problem, format!("{}; or write \"off\"", fault.remedy))
        }),
    }
}

/// The name of a machine, without a port.
pub(super) fn host(value: Value<'_>) -> Result<String, Fault> {
    let wanted = "a host name in quotes and without a port, such as \"gate.internal\"";
    let text = value.text(wanted)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(fits) {
        return Err(Fault::new(format!("{text:?} is no host name"), format!("write {wanted}")));
    }
    Ok(text.to_ascii_lowercase())
}

/// A network such as `10.0.0.0/8`, or one address.
pub(super) fn network(value: Value<'_>) -> Result<IpNet, Fault> {
    let wanted = "an address or a network in quotes, such as \"10.0.0.0/8\"";
    let text = value.text(wanted)?;
    text.parse::<IpNet>()
        .or_else(|_no_network| text.parse::<IpAddr>().map(IpNet::from))
        .map(|network| network.trunc())
        .map_err(|_no_address| {
            Fault::new(format!("{text:?} is no network"), format!("write {wanted}"))
        })
}

/// The path of a file; `""` = none.
pub(super) fn path(value: Value<'_>) -> Result<Option<PathBuf>, Fault> {
    let text = value.text("the path of a file in quotes, \"\" for none")?;
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

/// A pseudonym for `Via`, a token (RFC 9110 §5.6.2); `""` = one is made up.
pub(super) fn via(value: Value<'_>) -> Result<Option<String>, Fault> {
    let wanted = "a name of up to 64 letters, digits, '-', '_' or '.', or \"\" for a random one";
    let text = value.text(wanted)?;
    let fits = text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !fits {
        return Err(Fault::new(format!("{text:?} is no such name"), format!("write {wanted}")));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A label: `[a-z0-9_-]{1,64}`, fit for metrics.
pub(super) fn label(value: Value<'_>) -> Result<String, Fault> {
    let text = value.text(LABEL)?;
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} is no such name"), format!("write {LABEL}")))
}

/// A label, or `""` for none.
pub(super) fn label_or_none(value: Value<'_>) -> Result<Option<String>, Fault> {
    match value.as_text() {
        Some("") => Ok(None),
        _ => label(value).map(Some),
    }
}

/// Whether `text` can name a route, an upstream or a family.
pub(super) fn is_label(text: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

/// A name that a member or a query parameter may have.
pub(super) fn member(value: Value<'_>) -> Result<String, Fault> {
    let wanted = "a name in quotes, not empty and without control characters";
    let text = value.text(wanted)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Fault::new(format!("{text:?} is no such name"), format!("write {wanted}")));
    }
    Ok(text.to_owned())
}

/// The name of a query parameter as it is sent: nothing is decoded.
fn parameter(value: Value<'_>) -> Result<String, Fault> {
    let text = member(value)?;
    if text.bytes().any(|byte| !byte.is_ascii_graphic() || b"&=#".contains(&byte)) {
        let problem = format!("{text:?} can't be the name of a query parameter");
        return Err(Fault::new(problem, "write it as it is sent, escapes included"));
    }
    Ok(text)
}

/// The query parameters accepted; `"any"` = all.
pub(super) fn query(value: Value<'_>) -> Result<Option<Vec<String>>, Fault> {
    match value.as_text() {
        Some("any") => Ok(None),
        _ => value::list(parameter)(value).map(Some),
    }
}

/// A name whose member is secret; letters or digits must remain once `_` and `-` are left out.
pub(super) fn secret_name(value: Value<'_>) -> Result<String, Fault> {
    let text = member(value)?;
    if text.chars().all(|character| matches!(character, '_' | '-')) {
        let problem = format!("{text:?} is empty once '_' and '-' are left out");
        return Err(Fault::new(
            problem,
            "name the member as the upstream does, such as \"apiKey\"",
        ));
    }
    Ok(text)
}

/// A method that can be served.
fn method(value: Value<'_>) -> Result<Method, Fault> {
    let wanted = "a method in capitals and quotes, such as \"GET\"";
    let text = value.text(wanted)?;
    if text == "CONNECT" || text == "TRACE" {
        let problem = format!("{text} is never served");
        return Err(Fault::new(problem, "leave it out: it is for tunnels and diagnostics"));
    }
    let method = Method::from_bytes(text.as_bytes()).ok();
    // Methods are case-sensitive (RFC 9110 §9.1): "get" would never match.
    let method = method.filter(|_| !text.bytes().any(|byte| byte.is_ascii_lowercase()));
    method
        .ok_or_else(|| Fault::new(format!("{text:?} is no such method"), format!("write {wanted}")))
}

/// The methods of a route, or `"any"`.
pub(super) fn methods(value: Value<'_>) -> Result<Methods, Fault> {
    match value.as_text() {
        Some("any") => Ok(Methods::Any),
        _ => value::filled(value::list(method))(value).map(Methods::Listed),
    }
}

/// The name of a response field.
pub(super) fn field(value: Value<'_>) -> Result<HeaderName, Fault> {
    let wanted = "the name of a response field in quotes, such as \"CDN-Cache-Control\"";
    let text = value.text(wanted)?;
    HeaderName::from_bytes(text.as_bytes())
        .ok()
        .ok_or_else(|| Fault::new(format!("{text:?} is no field name"), format!("write {wanted}")))
}

/// `"off"`, `"all"`, `"errors"` or `"1/100"`.
pub(super) fn access(value: Value<'_>) -> Result<AccessLog, Fault> {
    let wanted = "\"all\", \"errors\", \"off\", or a sample such as \"1/100\"";
    let text = value.text(wanted)?;
    let sample = |text: &str| text.strip_prefix("1/")?.parse().ok().filter(|many| *many >= 1_u32);
    match text {
        "all" => Ok(AccessLog::All),
        "errors" => Ok(AccessLog::Errors),
        "off" => Ok(AccessLog::Off),
        _ => sample(text).map(AccessLog::OneIn).ok_or_else(|| {
            Fault::new(format!("{text:?} is not known here"), format!("write {wanted}"))
        }),
    }
}

/// Scheme and authority of an upstream.
pub(super) fn url(value: Value<'_>) -> Result<Uri, Fault> {
    let text = value.text(URL)?;
    let fault =
        |problem: String| Fault::new(problem, format!("write {URL}, and nothing behind it"));
    if text.contains('@') {
        return Err(fault("a URL with user info is refused".to_owned()));
    }
    if text.contains('#') {
        return Err(fault("a URL with a fragment is refused".to_owned()));
    }
    let uri = text.parse::<Uri>().ok().ok_or_else(|| fault(format!("{text:?} is no URL")))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(fault(format!("{text:?} is no http or https URL")));
    };
    let port =
        authority.as_str() == authority.host() || uri.port_u16().is_some_and(|port| port > 0);
    if authority.host().is_empty() || !port {
        return Err(fault(format!("{text:?} has no usable host and port")));
    }
    if uri.query().is_some() {
        return Err(fault("a URL with a query is refused".to_owned()));
    }
    if uri.path() != "/" {
        return Err(fault("a URL with a path is refused: paths come from the routes".to_owned()));
    }
    let bare = Uri::builder().scheme(scheme).authority(authority.clone()).path_and_query("/");
    bare.build().ok().ok_or_else(|| fault(format!("{text:?} is no URL")))
}

/// A path template.
pub(super) fn template(value: Value<'_>) -> Result<String, Fault> {
    let text = value.text(TEMPLATE)?;
    let fault = |problem: String, remedy: &str| Err(Fault::new(problem, remedy));
    let Some(rest) = text.strip_prefix('/') else {
        return fault(format!("{text:?} does not start with '/'"), &format!("write {TEMPLATE}"));
    };
    let segments: Vec<&str> = rest.split('/').collect();
    let mut names: Vec<&str> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let last = index.saturating_add(1) == segments.len();
        match Segment::parse(segment)? {
            Segment::Literal if segment.is_empty() && !last => {
                return fault(
                    format!("{text:?} has an empty segment"),
                    "write one '/' between segments",
                );
            }
            Segment::Literal => {}
            Segment::Rest(_) if !last => {
                return fault(
                    format!("{segment:?} is not the last segment"),
                    "move it to the end, or write {name} for one segment",
                );
            }
            Segment::Parameter(name) | Segment::Rest(name) if names.contains(&name) => {
                return fault(
                    format!("the parameter {name:?} stands twice"),
                    "give each parameter a name of its own",
                );
            }
            Segment::Parameter(name) | Segment::Rest(name) => names.push(name),
        }
    }
    Ok(text.to_owned())
}

/// The names of the parameters in a template that was read.
pub(super) fn parameters(template: &str) -> impl Iterator<Item = &str> {
    template.split('/').filter_map(|segment| match Segment::parse(segment) {
        Ok(Segment::Parameter(name) | Segment::Rest(name)) => Some(name),
        _ => None,
    })
}

/// A template with its parameters' names left out: two templates of one shape match the same paths.
pub(super) fn shape(template: &str) -> String {
    let segments = template.split('/').map(|segment| match Segment::parse(segment) {
        Ok(Segment::Parameter(_)) => "{}",
        Ok(Segment::Rest(_)) => "{*}",
        _ => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// What may stand between two slashes of a template.
enum Segment<'a> {
    Literal,
    Parameter(&'a str),
    Rest(&'a str),
}

impl<'a> Segment<'a> {
    fn parse(segment: &'a str) -> Result<Self, Fault> {
        if let Some(inner) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let (rest, name) = match inner.strip_prefix('*') {
                Some(name) => (true, name),
                None => (false, inner),
            };
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(fits) {
                let problem = format!("the parameter {segment:?} has no usable name");
                return Err(Fault::new(
                    problem,
                    "name it with letters, digits and '_', as in {unitId}",
                ));
            }
            return Ok(if rest { Self::Rest(name) } else { Self::Parameter(name) });
        }
        if segment.contains(['{', '}']) {
            let problem = format!("{segment:?} is only in part a parameter");
            return Err(Fault::new(
                problem,
                "a parameter is a whole segment, as in /unit/{unitId}",
            ));
        }
        // RFC 3986 §3.3 without escapes: the target is compared as sent, so an escape in a template
        // would match one spelling of several.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        if matches!(segment, "." | "..") || !segment.bytes().all(fits) {
            let problem = format!("{segment:?} can't stand in a path here");
            return Err(Fault::new(
                problem,
                "write plain segments, without '.', '..', '?', '#' or '%'",
            ));
        }
        Ok(Self::Literal)
    }
}

const ADDRESS: &str =
    "an IP address and a port in quotes, such as \"0.0.0.0:8080\" or \"[::]:8080\"";
pub(super) const LABEL: &str = "a name of 1 to 64 lower-case letters, digits, '-' or '_' in quotes";
const URL: &str = "scheme, host and port alone, such as \"https://api.example.com\"";
const TEMPLATE: &str = "a path such as \"/unit/{unitId}\" or \"/files/{*rest}\"";
