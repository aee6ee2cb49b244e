//! [`Times`] and [`Windows`]: when a stored response came and how long it lives, in a fifth of the memory.
//!
//! *Invariants*
//! 1. Times are kept to the millisecond; spans too, or from 24 days on to the second.
//! 2. Rounding never lengthens a life: all is rounded down, and the age that it came with up.
//!
//! *Why not as it is judged with:* a [`Duration`] takes sixteen bytes, and an entry has eight of them.

use std::time::Duration;

use super::policy::Life;
use crate::clock::Now;

/// The times of one stored response.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    received_mono: u32,
    received_wall: u32,
    /// Milliseconds above them. Apart, so that no hit has to divide.
    millis: [u16; 2],
    /// In whole seconds since the Unix epoch; the most = the token says of no end.
    token_expires: u32,
    lifetime: Span,
    initial_age: Span,
}

/// What of a life many responses have alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Windows {
    stale_while_revalidate: Span,
    stale_if_error: Span,
    keep: Span,
    explicit: bool,
    stale_forbidden: bool,
}

impl From<&Life> for Windows {
    fn from(life: &Life) -> Self {
        Self {
            stale_while_revalidate: Span::of(life.stale_while_revalidate),
            stale_if_error: Span::of(life.stale_if_error),
            keep: Span::of(life.keep),
            explicit: life.explicit,
            stale_forbidden: life.stale_forbidden,
        }
    }
}

impl Times {
    /// Of what was received then and lives so. `token_expires`: when the token that paid for it says that it
    /// ends (a JWT's `exp`), since the Unix epoch: nothing outlives it.
    pub fn new(received: &Now, life: &Life, token_expires: Option<Duration>) -> Self {
        Self {
            received_mono: seconds(received.mono),
            received_wall: seconds(received.wall),
            millis: [received.mono, received.wall].map(millis),
            token_expires: token_expires.map_or(u32::MAX, |end| seconds(end).min(u32::MAX - 1)),
            lifetime: Span::of(life.lifetime),
            initial_age: Span::above(life.initial_age),
        }
    }

    /// When its head arrived.
    pub fn received(&self) -> Now {
        let [mono, wall] = self.millis;
        let of = |seconds: u32, millis: u16| {
            Duration::new(seconds.into(), u32::from(millis) * NANOS_PER_MILLI)
        };
        Now { mono: of(self.received_mono, mono), wall: of(self.received_wall, wall) }
    }

    /// How old it was when it came.
    pub fn initial_age(&self) -> Duration {
        self.initial_age.get()
    }

    /// How long it lives.
    pub fn life(&self, windows: &Windows) -> Life {
        Life {
            lifetime: self.lifetime.get(),
            initial_age: self.initial_age.get(),
            stale_while_revalidate: windows.stale_while_revalidate.get(),
            stale_if_error: windows.stale_if_error.get(),
            keep: windows.keep.get(),
            explicit: windows.explicit,
            stale_forbidden: windows.stale_forbidden,
        }
    }

    /// Whether the token that paid for it has ended.
    pub fn token_ended(&self, now: &Now) -> bool {
        self.token_expires != u32::MAX && now.wall.as_secs() >= self.token_expires.into()
    }
}

/// A length of time: milliseconds, or with the highest bit the seconds above [`Self::MILLIS`]. At most 68 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

/// The milliseconds above whole seconds.
fn millis(time: Duration) -> u16 {
    u16::try_from(time.subsec_millis()).unwrap_or_default()
}

const NANOS_PER_MILLI: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_put_in_and_what_never_ends_does_not() {
        let millis = Duration::from_millis;
        let now = |mono, wall| Now { mono: millis(mono), wall: millis(wall) };
        let life = Life {
            lifetime: Duration::from_secs(1 << 31),
            initial_age: millis(1),
            stale_while_revalidate: millis(2),
            stale_if_error: Duration::from_hours(24),
            keep: millis(2_147_000_000 - 1),
            explicit: true,
            stale_forbidden: false,
        };
        let times = Times::new(&now(4_999, 1_005), &life, Some(millis(8_900)));
        assert_eq!(
            (times.life(&Windows::from(&life)), times.received()),
            (life, now(4_999, 1_005))
        );
        let at = |wall| Now { mono: millis(0), wall };
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
