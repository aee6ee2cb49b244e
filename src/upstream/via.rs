//! [`Via`]: what this instance is called, and what it puts into the field (RFC 9110 §7.6.3).

use http::{HeaderMap, HeaderValue, Version};

use super::fields;

/// The name of this instance; for requests that come without the field, it is worked out once.
#[derive(Debug)]
pub struct Via {
    name: String,
    over_http1: HeaderValue,
    over_http2: HeaderValue,
}

impl Via {
    /// Of the instance called `name`.
    pub fn of(name: &str) -> Self {
        let [over_http1, over_http2] =
            [Version::HTTP_11, Version::HTTP_2].map(|version| alone(version, name));
        Self { name: name.to_owned(), over_http1, over_http2 }
    }

    /// What the instance is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The field for a request that came in `version` without one.
    pub fn alone(&self, version: Version) -> HeaderValue {
        match version {
            Version::HTTP_11 => self.over_http1.clone(),
            Version::HTTP_2 => self.over_http2.clone(),
            other => alone(other, &self.name),
        }
    }
}

fn alone(version: Version, name: &str) -> HeaderValue {
    fields::via(&HeaderMap::new(), version, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_worked_out_is_what_would_be_made() {
        let via = Via::of("me");
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(via.alone(version), fields::via(&HeaderMap::new(), version, "me"));
        }
    }
}
