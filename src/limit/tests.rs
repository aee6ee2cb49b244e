//! The limiters' claims, on a clock that stands still until it is moved.

use std::future::Future;
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::{LanePermit, Limiter, Limits, Quota, Throttled};
use crate::caller::CallerId;
use crate::clock::Clock;
use crate::config::{self, Lane, Rate};

#[test]
fn a_burst_passes_and_then_the_rate() {
    let (limits, clock) = callers_at(10, 5);
    assert_eq!(admitted(&limits, 1, 0, 20), 5);
    clock.advance(Duration::from_millis(99));
    assert_eq!(admitted(&limits, 1, 0, 20), 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(admitted(&limits, 1, 0, 20), 1);
    clock.advance(Duration::from_millis(300));
    assert_eq!(admitted(&limits, 1, 0, 20), 3);
    clock.advance(Duration::from_hours(1));
    assert_eq!(admitted(&limits, 1, 0, 20), 5, "rest saves up no more than the burst");
}

#[test]
fn each_caller_and_each_route_has_a_bucket_of_its_own() {
    let (limits, _clock) = callers_at(1, 3);
    assert_eq!(admitted(&limits, 1, 0, 9), 3);
    assert_eq!(admitted(&limits, 1, 1, 9), 3);
    assert_eq!(admitted(&limits, 2, 0, 9), 3);
    assert_eq!(admitted(&limits, 1, 0, 9), 0);
    assert_eq!(limits.sizes().callers, 3);
}

#[test]
fn the_rate_of_a_route_replaces_the_callers_there() {
    for everywhere in [Some(rate(1, 3)), None] {
        let config = config::Limits { caller: everywhere, ..all_off() };
        let limits = Clocked::new(&config, &[None, Some(rate(1, 7))], still());
        assert_eq!(admitted(&limits, 1, 1, 9), 7);
        assert_eq!(admitted(&limits, 1, 0, 9), if everywhere.is_some() { 3 } else { 9 });
        assert_eq!(admitted(&limits, 1, 2, 9), if everywhere.is_some() { 3 } else { 9 });
    }
}

#[test]
fn the_quota_tells_what_is_left_and_when_it_is_whole_again() {
    let (limits, clock) = callers_at(2, 5);
    let left = |remaining, reset| Quota { limit: 5, window: 3, remaining, reset };
    for quota in [left(4, 1), left(3, 1), left(2, 2), left(1, 2), left(0, 3)] {
        assert_eq!(admit(&limits, 1), Ok(Some(quota)));
    }
    let refusal = Throttled { by: Limiter::Caller, retry_after: 1, quota: Some(left(0, 1)) };
    assert_eq!(admit(&limits, 1), Err(refusal));
    clock.advance(Duration::from_millis(500));
    assert_eq!(admit(&limits, 1), Ok(Some(left(0, 3))));
    clock.advance(Duration::from_millis(2500));
    assert_eq!(admit(&limits, 1), Ok(Some(left(4, 1))));
}

#[test]
fn a_window_is_at_least_a_second() {
    let (limits, _clock) = callers_at(1000, 10);
    assert_eq!(admit(&limits, 1).unwrap().unwrap().window, 1);
}

#[test]
fn rates_beyond_what_a_clock_can_tell_apart_saturate() {
    for (per_second, burst) in
        [(u32::MAX, u32::MAX), (1, u32::MAX), (u32::MAX, 1), (0, 0), (1_000_000_001, 2)]
    {
        let (limits, clock) = callers_at(per_second, burst);
        assert!(admit(&limits, 1).is_ok());
        clock.advance(Duration::MAX);
        assert!(admit(&limits, 1).is_ok(), "{per_second}/s, burst {burst}, centuries later");
    }
}

#[test]
fn what_goes_upstream_has_a_budget_of_its_own() {
    let config =
        config::Limits { caller: Some(rate(1, 9)), caller_upstream: Some(rate(1, 2)), ..all_off() };
    let limits = Clocked::new(&config, &[], still());
    let upstream = || limits.admit_upstream(&caller(1));
    assert_eq!((upstream(), upstream()), (Ok(()), Ok(())));
    let refusal = upstream().unwrap_err();
    assert_eq!((refusal.by, refusal.retry_after), (Limiter::Upstream, 1));
    assert_eq!(refusal.quota.map(|quota| (quota.limit, quota.remaining)), Some((2, 0)));
    assert_eq!(admitted(&limits, 1, 0, 20), 9);
    assert_eq!(limits.admit_upstream(&caller(2)), Ok(()));
}

#[test]
fn a_limiter_that_is_off_neither_counts_nor_remembers() {
    let limits = Clocked::new(&all_off(), &[None], still());
    let peer = peer("192.0.2.1");
    for n in 0..1000 {
        assert_eq!(limits.admit(&caller(n), 0), Ok(None));
        assert_eq!(limits.admit_upstream(&caller(n)), Ok(()));
        limits.charge_peer(peer);
        assert_eq!(limits.admit_peer(peer), Ok(()));
        assert!(at_once(limits.enter_lane(&caller(n))).unwrap().unwrap().is_none());
    }
    let sizes = limits.sizes();
    assert_eq!((sizes.callers, sizes.upstream, sizes.peers, sizes.known), (0, 0, 0, 0));
}

#[test]
fn threads_that_share_a_bucket_get_no_more_than_is_in_it() {
    let (limits, _clock) = callers_at(1, 500);
    let passed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| passed.fetch_add(admitted(&limits, 1, 0, 1000), Ordering::Relaxed));
        }
    });
    assert_eq!(passed.into_inner(), 500);
}

