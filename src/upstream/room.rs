//! Memory for bodies under way: a bound over all exchanges.
//!
//! *Invariants*
//! 1. The shares out never add up to more than `upstream.max_buffered`; a piece that has just been read
//!    waits outside of it, at most one of a connection's buffer for each exchange.
//! 2. Who finds none waits for a bounded time and then fails, so that two that grow can't wait for each
//!    other for ever.
//! 3. A share comes back when it is dropped, also by an exchange that was given up.
//! 4. Of a room that was made smaller nothing is given out before so much has come back: what is out is
//!    counted whatever the limits were when it was taken. Who waits for more than the smaller room has fails at
//!    the end of its wait.
//! 5. Bodies of requests, held until their answers are here, have at most half of it between them: answers
//!    never wait for nothing but each other's requests. That one exchange waits here twice can hold it up for
//!    twice the bounded time, and no longer.
//!
//! What is decoded is reckoned at four times what came, and `upstream.max_body` at most. Where it grows
//! further, that is memory beyond the bound: at most `upstream.max_body` for each thread, since decoding
//! does not wait. A body of no announced length, and that of a request, may hold twice its share while it
//! grows. One request's body that is larger than the half takes all of the half.
//!
//! *Why not* count what is there already: an answer announced at 8 MiB is reserved whole before it is read,
//! so that it fails before and not after most of it was sent. *Why not* likewise for requests: to announce
//! costs a client nothing, and would lock all others out until its time was over.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::UpstreamError;

/// All the memory there is, and what of it requests may have.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) all: Arc<Room>,
    requests: Arc<Room>,
}

/// A bounded amount of memory.
#[derive(Debug)]
pub(super) struct Room {
    free: Semaphore,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    units: usize,
    /// So many are kept of what comes back, since the room was made smaller.
    owed: usize,
}

/// A part of it; given back on drop.
#[derive(Default)]
pub struct Share {
    units: usize,
    of: Option<Arc<Room>>,
}

/// What a request's body takes; given back on drop.
#[derive(Debug, Default)]
pub struct Intake {
    of_requests: Share,
    of_all: Share,
}

impl Rooms {
    /// So many bytes in all.
    pub(super) fn new(bytes: usize) -> Self {
        let (all, requests) = (Room::new(bytes), Room::new(bytes.div_ceil(2)));
        Self { all: Arc::new(all), requests: Arc::new(requests) }
    }

    /// So many bytes in all from now on.
    pub(super) fn resize(&self, bytes: usize) {
        self.all.resize(bytes);
        self.requests.resize(bytes.div_ceil(2));
    }

    /// Lets what a request's body takes grow to at least so many bytes: at once, or within `wait`.
    pub(super) async fn receive(
        &self,
        intake: &mut Intake,
        bytes: usize,
        wait: Duration,
    ) -> Result<(), UpstreamError> {
        let until = Instant::now() + wait;
        self.requests.grow(&mut intake.of_requests, bytes, wait, until).await?;
        self.all.grow(&mut intake.of_all, bytes, wait, until).await
    }
}

impl Room {
    /// So many bytes.
    fn new(bytes: usize) -> Self {
        let units = units(bytes);
        Self { free: Semaphore::new(units), size: Mutex::new(Size { units, owed: 0 }) }
    }

    /// So many bytes from now on.
    fn resize(&self, bytes: usize) {
        let units = units(bytes);
        let mut size = self.size.lock();
        let (more, less) = (units.saturating_sub(size.units), size.units.saturating_sub(units));
        size.units = units;
        size.owed += less;
        size.owed -= self.free.forget_permits(size.owed);
        size.give(&self.free, more);
    }

    /// Lets a share grow to at least so many bytes: at once, or within `wait` and before `until`.
    pub(super) async fn grow(
        self: &Arc<Self>,
        share: &mut Share,
        bytes: usize,
        wait: Duration,
        until: Instant,
    ) -> Result<(), UpstreamError> {
        let Err(more) = self.take(share, bytes) else { return Ok(()) };
        let (free, until) = (&self.free, until.min(Instant::now() + wait));
        loop {
            // The semaphore is never closed, so the inner error does not occur.
            let waited = timeout_at(until, free.acquire_many(more)).await;
            waited.ok().and_then(Result::ok).ok_or(UpstreamError::Memory)?.forget();
            let mut size = self.size.lock();
            if size.owed == 0 {
                break;
            }
            // It was gathered by one who gave up, and so did not come back by way of a share.
            size.give(free, more as usize);
        }
        self.put(share, more);
        Ok(())
    }

    /// The same without a wait; says how much was missing.
    fn take(self: &Arc<Self>, share: &mut Share, bytes: usize) -> Result<(), u32> {
        if units(bytes) <= share.units {
            return Ok(());
        }
        let size = self.size.lock();
        // What is larger than the room takes all of it.
        let more = units(bytes).min(size.units).saturating_sub(share.units);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = self.free.try_acquire_many(more).ok().filter(|_| size.owed == 0);
        permit.ok_or(more)?.forget();
        drop(size);
        self.put(share, more);
        Ok(())
    }

    fn put(self: &Arc<Self>, share: &mut Share, more: u32) {
        share.units += more as usize;
        share.of.get_or_insert_with(|| Arc::clone(self));
    }

