//! [`Outbound`]: the fields of a request upstream, made for each try.
//!
//! *Why not made once and copied:* a connection keeps the fields it is given, and a copy for another try, which
//! hardly ever comes, costs as much as to make them.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue};

use super::fields::{Marks, request_for_key};

/// The fields of a request upstream, or what they are made of.
#[derive(Clone)]
pub enum Outbound {
    /// Made from a cache key and a token (`forward = "key"`).
    Key {
        /// The token's.
        authorization: Option<HeaderValue>,
        /// A write's.
        content_type: Option<HeaderValue>,
        /// What marks it on its way.
        marks: Marks,
        /// What few have.
        more: HeaderMap,
    },
    /// The client's (`forward = "all"`).
    All(HeaderMap),
}

impl Outbound {
    /// Where further fields are put, and taken away.
    pub fn more(&mut self) -> &mut HeaderMap {
        match self {
            Self::Key { more, .. } | Self::All(more) => more,
        }
    }

    /// As they go to `host`; where the protocol tells the host otherwise, to none.
    pub(super) fn toward(&self, host: Option<&HeaderValue>) -> HeaderMap {
        let mut fields = match self {
            Self::Key { authorization, content_type, marks, more } => {
                let (authorization, content_type) = (authorization.clone(), content_type.clone());
                let mut fields = request_for_key(authorization, content_type, marks);
                for (name, value) in more {
                    fields.append(name, value.clone());
                }
                fields
            }
            Self::All(fields) => {
                let mut fields = fields.clone();
                // RFC 9110 §8.6: the length of the body really sent.
                for name in [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT] {
                    fields.remove(name);
                }
                fields
            }
        };
        match host {
            Some(host) => drop(fields.insert(HOST, host.clone())),
            None => drop(fields.remove(HOST)),
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, IF_NONE_MATCH};

    use super::*;

    const HOST_NAME: HeaderValue = HeaderValue::from_static("api.test");

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_made_of_a_key_goes_to_its_host_with_what_was_added() {
        let marks = Marks {
            via: HeaderValue::from_static("1.1 me"),
            request_id: HeaderValue::from_static("id-1"),
            traceparent: None,
        };
        let authorization = Some(HeaderValue::from_static("Bearer t"));
        let made = request_for_key(authorization.clone(), None, &marks);
        let more = HeaderMap::new();
        let mut outbound = Outbound::Key { authorization, content_type: None, marks, more };
        outbound.more().insert(IF_NONE_MATCH, HeaderValue::from_static("\"a\""));
        let told = outbound.toward(Some(&HOST_NAME));
        assert_eq!(
            (&told[HOST], &told[IF_NONE_MATCH]),
            (&HOST_NAME, &HeaderValue::from_static("\"a\""))
        );
        assert!(told[AUTHORIZATION].is_sensitive());
        assert_eq!(told.len(), made.len() + 1);
        let again = outbound.toward(None);
        assert_eq!((again.len(), again.contains_key(HOST)), (made.len(), false));
    }

    #[test]
    fn what_frames_a_message_or_names_a_host_is_not_the_clients() {
        let framed =
            [("content-length", "9"), ("transfer-encoding", "chunked"), ("expect", "100-continue")];
        let fields = map(&[&framed[..], &[("host", "evil.example"), ("x-a", "1")]].concat());
        let outbound = Outbound::All(fields);
        assert_eq!(outbound.toward(None), map(&[("x-a", "1")]));
        assert_eq!(outbound.toward(Some(&HOST_NAME)), map(&[("x-a", "1"), ("host", "api.test")]));
    }
}