#[test]
fn a_million_bogus_tokens_stay_within_the_cap_and_reset_nobody() {
    let config = config::Limits { caller: Some(rate(1, 3)), keys: 5000, ..all_off() };
    let limits = Clocked::new(&config, &[], still());
    assert_eq!(admitted(&limits, 0, 0, 9), 3);
    for bogus in 1..=1_000_000 {
        limits.admit(&caller(bogus), 0).ok();
    }
    assert!(limits.sizes().callers <= 5000);
    assert!(limits.sizes().callers > 3500, "the room is used");
    assert_eq!(admitted(&limits, 0, 0, 9), 0, "still in debt");
}

#[test]
fn a_flood_that_lasts_lets_a_caller_have_its_rate_and_no_more() {
    let config = config::Limits { caller: Some(rate(100, 10)), keys: 300, ..all_off() };
    let (limits, clock) = steered(&config);
    limits.accepted(&caller(0));
    let mut passed = admitted(&limits, 0, 0, 99);
    for bogus in 1..=200_000 {
        limits.admit(&caller(bogus), 0).ok();
        clock.advance(Duration::from_micros(10));
        passed += admitted(&limits, 0, 0, 1);
    }
    assert_eq!(passed, 10 + 200, "a burst, and 100/s for 2 s");
    assert!(limits.sizes().callers <= 300);
}

#[test]
fn a_known_caller_finds_room_among_strangers_in_debt() {
    let config = config::Limits { caller: Some(rate(1, 3)), keys: 100, ..all_off() };
    let limits = Clocked::new(&config, &[], still());
    limits.accepted(&caller(0));
    for bogus in 1..=10_000 {
        limits.admit(&caller(bogus), 0).ok();
    }
    assert_eq!(admit(&limits, 10_001).map_err(|refusal| refusal.by), Err(Limiter::Caller));
    assert_eq!(limits.sizes().callers, 75, "strangers leave a quarter of the room");
    assert_eq!(admitted(&limits, 0, 0, 9), 3);
    assert_eq!(limits.sizes().callers, 76);
}

#[test]
fn newcomers_who_find_only_debtors_share_one_bucket_until_a_debt_is_paid() {
    let config = config::Limits { caller: Some(rate(1, 2)), keys: 4, ..all_off() };
    let (limits, clock) = steered(&config);
    for debtor in 0..3 {
        assert_eq!(admitted(&limits, debtor, 0, 9), 2);
    }
    let shared: usize = (10..20).map(|newcomer| admitted(&limits, newcomer, 0, 1)).sum();
    assert_eq!(shared, 2, "limited together");
    clock.advance(Duration::from_secs(1));
    assert_eq!(admitted(&limits, 20, 0, 9), 1, "not locked out for good");
    clock.advance(Duration::from_secs(1));
    assert_eq!(admitted(&limits, 21, 0, 9), 2, "a bucket of its own, in the place of a full one");
    assert_eq!(limits.sizes().callers, 3);
}