    /// How many bytes are out.
    pub(super) fn out(&self) -> usize {
        let size = self.size.lock();
        let all = size.units + size.owed;
        all.saturating_sub(self.free.available_permits()).saturating_mul(UNIT)
    }
}

impl Size {
    /// So many are free again, or what is owed gets them.
    fn give(&mut self, free: &Semaphore, units: usize) {
        let kept = units.min(self.owed);
        self.owed -= kept;
        free.add_permits(units - kept);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(room) = &self.of {
            room.size.lock().give(&room.free, self.units);
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({})", self.units)
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)
}

/// Memory is counted in pieces of so many bytes.
const UNIT: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    fn room(units: usize) -> Arc<Room> {
        Arc::new(Room::new(units * UNIT))
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_out_never_passes_the_bound_and_comes_back() {
        let room = room(10);
        let (mut a, mut b) = (Share::default(), Share::default());
        room.grow(&mut a, 6 * UNIT - 1, WAIT, later()).await.unwrap();
        room.grow(&mut b, 3 * UNIT, WAIT, later()).await.unwrap();
        room.grow(&mut b, 2 * UNIT, WAIT, later()).await.unwrap();
        assert_eq!(room.out(), 9 * UNIT);
        assert!(room.grow(&mut a, 8 * UNIT, WAIT, later()).await.is_err());
        drop(b);
        room.grow(&mut a, 8 * UNIT, WAIT, later()).await.unwrap();
        assert_eq!(room.out(), 8 * UNIT);
        drop(a);
        assert_eq!(room.out(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_made_smaller_gives_nothing_out_before_enough_came_back() {
        let room = room(10);
        let [mut a, mut b, mut c, mut late] = [(); 4].map(|()| Share::default());
        room.grow(&mut a, 4 * UNIT, WAIT, later()).await.unwrap();
        room.grow(&mut b, 5 * UNIT, WAIT, later()).await.unwrap();
        // It has gathered the one that is left when the room shrinks, and gives up.
        let gathering = room.grow(&mut c, 3 * UNIT, WAIT, later());
        let shrunk = async {
            tokio::task::yield_now().await;
            room.resize(4 * UNIT);
        };
        assert!(tokio::join!(gathering, shrunk).0.is_err());
        assert!(room.grow(&mut late, UNIT, WAIT, later()).await.is_err(), "that one is owed");
        assert_eq!(room.out(), 9 * UNIT);
        drop(b);
        assert!(room.grow(&mut late, UNIT, WAIT, later()).await.is_err());
        assert_eq!(room.out(), 4 * UNIT);
        drop(a);
        room.grow(&mut late, 4 * UNIT, WAIT, later()).await.unwrap();
        assert_eq!(room.out(), 4 * UNIT);
        drop(late);
        assert_eq!((room.out(), room.free.available_permits()), (0, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_all_of_a_room_made_smaller_goes_on_with_it() {
        let room = room(10);
        let mut share = Share::default();
        room.grow(&mut share, 6 * UNIT, WAIT, later()).await.unwrap();
        room.resize(4 * UNIT);
        room.grow(&mut share, 7 * UNIT, WAIT, later()).await.unwrap();
        assert_eq!(room.out(), 6 * UNIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_made_larger_serves_who_waits() {
        let room = room(4);
        let (mut a, mut b) = (Share::default(), Share::default());
        room.grow(&mut a, 4 * UNIT, WAIT, later()).await.unwrap();
        let (grown, ()) = tokio::join!(room.grow(&mut b, 4 * UNIT, WAIT, later()), async {
            room.resize(8 * UNIT);
        });
        grown.unwrap();
        room.resize(2 * UNIT);
        room.resize(9 * UNIT);
        assert_eq!((room.out(), room.free.available_permits()), (8 * UNIT, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_have_half_of_it_and_answers_have_the_rest_at_least() {
        let rooms = Rooms::new(10 * UNIT);
        let [mut first, mut second] = [(); 2].map(|()| Intake::default());
        let mut answer = Share::default();
        rooms.receive(&mut first, 5 * UNIT, WAIT).await.unwrap();
        assert!(rooms.receive(&mut second, UNIT, WAIT).await.is_err());
        rooms.all.grow(&mut answer, 5 * UNIT, WAIT, later()).await.unwrap();
        drop(first);
        assert_eq!(rooms.all.out(), 5 * UNIT);
        rooms.all.grow(&mut answer, 9 * UNIT, WAIT, later()).await.unwrap();
        assert!(rooms.receive(&mut second, 2 * UNIT, WAIT).await.is_err(), "it counts as well");
        drop(answer);
        rooms.receive(&mut second, 20 * UNIT, WAIT).await.unwrap();
        assert_eq!(rooms.all.out(), 10 * UNIT, "what is larger than all takes all");
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_grow_do_not_wait_for_each_other_for_ever() {
        let room = room(10);
        let (mut a, mut b) = (Share::default(), Share::default());
        room.grow(&mut a, 5 * UNIT, WAIT, later()).await.unwrap();
        room.grow(&mut b, 5 * UNIT, WAIT, later()).await.unwrap();
        let began = Instant::now();
        let grown = tokio::join!(
            room.grow(&mut a, 9 * UNIT, WAIT, later()),
            room.grow(&mut b, 9 * UNIT, WAIT, later())
        );
        assert!(grown.0.is_err() && grown.1.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
