//! Where an upstream is, and a request as it goes there.
//!
//! *Invariant:* a target goes out byte for byte, or not at all.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;

use super::{Ask, OnInterim, SetupError};

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// What connections are made to: no target of anybody's.
    base: Uri,
    /// Its authority without a port that the scheme implies (RFC 9110 §7.2).
    host: HeaderValue,
}

impl Origin {
    pub(super) fn parse(name: &str, url: &Uri) -> Result<Self, SetupError> {
        let of = |scheme: &Scheme, authority: &Authority| {
            let implied = if *scheme == Scheme::HTTPS { 443 } else { 80 };
            let host = match authority.port_u16().filter(|port| *port != implied) {
                Some(port) => format!("{}:{port}", authority.host()),
                None => authority.host().to_owned(),
            };
            let base = Uri::builder().scheme(scheme.clone()).authority(authority.clone());
            Some(Self { base: base.path_and_query("/").build().ok()?, host: host.try_into().ok()? })
        };
        let origin = url.scheme().zip(url.authority());
        origin
            .and_then(|(scheme, authority)| of(scheme, authority))
            .ok_or_else(|| SetupError::Url { name: name.to_owned() })
    }

    /// What connections are made to.
    pub(super) fn base(&self) -> &Uri {
        &self.base
    }

    /// The URI of `path` here.
    pub(super) fn uri(&self, path: PathAndQuery) -> Option<Uri> {
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).ok()
    }

    /// A request as it goes out; `None` where the URI would be none.
    pub(super) fn request(
        &self,
        ask: &Ask,
        path: &PathAndQuery,
        http2: bool,
    ) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        // RFC 9110 §7.2: the upstream's own. HTTP/2 tells it with the target (RFC 9113 §8.3.1).
        if http2 {
            *request.headers_mut() = ask.fields.toward(None);
            *request.uri_mut() = self.uri(path.clone())?;
        } else {
            *request.headers_mut() = ask.fields.toward(Some(&self.host));
            *request.uri_mut() = Uri::from(path.clone());
        }
        Some(said(ask, request))
    }
}

/// The path and query of `target`; `None` when its bytes would not all go out as they are.
pub(super) fn path(target: &Bytes) -> Option<PathAndQuery> {
    let path = PathAndQuery::from_maybe_shared(target.clone()).ok()?;
    (target.starts_with(b"/") && path.as_str().as_bytes() == target).then_some(path)
}

/// A request with what else is to be said of it, and who hears what comes before its answer.
fn said(ask: &Ask, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    // RFC 9110 §8.6: said where content is expected, also that there is none; hyper would not.
    if ask.body.is_empty() && matches!(ask.method, Method::POST | Method::PUT | Method::PATCH) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if let Some(OnInterim(hear)) = ask.interim.clone() {
        hyper::ext::on_informational(&mut request, move |interim| {
            if interim.status() != StatusCode::CONTINUE {
                hear(interim.status(), interim.headers());
            }
        });
    }
    request
}
