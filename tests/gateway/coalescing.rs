//! Concurrent misses of one key cost one upstream request, whatever becomes of it and of who asked first.
//!
//! *Claims*
//! 1. N equal misses are one upstream request; joiners say `collapsed`.
//! 2. A flight lands whoever leaves, its leader too.
//! 3. A failure answers everyone at once, with at most three upstream requests in all, and wedges nothing.
//! 4. A joiner's own method and conditions are applied to what landed.

use crate::support::{
    Answer, Ask, Gate, MASK, OTHER_UNIT, Pending, Reply, UNIT, Upstream, list, secs,
};

async fn replies(pending: Vec<Pending>) -> Vec<Reply> {
    let mut replies = Vec::new();
    for one in pending {
        replies.push(one.reply().await);
    }
    replies
}

/// So many who ask for the same and are all inside before anyone is answered.
async fn crowd(gate: &Gate, many: usize) -> Vec<Pending> {
    let alice = gate.client("alice");
    let mut crowd = Vec::new();
    for _ in 0..many {
        crowd.push(alice.enter(Ask::get(UNIT)).await);
    }
    crowd
}

#[tokio::test]
async fn two_hundred_concurrent_cold_requests_cost_one_upstream_request() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let held = upstream.hold();
    let crowd = crowd(&gate, 200).await;
    held.arrived().await;
    held.release();
    let replies = replies(crowd).await;
    assert!(
        replies.iter().all(|reply| reply.status == 200 && reply.text() == list(MASK, "Be kind."))
    );
    let joined = replies.iter().filter(|reply| reply.cache().contains("; collapsed")).count();
    assert_eq!((joined, upstream.count()), (199, 1));
    assert_eq!(replies[0].cache(), "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60");
    assert_eq!(
        replies[1].cache(),
        "unitgate; fwd=uri-miss; fwd-status=200; stored; collapsed; ttl=60"
    );
    assert_eq!(gate.metric("cache_coalesced_total", &[]), 199.0);
    assert_eq!(gate.metric("upstream_requests_total", &[]), 1.0);
    assert_eq!(gate.metric("requests_total", &["outcome=\"coalesced\""]), 199.0);
}

#[tokio::test]
async fn two_hundred_connections_cost_one_upstream_request() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let crowd: Vec<_> = (0..200).map(|_| alice.begin(Ask::get(UNIT))).collect();
    held.arrived().await;
    held.release();
    assert!(replies(crowd).await.iter().all(|reply| reply.status == 200));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_flight_lands_when_its_leader_leaves() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let leader = alice.begin(Ask::get(UNIT));
    held.arrived().await;
    let joiner = alice.enter(Ask::get(UNIT)).await;
    leader.hang_up().await;
    gate.logged("client_gone").await;
    let late = alice.enter(Ask::get(UNIT)).await;
    held.release();
    for reply in [joiner.reply().await, late.reply().await] {
        assert_eq!(reply.status, 200);
        assert!(reply.cache().contains("collapsed"), "{}", reply.cache());
    }
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(upstream.count(), 1);
    assert_eq!(gate.metric("requests_total", &["outcome=\"client_gone\""]), 1.0);
}

#[tokio::test]
async fn a_flight_lands_when_everyone_has_left() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let leader = alice.begin(Ask::get(UNIT));
    held.arrived().await;
    leader.hang_up().await;
    gate.logged("client_gone").await;
    held.release();
    assert_eq!(alice.get(UNIT).await.status, 200);
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_error_answers_everyone_and_is_not_kept() {
    for status in [401, 404, 429, 500, 503] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |config| config.upstream.hold_back = secs(0));
        let held = upstream.hold();
        let crowd = crowd(&gate, 50).await;
        held.arrived().await;
        held.release_with(Answer::json(status, "{}"));
        assert!(replies(crowd).await.iter().all(|reply| reply.status == status), "{status}");
        assert!(upstream.count() <= 3, "{} upstream requests", upstream.count());
        let asked = upstream.count();
        assert_eq!(gate.client("alice").get(UNIT).await.status, 200, "tried anew after {status}");
        assert_eq!(upstream.count(), asked + 1);
    }
}

