//! Places toward one upstream, and the queue for them: callers take turns.
//!
//! *Invariants*
//! 1. No more places are out than the pace allows when one is given; each comes back when it is dropped,
//!    also by a fetch that was given up.
//! 2. Who waits is served by turns among callers, and in order of arrival within one.
//! 3. Who waits for what will be refused anyway is sent away when that is known, and not at its turn.
//! 4. At most [`MOST_WAITING`] wait. When all are taken, a newcomer takes the place of the latest of
//!    whoever has the most, unless that would be no fairer.
//!
//! *Why not* a semaphore: it serves in order of arrival, so that who asks a thousand times at once makes
//! everyone else wait for all thousand.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::pace::Pace;
use crate::caller::CallerId;
use crate::config;

/// The places of one upstream.
#[derive(Debug)]
pub(super) struct Queue(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    pace: Option<Pace>,
    in_flight: usize,
    queued: usize,
    /// Who waits, by caller; none is empty.
    lines: HashMap<Option<CallerId>, VecDeque<Waiting>>,
    /// The callers that wait, in the order of their turns.
    turns: VecDeque<Option<CallerId>>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    call: oneshot::Sender<()>,
}

/// No place came free in time, or none will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// How many places are out, how many there are, and how many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    pub(super) in_flight: usize,
    /// `None` = without limit.
    pub(super) limit: Option<usize>,
    pub(super) queued: usize,
}

impl Queue {
    /// Without a pace, everyone gets a place at once.
    pub(super) fn new(pace: Option<Pace>) -> Self {
        Self(Mutex::new(Inner {
            pace,
            in_flight: 0,
            queued: 0,
            lines: HashMap::new(),
            turns: VecDeque::new(),
            next: 0,
        }))
    }

    /// A place, waited for no longer than `wait`, and only by who `may_wait`: asked under the queue's lock, so
    /// that nobody lines up between a change of mind and [`Self::dismiss`].
    pub(super) async fn enter(
        self: &Arc<Self>,
        caller: Option<CallerId>,
        wait: Duration,
        may_wait: impl FnOnce() -> bool,
    ) -> Result<Place, Full> {
        let mut ticket = {
            let mut inner = self.0.lock();
            if inner.queued == 0 && inner.has_room() {
                inner.in_flight += 1;
                return Ok(Place(Arc::clone(self)));
            }
            if wait.is_zero() || !may_wait() {
                return Err(Full);
            }
            let (number, heard) = inner.line_up(caller).ok_or(Full)?;
            Ticket { queue: self, caller, number, heard }
        };
        match timeout(wait, &mut ticket.heard).await {
            Ok(Ok(())) => Ok(Place(Arc::clone(self))),
            // Too late, sent away, or another caller needed the place in the queue more.
            Ok(Err(_)) | Err(_) => Err(Full),
        }
    }

    /// Sends away who waits: this caller, or everyone.
    pub(super) fn dismiss(&self, caller: Option<&CallerId>) {
        let mut inner = self.0.lock();
        let Some(caller) = caller.copied().map(Some) else {
            (inner.lines, inner.turns, inner.queued) = Default::default();
            return;
        };
        let line = inner.lines.remove(&caller).unwrap_or_default();
        inner.turns.retain(|turn| *turn != caller);
        inner.queued -= line.len();
    }

    /// Other bounds of the pace, or none: who waits learns of it at once, who has a place keeps it.
    pub(super) fn limit(&self, bounds: Option<config::Concurrency>) {
        let mut inner = self.0.lock();
        inner.pace = bounds.map(|bounds| match inner.pace.take() {
            Some(last) => last.within(bounds),
            None => Pace::new(bounds),
        });
        inner.call();
    }

    /// What an exchange says of the upstream's pace; its place is still out.
    pub(super) fn learn(&self, latency: Option<Duration>, now: Duration) {
        let mut inner = self.0.lock();
        let in_flight = inner.in_flight;
        if let Some(pace) = &mut inner.pace {
            pace.ended(latency, in_flight, now);
        }
    }

    /// How full it is.
    pub(super) fn filling(&self) -> Filling {
        let inner = self.0.lock();
        Filling {
            in_flight: inner.in_flight,
            limit: inner.pace.as_ref().map(Pace::limit),
            queued: inner.queued,
        }
    }
}

impl Inner {
    fn has_room(&self) -> bool {
        self.pace.as_ref().is_none_or(|pace| self.in_flight < pace.limit())
    }

