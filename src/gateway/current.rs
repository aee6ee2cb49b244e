//! [`Current`]: the gateway in force, and how one configuration follows another under traffic.
//!
//! *Invariants*
//! 1. A request, and a flight, runs to its end under the configuration that it began under: to its upstream,
//!    with its masker.
//! 2. What is stored and under way, what callers owe and who is known lives on; so do the metrics, and what was
//!    learned of an upstream that stays where it is.
//! 3. What was asked for under what a reload has changed is not stored any more once the next is in force.
//! 4. Nobody waits for a reload: the gateway in force is read without a lock.
//!
//! *Why not a lock around the configuration:* each request would write to one line of memory that all
//! threads share, as it would to count itself on one `Arc`.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::{Request, Response};
use http_body_util::Full;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::inbound::Bounds;
use super::plan::Plan;
use super::{Content, Gateway, Payload, Session, Shared};
use crate::cache::Cache;
use crate::cache::flight::Flights;
use crate::caller::Callers;
use crate::clock::{Clock, Dice};
use crate::config::{Config, Rate};
use crate::limit::Limits;
use crate::listener::Ahead;
use crate::mask::{Bodies, Masker};
use crate::route::Routes;
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;
use crate::upstream::{Upstreams, Via};

/// The gateway in force; clones share it.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Gateway>>);

/// The gateway that was in force when this was taken.
pub struct InForce(Guard<Arc<Gateway>>);

impl Deref for InForce {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.0
    }
}

impl Current {
    /// Puts the first gateway in force.
    pub fn new(gateway: Gateway) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(gateway)))
    }

    /// The gateway in force.
    pub fn load(&self) -> InForce {
        InForce(self.0.load())
    }

    /// Answers one request, which is taken apart, and leaves one record of it; interim responses go `ahead`.
    pub fn handle<B: Payload>(
        &self,
        request: &mut Request<B>,
        session: &Session,
        ahead: &Ahead,
    ) -> impl Future<Output = Response<Full<Content>>> + Send {
        // Not awaited here: a future around a future is moved once more for each request.
        Gateway::handle(self.load(), request, session, ahead)
    }

    /// Puts the next gateway in force.
    pub fn replace(&self, next: Gateway) {
        // Before it is in force: what it brings must not be replaced by what the last one asked for.
        let last: &Gateway = &self.load();
        for plan in &last.0.follows.plans {
            plan.give_way(&next.0.follows.plans);
        }
        next.upstreams().take_over();
        self.0.store(Arc::new(next));
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(…)")
    }
}

/// What a gateway is built from beside its configuration.
#[derive(Debug)]
pub struct Ground {
    /// How callers are told apart.
    pub callers: Callers,
    /// The upstreams' clients.
    pub upstreams: Arc<Upstreams>,
    /// Metrics and logs.
    pub telemetry: Arc<Telemetry>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
    /// The process's way to its end.
    pub shutdown: Shutdown,
}

impl Gateway {
    /// The gateway of a valid configuration.
    pub fn new(config: &Config, ground: Ground) -> Self {
        let Ground { callers, upstreams, telemetry, clock, dice, shutdown } = ground;
        let routes = Routes::new(config);
        let limits = Limits::new(&config.limits, &rates(&routes), clock.mono());
        let made_up = format!("unitgate-{:08x}", dice.roll() >> 32);
        let cache = Arc::new(Cache::new(config.cache.max_bytes));
        Self(Arc::new(Shared {
            follows: Follows::of(config, routes, limits, upstreams, telemetry, &made_up),
            callers,
            flights: Arc::new(Flights::new(cache.generations().clone(), shutdown.clone())),
            cache,
            bodies: Bodies::default(),
            clock,
            dice,
            shutdown,
            made_up,
            warned: Arc::new(Mutex::default()),
        }))
    }

