//! What a write makes old (RFC 9111 §4.4), and how that is ended.
//!
//! *Invariants*
//! 1. Only a success or a redirect ends anything for good, but the write's own target, which ends too where
//!    no whole answer came; an outcome that nobody knows makes the writer's own lists stale.
//! 2. `Location` and `Content-Location` count on the same origin only: the upstream's, or the one that
//!    the client took us for.

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri};

use super::Gateway;
use super::compose::Composed;
use crate::cache::generation::{Generations, Scope, Strength};
use crate::cache::policy;
use crate::cache::{Invalidation, Source};
use crate::caller::CallerId;
use crate::upstream::Answer;

/// What a write makes old.
pub(super) struct Effect<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) route: u16,
    pub(super) caller: Option<CallerId>,
    pub(super) method: &'a Method,
    pub(super) target: &'a str,
    pub(super) host: Option<&'a str>,
    pub(super) unit: Option<&'a str>,
}

impl Effect<'_> {
    /// The targets that an answer makes old: its own, and those it names on the same origin.
    pub(super) fn targets(&self, answer: &Answer) -> Vec<PathAndQuery> {
        let mut targets: Vec<PathAndQuery> = Vec::new();
        for base in self.bases() {
            let named =
                policy::invalidated_targets(self.method, answer.status, &base, &answer.fields);
            targets.extend(named);
        }
        targets.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        targets.dedup();
        targets
    }

    /// The target as the upstream knows it, and as the client does: over TLS or not, since that may
    /// have been taken off in front of us.
    fn bases(&self) -> impl Iterator<Item = Uri> {
        let target = Bytes::copy_from_slice(self.target.as_bytes());
        let plan = self.gateway.plan_at(self.route);
        let upstream = self.gateway.0.follows.upstreams.uri(plan.upstream, &target);
        let ours = [Scheme::HTTP, Scheme::HTTPS].into_iter().filter_map(|scheme| {
            let base = Uri::builder().scheme(scheme).authority(self.host?);
            base.path_and_query(self.target).build().ok()
        });
        upstream.into_iter().chain(ours)
    }

    /// The upstream answered. `composed` is missing if its answer couldn't be proven masked.
    pub(super) fn of_answer(
        &self,
        status: StatusCode,
        targets: &[PathAndQuery],
        composed: Option<&Composed>,
    ) {
        let mut ended = false;
        for target in targets {
            ended |= self.drop_scope(self.generations().target(target.as_str()), Strength::Hard);
        }
        if status.is_server_error() {
            ended |= self.unknown();
        } else if status.is_success() || status.is_redirection() {
            ended |= self.succeeded(composed);
        }
        self.note(ended);
    }

    /// It succeeded: the units that its answer names are dropped for every caller.
    fn succeeded(&self, composed: Option<&Composed>) -> bool {
        let Some((family, member)) = self.gateway.route_at(self.route).invalidates else {
            return false;
        };
        let named = composed.map(|composed| &composed.facts);
        let mut units: Vec<&str> = named
            .into_iter()
            .flat_map(|facts| &facts.units)
            .filter(|unit| usize::from(unit.member) == member)
            .map(|unit| &*unit.id)
            .chain(self.unit)
            .collect();
        units.dedup();
        let mut ended = false;
        for unit in &units {
            ended |= self.drop_scope(self.generations().unit(Some(family), unit), Strength::Hard);
        }
        if units.is_empty() || named.is_some_and(|facts| facts.more_units) {
            // It changed something, and we can't tell what: the writer must not read its own past.
            ended |= self.drop_for_writer(family, Strength::Hard);
        }
        ended
    }

    /// No whole answer came, though it may have been a success: then its target must not be served from
    /// what is stored (RFC 9111 §4.4).
    pub(super) fn lost(&self) {
        let target = self.drop_scope(self.generations().target(self.target), Strength::Hard);
        self.note(self.unknown() || target);
    }

    /// Nobody knows whether it took effect: the writer's lists are to be asked for anew.
    fn unknown(&self) -> bool {
        let invalidates = self.gateway.route_at(self.route).invalidates;
        invalidates.is_some_and(|(family, _)| self.drop_for_writer(family, Strength::Soft))
    }

    fn drop_for_writer(&self, family: u16, strength: Strength) -> bool {
        let caller = self.caller;
        caller.is_some_and(|id| self.drop_scope(Scope::CallerFamily(id, family), strength))
    }

    fn drop_scope(&self, scope: Scope, strength: Strength) -> bool {
        let invalidation = Invalidation { scope, strength, source: Source::Write };
        self.gateway.0.cache.invalidate(&invalidation)
    }

    /// A write counts once, however much it ended.
    fn note(&self, ended: bool) {
        if ended {
            self.gateway.metrics().cache_invalidations_total.inc(Source::Write.as_str());
        }
    }

    fn generations(&self) -> &Generations {
        self.gateway.0.cache.generations()
    }
}
