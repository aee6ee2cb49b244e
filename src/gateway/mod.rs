//! The request path: [`Gateway::handle`] observes, around [`Gateway::respond`], which decides.
//!
//! *Invariants*
//! 1. A request is reduced to its key before anything is asked of the upstream.
//! 2. Each request is recorded exactly once, also when its client hangs up.
//! 3. Nothing is served past its windows, nor fetched before a completed write or a 401 to whoever
//!    asks after it.
//!
//! *Why a folder:* the story is in this file; each other file is one stage of it that speaks HTTP:
//! [`plan`] (what follows from a route's configuration), [`inbound`] and [`asked`] (the request as it
//! came, and once it has found its route),
//! [`fetch`], [`exchange`] and [`landing`] (a flight, its asking, and what it brings), [`head`] (a HEAD that goes alone), [`forward`] (straight upstream), [`effect`]
//! (what a write makes old), [`compose`] and [`keep`] (an
//! upstream's answer made presentable, and judged), [`reply`], [`problem`] and [`content`] (what goes out), [`rates`] and [`values`] (fields of it),
//! [`account`] and [`observe`] (what is told of it); [`current`] (how one configuration follows another); [`session`] and [`forwarded`] (what a connection is remembered by, and whom it speaks for); [`interim`] (what comes ahead of it), [`purge`] (what operators end), [`sweep`] (what has ended by itself).
//!
//! *Why not layers:* the order of the stages is the policy; here it is the order of the lines.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::Full;
use parking_lot::Mutex;

use crate::cache::flight::Flights;
use crate::cache::generation::Verdict;
use crate::cache::policy::{self, Forward, Freshness, Reuse};
use crate::cache::stored::{KeyRef, Owner};
use crate::cache::{Cache, Held, Lookup, Sizes};
use crate::caller::{Caller, Callers};
use crate::clock::{Clock, Dice, Now};
use crate::config;
use crate::error::Error;
use crate::limit::{Limiter, Quota};
use crate::listener::Ahead;
use crate::mask::Bodies;
use crate::route::Match;
use crate::shutdown::Shutdown;
use crate::telemetry::{Cause, Telemetry};

use account::Account;
use asked::Asked;
pub use content::Content;
use current::Follows;
use inbound::{Inbound, RequestLine};
use interim::Interim;
use landing::Landing;
use reply::Reply;

mod account;
mod asked;
mod compose;
mod content;
mod current;
mod effect;
mod exchange;
mod fetch;
mod forward;
mod forwarded;
mod head;
mod inbound;
mod interim;
mod keep;
mod landing;
mod observe;
mod plan;
mod problem;
mod purge;
mod rates;
mod reply;
mod session;
mod sweep;
mod values;

pub use current::{Current, Ground, InForce};
pub use exchange::ANSWERED_5XX;
pub use inbound::Payload;
pub use observe::{reasons_not_to_ask, unproven_reasons};
pub use session::Session;

/// The gateway (RFC 9110 §3.7) under one configuration; clones share it.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gateway(…)")
    }
}

/// What the gateway is made of.
struct Shared {
    /// By value: what a hit reads of it costs no further pointer.
    follows: Follows,
    callers: Callers,
    cache: Arc<Cache>,
    bodies: Bodies,
    flights: Arc<Flights<Landing, Arc<Interim>>>,
    clock: Clock,
    dice: Dice,
    shutdown: Shutdown,
    /// The name in `Via` where none is configured.
    made_up: String,
    /// Routes, by their numbers, and reasons that were already warned of.
    warned: Arc<Mutex<HashSet<(u16, &'static str)>>>,
}

impl Gateway {
    /// Its metrics and logs.
    pub fn telemetry(&self) -> &Telemetry {
        &self.0.follows.telemetry
    }

    /// What its cache holds.
    pub fn cache_sizes(&self) -> Sizes {
        self.0.cache.sizes()
    }

    /// How many fetches are under way.
    pub fn flights(&self) -> usize {
        self.0.flights.len()
    }

    /// A connection of `peer` begins.
    pub fn session(&self, peer: IpAddr) -> Session {
        let session = Session::of(peer);
        Session { trusted: config::covers(&self.0.follows.trusted, peer), ..session }
    }

    /// Whether its masker leaves no secret in a sample of its own.
    pub fn masks_its_own_sample(&self) -> bool {
        self.0.follows.masker.self_test().is_ok()
    }

