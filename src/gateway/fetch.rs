//! A flight: one exchange with the upstream, masked, judged and stored, whoever is waiting for it.
//!
//! *Invariants*
//! 1. The order is fetch → mask → store → land; a new leader looks into the store first.
//! 2. A flight carries only our own validators; the client's conditions are applied to what landed.
//! 3. The leader's token and budget pay; it dies with the flight. A refresh carries the token of its key.
//! 4. A 401 drops all that was cached for its token, a 403, 404 or 410 what was cached for its key,
//!    whatever becomes of the body.
//! 5. It runs to its end under the configuration that it began under; what that shaped is stored only while
//!    it is in force.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::compose::Asking;
use super::interim::Interim;
use super::keep::{Judged, disowned};
use super::landing::{Credentials, Failed, Landed, Landing, Origin, TripFacts, Validated};
use super::plan::Plan;
use super::reply::Reply;
use super::{Asked, Gateway};
use crate::cache::flight::{Publisher, Role, Ticket};
use crate::cache::generation::{Stamp, Verdict};
use crate::cache::policy::{self, Forward, NotStored, Validators};
use crate::cache::stored::{CacheKey, KeyRef, Owner, Stored};
use crate::cache::{Held, Invalidation, Lookup, Source};
use crate::caller::{Caller, CallerId};
use crate::error::Error;
use crate::telemetry::Cause;
use crate::upstream::{Answer, Ask, Kind, OnInterim, Outbound, Sent};

/// Everything a flight needs, detached from the request that began it.
pub(super) struct Job {
    pub(super) gateway: Gateway,
    pub(super) route: u16,
    pub(super) key: CacheKey,
    pub(super) unit: Option<String>,
    pub(super) family: Option<u16>,
    /// The fields that go upstream, the token among them.
    pub(super) sent: Arc<Outbound>,
    /// The client's fields that may select a variant; none on a token route, where we made the request.
    pub(super) selecting: HeaderMap,
    pub(super) caller: Option<CallerId>,
    pub(super) token_expires: Option<Duration>,
    pub(super) prior: Option<Held>,
    pub(super) cause: Cause,
    pub(super) peer: IpAddr,
    /// Who hears of interim responses, once it is under way.
    pub(super) interim: Option<OnInterim>,
}

impl Gateway {
    /// Fetches what the cache does not have, alone or with whoever else is waiting for it.
    pub(super) async fn fetch<B>(
        &self,
        asked: Asked<'_, '_, B>,
        key: &KeyRef<'_>,
        caller: Option<&Caller<'_>>,
        prior: Option<Held>,
        why: Forward,
    ) -> Result<Reply, Error> {
        asked.account.forward = Some(why);
        self.admit_wait()?;
        let cause = if prior.is_some() { Cause::Revalidate } else { Cause::Miss };
        if asked.goes_as_head() {
            return self.head(asked, key, prior, why).await;
        }
        let ticket = self.join(self.job(&asked, key, caller, prior.clone(), cause));
        let mut role = ticket.role();
        let mut landing = self.landed(ticket, &asked).await;
        if role == Role::Joiner && landing.as_ref().is_ok_and(|landed| !landed.suits(&asked)) {
            // An open route's leader may have asked for another variant (RFC 9111 §4.1), or got an
            // answer for itself alone: fetched again without company.
            let ticket = self.alone(self.job(&asked, key, caller, prior, cause));
            role = ticket.role();
            landing = self.landed(ticket, &asked).await;
        }
        match landing {
            Ok(landed) => Ok(Reply::landed(&landed, role, why, self.0.clock.now())),
            Err(failed) if role == Role::Leader => Err(asked.account.failed(&failed)),
            Err(failed) => Err(failed.error.clone()),
        }
    }

    /// Joins the flight of a job's key, or makes the job its flight.
    pub(super) fn join(&self, job: Job) -> Ticket<Landing, Arc<Interim>> {
        let (key, made_under) = (job.key.clone(), self.plan_at(job.route).made_under);
        self.0.flights.join(key, made_under, |publisher| {
            let stamp = job.stamp();
            (stamp.clone(), Box::pin(job.run(stamp, publisher)))
        })
    }

