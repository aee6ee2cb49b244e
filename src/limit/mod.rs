//! Admission: who may go on, who must come back later. GCRA by governor, in memory that a flood
//! cannot grow.
//!
//! Three rates, each of which can be off, and a lane:
//!
//! | limiter    | keyed by         | counts                                          | asked               |
//! |------------|------------------|-------------------------------------------------|---------------------|
//! | `peer`     | address, or /64  | requests that fail identification or earn a 401 | first of all        |
//! | `caller`   | caller and route | every request                                   | before the lookup   |
//! | `upstream` | caller           | what goes upstream, paid by a flight's leader   | inside the flight   |
//! | `lane`     | strangers as one | their exchanges in flight                       | before the exchange |
//!
//! A *stranger* is a caller that the upstream has not accepted yet, or no longer.
//!
//! *Invariants*
//! 1. A limiter that is off neither counts nor remembers.
//! 2. Guessed tokens can neither grow the state beyond its cap, nor reset a caller's bucket, nor
//!    lock out a known caller.
//! 3. Who waits as long as a refusal says is admitted, if nobody used the bucket meanwhile.
//!
//! A rate is asked `at` a moment of the monotonic clock, which its asker has read already.
//!
//! *Why not* one limiter for hits and misses: a hit costs us microseconds, a miss costs the
//! upstream an answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::caller::CallerId;
use crate::config::{self, Rate};

mod budget;
mod key;
mod lane;
mod store;
#[cfg(test)]
mod tests;

pub use budget::Quota;
pub use lane::LanePermit;

use budget::Budget;
use key::{CallerKey, PeerKey};
use lane::{Known, Lane};
use store::Buckets;

/// The limiters of a gateway.
pub struct Limits {
    callers: Arc<Buckets<CallerKey>>,
    caller: Option<Budget<CallerKey>>,
    /// By the route's number: what stands in for `caller` there.
    routes: Box<[Option<Budget<CallerKey>>]>,
    upstreams: Arc<Buckets<CallerKey>>,
    upstream: Option<Budget<CallerKey>>,
    peers: Arc<Buckets<PeerKey>>,
    peer: Option<Budget<PeerKey>>,
    lane: Option<Arc<Lane>>,
    /// What `lane` was made of.
    lane_config: Option<config::Lane>,
    known: Known,
}

impl Limits {
    /// `routes` holds by the route's number the rate that replaces `config.caller` there, also where
    /// that is off.
    pub fn new(config: &config::Limits, routes: &[Option<Rate>], at: Duration) -> Self {
        let known = Known::new(config.keys);
        let ground = Self {
            callers: Arc::new(Buckets::new(config.keys, Some(known.clone()))),
            caller: None,
            routes: Box::default(),
            upstreams: Arc::new(Buckets::new(config.keys, Some(known.clone()))),
            upstream: None,
            peers: Arc::new(Buckets::new(config.keys, None)),
            peer: None,
            lane: None,
            lane_config: None,
            known,
        };
        ground.succeeded_by(config, routes, at)
    }

    /// Other rates over the same buckets: what a caller or peer owes, and who is known, stays. The room
    /// (`config.keys`) stays what it was. A lane that was changed begins empty; who is in the old one is
    /// not counted in the new.
    #[must_use]
    pub fn succeeded_by(
        &self,
        config: &config::Limits,
        routes: &[Option<Rate>],
        at: Duration,
    ) -> Self {
        let (callers, upstreams, peers) = (&self.callers, &self.upstreams, &self.peers);
        let per_route = |rate: Rate| Budget::new(rate, Arc::clone(callers), at);
        let lane = if config.lane == self.lane_config {
            self.lane.clone()
        } else {
            config.lane.map(|lane| Arc::new(Lane::new(lane.in_flight, lane.wait)))
        };
        Self {
            caller: config.caller.map(per_route),
            routes: routes.iter().map(|rate| rate.map(per_route)).collect(),
            upstream: config
                .caller_upstream
                .map(|rate| Budget::new(rate, Arc::clone(upstreams), at)),
            peer: config.peer.map(|rate| Budget::new(rate, Arc::clone(peers), at)),
            lane,
            lane_config: config.lane,
            callers: Arc::clone(callers),
            upstreams: Arc::clone(upstreams),
            peers: Arc::clone(peers),
            known: self.known.clone(),
        }
    }

    /// Whether a peer may still try; takes nothing from it.
    ///
    /// # Errors
    /// When too many of its requests were charged. IPv6 peers are told apart by /64.
    pub fn admit_peer(&self, peer: IpAddr, at: Duration) -> Result<(), Throttled> {
        let Some(budget) = &self.peer else {
            return Ok(());
        };
        // The peer learns when to come back, not the quota: it isn't the caller's.
        budget
            .ask(peer.into(), at)
            .map(drop)
            .map_err(|quota| Throttled::new(Limiter::Peer, quota.reset, None))
    }