#[tokio::test]
async fn a_lost_connection_answers_everyone_and_wedges_nothing() {
    let whole = || Answer::json(200, list(MASK, "Be kind."));
    for broken in
        [Answer::reset(), whole().reset_after(20), whole().cut(20), Answer::raw("\0\0\0\0")]
    {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        let held = upstream.hold();
        let crowd = crowd(&gate, 50).await;
        held.arrived().await;
        upstream.answer(broken.clone());
        held.release();
        for reply in replies(crowd).await {
            assert_eq!(reply.status, 502, "{broken:?}");
            assert_eq!(reply.code(), "upstream_broken");
        }
        assert!(upstream.count() <= 3, "{} upstream requests", upstream.count());
        upstream.answer(whole());
        assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
    }
}

#[tokio::test]
async fn a_silent_upstream_answers_everyone_after_one_timeout() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.upstream.first_byte = secs(1);
    });
    upstream.next(Answer::silence());
    let began = tokio::time::Instant::now();
    let crowd = crowd(&gate, 50).await;
    for reply in replies(crowd).await {
        assert_eq!((reply.status, reply.code().as_str()), (504, "upstream_timeout"));
    }
    assert!(began.elapsed() < secs(3), "{:?}", began.elapsed());
    assert!(upstream.count() <= 3);
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn an_upstream_that_is_down_answers_everyone() {
    let mut upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.stop().await;
    let crowd = crowd(&gate, 50).await;
    for reply in replies(crowd).await {
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_unreachable"));
    }
    assert!(gate.metric("upstream_errors_total", &["kind=\"connect\""]) <= 3.0);
    upstream.restart().await;
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200, "back as soon as the upstream is");
}

#[tokio::test]
async fn one_key_does_not_wait_for_another() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let slow = alice.begin(Ask::get(UNIT));
    held.arrived().await;
    assert_eq!(alice.get(OTHER_UNIT).await.status, 200);
    assert_eq!(alice.get(&format!("{UNIT}?page=2")).await.status, 200);
    assert_eq!(upstream.count(), 3);
    held.release();
    assert_eq!(slow.reply().await.status, 200);
}

#[tokio::test]
async fn a_joiners_method_and_conditions_are_its_own() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let etag = gate.client("bob").get(UNIT).await.field("etag").unwrap().to_owned();
    let alice = gate.client("alice");
    let held = upstream.hold();
    let bodiless = alice.enter(Ask::new("HEAD", UNIT)).await;
    let get = alice.enter(Ask::get(UNIT)).await;
    let known = alice.enter(Ask::get(UNIT).field("if-none-match", &etag)).await;
    let other = alice.enter(Ask::get(UNIT).field("if-none-match", "\"another\"")).await;
    held.arrived().await;
    held.release();
    let bodiless = bodiless.reply().await;
    assert_eq!((bodiless.status, bodiless.field("etag")), (200, Some(etag.as_str())));
    let (get, known, other) = (get.reply().await, known.reply().await, other.reply().await);
    assert_eq!((get.status, get.text()), (200, list(MASK, "Be kind.").as_str()));
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!((other.status, other.text()), (200, get.text()));
    assert_eq!(upstream.count(), 2);
    assert_eq!(upstream.last().method, "GET");
}

#[tokio::test]
async fn joiners_answers_are_their_own_exchange_with_their_own_ids() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let leader = alice.enter(Ask::get(UNIT).field("x-request-id", "first")).await;
    let joiner = alice.enter(Ask::get(UNIT).field("x-request-id", "second")).await;
    held.arrived().await;
    held.release();
    assert_eq!(leader.reply().await.field("x-request-id"), Some("first"));
    assert_eq!(joiner.reply().await.field("x-request-id"), Some("second"));
    assert_eq!(upstream.last().field("x-request-id"), Some("first"));
    let log = gate.log();
    for id in ["\"first\"", "\"second\""] {
        assert_eq!(log.lines().filter(|line| line.contains(id)).count(), 1, "{id}: {log}");
    }
}