    /// Makes the job a flight that nobody joins. No part of [`Self::fetch`], whose future would hold the job
    /// for as long as it lasts.
    fn alone(&self, job: Job) -> Ticket<Landing, Arc<Interim>> {
        let stamp = job.stamp();
        self.0.flights.alone(|publisher| Box::pin(job.run(stamp, publisher)))
    }

    /// What a flight for this request needs, the token among it: it dies with the flight.
    pub(super) fn job<B>(
        &self,
        asked: &Asked<'_, '_, B>,
        key: &KeyRef<'_>,
        caller: Option<&Caller<'_>>,
        prior: Option<Held>,
        cause: Cause,
    ) -> Job {
        let route = asked.matched.route;
        let mut sent = self.fields_sent(asked, caller);
        if route.forwards_all() {
            // The client's own conditions and range are applied to what lands.
            Validators::default().condition(sent.more());
        }
        Job {
            gateway: self.clone(),
            route: route.index,
            key: key.to_key(),
            unit: asked.matched.unit.map(str::to_owned),
            family: route.family,
            sent: Arc::new(sent),
            selecting: if route.wants_token() {
                HeaderMap::new()
            } else {
                asked.inbound.selecting().into_owned()
            },
            caller: caller.map(|caller| caller.id),
            token_expires: caller.and_then(|caller| caller.token().expires()),
            prior,
            cause,
            peer: asked.inbound.line().peer,
            interim: None,
        }
    }

    /// Ends a stored answer that its owner may not have any more.
    fn end(&self, key: &CacheKey, request: &HeaderMap) {
        if self.0.cache.end(key, request) {
            self.metrics().cache_invalidations_total.inc(Source::Gone.as_str());
        }
    }

    pub(super) fn invalidate(&self, invalidation: &Invalidation) {
        if self.0.cache.invalidate(invalidation) {
            self.metrics().cache_invalidations_total.inc(invalidation.source.as_str());
        }
    }

    #[expect(clippy::indexing_slicing, reason = "plans are made of the routes, one each, in order")]
    pub(super) fn plan_at(&self, route: u16) -> &Plan {
        &self.0.follows.plans[usize::from(route)]
    }
}

impl Job {
    /// The generations it belongs to as they stand: taken before anything is asked.
    pub(super) fn stamp(&self) -> Stamp {
        let cache = &self.gateway.0.cache;
        cache.stamp(&self.key.as_ref(), self.family, self.unit.as_deref())
    }

    /// The flight's work.
    pub(super) async fn run(
        mut self,
        stamp: Stamp,
        publisher: Publisher<Landing, Arc<Interim>>,
    ) -> Landing {
        self.interim =
            Some(self.gateway.on_interim(self.route, Credentials::of(&self.selecting), publisher));
        self.forget_voided();
        let landed = self.fetch(stamp).await;
        landed.map(Arc::new).map_err(Arc::new)
    }

    /// What was ended between the lookup and our own stamp is not brought back by a 304 about it: a bump
    /// before this look drops it, one after it voids the stamp.
    pub(super) fn forget_voided(&mut self) {
        let cache = &self.gateway.0.cache;
        self.prior = self.prior.take().filter(|prior| cache.verdict(&prior.stamp) != Verdict::Void);
    }

    async fn fetch(&self, stamp: Stamp) -> Result<Landed, Failed> {
        if let Some(stored) = self.found() {
            let shared = Held::clone(&stored);
            let (origin, kept) = (Origin::Store, Ok(()));
            let credentials = Credentials::default();
            return Ok(Landed { stored, shared, origin, kept, credentials, trip: None });
        }
        let answer = match self.validated(Method::GET).await? {
            Validated::Holds(prior, answer) => {
                return Ok(self.renew(&prior, &answer, Origin::Renewed, stamp));
            }
            Validated::Answer(answer) => answer,
        };
        let trip = self.trip(&answer);
        let status = answer.status;
        let composed = self.gateway.compose(self.route, &Asking::PLAIN_GET, answer);
        let composed =
            composed.map_err(|error| Failed { error, trip: Some(trip), sent: Sent::Maybe })?;
        Ok(self.keep(composed.judged(self, stamp), Origin::Upstream(status), trip))
    }

