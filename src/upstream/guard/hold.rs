//! Hold-back: an upstream's 429 is heeded before it is asked again.
//!
//! *Invariants*
//! 1. A caller's 429 holds back that caller alone; only three callers' within [`NEAR`] hold back all, and
//!    no longer than the first of them.
//! 2. Nothing is held for longer than the configured longest.
//! 3. At most the configured number of callers is remembered, the least recently used forgotten first.
//!
//! *Why not* on open routes: nobody is told from another there, and one target's 429 would hold back all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;

use crate::caller::CallerId;
use crate::clock::nanos;

/// Who is held back, and until when.
#[derive(Debug)]
pub(super) struct HoldBack {
    callers: Cache<CallerId, Hold>,
    all: Mutex<All>,
    /// In nanoseconds: nobody is held any more from then on. Looked at first, for 429s are rare.
    last: AtomicU64,
}

#[derive(Debug, Default)]
struct All {
    longest: Duration,
    /// The latest callers that got a 429.
    recent: Vec<(CallerId, Hold)>,
    /// What everyone is held by.
    hold: Hold,
}

/// Since when, and until when.
#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    at: Duration,
    until: Duration,
}

impl Hold {
    /// When it ends, if nothing is held for longer than `longest`.
    fn end(self, longest: Duration) -> Duration {
        self.until.min(self.at.saturating_add(longest))
    }
}

impl HoldBack {
    /// Holds back for `longest` at most, and remembers `most` callers.
    pub(super) fn new(longest: Duration, most: usize) -> Self {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let callers =
            Cache::builder().max_capacity(most).eviction_policy(EvictionPolicy::lru()).build();
        let all = Mutex::new(All { longest, ..All::default() });
        Self { callers, all, last: AtomicU64::new(0) }
    }

    /// Holds back for `longest` at most from now on, also who is held back already.
    pub(super) fn limit(&self, longest: Duration) {
        self.all.lock().longest = longest;
    }

    /// For how much longer this caller, or everyone, is held back.
    pub(super) fn look(&self, caller: Option<&CallerId>, now: Duration) -> Result<(), Duration> {
        if nanos(now) >= self.last.load(Ordering::Acquire) {
            return Ok(());
        }
        let own = caller.and_then(|caller| self.callers.get(caller)).unwrap_or_default();
        let all = self.all.lock();
        let until = own.end(all.longest).max(all.hold.end(all.longest));
        if now < until { Err(until.saturating_sub(now)) } else { Ok(()) }
    }

    /// The upstream said 429 to a caller.
    pub(super) fn throttled(&self, caller: &CallerId, wait: Duration, now: Duration) {
        let mut all = self.all.lock();
        let hold = Hold { at: now, until: now + wait.min(all.longest) };
        if hold.until <= now {
            return;
        }
        self.callers.insert(*caller, hold);
        self.last.fetch_max(nanos(hold.until), Ordering::AcqRel);
        all.recent.retain(|(other, hold)| hold.at + NEAR > now && other != caller);
        all.recent.push((*caller, hold));
        if all.recent.len() >= CALLERS {
            // Once the first of them may come back, it is asked whether all may.
            let ends = all.recent.iter().map(|(_, hold)| hold.end(all.longest));
            let first = ends.min().unwrap_or_default();
            if first > all.hold.end(all.longest) {
                all.hold = Hold { at: now, until: first };
            }
            if all.recent.len() > CALLERS {
                all.recent.remove(0);
            }
        }
    }
}

/// How long an upstream wants to be left alone (RFC 9110 §10.2.3): seconds or a date, `wall` being the time
/// of the answer; without a readable word, [`UNSAID`].
pub(super) fn retry_after(fields: &HeaderMap, wall: Duration) -> Duration {
    let said = fields.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let Some(said) = said else { return UNSAID };
    if !said.is_empty() && said.bytes().all(|byte| byte.is_ascii_digit()) {
        return Duration::from_secs(said.parse().unwrap_or(u64::MAX));
    }
    let date = httpdate::parse_http_date(said).ok();
    let date = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
    date.map_or(UNSAID, |date| date.saturating_sub(wall))
}

