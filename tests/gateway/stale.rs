//! What is served past its life, when, and what ends that (RFC 5861; RFC 9111 §4.2.4 and §4.3).
//!
//! *Claims*
//! 1. Stale-while-revalidate answers at once and costs exactly one refresh; a refresh that fails takes
//!    nothing away.
//! 2. Stale-if-error stands in for 500, 502, 503, 504, 429, whatever breaks, and our own refusals, inside its
//!    window and nowhere else.
//! 3. What the upstream forbids to be served stale is not, also on errors.
//! 4. Revalidation carries the upstream's validators and nobody else's; a 304 renews what it is about and
//!    never reaches a client that did not ask for one.
//!
//! By default an answer lives 60 s, then 30 s while it is refreshed, then 300 s for errors, then 600 s
//! only to be asked about.

use unitgate::config::{Config, Rate};

use crate::support::{
    Answer, Ask, Client, Gate, MASK, OTHER_UNIT, Reply, Seen, UNIT, Upstream, key, list, secs,
    token,
};

const STALE_IF_ERROR: &str = "detail=stale-if-error";

fn old() -> Answer {
    Answer::json(200, list(MASK, "Old."))
}

fn new() -> Answer {
    Answer::json(200, list(MASK, "New."))
}

/// A gate in front of an upstream that has an answer like [`old`] stored for alice.
async fn stored(answer: Answer) -> (Upstream, Gate, Client) {
    stored_with(answer, |_| {}).await
}

async fn stored_with(answer: Answer, change: impl FnOnce(&mut Config)) -> (Upstream, Gate, Client) {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, change);
    let alice = gate.client("alice");
    upstream.next(answer);
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "Old."));
    upstream.answer(new());
    (upstream, gate, alice)
}

fn is_stale_copy(reply: &Reply) -> bool {
    reply.status == 200
        && reply.text() == list(MASK, "Old.")
        && reply.cache().contains(STALE_IF_ERROR)
}

#[tokio::test]
async fn a_stale_answer_is_served_at_once_and_refreshed_once_behind_it() {
    let (upstream, mut gate, alice) = stored(old()).await;
    let held = upstream.hold();
    gate.advance(secs(61));
    for _ in 0..10 {
        let stale = alice.get(UNIT).await;
        assert_eq!(stale.text(), list(MASK, "Old."));
        assert_eq!(stale.cache(), "unitgate; hit; ttl=-1");
        assert_eq!(stale.field("age"), Some("61"));
        assert_eq!(stale.field("cache-control"), Some("private, max-age=60"));
    }
    held.arrived().await;
    held.release();
    assert!(gate.leave().await);
    assert_eq!(upstream.count(), 2);
    assert_eq!(gate.metric("upstream_requests_total", &["cause=\"refresh\""]), 1.0);
    assert_eq!(gate.metric("cache_stale_served_total", &["while_revalidate"]), 10.0);
}

