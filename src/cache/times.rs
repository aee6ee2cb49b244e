//! [`Times`]: when a stored response came and how long it lives, in a quarter of the memory.
//!
//! *Invariants*
//! 1. When it came is kept to the nanosecond, spans to the millisecond, or from 24 days on to the second.
//! 2. Rounding never lengthens a life: spans are rounded down, and the age that it came with up.
//!
//! *Why not as it is judged with:* a [`Duration`] takes sixteen bytes, and an entry has eight of them.

use std::time::Duration;

use super::policy::Life;
use crate::clock::Now;

/// The times of a stored response.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    received: Moment,
    /// In whole seconds since the Unix epoch; the most = the token says of no end.
    token_expires: u32,
    lifetime: Span,
    initial_age: Span,
    stale_while_revalidate: Span,
    stale_if_error: Span,
    keep: Span,
    explicit: bool,
    stale_forbidden: bool,
}

impl Times {
    /// Of what was received then and lives so. `token_expires`: when the token that paid for it says that it
    /// ends (a JWT's `exp`), since the Unix epoch: nothing outlives it.
    pub fn new(received: &Now, life: &Life, token_expires: Option<Duration>) -> Self {
        Self {
            received: Moment::of(received),
            token_expires: token_expires.map_or(u32::MAX, |end| seconds(end).min(u32::MAX - 1)),
            lifetime: Span::of(life.lifetime),
            initial_age: Span::above(life.initial_age),
            stale_while_revalidate: Span::of(life.stale_while_revalidate),
            stale_if_error: Span::of(life.stale_if_error),
            keep: Span::of(life.keep),
            explicit: life.explicit,
            stale_forbidden: life.stale_forbidden,
        }
    }

    /// When its head arrived.
    pub fn received(&self) -> Now {
        self.received.get()
    }

    /// How old it was when it came.
    pub fn initial_age(&self) -> Duration {
        self.initial_age.get()
    }

    /// How long it lives.
    pub fn life(&self) -> Life {
        Life {
            lifetime: self.lifetime.get(),
            initial_age: self.initial_age.get(),
            stale_while_revalidate: self.stale_while_revalidate.get(),
            stale_if_error: self.stale_if_error.get(),
            keep: self.keep.get(),
            explicit: self.explicit,
            stale_forbidden: self.stale_forbidden,
        }
    }

    /// Whether the token that paid for it has ended.
    pub fn token_ended(&self, now: &Now) -> bool {
        self.token_expires != u32::MAX && now.wall.as_secs() >= self.token_expires.into()
    }
}

/// A [`Now`]. Not whole nanoseconds: each hit would divide them.
#[derive(Clone, Copy, Debug)]
struct Moment {
    mono: (u32, u32),
    wall: (u32, u32),
}

impl Moment {
    fn of(now: &Now) -> Self {
        let of = |time: Duration| (seconds(time), time.subsec_nanos());
        Self { mono: of(now.mono), wall: of(now.wall) }
    }

    fn get(self) -> Now {
        let get = |(seconds, nanos): (u32, u32)| Duration::new(seconds.into(), nanos);
        Now { mono: get(self.mono), wall: get(self.wall) }
    }
}

/// A length of time: milliseconds, or with the highest bit the seconds above [`Self::MILLIS`]. At most 68 years.
#[derive(Clone, Copy, Debug)]
struct Span(u32);

impl Span {
    const IN_SECONDS: u32 = 1 << 31;
    /// Below so many seconds it is milliseconds.
    const MILLIS: u32 = 2_147_000;

    fn of(time: Duration) -> Self {
        match u32::try_from(time.as_millis()) {
            Ok(millis) if millis < Self::MILLIS * 1_000 => Self(millis),
            _ => {
                let above = seconds(time).saturating_sub(Self::MILLIS);
                Self(above.min(Self::IN_SECONDS - 1) | Self::IN_SECONDS)
            }
        }
    }

    /// Rounded up.
    fn above(time: Duration) -> Self {
        let below = Self::of(time);
        if below.get() < time { Self(below.0.saturating_add(1)) } else { below }
    }

    fn get(self) -> Duration {
        if self.0 < Self::IN_SECONDS {
            Duration::from_millis(self.0.into())
        } else {
            Duration::from_secs((self.0 - Self::IN_SECONDS + Self::MILLIS).into())
        }
    }
}

/// Whole seconds; what is longer than 136 years is that long.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_put_in_and_what_never_ends_does_not() {
        let (nanos, millis) = (Duration::from_nanos, Duration::from_millis);
        let now = |mono, wall| Now { mono: nanos(mono), wall: nanos(wall) };
        let life = Life {
            lifetime: Duration::from_secs(1 << 31),
            initial_age: millis(1),
            stale_while_revalidate: millis(2),
            stale_if_error: Duration::from_hours(24),
            keep: millis(2_147_000_000 - 1),
            explicit: true,
            stale_forbidden: false,
        };
        let times = Times::new(&now(4, 5), &life, Some(millis(8_900)));
        assert_eq!((times.life(), times.received()), (life, now(4, 5)));
        let at = |wall| Now { mono: nanos(0), wall };
        assert!(!times.token_ended(&at(millis(7_999))) && times.token_ended(&at(millis(8_000))));
        let forever = Times::new(&now(4, 5), &life, None);
        assert!(!forever.token_ended(&at(Duration::MAX)));
    }

    #[test]
    fn rounding_never_lengthens_a_life() {
        for time in [1, 999_999, 1_000_001, 2_146_999_999_999_999, 2_147_000_000_000_001, 1 << 60] {
            let time = Duration::from_nanos(time);
            assert!(Span::of(time).get() <= time && Span::above(time).get() >= time, "{time:?}");
        }
    }
}