/// So many callers with a 429 hold back everyone.
const CALLERS: usize = 3;
/// Within this time.
const NEAR: Duration = Duration::from_secs(10);
/// What a 429 without `Retry-After` asks for.
const UNSAID: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn caller(n: u8) -> CallerId {
        CallerId::from_bytes([n; 32])
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn hold() -> HoldBack {
        HoldBack::new(secs(60), 100)
    }

    #[test]
    fn a_429_holds_back_its_caller_alone() {
        let hold = hold();
        hold.throttled(&caller(1), secs(5), secs(0));
        assert_eq!(hold.look(Some(&caller(1)), secs(2)), Err(secs(3)));
        assert_eq!(hold.look(Some(&caller(2)), secs(2)), Ok(()));
        assert_eq!(hold.look(None, secs(2)), Ok(()));
        assert_eq!(hold.look(Some(&caller(1)), secs(5)), Ok(()));
    }

    #[test]
    fn nobody_is_held_back_for_longer_than_the_longest() {
        let hold = hold();
        hold.throttled(&caller(1), secs(86_400), secs(0));
        assert_eq!(hold.look(Some(&caller(1)), secs(0)), Err(secs(60)));
        let off = HoldBack::new(secs(0), 100);
        off.throttled(&caller(1), secs(5), secs(0));
        assert_eq!(off.look(Some(&caller(1)), secs(0)), Ok(()));
    }

    #[test]
    fn three_callers_within_ten_seconds_hold_back_all_until_the_first_may_come_back() {
        let hold = hold();
        for (n, wait) in [(1, 30), (1, 30), (2, 8), (2, 8)] {
            hold.throttled(&caller(n), secs(wait), secs(0));
        }
        assert_eq!(hold.look(Some(&caller(9)), secs(0)), Ok(()));
        hold.throttled(&caller(3), secs(20), secs(4));
        assert_eq!(hold.look(Some(&caller(9)), secs(4)), Err(secs(4)));
        assert_eq!(hold.look(None, secs(4)), Err(secs(4)));
        assert_eq!(hold.look(Some(&caller(9)), secs(8)), Ok(()));
    }

    #[test]
    fn three_callers_further_apart_hold_back_nobody_else() {
        let hold = hold();
        for n in 1..20 {
            hold.throttled(&caller(n), secs(60), secs(5 * u64::from(n)));
            assert_eq!(hold.look(Some(&caller(99)), secs(5 * u64::from(n))), Ok(()));
        }
    }

    #[test]
    fn under_a_shorter_longest_who_is_held_back_comes_back_earlier_and_not_at_once() {
        let hold = hold();
        for n in 1..=3 {
            hold.throttled(&caller(n), secs(40), secs(0));
        }
        for held in [Some(caller(1)), None] {
            hold.limit(secs(60));
            assert_eq!(hold.look(held.as_ref(), secs(5)), Err(secs(35)));
            hold.limit(secs(20));
            assert_eq!(hold.look(held.as_ref(), secs(5)), Err(secs(15)));
            assert_eq!(hold.look(held.as_ref(), secs(20)), Ok(()));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let hold = HoldBack::new(secs(60), 100);
        for n in 0..10_000_u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            hold.throttled(&CallerId::from_bytes(bytes), secs(60), secs(u64::from(n) * 60));
        }
        hold.callers.run_pending_tasks();
        assert!(hold.callers.entry_count() <= 100);
        assert!(hold.all.lock().recent.len() <= CALLERS);
    }

    #[test]
    fn a_wait_is_said_in_seconds_or_as_a_date() {
        let wall = secs(784_111_777);
        let wait = |value: &'static str| {
            let fields = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            retry_after(&fields, wall)
        };
        assert_eq!(wait("7"), secs(7));
        assert_eq!(wait("0"), secs(0));
        assert_eq!(wait("99999999999999999999999"), secs(u64::MAX));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:42 GMT"), secs(5));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:00 GMT"), secs(0));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(wait(nonsense), secs(1), "{nonsense:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), wall), secs(1));
    }
}