    /// A place at the end of the caller's line; `None` if there is none.
    fn line_up(&mut self, caller: Option<CallerId>) -> Option<(u64, oneshot::Receiver<()>)> {
        if self.queued >= MOST_WAITING {
            let own = self.lines.get(&caller).map_or(0, VecDeque::len);
            let longest = self.lines.iter().max_by_key(|(_, line)| line.len());
            let (longest, last) = longest.and_then(|(who, line)| {
                (line.len() > own + 1).then_some((*who, line.back()?.number))
            })?;
            self.step_out(longest, last);
        }
        let (call, heard) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        let line = self.lines.entry(caller).or_default();
        if line.is_empty() {
            self.turns.push_back(caller);
        }
        line.push_back(Waiting { number, call });
        self.queued += 1;
        Some((number, heard))
    }

    /// Takes somebody out of the queue; says whether he was there.
    fn step_out(&mut self, caller: Option<CallerId>, number: u64) -> bool {
        let Some(line) = self.lines.get_mut(&caller) else { return false };
        let Ok(at) = line.binary_search_by_key(&number, |waiting| waiting.number) else {
            return false;
        };
        line.remove(at);
        if line.is_empty() {
            self.lines.remove(&caller);
            self.turns.retain(|turn| *turn != caller);
        }
        self.queued -= 1;
        true
    }

    /// Gives what is free to whose turn it is.
    fn call(&mut self) {
        while self.has_room() {
            let Some(caller) = self.turns.pop_front() else { return };
            let Some(line) = self.lines.get_mut(&caller) else { continue };
            let first = line.pop_front();
            if line.is_empty() {
                self.lines.remove(&caller);
            } else {
                self.turns.push_back(caller);
            }
            if let Some(first) = first {
                self.queued -= 1;
                // Who gave up has stepped out before its receiver was dropped.
                if first.call.send(()).is_ok() {
                    self.in_flight += 1;
                }
            }
        }
    }
}

/// The right to one exchange; given back on drop.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub(super) struct Place(Arc<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.0.0.lock();
        inner.in_flight -= 1;
        inner.call();
    }
}

/// A place in the queue.
struct Ticket<'q> {
    queue: &'q Arc<Queue>,
    caller: Option<CallerId>,
    number: u64,
    heard: oneshot::Receiver<()>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut inner = self.queue.0.lock();
        // Called, and gone before it heard: the place goes to the next.
        if !inner.step_out(self.caller, self.number) && self.heard.try_recv().is_ok() {
            inner.in_flight -= 1;
            inner.call();
        }
    }
}

