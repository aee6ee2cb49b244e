//! [`Times`]: when a stored response came and how long it lives, in half the memory.
//!
//! *Invariant:* what is read is what was put in, to the nanosecond, up to 136 years; what is longer is that long.
//!
//! *Why not as it is judged with:* a [`Duration`] takes sixteen bytes, and an entry has ten of them.

use std::time::Duration;

use super::policy::Life;
use crate::clock::Now;

/// The times of a stored response.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    received: Moment,
    authorised_until: Moment,
    /// The most = the token says of no end.
    token_expires: Span,
    lifetime: Span,
    initial_age: Span,
    stale_while_revalidate: Span,
    stale_if_error: Span,
    keep: Span,
    explicit: bool,
    stale_forbidden: bool,
}

impl Times {
    /// Of what was received then and lives so. `authorised_until`: the second clock, until when the upstream's
    /// word is good that this token may read it. `token_expires`: when the token says that it ends (a JWT's
    /// `exp`), since the Unix epoch: nothing outlives it.
    pub fn new(
        received: &Now,
        life: &Life,
        authorised_until: &Now,
        token_expires: Option<Duration>,
    ) -> Self {
        Self {
            received: Moment::of(received),
            authorised_until: Moment::of(authorised_until),
            token_expires: token_expires.map_or(Span::MAX, Span::of),
            lifetime: Span::of(life.lifetime),
            initial_age: Span::of(life.initial_age),
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

    /// Whether the upstream's word that this token may read it is still good.
    pub fn is_authorised(&self, now: &Now) -> bool {
        let until = self.authorised_until.get();
        now.mono <= until.mono && now.wall <= until.wall
    }

    /// Whether the token that paid for it has ended.
    pub fn token_ended(&self, now: &Now) -> bool {
        self.token_expires != Span::MAX && now.wall >= self.token_expires.get()
    }
}

/// A [`Now`].
#[derive(Clone, Copy, Debug)]
struct Moment {
    mono: Span,
    wall: Span,
}

impl Moment {
    fn of(now: &Now) -> Self {
        Self { mono: Span::of(now.mono), wall: Span::of(now.wall) }
    }

    fn get(self) -> Now {
        Now { mono: self.mono.get(), wall: self.wall.get() }
    }
}

/// A time in eight bytes. Not whole nanoseconds: each hit would divide them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    seconds: u32,
    nanos: u32,
}

impl Span {
    const MAX: Self = Self { seconds: u32::MAX, nanos: 999_999_999 };

    fn of(time: Duration) -> Self {
        let seconds = u32::try_from(time.as_secs());
        seconds.map_or(Self::MAX, |seconds| Self { seconds, nanos: time.subsec_nanos() })
    }

    fn get(self) -> Duration {
        Duration::new(self.seconds.into(), self.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_put_in_and_what_never_ends_does_not() {
        let nanos = Duration::from_nanos;
        let now = |mono, wall| Now { mono: nanos(mono), wall: nanos(wall) };
        let life = Life {
            lifetime: Duration::from_secs(1 << 31),
            initial_age: nanos(1),
            stale_while_revalidate: nanos(2),
            stale_if_error: Duration::from_hours(24),
            keep: nanos(3),
            explicit: true,
            stale_forbidden: false,
        };
        let times = Times::new(&now(4, 5), &life, &now(6, 7), Some(nanos(8)));
        assert_eq!((times.life(), times.received()), (life, now(4, 5)));
        assert!(times.is_authorised(&now(6, 7)));
        assert!(!times.is_authorised(&now(7, 7)) && !times.is_authorised(&now(6, 8)));
        assert!(!times.token_ended(&now(0, 7)) && times.token_ended(&now(0, 8)));
        let forever = Times::new(&now(4, 5), &life, &now(6, 7), None);
        assert!(!forever.token_ended(&Now { mono: nanos(0), wall: Duration::MAX }));
    }
}