#[tokio::test]
async fn a_refresh_replaces_what_it_renews() {
    let (upstream, gate, alice) = stored(old()).await;
    let held = upstream.hold();
    gate.advance(secs(89));
    assert!(alice.get(UNIT).await.is_hit());
    held.arrived().await;
    gate.advance(secs(2));
    // Past the window it is waited for.
    let joined = alice.enter(Ask::get(UNIT)).await;
    held.release();
    let joined = joined.reply().await;
    assert_eq!(joined.text(), list(MASK, "New."));
    assert!(
        joined.cache().contains("fwd=stale") && joined.cache().contains("collapsed"),
        "{}",
        joined.cache()
    );
    let hit = alice.get(UNIT).await;
    assert_eq!((hit.text(), hit.cache()), (list(MASK, "New.").as_str(), "unitgate; hit; ttl=60"));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_refresh_carries_the_token_of_its_key_alone() {
    let (upstream, gate, alice) = stored(old()).await;
    gate.client("bob").get(UNIT).await;
    gate.advance(secs(61));
    alice.get(UNIT).await;
    upstream.arrived(3).await;
    let expected = format!("Bearer {}", token("alice"));
    assert_eq!(upstream.last().field("authorization"), Some(expected.as_str()));
}

#[tokio::test]
async fn past_its_window_a_stale_answer_is_waited_for() {
    let (upstream, gate, alice) = stored(old()).await;
    gate.advance(secs(90));
    let renewed = alice.get(UNIT).await;
    assert_eq!(renewed.text(), list(MASK, "New."));
    assert_eq!(renewed.cache(), "unitgate; fwd=stale; fwd-status=200; stored; ttl=60");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn what_a_304_renews_and_forbids_to_store_has_all_its_fields_once_more() {
    for conditional in [false, true] {
        let (upstream, gate, alice) = stored(old().field("etag", "\"up\"")).await;
        let hit = alice.get(UNIT).await;
        let etag = hit.field("etag").unwrap().to_owned();
        gate.advance(secs(91));
        let forbids = Answer::not_modified().field("etag", "\"up\"");
        upstream.answer(forbids.field("cache-control", "no-store"));
        let ask = Ask::get(UNIT);
        let ask = if conditional { ask.field("if-none-match", &etag) } else { ask };
        let last = alice.send(ask).await;
        assert_eq!(last.status, if conditional { 304 } else { 200 });
        assert_eq!(last.field("etag"), Some(etag.as_str()));
        assert_eq!(last.field("vary"), Some("authorization"));
        assert_eq!(last.field("cache-control"), Some("private, no-store"));
        assert!(last.field("date").is_some());
        if !conditional {
            assert_eq!(last.text(), list(MASK, "Old."));
            assert_eq!(last.field("content-type"), hit.field("content-type"));
        }
    }
}

#[tokio::test]
async fn a_refresh_that_fails_takes_nothing_away() {
    for failure in [Answer::json(500, "{}"), Answer::reset(), Answer::json(200, "nonsense")] {
        let (upstream, gate, alice) = stored(old()).await;
        let held = upstream.hold();
        gate.advance(secs(61));
        assert!(alice.get(UNIT).await.is_hit());
        held.arrived().await;
        gate.advance(secs(40));
        let joined = alice.enter(Ask::get(UNIT)).await;
        upstream.answer(failure.clone());
        held.release();
        assert!(is_stale_copy(&joined.reply().await), "{failure:?}");
        assert!(is_stale_copy(&alice.get(UNIT).await), "evicted by {failure:?}");
    }
}

#[tokio::test]
async fn a_failing_upstream_is_stood_in_for_inside_the_window_only() {
    for status in [500, 502, 503, 504] {
        let (upstream, gate, alice) = stored(old()).await;
        upstream.answer(Answer::json(status, r#"{"message":"failing"}"#));
        gate.advance(secs(90));
        let stale = alice.get(UNIT).await;
        assert!(is_stale_copy(&stale), "{status}: {stale:?}");
        assert_eq!(stale.field("age"), Some("90"));
        assert!(
            stale.cache().contains("fwd=stale") && stale.cache().contains("ttl=-30"),
            "{}",
            stale.cache()
        );
        gate.advance(secs(299));
        assert!(is_stale_copy(&alice.get(UNIT).await), "{status} at the window's end");
        gate.advance(secs(1));
        let failed = alice.get(UNIT).await;
        assert_eq!((failed.status, failed.text()), (status, r#"{"message":"failing"}"#));
        assert_eq!(upstream.count(), 4, "the upstream is tried each time");
        assert_eq!(gate.metric("cache_stale_served_total", &["if_error"]), 2.0);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_is_stood_in_for() {
    let broken = [
        Answer::reset(),
        new().cut(30),
        new().reset_after(30),
        new().stall_after(30),
        Answer::silence(),
        Answer::raw("HTTP/1.1 nonsense\r\n\r\n"),
        Answer::json(200, "<html>not JSON</html>"),
        Answer::json(200, ""),
        new().field("content-encoding", "gzip"),
        new().field("content-encoding", "unheard-of"),
        Answer::json(206, list(MASK, "Part.")).field("content-range", "bytes 0-9/99"),
        Answer::json(304, "").field("etag", "\"nothing of ours\""),
    ];
    for answer in broken {
        let hasty = |config: &mut Config| {
            config.upstream.first_byte = secs(1);
            config.upstream.total = secs(1);
        };
        let (upstream, gate, alice) = stored_with(old(), hasty).await;
        upstream.answer(answer.clone());
        gate.advance(secs(100));
        let reply = alice.get(UNIT).await;
        assert!(is_stale_copy(&reply), "{answer:?}: {reply:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_stood_in_for() {
    let (mut upstream, gate, alice) = stored(old()).await;
    upstream.stop().await;
    gate.advance(secs(100));
    assert!(is_stale_copy(&alice.get(UNIT).await));
    gate.advance(secs(290));
    let failed = alice.get(UNIT).await;
    assert_eq!((failed.status, failed.code().as_str()), (502, "upstream_unreachable"));
    upstream.restart().await;
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "New."));
}

#[tokio::test]
async fn head_and_conditions_are_answered_from_the_stale_copy_too() {
    let (upstream, gate, alice) = stored(old()).await;
    let etag = alice.get(UNIT).await.field("etag").unwrap().to_owned();
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(100));
    let head = alice.head(UNIT).await;
    assert_eq!((head.status, head.field("etag")), (200, Some(etag.as_str())));
    let known = alice.send(Ask::get(UNIT).field("if-none-match", &etag)).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
}

#[tokio::test]
async fn other_errors_are_not_excused() {
    for status in [400, 402, 409, 410, 422, 501, 505] {
        let (upstream, gate, alice) = stored(old()).await;
        upstream.answer(Answer::json(status, "{}"));
        gate.advance(secs(100));
        assert_eq!(alice.get(UNIT).await.status, status);
    }
}

#[tokio::test]
async fn an_upstreams_429_is_stood_in_for_inside_the_window_only() {
    let (upstream, gate, alice) = stored(old()).await;
    upstream.answer(Answer::json(429, "{}").field("retry-after", "7"));
    gate.advance(secs(100));
    assert!(is_stale_copy(&alice.get(UNIT).await));
    gate.advance(secs(290));
    let limited = alice.get(UNIT).await;
    assert_eq!((limited.status, limited.field("retry-after")), (429, Some("7")));
}

#[tokio::test]
async fn our_own_refusals_are_stood_in_for() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.caller_upstream = Some(Rate { per_second: 1, burst: 1 });
    });
    let alice = gate.client("alice");
    upstream.next(old());
    alice.get(UNIT).await;
    gate.advance(secs(100));
    alice.get(OTHER_UNIT).await;
    assert!(is_stale_copy(&alice.get(UNIT).await));
    assert_eq!(upstream.count(), 2, "what we refuse does not go upstream");
    gate.advance(secs(300));
    alice.get(&format!("{OTHER_UNIT}?page=2")).await;
    let limited = alice.get(UNIT).await;
    assert_eq!((limited.status, limited.code().as_str()), (429, "upstream_limited"));
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn what_may_not_be_stale_is_not_also_on_errors() {
    for directive in [
        "max-age=60, must-revalidate",
        "max-age=60, Must-Revalidate",
        "max-age=60, proxy-revalidate",
        "max-age=60, s-maxage=60",
        "s-maxage=60",
        "no-cache",
        "max-age=60, no-cache",
    ] {
        let (upstream, gate, alice) = stored(old().field("cache-control", directive)).await;
        gate.advance(secs(61));
        let waited = alice.get(UNIT).await;
        assert_eq!(waited.text(), list(MASK, "New."), "{directive}: stale while revalidating");
        let (failing, gate, alice) = stored(old().field("cache-control", directive)).await;
        failing.answer(Answer::json(503, "{}"));
        gate.advance(secs(61));
        assert_eq!(alice.get(UNIT).await.status, 503, "{directive}: stale if error");
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn must_revalidate_is_told_to_the_clients_cache() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(old().field("cache-control", "max-age=60, must-revalidate"));
    let reply = gate.client("alice").get(UNIT).await;
    assert_eq!(reply.field("cache-control"), Some("private, max-age=60, must-revalidate"));
}

#[tokio::test]
async fn the_upstream_shortens_the_windows_and_never_lengthens_them() {
    let control = "max-age=60, stale-while-revalidate=10, stale-if-error=20";
    let (upstream, gate, alice) = stored(old().field("cache-control", control)).await;
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(69));
    assert!(alice.get(UNIT).await.is_hit());
    upstream.arrived(2).await;
    gate.advance(secs(10));
    assert!(is_stale_copy(&alice.get(UNIT).await));
    gate.advance(secs(1));
    assert_eq!(alice.get(UNIT).await.status, 503);
    let control = "max-age=60, stale-while-revalidate=9000, stale-if-error=9000";
    let (upstream, gate, alice) = stored(old().field("cache-control", control)).await;
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(90));
    assert!(is_stale_copy(&alice.get(UNIT).await));
    gate.advance(secs(300));
    assert_eq!(alice.get(UNIT).await.status, 503);
}

#[tokio::test]
async fn both_windows_can_be_off() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| {
            policy.stale_while_revalidate = secs(0);
            policy.stale_if_error = secs(0);
        });
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(60));
    assert_eq!(alice.get(UNIT).await.status, 503);
}

#[tokio::test]
async fn revalidation_carries_the_upstreams_validators_and_a_304_renews() {
    let modified = "Fri, 15 Jan 2027 07:00:00 GMT";
    let answer = Answer::json(200, list(&key("a1"), "Old.")).field("etag", "\"theirs\"");
    let (upstream, gate, alice) = stored(answer.field("last-modified", modified)).await;
    let first = alice.get(UNIT).await;
    upstream.answer(Answer::not_modified().field("etag", "\"theirs\""));
    gate.advance(secs(100));
    let renewed = alice.get(UNIT).await;
    let asked = upstream.last();
    assert_eq!(asked.field("if-none-match"), Some("\"theirs\""));
    assert_eq!(asked.field("if-modified-since"), Some(modified));
    assert_eq!((renewed.status, renewed.text()), (200, list(MASK, "Old.").as_str()));
    assert_eq!(renewed.cache(), "unitgate; fwd=stale; fwd-status=304; stored; ttl=60");
    assert_eq!(renewed.field("etag"), first.field("etag"));
    assert_eq!(renewed.field("content-length"), first.field("content-length"));
    gate.advance(secs(59));
    let hit = alice.get(UNIT).await;
    assert_eq!((hit.cache(), hit.field("age")), ("unitgate; hit; ttl=1", Some("59")));
    assert_eq!(upstream.count(), 2);
    assert_eq!(gate.metric("requests_total", &["outcome=\"revalidated\""]), 1.0);
    assert_eq!(gate.metric("upstream_requests_total", &["cause=\"revalidate\""]), 1.0);
}

#[tokio::test]
async fn last_modified_alone_revalidates_too() {
    let modified = "Fri, 15 Jan 2027 07:00:00 GMT";
    let (upstream, gate, alice) = stored(old().field("last-modified", modified)).await;
    upstream.answer(Answer::not_modified().field("last-modified", modified));
    gate.advance(secs(100));
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "Old."));
    assert_eq!(upstream.count(), 2);
    assert_eq!(upstream.last().field("if-modified-since"), Some(modified));
    assert_eq!(upstream.last().field("if-none-match"), None);
    assert!(alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn the_clients_condition_is_not_the_upstreams() {
    let (upstream, gate, alice) = stored(old().field("etag", "\"theirs\"")).await;
    let ours = alice.get(UNIT).await.field("etag").unwrap().to_owned();
    upstream.answer(Answer::not_modified().field("etag", "\"theirs\""));
    gate.advance(secs(100));
    let theirs = alice.send(Ask::get(UNIT).field("if-none-match", "\"theirs\"")).await;
    assert_eq!((theirs.status, theirs.text()), (200, list(MASK, "Old.").as_str()));
    assert_eq!(upstream.last().field("if-none-match"), Some("\"theirs\""));
    gate.advance(secs(100));
    let known = alice.send(Ask::get(UNIT).field("if-none-match", &ours)).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(upstream.last().field("if-none-match"), Some("\"theirs\""));
}

#[tokio::test]
async fn a_304_brings_a_new_lifetime_with_it() {
    let (upstream, gate, alice) = stored(old().field("etag", "\"theirs\"")).await;
    let renewal = Answer::not_modified().field("etag", "\"theirs\"");
    upstream.answer(renewal.field("cache-control", "max-age=120").field("content-length", "0"));
    gate.advance(secs(100));
    let renewed = alice.get(UNIT).await;
    assert_eq!(renewed.field("cache-control"), Some("private, max-age=120"));
    assert_eq!(renewed.text(), list(MASK, "Old."));
    gate.advance(secs(119));
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_304_about_something_else_is_asked_again_without_conditions() {
    let (upstream, gate, alice) = stored(old().field("etag", "\"theirs\"")).await;
    upstream.answers(|seen: &Seen| match seen.field("if-none-match") {
        Some("\"theirs\"") => Answer::not_modified().field("etag", "\"another\""),
        Some(_) => Answer::not_modified(),
        None => new().field("etag", "\"another\""),
    });
    for (asked, what) in [(3, "another validator"), (5, "no validator")] {
        gate.advance(secs(100));
        let refetched = alice.get(UNIT).await;
        assert_eq!(
            (refetched.status, refetched.text()),
            (200, list(MASK, "New.").as_str()),
            "{what}"
        );
        assert_eq!(upstream.count(), asked, "{what}");
        assert_eq!(upstream.last().field("if-none-match"), None);
        assert_eq!(upstream.last().field("if-modified-since"), None);
    }
}

#[tokio::test]
async fn an_unasked_304_never_reaches_a_client() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(Answer::not_modified().field("etag", "\"theirs\""));
    let reply =
        gate.client("alice").send(Ask::get(UNIT).field("if-none-match", "\"theirs\"")).await;
    assert_eq!(reply.status, 502);
    upstream.answer(new());
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn a_validator_keeps_an_answer_past_all_windows_to_be_asked_about() {
    let (upstream, gate, alice) = stored(old().field("etag", "\"theirs\"")).await;
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(60 + 30 + 300 + 599));
    assert_eq!(alice.get(UNIT).await.status, 503, "it is never shown unasked");
    assert_eq!(upstream.last().field("if-none-match"), Some("\"theirs\""));
    upstream.answer(Answer::not_modified().field("etag", "\"theirs\""));
    let kept = alice.get(UNIT).await;
    assert_eq!((kept.status, kept.text()), (200, list(MASK, "Old.").as_str()));
    let (upstream, gate, alice) = stored(old().field("etag", "\"theirs\"")).await;
    gate.advance(secs(60 + 30 + 300 + 601));
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "New."));
    assert_eq!(upstream.last().field("if-none-match"), None);
}

