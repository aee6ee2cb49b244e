//! What of a request's framing hyper lets pass and a gateway must not (RFC 9112 §6.1).
//!
//! *Invariants*
//! 1. A request that passes is framed by `Content-Length`, by one `chunked`, or has no body.
//!
//! hyper itself answers 400 to a final coding that is not `chunked`, to any transfer coding in
//! HTTP/1.0 and to a malformed or differing `Content-Length`; of a request with both fields it drops
//! the length and closes after the answer. It looks at no coding but the last.

use http::HeaderMap;
use http::header::TRANSFER_ENCODING;

/// Why a request's framing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A transfer coding that is not known here: 501 (RFC 9112 §6.1).
    #[error("the transfer coding is not implemented")]
    NotImplemented,
    /// `chunked` twice, not last or with parameters, or a list without a coding: 400 (RFC 9112 §6.3, §7).
    #[error("the transfer coding is malformed")]
    Bad,
}

/// Checks the `Transfer-Encoding` of a request that hyper has let pass.
///
/// # Errors
/// See [`FramingError`]. The connection has to be closed after the answer, which hyper does when the
/// body is not read.
pub fn framing(fields: &HeaderMap) -> Result<(), FramingError> {
    let mut lines = fields.get_all(TRANSFER_ENCODING).iter().peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    let (mut chunked, mut last_is_chunked, mut unknown) = (0_u32, false, false);
    for line in lines {
        let line = line.to_str().map_err(|_not_ascii| FramingError::Bad)?;
        for coding in line.split(',').map(|coding| coding.trim_matches([' ', '\t'])) {
            // RFC 9110 §5.6.1.2: empty elements of a list do not count.
            if coding.is_empty() {
                continue;
            }
            let name = coding.split_once(';').map_or(coding, |(name, _)| name.trim_end());
            last_is_chunked = name.eq_ignore_ascii_case("chunked");
            if !last_is_chunked {
                unknown = true;
            } else if name == coding {
                chunked = chunked.saturating_add(1);
            } else {
                // RFC 9112 §7.1: chunked has no parameters.
                return Err(FramingError::Bad);
            }
        }
    }
    match (chunked, last_is_chunked, unknown) {
        (1, true, false) => Ok(()),
        (1, true, true) => Err(FramingError::NotImplemented),
        _ => Err(FramingError::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str]) -> Result<(), FramingError> {
        let mut request = http::Request::builder();
        for line in lines {
            request = request.header(TRANSFER_ENCODING, *line);
        }
        framing(request.body(()).unwrap().headers())
    }

    #[test]
    fn no_coding_and_a_single_chunked_pass() {
        assert_eq!(judged(&[]), Ok(()));
        for line in ["chunked", "Chunked", ", chunked ,", "\tchunked"] {
            assert_eq!(judged(&[line]), Ok(()), "{line:?}");
        }
    }

    #[test]
    fn a_coding_before_chunked_is_not_implemented() {
        for lines in [
            &["gzip, chunked"][..],
            &["gzip", "chunked"],
            &["identity, chunked"],
            &["x;a=1,chunked"],
        ] {
            assert_eq!(judged(lines), Err(FramingError::NotImplemented), "{lines:?}");
        }
    }

    #[test]
    fn chunked_twice_not_last_with_parameters_or_not_at_all_is_bad() {
        for lines in [
            &["chunked, chunked"][..],
            &["chunked", "chunked"],
            &["chunked, gzip, chunked"],
            &["chunked, gzip"],
            &["gzip"],
            &["chunked;a=1"],
            &["chunked;"],
            &[""],
            &[","],
            &["\u{e9}, chunked"],
        ] {
            assert_eq!(judged(lines), Err(FramingError::Bad), "{lines:?}");
        }
    }
}