#[test]
fn only_full_buckets_make_room() {
    let config = config::Limits { caller: Some(rate(1, 10)), keys: 4, ..all_off() };
    let (limits, clock) = steered(&config);
    for early in 0..3 {
        assert_eq!(admitted(&limits, early, 0, 1), 1);
    }
    assert_eq!(admitted(&limits, 1, 0, 99), 9, "empty now, though it was queued as nearly full");
    clock.advance(Duration::from_secs(2));
    for newcomer in 10..20 {
        assert_eq!(admitted(&limits, newcomer, 0, 1), 1);
    }
    assert_eq!(admitted(&limits, 1, 0, 99), 2, "only what two seconds gave back");
}

#[test]
fn routes_with_rates_of_their_own_share_the_cap() {
    let config = config::Limits { caller: Some(rate(1, 3)), keys: 100, ..all_off() };
    let limits = Clocked::new(&config, &[None, Some(rate(5, 5)), Some(rate(7, 7))], still());
    for n in 0..3000 {
        limits.admit(&caller(n), usize::try_from(n % 3).unwrap()).ok();
    }
    assert_eq!(limits.sizes().callers, 75);
}

#[test]
fn asking_takes_nothing_from_a_peer_and_charging_does() {
    let config = config::Limits { peer: Some(rate(1, 3)), ..all_off() };
    let (limits, clock) = steered(&config);
    let guesser = peer("192.0.2.1");
    for _ in 0..3 {
        for _ in 0..100 {
            assert_eq!(limits.admit_peer(guesser), Ok(()));
        }
        limits.charge_peer(guesser);
    }
    let refusal = Throttled { by: Limiter::Peer, retry_after: 1, quota: None };
    assert_eq!(limits.admit_peer(guesser), Err(refusal));
    assert_eq!(limits.admit_peer(peer("192.0.2.2")), Ok(()));
    clock.advance(Duration::from_secs(1));
    assert_eq!(limits.admit_peer(guesser), Ok(()));
    assert_eq!(limits.sizes().peers, 1, "who was never charged isn't remembered");
}

#[test]
fn a_peer_is_a_network_however_it_is_written() {
    let config = config::Limits { peer: Some(rate(1, 1)), ..all_off() };
    for (charged, asked, same) in [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("::ffff:192.0.2.1", "192.0.2.1", true),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
    ] {
        let limits = Clocked::new(&config, &[], still());
        limits.charge_peer(peer(charged));
        assert_eq!(limits.admit_peer(peer(asked)).is_err(), same, "{charged} and {asked}");
    }
}

#[test]
fn a_million_peers_stay_within_the_cap() {
    let config = config::Limits { peer: Some(rate(1, 1)), keys: 3000, ..all_off() };
    let limits = Clocked::new(&config, &[], still());
    for n in 0..1_000_000_u128 {
        limits.charge_peer(IpAddr::from((0x2001_0db8_u128 << 96 | n << 64).to_be_bytes()));
    }
    assert!(limits.sizes().peers <= 3000);
}

#[tokio::test]
async fn the_lane_holds_so_many_and_refuses_the_next_when_its_time_is_up() {
    let limits = lane_of(256, Duration::ZERO);
    let mut inside = Vec::new();
    for n in 0..256 {
        inside.push(enter(&limits, n).await.unwrap().expect("a stranger needs a permit"));
    }
    let refusal = Throttled { by: Limiter::Lane, retry_after: 1, quota: None };
    assert_eq!(enter(&limits, 256).await.unwrap_err(), refusal);
    inside.pop();
    assert!(enter(&limits, 256).await.unwrap().is_some());
}

#[tokio::test]
async fn a_stranger_waits_for_a_place_and_takes_the_first_that_is_given_back() {
    let limits = lane_of(1, HOUR);
    let first = enter(&limits, 1).await.unwrap().unwrap();
    let (second, ()) = tokio::join!(enter(&limits, 2), async { drop(first) });
    assert!(second.unwrap().is_some());
}