#[tokio::test]
async fn a_200_replaces_the_stale_answer_and_its_validators() {
    let (upstream, gate, alice) = stored(old().field("etag", "\"one\"")).await;
    upstream.answer(new().field("etag", "\"two\""));
    gate.advance(secs(100));
    alice.get(UNIT).await;
    gate.advance(secs(100));
    alice.get(UNIT).await;
    assert_eq!(upstream.last().field("if-none-match"), Some("\"two\""));
}

#[tokio::test]
async fn an_unstorable_200_ends_the_stale_answer() {
    let (upstream, gate, alice) = stored(old()).await;
    upstream.answer(new().field("cache-control", "no-store"));
    gate.advance(secs(100));
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "New."));
    upstream.answer(Answer::json(503, "{}"));
    assert_eq!(alice.get(UNIT).await.status, 503);
}

#[tokio::test]
async fn concurrent_revalidations_cost_one_upstream_request() {
    let (upstream, gate, alice) = stored(old().field("etag", "\"theirs\"")).await;
    upstream.answer(Answer::not_modified().field("etag", "\"theirs\""));
    gate.advance(secs(100));
    let held = upstream.hold();
    let mut crowd = Vec::new();
    for _ in 0..50 {
        crowd.push(alice.enter(Ask::get(UNIT)).await);
    }
    held.arrived().await;
    held.release();
    for pending in crowd {
        assert_eq!(pending.reply().await.text(), list(MASK, "Old."));
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_failed_revalidation_gives_each_joiner_the_stale_copy() {
    let (upstream, gate, alice) = stored(old()).await;
    gate.advance(secs(100));
    let held = upstream.hold();
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(alice.enter(Ask::get(UNIT)).await);
    }
    held.arrived().await;
    held.release_with(Answer::json(503, "{}"));
    for pending in crowd {
        assert!(is_stale_copy(&pending.reply().await));
    }
    assert!(upstream.count() <= 4);
}

#[tokio::test]
async fn a_wall_clock_that_jumps_ahead_expires_and_one_set_back_does_not_rejuvenate() {
    let (upstream, gate, alice) = stored(old()).await;
    let wall = gate.clock().now().wall;
    gate.advance(secs(50));
    gate.clock().set_wall(wall.saturating_sub(secs(1_000)));
    assert_eq!(alice.get(UNIT).await.field("age"), Some("50"));
    gate.clock().set_wall(wall + secs(5_000));
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "New."));
    assert_eq!(upstream.count(), 2);
}