    /// What another flight has just stored: fresh, and so nothing needs to be asked. A reload that the
    /// client wished for (RFC 9111 §5.2.1.4) is not answered by what it already knew.
    fn found(&self) -> Option<Held> {
        let gateway = &self.gateway.0;
        let made_under = self.gateway.plan_at(self.route).made_under;
        let now = || gateway.clock.now();
        match gateway.cache.lookup(&self.key.as_ref(), &self.selecting, made_under, now) {
            Lookup::Fresh(stored)
                if self.prior.as_ref().is_none_or(|prior| !Held::ptr_eq(prior, &stored)) =>
            {
                Some(stored)
            }
            _ => None,
        }
    }

    /// What the upstream says to this method, asked with our validators.
    pub(super) async fn validated(&self, method: Method) -> Result<Validated, Failed> {
        let answer = self.ask(method.clone(), self.prior.as_deref(), self.cause).await?;
        match &self.prior {
            Some(prior) if answer.status == StatusCode::NOT_MODIFIED => {
                if policy::matches_304(prior.validators(), &answer.fields) {
                    return Ok(Validated::Holds(Held::clone(prior), answer));
                }
                // Not about what we have (RFC 9111 §4.3.4): asked again without conditions.
                self.ask(method, None, Cause::Miss).await.map(Validated::Answer)
            }
            _ => Ok(Validated::Answer(answer)),
        }
    }

    async fn ask(
        &self,
        method: Method,
        prior: Option<&Stored>,
        cause: Cause,
    ) -> Result<Answer, Failed> {
        let mut fields = Arc::clone(&self.sent);
        if let Some(prior) = prior {
            // RFC 9111 §4.3.1.
            prior.validators().condition(Arc::make_mut(&mut fields).more());
        }
        let ask = Ask {
            method,
            target: Bytes::from_owner(Target(self.key.clone())),
            fields,
            body: Bytes::new(),
            kind: Kind::Safe,
            interim: self.interim.clone(),
        };
        let answer =
            self.gateway.ask(self.route, self.caller.as_ref(), self.peer, ask, cause, None).await?;
        if matches!(answer.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE)
        {
            // Ended for good: no stale window covers a refusal.
            self.gateway.end(&self.key, &self.selecting);
        }
        Ok(answer)
    }

    /// A stored response renewed by a 304 (RFC 9111 §4.3.4), or by what HEAD said (§4.3.5).
    pub(super) fn renew(
        &self,
        prior: &Stored,
        answer: &Answer,
        origin: Origin,
        stamp: Stamp,
    ) -> Landed {
        let composed = self.gateway.renewed(self.route, prior, answer);
        self.keep(composed.judged(self, stamp), origin, self.trip(answer))
    }

    /// Keeps an answer if it may be kept; else says why, and lets go of what it supersedes.
    fn keep(&self, judged: Judged, origin: Origin, trip: TripFacts) -> Landed {
        let stored = Held::new(judged.stored);
        let shared = match judged.shareable {
            Some(fields) => Held::new(Stored { fields, ..Stored::clone(&stored) }),
            None => Held::clone(&stored),
        };
        let cache = &self.gateway.0.cache;
        let kept = judged.verdict.and_then(|()| {
            if self.gateway.plan_at(self.route).is_superseded() {
                return Err(NotStored::Superseded);
            }
            cache.store(&self.key.as_ref(), &self.selecting, &shared)
        });
        let (mut stored, mut shared) = (stored, shared);
        if let Err(reason) = kept {
            self.gateway.note_not_stored(self.route, reason);
            if stored.status().is_success() && !reason.is_of_the_request() {
                // What was stored is no longer the upstream's answer. (A voided flight says nothing of
                // what its successor may have stored, nor one for a single asker of what is for all.)
                cache.end(&self.key, &self.selecting);
            }
            // On an open route who waits may see no more of it than who would have found it stored.
            if stored.owner() != Owner::Open {
                stored = disowned(&stored);
                shared = Held::clone(&stored);
            }
        }
        let credentials = Credentials::of(&self.selecting);
        Landed { stored, shared, origin, kept, credentials, trip: Some(trip) }
    }

    pub(super) fn trip(&self, answer: &Answer) -> TripFacts {
        TripFacts::of(self.cause, &answer.trip)
    }
}

/// The target of a key, shared and not copied.
struct Target(CacheKey);

impl AsRef<[u8]> for Target {
    fn as_ref(&self) -> &[u8] {
        self.0.target().as_bytes()
    }
}
