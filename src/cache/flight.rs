//! Coalescing: one detached fetch per key, configuration and generation, many joiners, named endings.
//!
//! *Invariants*
//! 1. At most one flight per key and configuration can be joined; one whose generation was bumped is joined
//!    by nobody any more, and whoever comes later starts a new one.
//! 2. A flight runs to its end whoever leaves, its leader too.
//! 3. Each joiner is woken exactly once: when it lands, [some at a time](TOGETHER), when it panics ([`Ended::Lost`]),
//!    or when the joiner's own patience ends ([`Ended::TimedOut`]). Nobody polls.
//! 4. A flight leaves the table before its result is published: who finds no flight finds the store filled.
//! 5. What is published on the way reaches whoever waits, in order, also who joined after it.
//!
//! *Why not moka's `get_with`:* it runs the fetch inside the first caller's future, which hyper drops when
//! that client leaves; and "insert if absent" does not fit where a stale value may be present.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::generation::{Generations, Scope, Stamp, Verdict};
use super::stored::CacheKey;
use crate::shutdown::Shutdown;
use crate::wake::until;

/// The flights under way. `T` is a result and `I` what comes ahead of it; this module knows neither.
#[derive(Debug)]
pub struct Flights<T, I> {
    table: Arc<Table<T, I>>,
    generations: Generations,
    shutdown: Shutdown,
}

impl<T: Clone + Send + Sync + 'static, I: Clone + Send + Sync + 'static> Flights<T, I> {
    /// No flights; each will be spawned on `shutdown`, so that a drain waits for it.
    pub fn new(generations: Generations, shutdown: Shutdown) -> Self {
        Self { table: Arc::new(Table(Mutex::default())), generations, shutdown }
    }

