//! Label values that the route table and other modules bring, and which of them can occur together.
//!
//! *Invariant:* what cannot occur has no series; what can, has one from the start.

use http::Method;

use crate::cache::Status;
use crate::config::Methods;
use crate::telemetry::labels::{Cause, Label, Outcome};

/// What a route contributes to the labels; a route's index is its place in the list of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLabels {
    /// The route's name.
    pub name: String,
    /// The name of its upstream.
    pub upstream: String,
    /// The methods it serves.
    pub methods: Methods,
    /// It has a cache policy.
    pub cached: bool,
}

impl RouteLabels {
    /// The outcomes that a request with `method` can have on this route.
    pub(crate) fn outcomes(&self, method: &Method) -> impl Iterator<Item = Outcome> + use<> {
        let looked_up = self.cached && is_read(method);
        Outcome::ALL.into_iter().filter(move |outcome| match outcome {
            Outcome::Cache(Status::Forwarded) => true,
            Outcome::Cache(_) => looked_up,
            _ => true,
        })
    }

    /// The causes for which this route's upstream can be asked.
    pub(crate) fn causes(&self) -> impl Iterator<Item = Cause> + use<> {
        let methods = self.methods.named();
        let reads = methods.iter().any(is_read);
        let writes = methods.iter().any(|method| !is_read(method));
        let cached = self.cached && reads;
        Cause::ALL.iter().copied().filter(move |cause| match cause {
            Cause::Miss | Cause::Revalidate | Cause::Refresh => cached,
            Cause::Forward => reads,
            Cause::Write => writes,
            Cause::Retry => true,
        })
    }
}

/// Label values that other modules define.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Stable codes of our errors.
    pub errors: Vec<&'static str>,
    /// Kinds of upstream failure.
    pub upstream_errors: Vec<&'static str>,
    /// Reasons not to ask an upstream.
    pub upstream_refused: Vec<&'static str>,
    /// Reasons not to store.
    pub not_stored: Vec<&'static str>,
    /// Sources of an invalidation.
    pub invalidations: Vec<&'static str>,
    /// Reasons why an answer could not be proven masked.
    pub mask_failures: Vec<&'static str>,
    /// Reasons why a connection was refused or ended by us.
    pub connections_ended: Vec<&'static str>,
}

/// Methods whose answers may come from the cache (RFC 9110 §9.3.1, §9.3.2).
fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}
