//! Where an upstream is, and a request as it goes there.
//!
//! *Invariant:* a target goes out byte for byte, or not at all.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;

use super::{Ask, OnInterim, SetupError};

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    pub(super) fn parse(name: &str, url: &Uri) -> Result<Self, SetupError> {
        match (url.scheme(), url.authority()) {
            (Some(scheme), Some(authority)) => {
                Ok(Self { scheme: scheme.clone(), authority: authority.clone() })
            }
            _ => Err(SetupError::Url { name: name.to_owned() }),
        }
    }

    /// The URI of `target` here; `None` when its bytes would not all go out as they are.
    pub(super) fn uri(&self, target: &Bytes) -> Option<Uri> {
        let path = PathAndQuery::from_maybe_shared(target.clone()).ok()?;
        if !target.starts_with(b"/") || path.as_str().as_bytes() != target {
            return None;
        }
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()
    }
}

/// A request as it goes out.
pub(super) fn request(ask: &Ask, uri: &Uri) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(ask.body.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = HeaderMap::clone(&ask.fields);
    // RFC 9110 §7.2, §8.6: the upstream's own Host and the length of the body really sent.
    for name in [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT] {
        request.headers_mut().remove(name);
    }
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