#[tokio::test]
async fn a_known_caller_passes_a_full_lane_until_its_token_is_refused() {
    let limits = lane_of(1, Duration::ZERO);
    let inside = enter(&limits, 1).await.unwrap();
    limits.accepted(&caller(2));
    assert!(enter(&limits, 2).await.unwrap().is_none());
    limits.rejected(&caller(2));
    assert_eq!(enter(&limits, 2).await.unwrap_err().by, Limiter::Lane);
    drop(inside);
}

#[tokio::test]
async fn a_caller_accepted_while_it_waits_is_not_refused() {
    let limits = lane_of(1, Duration::from_millis(1));
    let inside = enter(&limits, 1).await.unwrap();
    let waiting = enter(&limits, 2);
    let (passed, ()) = tokio::join!(waiting, async { limits.accepted(&caller(2)) });
    assert!(passed.unwrap().is_none());
    drop(inside);
}

#[tokio::test]
async fn a_waiter_that_leaves_takes_no_place_with_it() {
    let limits = lane_of(1, HOUR);
    let inside = enter(&limits, 1).await.unwrap();
    {
        let mut before = pin!(enter(&limits, 2));
        let mut after = pin!(enter(&limits, 3));
        let mut task = Context::from_waker(Waker::noop());
        assert!(before.as_mut().poll(&mut task).is_pending());
        assert!(after.as_mut().poll(&mut task).is_pending());
        drop(inside);
        // Both leave now: one with the place already handed to it, one still in the queue.
    }
    assert!(at_once(enter(&limits, 4)).expect("the place is free").unwrap().is_some());
}

#[tokio::test]
async fn bogus_callers_never_become_known_and_the_known_stay_within_the_cap() {
    let config = config::Limits { keys: 100, lane: Some(lane(1, Duration::ZERO)), ..all_off() };
    let limits = Clocked::new(&config, &[], still());
    for bogus in 0..1000 {
        assert!(enter(&limits, bogus).await.unwrap().is_some());
        limits.rejected(&caller(bogus));
    }
    assert_eq!(limits.sizes().known, 0);
    for accepted in 0..1000 {
        limits.accepted(&caller(accepted));
        limits.accepted(&caller(accepted));
        assert!(enter(&limits, 0).await.unwrap().is_none(), "the first one goes on asking");
    }
    assert_eq!(limits.sizes().known, 100);
    for (n, known) in [(0, true), (999, true), (500, false)] {
        assert_eq!(enter(&limits, n).await.unwrap().is_none(), known, "the ones in use are kept");
    }
}

#[tokio::test]
async fn without_a_lane_too_the_known_who_ask_are_kept() {
    let config = config::Limits { keys: 100, lane: None, ..all_off() };
    let limits = Clocked::new(&config, &[], still());
    for accepted in 0..1000 {
        limits.accepted(&caller(accepted));
        assert!(enter(&limits, 0).await.unwrap().is_none());
    }
    assert_eq!(limits.sizes().known, 100);
    let known = [0, 999, 500].map(|n| limits.known.contains(&caller(n)));
    assert_eq!(known, [true, true, false]);
}

#[test]
fn names_of_limiters_are_unique() {
    let mut names = Limiter::ALL.map(Limiter::as_str).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Limiter::ALL.len());
}