    /// Joins the flight of `key` that was begun under the same configuration (its fingerprint, `made_under`),
    /// or begins one.
    ///
    /// `begin` is called for a leader only: it stamps the generations *before* anything is asked and
    /// returns the stamp with the work. Large work comes boxed: as a part of the task it would be there
    /// twice, before and while it is polled, and be moved as a whole each time that the task's stage changes.
    pub fn join<W>(
        &self,
        key: CacheKey,
        made_under: u64,
        begin: impl FnOnce(Publisher<T, I>) -> (Stamp, W),
    ) -> Ticket<T, I>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut table = self.table.0.lock();
        let place = match table.entry(Place { key, made_under }) {
            Entry::Occupied(flight)
                if self.generations.verdict(&flight.get().stamp) == Verdict::Current =>
            {
                return Ticket::of(Role::Joiner, &flight.get().progress);
            }
            place => place,
        };
        let progress = Arc::new(Progress::default());
        let (stamp, work) = begin(Publisher(Arc::clone(&progress)));
        let here = Some((Arc::clone(&self.table), place.key().clone()));
        place.insert_entry(Flight { stamp, progress: Arc::clone(&progress) });
        drop(table);
        self.launch(Landing { table: here, progress }, work)
    }

    /// Begins a flight that nobody can join; large work comes boxed here, too.
    pub fn alone<W>(&self, begin: impl FnOnce(Publisher<T, I>) -> W) -> Ticket<T, I>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let progress = Arc::new(Progress::default());
        let work = begin(Publisher(Arc::clone(&progress)));
        self.launch(Landing { table: None, progress }, work)
    }

    fn launch<W>(&self, mut landing: Landing<T, I>, work: W) -> Ticket<T, I>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let ticket = Ticket::of(Role::Leader, &landing.progress);
        drop(self.shutdown.spawn(async move {
            let landed = work.await;
            landing.land(landed).await;
        }));
        ticket
    }

    /// Whether a flight of `key` can be joined under a configuration.
    pub fn is_under_way(&self, key: &CacheKey, made_under: u64) -> bool {
        let table = self.table.0.lock();
        let flight = table.get(&Place { key: key.clone(), made_under });
        flight.is_some_and(|flight| self.generations.verdict(&flight.stamp) == Verdict::Current)
    }

    /// Flights under way that a bump of `scope` is about.
    pub fn count_of(&self, scope: &Scope) -> usize {
        self.table.0.lock().values().filter(|flight| flight.stamp.is_of(scope)).count()
    }

    /// Flights under way.
    pub fn len(&self) -> usize {
        self.table.0.lock().len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a flight's work tells what comes ahead of its result.
#[derive(Clone, Debug)]
pub struct Publisher<T, I>(Arc<Progress<T, I>>);

impl<T, I> Publisher<T, I> {
    /// Tells whoever waits, and whoever will; past [`MOST_AHEAD`] nothing more.
    pub fn publish(&self, ahead: I) {
        let mut news = self.0.news.lock();
        if news.ahead.len() < MOST_AHEAD {
            news.ahead.push(ahead);
            drop(news);
            self.0.told.notify_waiters();
        }
    }

    /// Resolves once nobody waits any more. Who can be joined may get company again after that.
    pub async fn abandoned(&self) {
        let tickets = &self.0.tickets;
        until(&self.0.deserted, || (tickets.load(Ordering::Acquire) == 0).then_some(())).await;
    }
}

/// A place on a flight.
#[derive(Debug)]
pub struct Ticket<T, I> {
    role: Role,
    progress: Arc<Progress<T, I>>,
}

impl<T, I> Ticket<T, I> {
    fn of(role: Role, progress: &Arc<Progress<T, I>>) -> Self {
        progress.tickets.fetch_add(1, Ordering::Relaxed);
        Self { role, progress: Arc::clone(progress) }
    }
}

impl<T: Clone, I: Clone> Ticket<T, I> {
    /// Whether this one began the flight.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Waits for the flight to end, at most `patience`; `ahead` hears what comes before that.
    pub async fn landed(self, patience: Duration, ahead: impl FnMut(I)) -> Ended<T> {
        let ended = tokio::time::timeout(patience, self.follow(ahead)).await;
        ended.unwrap_or_else(|_elapsed| {
            // It may have landed and the turn to be woken not have come.
            self.progress.news.lock().ended.clone().unwrap_or(Ended::TimedOut)
        })
    }

    async fn follow(&self, mut ahead: impl FnMut(I)) -> Ended<T> {
        let mut heard = 0;
        loop {
            let (fresh, ended) = until(&self.progress.told, || {
                let news = self.progress.news.lock();
                let fresh = news.ahead.get(heard..).unwrap_or_default();
                let any = news.ended.is_some() || !fresh.is_empty();
                any.then(|| (fresh.to_vec(), news.ended.clone()))
            })
            .await;
            heard += fresh.len();
            fresh.into_iter().for_each(&mut ahead);
            if let Some(ended) = ended {
                return ended;
            }
        }
    }
}

impl<T, I> Drop for Ticket<T, I> {
    fn drop(&mut self) {
        if self.progress.tickets.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.progress.deserted.notify_waiters();
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

/// The flights that can be joined.
#[derive(Debug)]
struct Table<T, I>(Mutex<HashMap<Place, Flight<T, I>, RandomState>>);

/// Where a flight can be joined: by whom asks for the same under the same configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    key: CacheKey,
    made_under: u64,
}

#[derive(Debug)]
struct Flight<T, I> {
    stamp: Stamp,
    progress: Arc<Progress<T, I>>,
}

/// How far a flight has come, and who waits for more.
///
/// *Why not tokio's `watch`:* each of its wakings goes through eight lists, since many threads may wait. Here
/// it is mostly one.
#[derive(Debug)]
struct Progress<T, I> {
    news: Mutex<News<T, I>>,
    /// Something is new.
    told: Notify,
    tickets: AtomicUsize,
    /// No ticket is left.
    deserted: Notify,
}

#[derive(Debug)]
struct News<T, I> {
    ahead: Vec<I>,
    ended: Option<Ended<T>>,
}

impl<T, I> Default for Progress<T, I> {
    fn default() -> Self {
        Self {
            news: Mutex::new(News { ahead: Vec::new(), ended: None }),
            told: Notify::new(),
            tickets: AtomicUsize::new(0),
            deserted: Notify::new(),
        }
    }
}

/// Ends a flight however its task ends: removed first, published after.
struct Landing<T, I> {
    /// Where it can be joined, if it can.
    table: Option<(Arc<Table<T, I>>, Place)>,
    progress: Arc<Progress<T, I>>,
}

impl<T, I> Landing<T, I> {
    /// Ends it with a result, and lets those who were woken have their turn before more are. The last are woken by
    /// the drop.
    async fn land(&mut self, landed: T) {
        self.end(Ended::Landed(landed));
        let tickets = self.progress.tickets.load(Ordering::Acquire);
        for _ in 0..tickets.saturating_sub(1) / TOGETHER {
            for _ in 0..TOGETHER {
                self.progress.told.notify_one();
            }
            yield_now().await;
        }
    }

    /// Ends it so, if it has not ended yet.
    fn end(&mut self, ended: Ended<T>) {
        if let Some((table, place)) = self.table.take() {
            let mut table = table.0.lock();
            // A successor of a newer generation may have taken the place.
            let removed = match table.entry(place) {
                Entry::Occupied(flight) if Arc::ptr_eq(&flight.get().progress, &self.progress) => {
                    Some(flight.remove_entry())
                }
                _ => None,
            };
            drop(table);
            drop(removed);
        }
        self.progress.news.lock().ended.get_or_insert(ended);
    }
}

impl<T, I> Drop for Landing<T, I> {
    fn drop(&mut self) {
        self.end(Ended::Lost);
        self.progress.told.notify_waiters();
    }
}

/// So many of those who wait for a flight are woken together. To wake 500 takes 0.1 ms, for which the first of them
/// would wait, and what was touched to wake the last has left the first-level cache when his turn comes.
const TOGETHER: usize = 32;

/// Most that a flight publishes ahead of its result: an upstream that goes on and on fills no memory.
const MOST_AHEAD: usize = 16;

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Wake, Waker};

    use tokio::sync::oneshot;

    use super::*;
    use crate::cache::generation::Strength;
    use crate::cache::stored::Owner;

    fn flights() -> Flights<u32, u8> {
        Flights::new(Generations::default(), Shutdown::new())
    }

    fn key() -> CacheKey {
        CacheKey::new(Owner::Open, 0, "/x")
    }

    async fn landed(ticket: Ticket<u32, u8>) -> Ended<u32> {
        ticket.landed(PATIENCE, |_| {}).await
    }

    const PATIENCE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_hundred_joiners_cost_one_fetch() {
        let flights = flights();
        let fetches = Arc::new(AtomicUsize::new(0));
        let (open, gate) = oneshot::channel::<()>();
        let mut gate = Some(gate);
        let mut tickets = Vec::new();
        for _ in 0..100 {
            tickets.push(flights.join(key(), 0, |_| {
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

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    type Waiting = (Pin<Box<dyn Future<Output = Ended<u32>>>>, Arc<Woken>);

    /// So many who wait for one flight, and what ends it.
    fn waiting(flights: &Flights<u32, u8>, many: usize) -> (oneshot::Sender<u32>, Vec<Waiting>) {
        let (open, gate) = oneshot::channel();
        let mut gate = Some(gate);
        let waiting = (0..many).map(|_| {
            let ticket = flights.join(key(), 0, |_| {
                let gate = gate.take().unwrap();
                (Stamp::default(), async { gate.await.unwrap() })
            });
            let (mut waits, woken) = (Box::pin(landed(ticket)), Arc::<Woken>::default());
            let waker = Waker::from(Arc::clone(&woken));
            assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            (waits as _, woken)
        });
        (open, waiting.collect())
    }

    #[tokio::test]
    async fn who_waits_is_woken_once_and_some_before_others() {
        let flights = flights();
        let (open, joiners) = waiting(&flights, 3 * TOGETHER + 1);
        open.send(42).unwrap();
        let mut steps = vec![0];
        while *steps.last().unwrap() < joiners.len() {
            yield_now().await;
            let woken = joiners.iter().map(|(_, woken)| woken.0.load(Ordering::SeqCst));
            assert!(woken.clone().all(|times| times <= 1));
            steps.push(woken.sum());
            steps.dedup();
        }
        assert_eq!(steps, [0, TOGETHER, 2 * TOGETHER, 3 * TOGETHER, joiners.len()]);
        for (waits, _) in joiners {
            assert_eq!(waits.await, Ended::Landed(42));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_landed_reaches_who_was_still_to_be_woken_when_his_patience_ended() {
        let flights = flights();
        let (open, mut joiners) = waiting(&flights, 10 * TOGETHER);
        open.send(42).unwrap();
        while joiners[0].1.0.load(Ordering::SeqCst) == 0 {
            yield_now().await;
        }
        tokio::time::advance(PATIENCE).await;
        // By its patience, not by the flight.
        let (mut last, woken) = joiners.pop().unwrap();
        assert!(flights.is_empty() && woken.0.load(Ordering::SeqCst) <= 1);
        let waker = Waker::from(woken);
        let ended = last.as_mut().poll(&mut Context::from_waker(&waker));
        assert_eq!(ended, Poll::Ready(Ended::Landed(42)));
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_leader_leaves() {
        let flights = flights();
        let (open, gate) = oneshot::channel::<u32>();
        let leader = flights.join(key(), 0, |_| (Stamp::default(), async { gate.await.unwrap() }));
        let joiner =
            flights.join(key(), 0, |_| -> (Stamp, std::future::Ready<u32>) { unreachable!() });
        assert_eq!((leader.role(), joiner.role()), (Role::Leader, Role::Joiner));
        drop(leader);
        open.send(7).unwrap();
        assert_eq!(landed(joiner).await, Ended::Landed(7));
    }

    #[tokio::test]
    async fn a_flight_is_abandoned_when_its_last_ticket_is_gone_until_somebody_joins() {
        let flights = flights();
        let mut publisher = None;
        let leader = flights.join(key(), 0, |given| {
            publisher = Some(given);
            (Stamp::default(), std::future::pending())
        });
        let publisher = publisher.unwrap();
        let is_abandoned =
            async || tokio::time::timeout(Duration::ZERO, publisher.abandoned()).await.is_ok();
        let join =
            || flights.join(key(), 0, |_| -> (Stamp, std::future::Ready<u32>) { unreachable!() });
        let joiner = join();
        let mut waited_for = std::pin::pin!(publisher.abandoned());
        assert!(tokio::time::timeout(Duration::ZERO, &mut waited_for).await.is_err());
        drop(leader);
        assert!(!is_abandoned().await);
        assert_eq!(joiner.landed(Duration::ZERO, |_| {}).await, Ended::TimedOut);
        waited_for.await;
        assert!(is_abandoned().await);
        let _joiner = join();
        assert!(!is_abandoned().await);
    }

    #[tokio::test]
    async fn a_panic_answers_every_joiner_and_frees_the_key() {
        let flights = flights();
        let work = |_| (Stamp::default(), async { panic!("on purpose") });
        let leader = flights.join(key(), 0, work);
        let joiner = flights.join(key(), 0, work);
        assert_eq!(landed(leader).await, Ended::Lost);
        assert_eq!(landed(joiner).await, Ended::Lost);
        let next = flights.join(key(), 0, |_| (Stamp::default(), async { 1 }));
        assert_eq!(landed(next).await, Ended::Landed(1));
    }

    #[tokio::test]
    async fn a_bumped_flight_is_joined_by_nobody_and_its_successor_stays() {
        let flights = flights();
        let generations = &flights.generations;
        let (scope, stamp) =
            (generations.target("/x"), || generations.stamp(None, None, None, "/x"));
        let (open_old, old) = oneshot::channel::<u32>();
        let (open_new, new) = oneshot::channel::<u32>();
        let before = flights.join(key(), 0, |_| (stamp(), async { old.await.unwrap() }));
        generations.bump(&scope, Strength::Soft);
        let after = flights.join(key(), 0, |_| (stamp(), async { new.await.unwrap() }));
        assert_eq!(after.role(), Role::Leader);
        open_old.send(1).unwrap();
        assert_eq!(landed(before).await, Ended::Landed(1));
        assert!(
            flights.is_under_way(&key(), 0),
            "the successor was thrown out by its predecessor's end"
        );
        open_new.send(2).unwrap();
        assert_eq!(landed(after).await, Ended::Landed(2));
    }

    #[tokio::test]
    async fn a_flight_of_another_configuration_is_not_joined_and_stays_where_it_is() {
        let flights = flights();
        let (open, gate) = oneshot::channel::<u32>();
        let before = flights.join(key(), 1, |_| (Stamp::default(), async { gate.await.unwrap() }));
        let after = flights.join(key(), 2, |_| (Stamp::default(), async { 2 }));
        assert_eq!(after.role(), Role::Leader);
        assert_eq!(landed(after).await, Ended::Landed(2));
        let with_before =
            flights.join(key(), 1, |_| -> (Stamp, std::future::Ready<u32>) { unreachable!() });
        open.send(1).unwrap();
        assert_eq!(landed(before).await, Ended::Landed(1));
        assert_eq!(landed(with_before).await, Ended::Landed(1));
    }

    #[tokio::test]
    async fn a_joiner_that_gives_up_leaves_the_flight_alone() {
        let flights = flights();
        let (open, gate) = oneshot::channel::<u32>();
        let leader = flights.join(key(), 0, |_| (Stamp::default(), async { gate.await.unwrap() }));
        let hasty =
            flights.join(key(), 0, |_| -> (Stamp, std::future::Ready<u32>) { unreachable!() });
        assert_eq!(hasty.landed(Duration::ZERO, |_| {}).await, Ended::TimedOut);
        open.send(3).unwrap();
        assert_eq!(landed(leader).await, Ended::Landed(3));
    }

    #[tokio::test]
    async fn what_comes_ahead_reaches_who_joined_before_and_after_in_order_and_is_bounded() {
        let flights = flights();
        let (open, gate) = oneshot::channel::<u32>();
        let mut publisher = None;
        let leader = flights.join(key(), 0, |given| {
            publisher = Some(given);
            (Stamp::default(), async { gate.await.unwrap() })
        });
        let publisher = publisher.unwrap();
        publisher.publish(1);
        let joiner =
            flights.join(key(), 0, |_| -> (Stamp, std::future::Ready<u32>) { unreachable!() });
        (2..100).for_each(|ahead| publisher.publish(ahead));
        open.send(7).unwrap();
        for ticket in [leader, joiner] {
            let mut heard = Vec::new();
            let ended = ticket.landed(Duration::from_mins(1), |ahead| heard.push(ahead)).await;
            assert_eq!(ended, Ended::Landed(7));
            assert_eq!(heard, (1..=16).collect::<Vec<u8>>());
        }
    }
}