    /// Answers one request, to its end under one configuration, and leaves one record of it; interim
    /// responses go `ahead`.
    async fn handle<B: Payload>(
        in_force: InForce,
        request: &mut Request<B>,
        session: &Session,
        ahead: &Ahead,
    ) -> Response<Full<Content>> {
        let gateway: &Self = &in_force;
        let now = gateway.0.clock.now();
        let mut peer = session.peer;
        if session.trusted {
            peer = forwarded::client(request.headers(), &gateway.0.follows.trusted, peer);
        }
        let line = RequestLine::of(request, peer, now, gateway);
        let mut account = Account::new(gateway.telemetry(), line.arrival(), ahead);
        let inbound = Inbound::new(&line, request);
        let result = gateway.respond(&inbound, session, &mut account).await;
        account.note(result.as_ref().ok());
        let mut response = Response::default();
        let record = gateway.conclude(inbound, result, &account, &mut response);
        account.exchange.answered(record);
        response
    }

    /// Decides: the whole path of a request, a stage per line.
    async fn respond<B: Payload>(
        &self,
        inbound: &Inbound<'_, B>,
        session: &Session,
        account: &mut Account<'_>,
    ) -> Result<Reply, Error> {
        self.admit_peer(inbound.line())?;
        let matched = self.0.follows.routes.resolve(inbound.method(), inbound.uri());
        if let Ok(matched) = &matched {
            account.found(matched);
        }
        inbound.check(self.0.follows.via.name(), &self.0.follows.bounds)?;
        let matched = matched?;
        let caller = self.identify(inbound, session, &matched)?;
        if let Some(caller) = &caller {
            account.identified(&caller.id);
            account.quota = self.admit(caller, &matched, inbound.line().at)?;
        }
        let plan = self.plan_at(matched.route.index);
        let mut asked = Asked { inbound, matched, plan, account };
        if inbound.ends_here() {
            return Ok(self.last_recipient(&asked, caller.as_ref()));
        }
        // Boxed, all that waits for the upstream: it would make the future of every hit larger, which is
        // moved several times for each request.
        if !asked.may_be_cached() {
            let why = if inbound.is_safe_read() { Forward::Bypass } else { Forward::Method };
            return Box::pin(self.forward(asked, caller.as_ref(), why)).await;
        }
        // A request is looked up in the moment it came: reading the clocks again costs more than the rest
        // of the lookup's arithmetic.
        let (key, now) = (asked.key(caller.as_ref()), inbound.line().at);
        match self.look_up(&mut asked, &key, now)? {
            Lookup::Fresh(stored) => Ok(Reply::hit(stored, now)),
            Lookup::StaleWhileRevalidate(stored) => {
                // Who wants nothing from the upstream (RFC 9111 §5.2.1.7) makes nobody ask it.
                if !policy::only_if_cached(&asked.plan.rules, inbound.fields()) {
                    self.refresh(&asked, &key, caller.as_ref(), Held::clone(&stored));
                }
                Ok(Reply::stale(stored, now))
            }
            Lookup::Stale(stored) => {
                Box::pin(self.revalidate(asked, &key, caller.as_ref(), stored)).await
            }
            Lookup::Miss(why) => {
                Box::pin(self.fetch(asked, &key, caller.as_ref(), None, why)).await
            }
        }
    }

    /// What is there for a request that may be answered from the cache (RFC 9111 §4).
    fn look_up<B: Payload>(
        &self,
        asked: &mut Asked<'_, '_, B>,
        key: &KeyRef<'_>,
        now: Now,
    ) -> Result<Lookup, Error> {
        let found = self.0.cache.lookup(key, &asked.selecting(), asked.plan.made_under, || now);
        self.reuse(asked, found).inspect_err(|_refused| {
            asked.account.forward = Some(Forward::Request);
        })
    }

    /// What the request's own directives make of what was found; only where the route honours them.
    fn reuse<B>(&self, asked: &Asked<'_, '_, B>, found: Lookup) -> Result<Lookup, Error> {
        let rules = &asked.plan.rules;
        if !rules.request_directives {
            return Ok(found);
        }
        let fields = asked.inbound.fields();
        let (Lookup::Fresh(stored) | Lookup::StaleWhileRevalidate(stored) | Lookup::Stale(stored)) =
            &found
        else {
            return if policy::only_if_cached(rules, fields) {
                Err(Error::OnlyIfCached)
            } else {
                Ok(found)
            };
        };
        let age = stored.age(&asked.inbound.line().at);
        match policy::reuse(rules, &stored.life(), age, fields) {
            // A client may take a stale answer (RFC 9111 §5.2.1.2), but not one that a write made stale,
            // nor past what its token was last allowed.
            Reuse::Allowed => match found {
                Lookup::Stale(stored)
                    if stored.owner() == Owner::Open
                        && self.0.cache.verdict(&stored.stamp) == Verdict::Current =>
                {
                    Ok(Lookup::StaleWhileRevalidate(stored))
                }
                // Young enough, but a write or an operator made it stale.
                Lookup::Stale(_) if policy::only_if_cached(rules, fields) => {
                    Err(Error::OnlyIfCached)
                }
                other => Ok(other),
            },
            Reuse::Revalidate => Ok(Lookup::Stale(Held::clone(stored))),
            Reuse::OnlyIfCachedUnsatisfied => Err(Error::OnlyIfCached),
        }
    }