proptest! {
    #[test]
    fn waiting_as_long_as_a_refusal_says_is_enough(
        per_second in 1_u32..2000,
        burst in 1_u32..50,
        pauses in prop::collection::vec(0_u64..300_000, 1..200),
    ) {
        let (limits, clock) = callers_at(per_second, burst);
        for pause in pauses {
            clock.advance(Duration::from_micros(pause));
            if let Err(refusal) = admit(&limits, 1) {
                prop_assert!(refusal.retry_after >= refusal.quota.unwrap().reset.max(1));
                clock.advance(Duration::from_secs(refusal.retry_after));
                prop_assert!(admit(&limits, 1).is_ok());
            }
        }
    }

    #[test]
    fn what_the_quota_says_is_what_is_admitted(
        per_second in 1_u32..2000,
        burst in 1_u32..50,
        pauses in prop::collection::vec(0_u64..300_000, 1..20),
    ) {
        let (limits, clock) = callers_at(per_second, burst);
        for pause in pauses {
            clock.advance(Duration::from_micros(pause));
            let Ok(Some(quota)) = admit(&limits, 1) else { continue };
            let remaining = usize::try_from(quota.remaining).unwrap();
            prop_assert_eq!(admitted(&limits, 1, 0, remaining + 1), remaining);
            let quota = admit(&limits, 1).unwrap_err().quota.unwrap();
            prop_assert_eq!(quota.remaining, 0);
            clock.advance(Duration::from_secs(quota.window));
            prop_assert_eq!(admitted(&limits, 1, 0, 100), usize::try_from(burst).unwrap());
        }
    }

    #[test]
    fn nobody_gets_more_than_burst_and_rate_through_a_bucket_and_the_overflow_together(
        steps in prop::collection::vec((0_u64..12, 0_u64..400), 1..600),
    ) {
        let config = config::Limits { caller: Some(rate(2, 3)), keys: 6, ..all_off() };
        let (limits, clock) = steered(&config);
        let (mut passed, mut elapsed) = ([0_u64; 12], 0);
        for (who, pause) in steps {
            clock.advance(Duration::from_millis(pause));
            elapsed += pause;
            passed[usize::try_from(who).unwrap()] += u64::from(admit(&limits, who).is_ok());
            let bucket = 3 + elapsed * 2 / 1000;
            prop_assert!(passed.iter().map(|n| n.saturating_sub(bucket)).sum::<u64>() <= bucket);
            prop_assert!(limits.sizes().callers <= 6);
        }
    }
}

const HOUR: Duration = Duration::from_hours(1);

fn all_off() -> config::Limits {
    config::Limits {
        caller: None,
        caller_upstream: None,
        peer: None,
        lane: None,
        keys: 100_000,
        request_body: 0,
    }
}

fn rate(per_second: u32, burst: u32) -> Rate {
    Rate { per_second, burst }
}

fn lane(in_flight: usize, wait: Duration) -> Lane {
    Lane { in_flight, wait }
}

fn still() -> Clock {
    Clock::steered(Duration::from_secs(1_700_000_000))
}

fn steered(config: &config::Limits) -> (Clocked, Clock) {
    let clock = still();
    (Clocked::new(config, &[], clock.clone()), clock)
}

fn callers_at(per_second: u32, burst: u32) -> (Clocked, Clock) {
    steered(&config::Limits { caller: Some(rate(per_second, burst)), ..all_off() })
}

fn lane_of(in_flight: usize, wait: Duration) -> Limits {
    steered(&config::Limits { lane: Some(lane(in_flight, wait)), ..all_off() }).0.0
}

/// A caller whose digest is spread as a real one is.
fn caller(n: u64) -> CallerId {
    let mut digest = [0; 32];
    for (at, part) in (1..).zip(digest.chunks_exact_mut(8)) {
        let word = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at * 13);
        part.copy_from_slice(&word.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes());
    }
    CallerId::from_bytes(digest)
}

fn peer(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn admit(limits: &Clocked, n: u64) -> Result<Option<Quota>, Throttled> {
    limits.admit(&caller(n), 0)
}

/// How many of so many requests pass.
fn admitted(limits: &Clocked, n: u64, route: usize, requests: usize) -> usize {
    (0..requests).filter(|_| limits.admit(&caller(n), route).is_ok()).count()
}

async fn enter(limits: &Limits, n: u64) -> Result<Option<LanePermit>, Throttled> {
    limits.enter_lane(&caller(n)).await
}

/// The result of a future that is ready when first polled.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Limits that are asked at the present of a clock.
struct Clocked(Limits, Clock);

impl Deref for Clocked {
    type Target = Limits;

    fn deref(&self) -> &Limits {
        &self.0
    }
}

impl Clocked {
    fn new(config: &config::Limits, routes: &[Option<Rate>], clock: Clock) -> Self {
        Self(Limits::new(config, routes, clock.mono()), clock)
    }

    fn admit(&self, caller: &CallerId, route: usize) -> Result<Option<Quota>, Throttled> {
        self.0.admit(caller, route, self.1.mono())
    }

    fn admit_upstream(&self, caller: &CallerId) -> Result<(), Throttled> {
        self.0.admit_upstream(caller, self.1.mono())
    }

    fn admit_peer(&self, peer: IpAddr) -> Result<(), Throttled> {
        self.0.admit_peer(peer, self.1.mono())
    }

    fn charge_peer(&self, peer: IpAddr) {
        self.0.charge_peer(peer, self.1.mono());
    }
}
