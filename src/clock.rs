//! Time and chance, real or steered by a test.
//!
//! *Invariants*
//! 1. Nothing else in the library reads the time or draws a random number.
//! 2. Steered time moves only when a test says so; sockets stay on real time.
//!
//! *Why both clocks:* a monotonic clock does not see a machine that slept, a wall clock may be set
//! back. [`Now::since`] takes the larger of the two, so a jump ahead expires and a jump back never
//! rejuvenates.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: since the process started.
    pub mono: Duration,
    /// Wall: since the Unix epoch.
    pub wall: Duration,
}

impl Now {
    /// Time that passed since `then`: the larger of what the two clocks say, never negative.
    pub fn since(&self, then: &Self) -> Duration {
        let mono = self.mono.saturating_sub(then.mono);
        let wall = self.wall.saturating_sub(then.wall);
        mono.max(wall)
    }
}

/// Where [`Now`] comes from.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Real(Instant),
    Steered(Arc<Steered>),
}

#[derive(Debug)]
struct Steered {
    mono_nanos: AtomicU64,
    wall_nanos: AtomicU64,
}

impl Clock {
    /// The machine's clocks.
    pub fn real() -> Self {
        Self(Source::Real(Instant::now()))
    }

    /// A clock that stands still until [`Clock::advance`]; its wall time starts at `wall`.
    pub fn steered(wall: Duration) -> Self {
        Self(Source::Steered(Arc::new(Steered {
            mono_nanos: AtomicU64::new(0),
            wall_nanos: AtomicU64::new(nanos(wall)),
        })))
    }

    /// The present moment.
    pub fn now(&self) -> Now {
        self.now_at(Instant::now())
    }

    /// The present moment, where `present` was just read for the sockets' sake: read once, it serves both.
    pub fn now_at(&self, present: Instant) -> Now {
        match &self.0 {
            Source::Real(start) => Now { mono: present - *start, wall: wall_at(present) },
            Source::Steered(steered) => Now {
                mono: Duration::from_nanos(steered.mono_nanos.load(Ordering::SeqCst)),
                wall: Duration::from_nanos(steered.wall_nanos.load(Ordering::SeqCst)),
            },
        }
    }

    /// The monotonic clock alone.
    pub fn mono(&self) -> Duration {
        self.mono_at(Instant::now())
    }

    /// The same, where `present` was just read.
    pub fn mono_at(&self, present: Instant) -> Duration {
        match &self.0 {
            Source::Real(start) => present - *start,
            Source::Steered(_) => self.now_at(present).mono,
        }
    }

    /// Moves a steered clock ahead; a real one is not moved.
    pub fn advance(&self, by: Duration) {
        if let Source::Steered(steered) = &self.0 {
            steered.mono_nanos.fetch_add(nanos(by), Ordering::SeqCst);
            steered.wall_nanos.fetch_add(nanos(by), Ordering::SeqCst);
        }
    }

    /// Sets a steered clock's wall time, as an operator or NTP would.
    pub fn set_wall(&self, wall: Duration) {
        if let Source::Steered(steered) = &self.0 {
            steered.wall_nanos.store(nanos(wall), Ordering::SeqCst);
        }
    }
}

/// Where chance comes from: jitter, sampling, request ids.
///
/// *Why not a crate:* nothing here is a secret; a splitmix64 step over an atomic counter is a few
/// nanoseconds, needs no lock and can be seeded by a test.
#[derive(Clone, Debug)]
pub struct Dice(Arc<AtomicU64>);

impl Dice {
    /// Dice thrown from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// The next 64 bits.
    pub fn roll(&self) -> u64 {
        mixed(self.0.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN))
    }

    /// What two rolls in a row give, of one step that no other thread comes between.
    pub fn roll_pair(&self) -> [u64; 2] {
        let first = self.0.fetch_add(GOLDEN.wrapping_mul(2), Ordering::Relaxed);
        [1, 2].map(|step| mixed(first.wrapping_add(GOLDEN.wrapping_mul(step))))
    }

    /// A number in `0.0..1.0`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub fn fraction(&self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `full` shortened at random by up to `part` of it (0 to 1): downward only.
    pub fn shorten(&self, full: Duration, part: f64) -> Duration {
        full.mul_f64(1.0 - part.clamp(0.0, 1.0) * self.fraction())
    }
}

/// The wall clock at a moment that was just read. A thread reads it once in [`WALL_AGAIN`] and adds what has passed
/// since: a jump is seen that much later, and each reading is 1 % of a hit.
fn wall_at(present: Instant) -> Duration {
    let kept = WALL.get().and_then(|(at, wall)| {
        let passed = present.checked_duration_since(at)?;
        (passed < WALL_AGAIN).then(|| wall + passed)
    });
    kept.unwrap_or_else(|| {
        let wall = wall();
        WALL.set(Some((present, wall)));
        wall
    })
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn wall() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// splitmix64's number of a state.
fn mixed(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Whole nanoseconds; what is longer than 584 years is that long.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

thread_local! {
    /// What the wall clock said last, and when.
    static WALL: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// How long a reading of the wall clock is good for.
const WALL_AGAIN: Duration = Duration::from_millis(1);

/// 2^64 divided by the golden ratio: splitmix64's step.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_set_back_never_makes_anything_younger() {
        let clock = Clock::steered(Duration::from_secs(1_000));
        let then = clock.now();
        clock.advance(Duration::from_secs(10));
        clock.set_wall(Duration::from_secs(1));
        assert_eq!(clock.now().since(&then), Duration::from_secs(10));
    }

    #[test]
    fn a_wall_clock_that_jumped_ahead_ages_everything() {
        let clock = Clock::steered(Duration::from_secs(1_000));
        let then = clock.now();
        clock.set_wall(Duration::from_secs(5_000));
        assert_eq!(clock.now().since(&then), Duration::from_secs(4_000));
    }

    #[test]
    fn the_wall_clock_is_read_again_once_a_reading_has_aged_or_lies_ahead() {
        let (present, hour) = (Instant::now(), Duration::from_hours(1));
        let read = wall_at(present);
        let soon = Duration::from_micros(999);
        assert_eq!(wall_at(present + soon), read + soon);
        // Read anew, while nearly no time has passed.
        assert!(wall_at(present + hour) < read + hour);
        let anew = wall_at(present);
        assert!(read <= anew && anew < read + hour);
    }

    #[test]
    fn the_same_seed_rolls_the_same_numbers() {
        let (a, b) = (Dice::seeded(7), Dice::seeded(7));
        assert!((0..100).all(|_| a.roll() == b.roll()));
    }

    #[test]
    fn a_pair_is_what_two_rolls_give() {
        let (pairs, single) = (Dice::seeded(7), Dice::seeded(7));
        for _ in 0..100 {
            assert_eq!(pairs.roll_pair(), [single.roll(), single.roll()]);
        }
        assert_eq!(pairs.roll(), single.roll());
    }

    #[test]
    fn shortening_never_lengthens_and_keeps_to_its_part() {
        let dice = Dice::seeded(1);
        let full = Duration::from_mins(1);
        for _ in 0..1_000 {
            let short = dice.shorten(full, 0.1);
            assert!(short <= full && short >= Duration::from_secs(54));
        }
    }
}
