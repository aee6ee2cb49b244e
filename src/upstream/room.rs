//! Memory for the bodies of answers under way: a bound over all exchanges.
//!
//! *Invariants*
//! 1. The shares out never add up to more than `upstream.max_buffered`; a piece that has just been read
//!    waits outside of it, at most one of a connection's buffer for each exchange.
//! 2. Who finds none waits for a bounded time and then fails, so that two that grow can't wait for each
//!    other for ever.
//! 3. A share comes back when it is dropped, also by an exchange that was given up.
//!
//! What is decoded is reckoned at four times what came, and `upstream.max_body` at most. Where it grows
//! further, that is memory beyond the bound: at most `upstream.max_body` for each thread, since decoding
//! does not wait. A body of no announced length may hold twice its share while it grows.
//!
//! *Why not* count what is there already: a body announced at 8 MiB is reserved whole before it is read,
//! so that it fails before and not after most of it was sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::UpstreamError;

/// All the memory there is.
#[derive(Debug)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    units: usize,
    wait: Duration,
}

/// A part of it; given back on drop.
#[derive(Default)]
pub struct Share(Option<OwnedSemaphorePermit>);

impl Room {
    /// So many bytes, each share waited for no longer than `wait`.
    pub(super) fn new(bytes: usize, wait: Duration) -> Self {
        let units = bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units, wait }
    }

    /// Lets a share grow to at least so many bytes, before `until`.
    pub(super) async fn grow(
        &self,
        share: &mut Share,
        bytes: usize,
        until: Instant,
    ) -> Result<(), UpstreamError> {
        let more = bytes.div_ceil(UNIT).min(self.units).saturating_sub(share.units());
        let Some(more) = u32::try_from(more).ok().filter(|more| *more > 0) else { return Ok(()) };
        let until = until.min(Instant::now() + self.wait);
        let free = Arc::clone(&self.free);
        let permit = match Arc::clone(&free).try_acquire_many_owned(more) {
            Ok(permit) => permit,
            // The semaphore is never closed, so the inner error does not occur.
            Err(_) => timeout_at(until, free.acquire_many_owned(more))
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(UpstreamError::Memory)?,
        };
        match &mut share.0 {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }

    /// How many bytes are out.
    pub(super) fn out(&self) -> usize {
        self.units.saturating_sub(self.free.available_permits()).saturating_mul(UNIT)
    }
}

impl Share {
    fn units(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({})", self.units())
    }
}

/// Memory is counted in pieces of so many bytes.
const UNIT: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_out_never_passes_the_bound_and_comes_back() {
        let room = Room::new(10 * UNIT, Duration::from_secs(1));
        let (mut a, mut b) = (Share::default(), Share::default());
        room.grow(&mut a, 6 * UNIT - 1, later()).await.unwrap();
        room.grow(&mut b, 3 * UNIT, later()).await.unwrap();
        room.grow(&mut b, 2 * UNIT, later()).await.unwrap();
        assert_eq!(room.out(), 9 * UNIT);
        assert!(room.grow(&mut a, 8 * UNIT, later()).await.is_err());
        drop(b);
        room.grow(&mut a, 8 * UNIT, later()).await.unwrap();
        assert_eq!(room.out(), 8 * UNIT);
        drop(a);
        assert_eq!(room.out(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_grow_do_not_wait_for_each_other_for_ever() {
        let room = Room::new(10 * UNIT, Duration::from_secs(1));
        let (mut a, mut b) = (Share::default(), Share::default());
        room.grow(&mut a, 5 * UNIT, later()).await.unwrap();
        room.grow(&mut b, 5 * UNIT, later()).await.unwrap();
        let began = Instant::now();
        let grown = tokio::join!(
            room.grow(&mut a, 9 * UNIT, later()),
            room.grow(&mut b, 9 * UNIT, later())
        );
        assert!(grown.0.is_err() && grown.1.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
