//! Coalescing: one detached fetch per key and generation, many joiners, named endings.
//!
//! *Invariants*
//! 1. At most one flight per key can be joined; one whose generation was bumped is joined by nobody any
//!    more, and whoever comes later starts a new one.
//! 2. A flight runs to its end whoever leaves, its leader too.
//! 3. Each joiner is woken exactly once, at once: when it lands, when it panics ([`Ended::Lost`]), or
//!    when the joiner's own patience ends ([`Ended::TimedOut`]). Nobody polls.
//! 4. A flight leaves the table before its result is published: who finds no flight finds the store filled.
//!
//! *Why not moka's `get_with`:* it runs the fetch inside the first caller's future, which hyper drops when
//! that client leaves; and "insert if absent" does not fit where a stale value may be present.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::generation::{Stamp, Verdict};
use super::stored::CacheKey;
use crate::shutdown::Shutdown;

/// The flights under way. `T` is a result that this module does not know.
#[derive(Debug)]
pub struct Flights<T> {
    table: Arc<Mutex<HashMap<CacheKey, Arc<Flight<T>>>>>,
    shutdown: Shutdown,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// No flights; each will be spawned on `shutdown`, so that a drain waits for it.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { table: Arc::default(), shutdown }
    }

    /// Joins the flight of `key`, or begins one.
    ///
    /// `begin` is called for a leader only: it stamps the generations *before* anything is asked and
    /// returns the stamp with the work.
    pub fn join<W>(&self, key: CacheKey, begin: impl FnOnce() -> (Stamp, W)) -> Ticket<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut table = self.table.lock();
        if let Some(flight) = table.get(&key)
            && flight.stamp.verdict() == Verdict::Current
        {
            return Ticket { role: Role::Joiner, result: flight.result.subscribe() };
        }
        let (stamp, work) = begin();
        let flight = Arc::new(Flight { stamp, result: watch::Sender::new(None) });
        let result = flight.result.subscribe();
        table.insert(key.clone(), Arc::clone(&flight));
        drop(table);
        let mut landing = Landing { table: Arc::clone(&self.table), key, flight, landed: None };
        drop(self.shutdown.spawn(async move {
            landing.landed = Some(work.await);
            drop(landing);
        }));
        Ticket { role: Role::Leader, result }
    }

    /// Whether a flight of `key` can be joined.
    pub fn is_under_way(&self, key: &CacheKey) -> bool {
        let table = self.table.lock();
        table.get(key).is_some_and(|flight| flight.stamp.verdict() == Verdict::Current)
    }

    /// Flights under way.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A place on a flight.
#[derive(Debug)]
pub struct Ticket<T> {
    role: Role,
    result: watch::Receiver<Option<Ended<T>>>,
}

impl<T: Clone> Ticket<T> {
    /// Whether this one began the flight.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Waits for the flight to end, at most `patience`.
    pub async fn landed(mut self, patience: Duration) -> Ended<T> {
        let ended = tokio::time::timeout(patience, self.result.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(result)) => result.clone().unwrap_or(Ended::Lost),
            Ok(Err(_gone)) => Ended::Lost,
            Err(_elapsed) => Ended::TimedOut,
        }
    }
}

/// Who holds a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Began the flight; its token and its budget pay for it.
    Leader,
    /// Found it under way.
    Joiner,
}

/// How a flight ended for one joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// With a result.
    Landed(T),
    /// Its task panicked or was dropped.
    Lost,
    /// This joiner gave up; the flight goes on.
    TimedOut,
}

#[derive(Debug)]
struct Flight<T> {
    stamp: Stamp,
    result: watch::Sender<Option<Ended<T>>>,
}

/// Ends a flight however its task ends: removed first, published after.
struct Landing<T> {
    table: Arc<Mutex<HashMap<CacheKey, Arc<Flight<T>>>>>,
    key: CacheKey,
    flight: Arc<Flight<T>>,
    landed: Option<T>,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        // A successor of a newer generation may have taken the place.
        let removed = match table.get(&self.key) {
            Some(flight) if Arc::ptr_eq(flight, &self.flight) => table.remove(&self.key),
            _ => None,
        };
        drop(table);
        drop(removed);
        let ended = self.landed.take().map_or(Ended::Lost, Ended::Landed);
        self.flight.result.send_replace(Some(ended));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;
    use crate::cache::generation::{Generations, Scope, Strength};
    use crate::cache::stored::Owner;

