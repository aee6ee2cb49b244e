//! What several modules know of fields: [`only`] one line of one, whether it [`is_date`], and which are
//! [`HOP_BY_HOP`].

use std::cell::Cell;

use http::header::{
    CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The field's value, unless it is absent or has several lines.
pub fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = fields.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Whether a field's value is a date (RFC 9110 §5.6.7).
pub fn is_date(value: &HeaderValue) -> bool {
    let usual: Option<[u8; USUAL_DATE]> = value.as_bytes().try_into().ok();
    if usual.is_some() && usual == LATEST.get() {
        return true;
    }
    let is_date = value.to_str().is_ok_and(|text| httpdate::parse_http_date(text).is_ok());
    if is_date && usual.is_some() {
        LATEST.set(usual);
    }
    is_date
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

thread_local! {
    /// What was last found to be a date: answers of the same second say the same.
    static LATEST: Cell<Option<[u8; USUAL_DATE]>> = const { Cell::new(None) };
}

/// The length of an IMF-fixdate (RFC 9110 §5.6.7).
const USUAL_DATE: usize = 29;
