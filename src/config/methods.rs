//! [`Methods`]: which methods a route serves.

use http::Method;

/// The methods that a route serves; whatever the configuration says, never `CONNECT` and `TRACE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Each one, those that nobody here has heard of included.
    Any,
    /// These.
    Listed(Vec<Method>),
}

impl Methods {
    /// Whether a request with `method` is served.
    pub fn contains(&self, method: &Method) -> bool {
        match self {
            Self::Any => *method != Method::CONNECT && *method != Method::TRACE,
            Self::Listed(listed) => listed.contains(method),
        }
    }

    /// Those that can be named: of any, the usual ones.
    pub fn named(&self) -> &[Method] {
        match self {
            Self::Any => &USUAL,
            Self::Listed(listed) => listed,
        }
    }

    /// Whether one of them may change something (RFC 9110 §9.2.1).
    pub fn write(&self) -> bool {
        self.named().iter().any(|method| !method.is_safe())
    }

    /// A method that both serve.
    pub fn shared<'a>(&'a self, other: &'a Self) -> Option<&'a Method> {
        let named = match self {
            Self::Any => other.named(),
            Self::Listed(listed) => listed,
        };
        named.iter().find(|method| self.contains(method) && other.contains(method))
    }
}

impl<const N: usize> From<[Method; N]> for Methods {
    fn from(methods: [Method; N]) -> Self {
        Self::Listed(methods.into())
    }
}

/// The methods of RFC 9110 §9.3 and RFC 5789 that can be served: each with labels of its own, and what
/// `Allow` names where any is served.
pub const USUAL: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];
