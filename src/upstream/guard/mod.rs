//! Whether an upstream is asked at all: circuit breaker, hold-back after its 429s, places and their queue.
//!
//! *Invariants*
//! 1. A look changes nothing and costs nothing; whoever it refuses has paid no budget.
//! 2. A [`Pass`] is told how its exchange ended, or was given up: then it says nothing of the upstream.
//! 3. Nobody waits here for longer than `upstream.queue`, nor for what a breaker that opens or a 429 keeps from
//!    being asked anyway.
//! 4. Other limits take nothing back of what was heard: an open breaker stays open, who is held back stays so,
//!    and who has a place is counted.
//!
//! *Why not in the exchange itself:* who is refused must not have been counted as having asked.

mod breaker;
mod hold;
mod pace;
mod queue;
mod window;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use http::StatusCode;
use parking_lot::Mutex;

pub use self::breaker::State;
use self::breaker::{Breaker, Health, Leave};
use self::hold::{HoldBack, retry_after};
use self::pace::Pace;
use self::queue::{Place, Queue};
use self::window::Pair;
use super::{Answer, Failure, Trip, UpstreamError};
use crate::caller::CallerId;
use crate::clock::{Clock, Dice};
use crate::config;

/// What stands before one upstream.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` = everyone is let through.
    breaker: Mutex<Option<Breaker>>,
    hold: HoldBack,
    queue: Arc<Queue>,
    clock: Clock,
    dice: Dice,
    hasher: RandomState,
}

/// A refusal: the upstream was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream was not asked: {}", why.as_str())]
pub struct Refused {
    /// Why.
    pub why: Why,
    /// For `Retry-After` (RFC 9110 §10.2.3): whole seconds, rounded up, at least 1.
    pub retry_after: u64,
}

/// Why an upstream was not asked, or not again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The circuit breaker is open.
    Open,
    /// The upstream said 429, and how long to wait.
    HeldBack,
    /// As many exchanges are under way as it bears, and no place came free in time.
    Busy,
}

impl Why {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Open, Self::HeldBack, Self::Busy];

    /// The stable label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HeldBack => "held_back",
            Self::Busy => "busy",
        }
    }
}

/// What a guard can say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What the breaker is doing; one that is off is closed.
    pub breaker: State,
    /// Exchanges under way.
    pub in_flight: usize,
    /// As many as may be; `None` = any number.
    pub limit: Option<usize>,
    /// Exchanges that wait for a place.
    pub queued: usize,
}

impl Guard {
    /// One that has heard nothing yet, and remembers `callers` at most.
    pub(super) fn new(limits: &config::Upstream, callers: usize, clock: Clock, dice: Dice) -> Self {
        Self {
            breaker: Mutex::new(limits.breaker.map(|rule| Breaker::new(rule, dice.clone()))),
            hold: HoldBack::new(limits.hold_back, callers),
            queue: Arc::new(Queue::new(limits.concurrency.map(Pace::new))),
            clock,
            dice,
            hasher: RandomState::default(),
        }
    }

    /// Other limits from now on, over what was heard so far.
    pub(super) fn obey(&self, limits: &config::Upstream) {
        let now = self.clock.mono();
        let mut breaker = self.breaker.lock();
        *breaker = limits.breaker.map(|rule| match breaker.take() {
            Some(last) => last.under(rule, now),
            None => Breaker::new(rule, self.dice.clone()),
        });
        drop(breaker);
        self.hold.limit(limits.hold_back);
        self.queue.limit(limits.concurrency);
    }

    /// Whether [`Self::enter`] would refuse at once.
    ///
    /// # Errors
    /// When the breaker is open, or the upstream wants to be left alone.
    pub(super) fn look(&self, caller: Option<&CallerId>) -> Result<(), Refused> {
        let now = self.clock.mono();
        self.hold.look(caller, now).map_err(|wait| Refused::new(Why::HeldBack, wait))?;
        self.breaker.lock().as_ref().map_or(Ok(()), |breaker| {
            breaker.look(now).map_err(|wait| Refused::new(Why::Open, wait))
        })
    }