    fn key() -> CacheKey {
        CacheKey::new(Owner::Open, 0, "/x")
    }

    async fn landed(ticket: Ticket<u32>) -> Ended<u32> {
        ticket.landed(Duration::from_mins(1)).await
    }

    #[tokio::test]
    async fn a_hundred_joiners_cost_one_fetch() {
        let flights = Flights::new(Shutdown::new());
        let fetches = Arc::new(AtomicUsize::new(0));
        let (open, gate) = oneshot::channel::<()>();
        let mut gate = Some(gate);
        let mut tickets = Vec::new();
        for _ in 0..100 {
            tickets.push(flights.join(key(), || {
                let (fetches, gate) = (Arc::clone(&fetches), gate.take().unwrap());
                (Stamp::default(), async move {
                    fetches.fetch_add(1, Ordering::SeqCst);
                    gate.await.unwrap();
                    42
                })
            }));
        }
        open.send(()).unwrap();
        for ticket in tickets {
            assert_eq!(landed(ticket).await, Ended::Landed(42));
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_leader_leaves() {
        let flights = Flights::new(Shutdown::new());
        let (open, gate) = oneshot::channel::<u32>();
        let leader = flights.join(key(), || (Stamp::default(), async { gate.await.unwrap() }));
        let joiner = flights.join(key(), || -> (Stamp, std::future::Ready<u32>) { unreachable!() });
        assert_eq!((leader.role(), joiner.role()), (Role::Leader, Role::Joiner));
        drop(leader);
        open.send(7).unwrap();
        assert_eq!(landed(joiner).await, Ended::Landed(7));
    }

    #[tokio::test]
    async fn a_panic_answers_every_joiner_and_frees_the_key() {
        let flights = Flights::new(Shutdown::new());
        let work = || (Stamp::default(), async { panic!("on purpose") });
        let leader = flights.join(key(), work);
        let joiner = flights.join(key(), work);
        assert_eq!(landed(leader).await, Ended::Lost);
        assert_eq!(landed(joiner).await, Ended::Lost);
        let next = flights.join(key(), || (Stamp::default(), async { 1 }));
        assert_eq!(landed(next).await, Ended::Landed(1));
    }

    #[tokio::test]
    async fn a_bumped_flight_is_joined_by_nobody_and_its_successor_stays() {
        let flights = Flights::new(Shutdown::new());
        let generations = Generations::default();
        let scope = Scope::Unit(0, "u".to_owned());
        let (open_old, old) = oneshot::channel::<u32>();
        let (open_new, new) = oneshot::channel::<u32>();
        let before = flights
            .join(key(), || (generations.stamp([scope.clone()]), async { old.await.unwrap() }));
        generations.bump(&scope, Strength::Soft);
        let after = flights
            .join(key(), || (generations.stamp([scope.clone()]), async { new.await.unwrap() }));
        assert_eq!(after.role(), Role::Leader);
        open_old.send(1).unwrap();
        assert_eq!(landed(before).await, Ended::Landed(1));
        assert!(
            flights.is_under_way(&key()),
            "the successor was thrown out by its predecessor's end"
        );
        open_new.send(2).unwrap();
        assert_eq!(landed(after).await, Ended::Landed(2));
    }

    #[tokio::test]
    async fn a_joiner_that_gives_up_leaves_the_flight_alone() {
        let flights = Flights::new(Shutdown::new());
        let (open, gate) = oneshot::channel::<u32>();
        let leader = flights.join(key(), || (Stamp::default(), async { gate.await.unwrap() }));
        let hasty = flights.join(key(), || -> (Stamp, std::future::Ready<u32>) { unreachable!() });
        assert_eq!(hasty.landed(Duration::ZERO).await, Ended::TimedOut);
        open.send(3).unwrap();
        assert_eq!(landed(leader).await, Ended::Landed(3));
    }
}