    /// Charges a peer for a request that failed identification or earned a 401 from the upstream.
    pub fn charge_peer(&self, peer: IpAddr, at: Duration) {
        // A bucket that is empty already can't be charged more, and refuses at the next
        // `admit_peer`.
        if let Some(budget) = &self.peer {
            budget.take(peer.into(), at).ok();
        }
    }

    /// Takes a request from the caller's bucket for this route, by its number; tells what is left, or `None` where
    /// the limiter is off.
    ///
    /// # Errors
    /// When the bucket is empty.
    pub fn admit(
        &self,
        caller: &CallerId,
        route: usize,
        at: Duration,
    ) -> Result<Option<Quota>, Throttled> {
        let budget = self.routes.get(route).and_then(Option::as_ref).or(self.caller.as_ref());
        budget
            .map(|budget| budget.take(CallerKey::new(*caller, route), at))
            .transpose()
            .map_err(refused_by(Limiter::Caller))
    }

    /// Takes an exchange with the upstream from the caller's stricter budget.
    ///
    /// # Errors
    /// When the budget is used up.
    pub fn admit_upstream(&self, caller: &CallerId, at: Duration) -> Result<(), Throttled> {
        let Some(budget) = &self.upstream else {
            return Ok(());
        };
        budget.take(CallerKey::new(*caller, 0), at).map(drop).map_err(refused_by(Limiter::Upstream))
    }

    /// A place upstream for the time of an exchange: at once and without a permit for a known
    /// caller, or where the lane is off; else one of the lane's permits.
    ///
    /// # Errors
    /// When none came free in the lane's time.
    pub async fn enter_lane(&self, caller: &CallerId) -> Result<Option<LanePermit>, Throttled> {
        // Without a lane, too: who asks is kept among the known.
        let known = self.known.recall(caller);
        let Some(lane) = self.lane.as_ref().filter(|_| !known) else {
            return Ok(None);
        };
        match lane.enter().await {
            Some(permit) => Ok(Some(permit)),
            // Accepted while it waited, by the answer to another request of its own.
            None if self.known.recall(caller) => Ok(None),
            None => Err(Throttled::new(Limiter::Lane, 1, None)),
        }
    }

    /// The upstream answered this caller otherwise than with 401: it is known from now on. Cheap to
    /// repeat.
    pub fn accepted(&self, caller: &CallerId) {
        self.known.learn(caller);
    }

    /// The upstream answered this caller with 401: it is no longer known.
    pub fn rejected(&self, caller: &CallerId) {
        self.known.forget(caller);
    }

    /// How much is remembered. For a scrape, not for the request path.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            callers: self.callers.len(),
            upstream: self.upstreams.len(),
            peers: self.peers.len(),
            known: self.known.len(),
        }
    }
}

/// A refusal: come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over the {} limit for {retry_after} s", by.as_str())]
pub struct Throttled {
    /// Who refused.
    pub by: Limiter,
    /// For `Retry-After` (RFC 9110 §10.2.3): whole seconds, rounded up, at least 1, never before
    /// the quota's reset.
    pub retry_after: u64,
    /// What the `RateLimit` fields say; `None` where the limit isn't the caller's own.
    pub quota: Option<Quota>,
}

impl Throttled {
    fn new(by: Limiter, retry_after: u64, quota: Option<Quota>) -> Self {
        Self { by, retry_after, quota }
    }
}

/// Who can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limiter {
    /// The peer's address: too many requests with bad tokens.
    Peer,
    /// The caller's rate on a route.
    Caller,
    /// The caller's stricter rate toward the upstream.
    Upstream,
    /// The lane of callers that the upstream has not accepted yet.
    Lane,
}

impl Limiter {
    /// Every limiter, in the order in which they are asked.
    pub const ALL: [Self; 4] = [Self::Peer, Self::Caller, Self::Upstream, Self::Lane];

    /// Its name in metrics, logs and the `RateLimit` fields.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Caller => "caller",
            Self::Upstream => "upstream",
            Self::Lane => "lane",
        }
    }
}

/// Keys held, by limiter; and callers known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Buckets of (caller, route).
    pub callers: usize,
    /// Buckets of callers toward the upstream.
    pub upstream: usize,
    /// Buckets of peers.
    pub peers: usize,
    /// Callers that the upstream has accepted.
    pub known: usize,
}

fn refused_by(limiter: Limiter) -> impl Fn(Quota) -> Throttled {
    move |quota| Throttled::new(limiter, quota.reset, Some(quota))
}