    /// Renews a stored response behind the back of whoever was just served from it (RFC 5861 §3).
    fn refresh<B>(
        &self,
        asked: &Asked<'_, '_, B>,
        key: &KeyRef<'_>,
        caller: Option<&Caller<'_>>,
        prior: Held,
    ) {
        let job = self.job(asked, key, caller, Some(prior), Cause::Refresh);
        drop(self.join(job));
    }

    /// Asks the upstream whether a stored response still holds; serves it if the error excuses that.
    async fn revalidate<B: Payload>(
        &self,
        asked: Asked<'_, '_, B>,
        key: &KeyRef<'_>,
        caller: Option<&Caller<'_>>,
        prior: Held,
    ) -> Result<Reply, Error> {
        let (selecting, made_under) = (asked.selecting(), asked.plan.made_under);
        // RFC 9211 §2.2: what is fresh goes forward by the request's own word.
        let fresh = self.0.cache.verdict(&prior.stamp) == Verdict::Current
            && prior.freshness(&self.0.clock.now()) == Freshness::Fresh;
        let why = if fresh { Forward::Request } else { Forward::Stale };
        let result = self.fetch(asked, key, caller, Some(Held::clone(&prior)), why).await;
        let excused = match &result {
            Ok(reply) => reply.is_excusable(),
            Err(error) => error.is_excusable(),
        };
        if !excused {
            return result;
        }
        // Asked again, since a 401, a write or a newer answer may have ended it meanwhile.
        let now = self.0.clock.now();
        let stands_in = |stored| Reply::stale_if_error(stored, why, result.as_ref().ok(), now);
        match self.0.cache.lookup(key, &selecting, made_under, || now) {
            Lookup::Fresh(stored) if !Held::ptr_eq(&stored, &prior) => Ok(Reply::hit(stored, now)),
            Lookup::Fresh(stored) => Ok(stands_in(stored)),
            Lookup::StaleWhileRevalidate(stored) | Lookup::Stale(stored)
                if !stored.life().stale_forbidden
                    && stored.life().stale_if_error_allows(stored.age(&now)) =>
            {
                Ok(stands_in(stored))
            }
            _ => result,
        }
    }

    fn admit_peer(&self, line: &RequestLine) -> Result<(), Error> {
        let admitted = self.0.follows.limits.admit_peer(line.peer, line.at.mono);
        self.note_decision(Limiter::Peer, admitted.is_ok());
        Ok(admitted?)
    }

    /// Who asks, where the route wants to know.
    fn identify<'a, B>(
        &self,
        inbound: &'a Inbound<'_, B>,
        session: &Session,
        matched: &Match<'_>,
    ) -> Result<Option<Caller<'a>>, Error> {
        if !matched.route.wants_token() {
            return Ok(None);
        }
        let caller = self.0.callers.identify(inbound.fields(), &session.last_caller);
        if caller.is_err() {
            self.0.follows.limits.charge_peer(inbound.line().peer, inbound.line().at.mono);
        }
        Ok(Some(caller?))
    }

    /// Whether one more request may wait for the upstream. Hits never ask.
    fn admit_wait(&self) -> Result<(), Error> {
        let in_flight = self.metrics().requests_in_flight.get();
        if in_flight > self.0.follows.requests { Err(Error::Overloaded) } else { Ok(()) }
    }

    fn admit(
        &self,
        caller: &Caller<'_>,
        matched: &Match<'_>,
        now: Now,
    ) -> Result<Option<Quota>, Error> {
        let route = usize::from(matched.route.id);
        let admitted = self.0.follows.limits.admit(&caller.id, route, now.mono);
        self.note_decision(Limiter::Caller, admitted.is_ok());
        Ok(admitted?)
    }
}