    /// The gateway of the next configuration, over what this one has stored, counted and under way. It takes
    /// this one's place by [`Current::replace`].
    #[must_use]
    pub fn under(
        &self,
        config: &Config,
        upstreams: Arc<Upstreams>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let shared = &*self.0;
        let last = &shared.follows;
        let routes = last.routes.succeeded_by(config);
        let limits = last.limits.succeeded_by(&config.limits, &rates(&routes), shared.clock.mono());
        let made_up = shared.made_up.clone();
        let mut follows = Follows::of(config, routes, limits, upstreams, telemetry, &made_up);
        follows.follow(last);
        Self(Arc::new(Shared {
            follows,
            callers: shared.callers.clone(),
            cache: Arc::clone(&shared.cache),
            bodies: shared.bodies.clone(),
            flights: Arc::clone(&shared.flights),
            clock: shared.clock.clone(),
            dice: shared.dice.clone(),
            shutdown: shared.shutdown.clone(),
            made_up,
            warned: Arc::clone(&shared.warned),
        }))
    }

    /// The upstreams' clients.
    pub fn upstreams(&self) -> &Arc<Upstreams> {
        &self.0.follows.upstreams
    }
}

/// What follows from a configuration; all that another one replaces.
pub(super) struct Follows {
    pub(super) routes: Routes,
    pub(super) plans: Vec<Plan>,
    pub(super) limits: Limits,
    pub(super) masker: Masker,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) via: Via,
    /// Peers that are believed whom they pass on.
    pub(super) trusted: Vec<IpNet>,
    pub(super) bounds: Bounds,
    /// Most requests in flight beyond which none goes upstream.
    pub(super) requests: i64,
    pub(super) request_body: usize,
    pub(super) body_cap: usize,
    pub(super) body_time: Duration,
    pub(super) patience: Duration,
}

impl Follows {
    fn of(
        config: &Config,
        routes: Routes,
        limits: Limits,
        upstreams: Arc<Upstreams>,
        telemetry: Arc<Telemetry>,
        made_up: &str,
    ) -> Self {
        let masker = Masker::new(&config.secrets, &Routes::members(config));
        let plan = |route| Plan::of(route, config, &upstreams, masker.fingerprint());
        let lane = config.limits.lane.map_or(Duration::ZERO, |lane| lane.wait);
        Self {
            plans: routes.iter().map(plan).collect(),
            via: Via::of(config.listen.via.as_deref().unwrap_or(made_up)),
            trusted: config.listen.trusted.clone(),
            bounds: Bounds::of(&config.listen),
            requests: match config.listen.requests {
                0 => i64::MAX,
                most => i64::try_from(most).unwrap_or(i64::MAX),
            },
            request_body: config.limits.request_body,
            body_cap: config.upstream.max_body,
            body_time: config.listen.body,
            // A flight ends by its own deadlines; this is the net below them.
            patience: config.upstream.total + lane + config.upstream.queue + Duration::from_secs(1),
            routes,
            limits,
            masker,
            upstreams,
            telemetry,
        }
    }

    /// Takes over from the last what a reload leaves as it was.
    fn follow(&mut self, last: &Self) {
        // The port has these, too, and keeps them.
        self.trusted.clone_from(&last.trusted);
        self.bounds = last.bounds.with_target_of(self.bounds);
        for (route, plan) in self.routes.iter().zip(&mut self.plans) {
            let mut known = last.routes.iter().zip(&last.plans);
            if let Some((_, last)) = known.find(|(other, _)| other.id == route.id) {
                plan.follow(last);
            }
        }
    }
}

/// The rates of the routes' own, by the routes' numbers.
fn rates(routes: &Routes) -> Vec<Option<Rate>> {
    let most = routes.iter().map(|route| usize::from(route.id) + 1).max().unwrap_or_default();
    let mut rates = vec![None; most];
    for route in routes.iter() {
        if let Some(rate) = rates.get_mut(usize::from(route.id)) {
            *rate = route.config.rate;
        }
    }
    rates
}
