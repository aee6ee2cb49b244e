//! One exchange with an upstream: who may begin it, and what is told of how it went.
//!
//! *Invariants*
//! 1. Whom the guard would refuse pays no budget and takes no place in the lane.
//! 2. A place is held until the exchange ends, or is given up.
//! 3. Who waits for a place and is not waited for any more asks nothing. What has begun is heard to its end,
//!    since a 401 ends what is stored for its token: nobody is to keep that alive by hanging up.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;

use super::Gateway;
use super::interim::Interim;
use super::landing::{Failed, Landing, TripFacts};
use crate::cache::flight::Publisher;
use crate::cache::generation::{Scope, Strength};
use crate::cache::{Invalidation, Source};
use crate::caller::CallerId;
use crate::error::Error;
use crate::limit::{LanePermit, Limiter};
use crate::telemetry::Cause;
use crate::upstream::guard::{Pass, Refused};
use crate::upstream::{Answer, Ask};

impl Gateway {
    /// One exchange with the upstream, its guard, budget and lane first, its facts recorded. `askers` are
    /// those for whom alone it is made: without any left it does not begin.
    pub(super) async fn ask(
        &self,
        route: u16,
        caller: Option<&CallerId>,
        peer: IpAddr,
        ask: Ask,
        cause: Cause,
        askers: Option<&Publisher<Landing, Arc<Interim>>>,
    ) -> Result<Answer, Failed> {
        let plan = self.plan_at(route);
        let entered = self.enter(route, caller, &ask.target);
        let (_lane, pass) = match askers {
            None => entered.await?,
            Some(askers) => tokio::select! {
                biased;
                entered = entered => entered?,
                () = askers.abandoned() => return Err(Error::TimedOut.into()),
            },
        };
        let result = self.upstreams().exchange(plan.upstream, ask).await;
        self.note_health(route, pass.and_then(|pass: Pass| pass.end(result.as_ref())));
        let trip = result.as_ref().map_or_else(|failure| &failure.trip, |answer| &answer.trip);
        self.note_trip(route, cause, trip);
        let answer = result.map_err(|failure| {
            self.note_failure(route, &failure.error);
            Failed {
                error: Error::Upstream(Arc::new(failure.error)),
                trip: Some(TripFacts::of(cause, &failure.trip)),
                sent: failure.sent,
            }
        })?;
        if answer.status.is_server_error() {
            self.metrics().upstream_errors_total.inc(usize::from(route), ANSWERED_5XX);
        }
        self.note_standing(caller, peer, answer.status);
        self.note_skew(route, &answer.fields, &answer.trip.head_at);
        Ok(answer)
    }

    /// The places that an exchange needs, waited for.
    async fn enter(
        &self,
        route: u16,
        caller: Option<&CallerId>,
        target: &[u8],
    ) -> Result<(Option<LanePermit>, Option<Pass>), Failed> {
        let (upstreams, upstream) = (self.upstreams(), self.plan_at(route).upstream);
        let refused = |refused| self.refused(route, refused);
        upstreams.look(upstream, caller).map_err(refused)?;
        let lane = match caller {
            Some(caller) => self.admit_upstream(caller).await?,
            None => None,
        };
        let pass = upstreams.enter(upstream, caller, subject(caller, target)).await;
        Ok((lane, pass.map_err(refused)?))
    }

    fn refused(&self, route: u16, refused: Refused) -> Failed {
        self.metrics().upstream_refused_total.inc(usize::from(route), refused.why.as_str());
        Error::NotAsked(refused).into()
    }

    async fn admit_upstream(&self, caller: &CallerId) -> Result<Option<LanePermit>, Error> {
        let budget = self.0.follows.limits.admit_upstream(caller, self.0.clock.mono());
        self.note_decision(Limiter::Upstream, budget.is_ok());
        budget?;
        let place = self.0.follows.limits.enter_lane(caller).await;
        self.note_decision(Limiter::Lane, place.is_ok());
        Ok(place?)
    }

    /// What an answer's status says of its token.
    fn note_standing(&self, caller: Option<&CallerId>, peer: IpAddr, status: StatusCode) {
        let Some(caller) = caller else { return };
        if status == StatusCode::UNAUTHORIZED {
            self.0.follows.limits.rejected(caller);
            self.0.follows.limits.charge_peer(peer, self.0.clock.mono());
            let scope = Scope::Caller(*caller);
            self.invalidate(&Invalidation {
                scope,
                strength: Strength::Hard,
                source: Source::Unauthorized,
            });
        } else if status.is_success() || status == StatusCode::NOT_MODIFIED {
            self.0.follows.limits.accepted(caller);
        }
    }
}

/// What an exchange is about, for the breaker. A caller's queries are all about the one path: made-up ones
/// must not count for more.
fn subject<'t>(caller: Option<&CallerId>, target: &'t [u8]) -> &'t [u8] {
    match caller {
        Some(_) => target.split(|byte| *byte == b'?').next().unwrap_or(target),
        None => target,
    }
}

/// The kind of upstream error that is an answer.
pub const ANSWERED_5XX: &str = "answered_5xx";