    /// Leave and a place for one exchange about `key`, waited for no longer than `wait`.
    ///
    /// # Errors
    /// When it may not be begun, now or within that time.
    pub(super) async fn enter(
        self: &Arc<Self>,
        caller: Option<&CallerId>,
        key: &[u8],
        wait: Duration,
    ) -> Result<Pass, Refused> {
        let may_wait = || self.look(caller).is_ok();
        let Ok(place) = self.queue.enter(caller.copied(), wait, may_wait).await else {
            let busy = Refused::new(Why::Busy, Duration::ZERO);
            return Err(self.look(caller).err().unwrap_or(busy));
        };
        // Much may have happened while it waited.
        let now = self.clock.mono();
        self.hold.look(caller, now).map_err(|wait| Refused::new(Why::HeldBack, wait))?;
        let leave = self.breaker.lock().as_mut().map(|breaker| breaker.admit(now)).transpose();
        let leave = leave.map_err(|wait| Refused::new(Why::Open, wait))?;
        let digest = |caller| self.hasher.hash_one(caller);
        let pair = Pair { caller: caller.map_or(0, digest), key: self.hasher.hash_one(key) };
        Ok(Pass {
            guard: Arc::clone(self),
            leave: leave.unwrap_or(Leave { probe: false }),
            caller: caller.copied(),
            pair,
            health: Health::Unknown,
            turned: None,
            _place: place,
        })
    }

    /// Sends away who waits although a 429 holds him back by now.
    fn dismiss_held(&self, caller: &CallerId, now: Duration) {
        if self.hold.look(None, now).is_err() {
            self.queue.dismiss(None);
        } else if self.hold.look(Some(caller), now).is_err() {
            self.queue.dismiss(Some(caller));
        }
    }

    /// What it says of itself.
    pub(super) fn view(&self) -> View {
        let now = self.clock.mono();
        let filling = self.queue.filling();
        View {
            breaker: self
                .breaker
                .lock()
                .as_ref()
                .map_or(State::Closed, |breaker| breaker.state(now)),
            in_flight: filling.in_flight,
            limit: filling.limit,
            queued: filling.queued,
        }
    }
}

/// Leave and place for one exchange; given back on drop.
#[derive(Debug)]
#[must_use = "it is given back when this is dropped"]
pub struct Pass {
    guard: Arc<Guard>,
    leave: Leave,
    caller: Option<CallerId>,
    pair: Pair,
    health: Health,
    turned: Option<State>,
    _place: Place,
}

impl Pass {
    /// How the exchange ended; says what the breaker turned to, if that turned it.
    pub fn end(mut self, result: Result<&Answer, &Failure>) -> Option<State> {
        let now = result.map_or_else(|failure| failure.trip.done_at, |answer| answer.trip.done_at);
        match result {
            Ok(answer) => {
                self.health = health_of(answer.status);
                let capacity = self.health == Health::Well;
                let latency = capacity.then(|| latency(&answer.trip));
                self.guard.queue.learn(latency, now);
                if let (StatusCode::TOO_MANY_REQUESTS, Some(caller)) = (answer.status, &self.caller)
                {
                    let wait = retry_after(&answer.fields, answer.trip.head_at.wall);
                    self.guard.hold.throttled(caller, wait, now);
                    self.guard.dismiss_held(caller, now);
                }
            }
            Err(failure) => {
                self.health = health_after(&failure.error);
                if failure.error.is_timeout() {
                    self.guard.queue.learn(None, now);
                }
            }
        }
        self.settle(now);
        self.turned.take()
    }

    fn settle(&mut self, now: Duration) {
        if let Some(breaker) = self.guard.breaker.lock().as_mut()
            && breaker.ended(self.leave, self.pair, self.health, now)
        {
            self.turned = Some(breaker.state(now));
        }
        // The breaker's lock is free again: who lines up takes it under the queue's.
        if self.turned == Some(State::Open) {
            self.guard.queue.dismiss(None);
        }
        // It has been told; what drops it has nothing to add.
        self.leave.probe = false;
        self.health = Health::Unknown;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.leave.probe {
            self.settle(self.guard.clock.mono());
        }
    }
}

impl Refused {
    fn new(why: Why, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        Self { why, retry_after: seconds.max(1) }
    }
}

/// From the start of the last try to the end of the head.
fn latency(trip: &Trip) -> Duration {
    trip.head_at.mono.saturating_sub(trip.requested_at.mono)
}

/// What a status says of the upstream as a whole: a plain 500 may be one unit's.
fn health_of(status: StatusCode) -> Health {
    match status.as_u16() {
        502..=504 => Health::Ill,
        _ => Health::Well,
    }
}

/// What a failure says: a broken answer may be one unit's.
fn health_after(error: &UpstreamError) -> Health {
    match error {
        UpstreamError::Resolve(_)
        | UpstreamError::Connect(_)
        | UpstreamError::Tls(_)
        | UpstreamError::ConnectTimeout
        | UpstreamError::FirstByteTimeout
        | UpstreamError::TotalTimeout => Health::Ill,
        UpstreamError::Target
        | UpstreamError::Reset
        | UpstreamError::Protocol
        | UpstreamError::Status
        | UpstreamError::TooLarge
        | UpstreamError::Memory
        | UpstreamError::TooManyFields
        | UpstreamError::Truncated
        | UpstreamError::Coding(_) => Health::Unknown,
    }
}
