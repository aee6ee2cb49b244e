//! What several modules know of fields: [`only`] one line of one, whether it [`is_date`], and which are
//! [`HOP_BY_HOP`].

use http::header::{
    CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::numbered;

/// The field's value, unless it is absent or has several lines.
pub fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = fields.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Whether a field's value is a date (RFC 9110 §5.6.7).
pub fn is_date(value: &HeaderValue) -> bool {
    let other_form = || value.to_str().is_ok_and(|text| httpdate::parse_http_date(text).is_ok());
    numbered::read_date(value.as_bytes()).is_some() || other_form()
}

/// Fields of one connection, or of one proxy (RFC 9110 §7.6.1, RFC 9111 §3.1): they are neither passed on
/// nor stored. `Connection` may name more.
pub const HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("http2-settings"),
];