/// Most who wait for one upstream at once, so that fetches nobody waits for any more can't pile up.
const MOST_WAITING: usize = 2_048;

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn queue(places: usize) -> Arc<Queue> {
        let bounds = config::Concurrency { least: places, most: places };
        Arc::new(Queue::new(Some(Pace::new(bounds))))
    }

    fn caller(n: u8) -> CallerId {
        CallerId::from_bytes([n; 32])
    }

    type Wait<'q> = Pin<Box<dyn Future<Output = Result<Place, Full>> + 'q>>;

    fn line_up(queue: &Arc<Queue>, who: u8) -> Wait<'_> {
        let mut wait: Wait<'_> = Box::pin(queue.enter(Some(caller(who)), LONG, || true));
        assert!(poll(&mut wait).is_none(), "it did not have to wait");
        wait
    }

    fn poll(wait: &mut Wait<'_>) -> Option<Result<Place, Full>> {
        match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn at_once(queue: &Arc<Queue>) -> Option<Place> {
        let wait = pin!(queue.enter(Some(caller(0)), Duration::ZERO, || true));
        match wait.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.ok(),
            Poll::Pending => unreachable!("nobody waits for no time"),
        }
    }

    fn counts(queue: &Arc<Queue>) -> (usize, usize) {
        let filling = queue.filling();
        (filling.in_flight, filling.queued)
    }

    #[tokio::test]
    async fn no_more_places_are_out_than_there_are_and_each_comes_back() {
        let queue = queue(2);
        let (first, second) = (at_once(&queue).unwrap(), at_once(&queue).unwrap());
        assert!(at_once(&queue).is_none());
        drop(first);
        assert!(at_once(&queue).is_some());
        drop(second);
        assert_eq!(counts(&queue), (0, 0));
    }

    #[tokio::test]
    async fn callers_take_turns_whoever_asked_how_often() {
        let queue = queue(1);
        let mut out = at_once(&queue).unwrap();
        let mut waits: Vec<(u8, Wait<'_>)> =
            [1, 1, 1, 1, 2, 3, 2].map(|who| (who, line_up(&queue, who))).into();
        let mut served = Vec::new();
        while !waits.is_empty() {
            drop(out);
            let found = waits
                .iter_mut()
                .enumerate()
                .find_map(|(at, (who, wait))| poll(wait).map(|result| (at, *who, result.unwrap())));
            let (at, who, place) = found.expect("somebody is called");
            drop(waits.remove(at));
            served.push(who);
            out = place;
        }
        assert_eq!(served, [1, 2, 3, 1, 2, 1, 1]);
    }

    #[tokio::test]
    async fn who_gives_up_holds_up_nobody_also_when_just_called() {
        let queue = queue(1);
        let out = at_once(&queue).unwrap();
        let (gone, called, mut next) = (line_up(&queue, 1), line_up(&queue, 1), line_up(&queue, 2));
        drop(gone);
        assert_eq!(counts(&queue), (1, 2));
        drop(out);
        // The first in turn was called and leaves without having heard.
        drop(called);
        let place = poll(&mut next).unwrap().unwrap();
        assert_eq!(counts(&queue), (1, 0));
        drop((next, place));
        assert_eq!(counts(&queue), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_longer_than_the_wait() {
        let queue = queue(1);
        let out = at_once(&queue).unwrap();
        let began = tokio::time::Instant::now();
        let refused = queue.enter(Some(caller(1)), Duration::from_secs(3), || true).await;
        assert_eq!(refused.err(), Some(Full));
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        assert_eq!(counts(&queue), (1, 0));
        drop(out);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_sent_away_at_once_and_lines_up_no_more() {
        let queue = queue(1);
        let out = at_once(&queue).unwrap();
        let [mut one, mut same, mut other] = [1, 1, 2].map(|who| line_up(&queue, who));
        queue.dismiss(Some(&caller(1)));
        for wait in [&mut one, &mut same] {
            assert_eq!(poll(wait).unwrap().err(), Some(Full));
        }
        assert_eq!((poll(&mut other).is_none(), counts(&queue)), (true, (1, 1)));
        queue.dismiss(None);
        assert_eq!(poll(&mut other).unwrap().err(), Some(Full));
        let mut in_vain: Wait<'_> = Box::pin(queue.enter(Some(caller(3)), LONG, || false));
        assert_eq!(poll(&mut in_vain).unwrap().err(), Some(Full));
        let mut later = line_up(&queue, 1);
        drop((one, same, other, out));
        assert!(poll(&mut later).unwrap().is_ok(), "those who were sent away hold nobody up");
    }

    #[tokio::test]
    async fn a_full_queue_is_shared_with_who_has_less_of_it() {
        let queue = queue(1);
        let out = at_once(&queue).unwrap();
        let mut noisy: Vec<_> = (0..MOST_WAITING).map(|_| line_up(&queue, 1)).collect();
        let mut more: Wait<'_> = Box::pin(queue.enter(Some(caller(1)), LONG, || true));
        assert_eq!(poll(&mut more).unwrap().err(), Some(Full), "no more of the same");
        let mut quiet = line_up(&queue, 2);
        let mut last = noisy.pop().unwrap();
        assert_eq!(poll(&mut last).unwrap().err(), Some(Full), "its latest makes room");
        assert_eq!(counts(&queue), (1, MOST_WAITING));
        drop(out);
        let first = poll(&mut noisy[0]).unwrap().unwrap();
        drop(first);
        assert!(poll(&mut quiet).unwrap().is_ok(), "second in turn, behind two thousand");
    }

    #[tokio::test]
    async fn by_default_a_thousand_have_a_place_at_once() {
        let bounds = config::Upstream::default().concurrency.unwrap();
        let queue = Arc::new(Queue::new(Some(Pace::new(bounds))));
        let places: Vec<_> = (0..1_000).map(|_| at_once(&queue).unwrap()).collect();
        assert!(at_once(&queue).is_none());
        drop(places);
    }

    #[tokio::test]
    async fn within_other_bounds_who_is_there_is_counted_and_who_waits_is_called() {
        let bounds = |places| Some(config::Concurrency { least: places, most: places });
        let queue = queue(2);
        let (first, second) = (at_once(&queue).unwrap(), at_once(&queue).unwrap());
        queue.limit(bounds(1));
        drop(first);
        let mut third = line_up(&queue, 1);
        let mut fourth = line_up(&queue, 1);
        queue.limit(bounds(2));
        let third = poll(&mut third).unwrap().unwrap();
        assert!(poll(&mut fourth).is_none());
        queue.limit(None);
        let fourth = poll(&mut fourth).unwrap().unwrap();
        queue.limit(bounds(3));
        assert!(at_once(&queue).is_none(), "three were let in");
        drop((second, third, fourth));
        assert_eq!(counts(&queue), (0, 0));
    }

    #[tokio::test]
    async fn without_a_pace_nobody_waits() {
        let queue = Arc::new(Queue::new(None));
        let places: Vec<_> = (0..10_000).map(|_| at_once(&queue).unwrap()).collect();
        assert_eq!(counts(&queue), (10_000, 0));
        drop(places);
        assert_eq!(counts(&queue), (0, 0));
    }
}
