//! What an open route serves past its life, in front of any upstream (RFC 5861; RFC 9111 §4.2.4).
//!
//! *Claims*
//! 1. Stale-while-revalidate is there only where the upstream says so, for as long as it says: at once, at
//!    the cost of one refresh. A refresh that fails takes nothing away.
//! 2. Stale-if-error is the configured minute, or what the upstream says, longer or shorter or none; inside
//!    it a copy stands in for 500, 502, 503, 504, 429 and whatever breaks, outside it the failure is told.
//! 3. What the upstream forbids to be served stale is not, also on errors.
//! 4. An upstream's error is an answer: it passes as it is.

use unitgate::config::Config;

use crate::support::{Answer, Ask, Client, Gate, Reply, Upstream, secs};

const TARGET: &str = "/thing";
const OLD: &str = "the old thing";
const NEW: &str = "the new thing";

fn old(control: &str) -> Answer {
    Answer::new(200, OLD).field("cache-control", control).field("etag", "\"old\"")
}

fn new() -> Answer {
    Answer::new(200, NEW).field("cache-control", "max-age=10").field("etag", "\"new\"")
}

/// A gate in front of an upstream of which something with these directives is stored.
async fn stored(control: &str) -> (Upstream, Gate, Client) {
    stored_with(old(control), |_| ()).await
}

async fn stored_with(answer: Answer, change: impl FnOnce(&mut Config)) -> (Upstream, Gate, Client) {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, change);
    let client = gate.stranger();
    upstream.next(answer);
    assert_eq!(client.get(TARGET).await.text(), OLD);
    upstream.answer(new());
    (upstream, gate, client)
}

/// Whether it is the old copy, in place of a failure.
fn stands_in(reply: &Reply) -> bool {
    let told = reply.cache().starts_with("unitgate; fwd=stale")
        && reply.cache().ends_with("; detail=stale-if-error");
    reply.status == 200 && reply.text() == OLD && told
}

#[tokio::test]
async fn nothing_is_stale_while_revalidating_unless_the_upstream_says_so() {
    for control in ["max-age=10", "max-age=10, stale-if-error=100", "public, max-age=10"] {
        let (upstream, gate, client) = stored(control).await;
        gate.advance(secs(9));
        assert!(client.get(TARGET).await.is_hit(), "{control}");
        gate.advance(secs(1));
        let waited = client.get(TARGET).await;
        assert_eq!((waited.text(), upstream.count()), (NEW, 2), "{control}");
        assert_eq!(waited.cache(), "unitgate; fwd=stale; fwd-status=200; stored; ttl=10");
        assert_eq!(upstream.last().field("if-none-match"), Some("\"old\""));
        assert_eq!(gate.metric("upstream_requests_total", &["cause=\"refresh\""]), 0.0);
    }
}

#[tokio::test]
async fn the_upstreams_window_answers_at_once_and_costs_one_refresh() {
    let (upstream, mut gate, client) = stored("max-age=10, stale-while-revalidate=20").await;
    let held = upstream.hold();
    gate.advance(secs(13));
    for _ in 0..10 {
        let stale = client.get(TARGET).await;
        assert_eq!((stale.text(), stale.field("age")), (OLD, Some("13")));
        assert_eq!(stale.cache(), "unitgate; hit; ttl=-3");
        let control = "max-age=10, stale-while-revalidate=20";
        assert_eq!(stale.field("cache-control"), Some(control));
    }
    held.arrived().await;
    assert_eq!(upstream.last().field("if-none-match"), Some("\"old\""));
    held.release();
    assert!(gate.leave().await);
    assert_eq!(upstream.count(), 2);
    assert_eq!(gate.metric("upstream_requests_total", &["cause=\"refresh\""]), 1.0);
    assert_eq!(gate.metric("cache_stale_served_total", &["while_revalidate"]), 10.0);
}

#[tokio::test]
async fn each_key_is_refreshed_for_itself_and_again_once_that_has_ended() {
    let upstream = Upstream::start().await;
    upstream.answer(old("max-age=10, stale-while-revalidate=1000"));
    let gate = Gate::shared(&upstream, |_| ());
    let client = gate.stranger();
    for target in ["/a", "/b"] {
        client.get(target).await;
    }
    for (round, refreshed) in [(0, 4), (1, 6)] {
        gate.advance(secs(20));
        let held = [upstream.hold(), upstream.hold()];
        for target in ["/a", "/b", "/a", "/b"] {
            assert!(client.get(target).await.is_hit(), "{target} in round {round}");
        }
        upstream.arrived(refreshed).await;
        // Who reloads joins the refresh, so that it has ended when the reload is answered.
        let reload = |target| Ask::get(target).field("cache-control", "no-cache");
        let joined = [client.enter(reload("/a")).await, client.enter(reload("/b")).await];
        for held in held {
            held.release();
        }
        for joined in joined {
            assert!(joined.reply().await.cache().contains("collapsed"));
        }
        assert_eq!(upstream.count(), refreshed, "in round {round}");
    }
}

#[tokio::test]
async fn past_the_upstreams_window_a_stale_answer_is_waited_for() {
    for (age, is_hit) in [(10, true), (29, true), (30, false)] {
        let (upstream, gate, client) = stored("max-age=10, stale-while-revalidate=20").await;
        gate.advance(secs(age));
        let reply = client.get(TARGET).await;
        assert_eq!((reply.is_hit(), reply.text() == OLD), (is_hit, is_hit), "at {age}");
        upstream.arrived(2).await;
    }
}

#[tokio::test]
async fn head_conditions_and_ranges_are_answered_from_a_stale_copy() {
    let (upstream, gate, client) =
        stored("max-age=10, stale-while-revalidate=20, stale-if-error=100").await;
    upstream.answer(Answer::new(503, "failing"));
    let held = upstream.hold();
    gate.advance(secs(15));
    let asks = || {
        [
            (Ask::new("HEAD", TARGET), 200, ""),
            (Ask::get(TARGET).field("if-none-match", "\"old\""), 304, ""),
            (Ask::get(TARGET).field("range", "bytes=4-6"), 206, "old"),
        ]
    };
    for (ask, status, body) in asks() {
        let reply = client.send(ask).await;
        assert_eq!((reply.status, reply.text()), (status, body), "{reply:?}");
        assert_eq!(reply.cache(), "unitgate; hit; ttl=-5");
    }
    held.arrived().await;
    // The refresh is nobody's: it has our condition and no other.
    assert_eq!((upstream.last().method.as_str(), upstream.count()), ("GET", 2));
    assert_eq!(upstream.last().field("if-none-match"), Some("\"old\""));
    assert_eq!(upstream.last().field("range"), None);
    gate.advance(secs(20));
    held.release();
    for (ask, status, body) in asks() {
        let reply = client.send(ask).await;
        assert_eq!((reply.status, reply.text()), (status, body), "{reply:?}");
        assert!(reply.cache().contains("detail=stale-if-error"), "{}", reply.cache());
    }
}

#[tokio::test]
async fn a_refresh_that_fails_takes_nothing_away() {
    for failure in [
        Answer::new(500, "failing"),
        Answer::new(503, "failing").field("retry-after", "9"),
        Answer::new(429, "slow down"),
        Answer::new(400, "what?"),
        Answer::reset(),
        Answer::new(200, NEW).cut(3),
        Answer::raw("HTTP/1.1 nonsense\r\n\r\n"),
    ] {
        let (upstream, gate, client) = stored("max-age=10, stale-while-revalidate=1000").await;
        upstream.answer(failure.clone());
        for refreshes in [1, 2] {
            gate.advance(secs(20));
            let held = upstream.hold();
            assert_eq!(client.get(TARGET).await.text(), OLD, "{failure:?}");
            held.arrived().await;
            // Joins the refresh: when it is answered, that has ended.
            let reload = Ask::get(TARGET).field("cache-control", "no-cache");
            let joined = client.enter(reload).await;
            held.release();
            joined.reply().await;
            let copy = client.get(TARGET).await;
            assert!(copy.is_hit() && copy.text() == OLD, "{failure:?} in refresh {refreshes}");
        }
    }
}

#[tokio::test]
async fn a_failing_upstream_is_stood_in_for_for_a_minute() {
    for status in [500, 502, 503, 504, 429] {
        let (upstream, gate, client) = stored("max-age=10").await;
        upstream.answer(Answer::new(status, "failing").field("x-theirs", "1"));
        for (wait, age, ttl) in [(10, "10", "ttl=0"), (59, "69", "ttl=-59")] {
            gate.advance(secs(wait));
            let stale = client.get(TARGET).await;
            assert!(stands_in(&stale), "{status} at {age}: {stale:?}");
            let told = format!("fwd-status={status}; {ttl};");
            assert!(stale.cache().contains(&told), "{}", stale.cache());
            assert_eq!(stale.field("age"), Some(age));
            assert_eq!(stale.field("x-theirs"), None, "a field of the error beside the copy");
        }
        gate.advance(secs(1));
        let failed = client.get(TARGET).await;
        assert_eq!((failed.status, failed.text()), (status, "failing"));
        assert_eq!(failed.cache(), format!("unitgate; fwd=stale; fwd-status={status}"));
        assert_eq!(upstream.count(), 4, "the upstream is tried each time");
        assert_eq!(gate.metric("cache_stale_served_total", &["if_error"]), 2.0);
    }
}

#[tokio::test]
async fn what_breaks_is_stood_in_for_and_is_502_or_504_outside_the_window() {
    for (answer, status) in [
        (Answer::reset(), 502),
        (new().cut(3), 502),
        (new().reset_after(3), 502),
        (Answer::raw("HTTP/1.1 nonsense\r\n\r\n"), 502),
        (Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"), 502),
        (Answer::not_modified().field("etag", "\"another\""), 502),
        (Answer::new(206, "part").field("content-range", "bytes 0-3/9"), 502),
        (Answer::silence(), 504),
        (new().stall_after(3), 504),
    ] {
        let hasty = |config: &mut Config| {
            config.upstream.first_byte = secs(1);
            config.upstream.total = secs(1);
        };
        let (upstream, gate, client) = stored_with(old("max-age=10"), hasty).await;
        upstream.answer(answer.clone());
        gate.advance(secs(50));
        let stale = client.get(TARGET).await;
        assert!(stands_in(&stale), "{answer:?}: {stale:?}");
        gate.advance(secs(20));
        let failed = client.get(TARGET).await;
        assert_eq!(failed.status, status, "{answer:?}: {failed:?}");
        assert_eq!(failed.field("cache-control"), Some("no-store"));
        assert!(failed.cache().starts_with("unitgate; fwd=stale"), "{}", failed.cache());
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_stood_in_for_and_is_502_outside_the_window() {
    let (mut upstream, gate, client) = stored("max-age=10").await;
    upstream.stop().await;
    gate.advance(secs(69));
    let stale = client.get(TARGET).await;
    assert!(stands_in(&stale), "{stale:?}");
    assert_eq!(stale.cache(), "unitgate; fwd=stale; ttl=-59; detail=stale-if-error");
    gate.advance(secs(1));
    let failed = client.get(TARGET).await;
    assert_eq!((failed.status, failed.code().as_str()), (502, "upstream_unreachable"));
    upstream.restart().await;
    assert_eq!(client.get(TARGET).await.text(), NEW);
}

#[tokio::test]
async fn the_upstreams_own_window_for_errors_replaces_ours() {
    for (control, until) in [
        ("max-age=10, stale-if-error=500", 510),
        ("max-age=10, stale-if-error=5", 15),
        ("max-age=10, stale-if-error=0", 10),
        // What cannot be read allows nothing.
        ("max-age=10, stale-if-error=soon", 10),
        ("max-age=10, Stale-If-Error=\"20\"", 30),
    ] {
        let (upstream, gate, client) = stored(control).await;
        upstream.answer(Answer::new(503, "failing"));
        if until > 10 {
            gate.advance(secs(until - 1));
            assert!(stands_in(&client.get(TARGET).await), "{control}");
            gate.advance(secs(1));
        } else {
            gate.advance(secs(until));
        }
        let failed = client.get(TARGET).await;
        assert_eq!((failed.status, failed.text()), (503, "failing"), "{control}");
    }
}

#[tokio::test]
async fn other_errors_pass_though_there_is_a_stale_copy() {
    for status in [400, 401, 402, 403, 404, 410, 421, 451, 501, 505, 507, 599] {
        let (upstream, gate, client) = stored("max-age=10").await;
        upstream.answer(Answer::new(status, "theirs"));
        gate.advance(secs(20));
        let reply = client.get(TARGET).await;
        assert_eq!((reply.status, reply.text()), (status, "theirs"));
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn what_may_not_be_stale_is_not_also_on_errors() {
    // RFC 9111 §5.2.2.2, §5.2.2.8, §5.2.2.10, §5.2.2.4; RFC 5861 §4 overrides none of them.
    for directive in [
        "max-age=10, must-revalidate",
        "max-age=10, Must-Revalidate",
        "max-age=10, proxy-revalidate",
        "s-maxage=10",
        "max-age=5, s-maxage=10",
        "no-cache",
        "max-age=10, no-cache",
    ] {
        let control = format!("{directive}, stale-while-revalidate=100, stale-if-error=100");
        let (upstream, gate, client) = stored(&control).await;
        gate.advance(secs(11));
        assert_eq!(client.get(TARGET).await.text(), NEW, "{directive}: stale while revalidating");
        assert_eq!(upstream.count(), 2);
        for failure in [Answer::new(503, "failing"), Answer::reset()] {
            let (upstream, gate, client) = stored(&control).await;
            upstream.answer(failure);
            gate.advance(secs(11));
            let failed = client.get(TARGET).await;
            assert!(matches!(failed.status, 502 | 503), "{directive}: stale if error");
            assert_ne!(failed.text(), OLD, "{directive}: stale if error");
        }
    }
    // A `no-cache` of some fields only is about those fields (RFC 9111 §5.2.2.4).
    let (upstream, gate, client) = stored("max-age=10, no-cache=\"x-user\"").await;
    upstream.answer(Answer::new(503, "failing"));
    gate.advance(secs(11));
    assert!(stands_in(&client.get(TARGET).await));
}

#[tokio::test]
async fn a_client_that_wants_nothing_stale_gets_nothing_stale_at_once() {
    for control in ["no-cache", "max-age=0", "max-age=100", "min-fresh=1"] {
        let (upstream, gate, client) = stored("max-age=10, stale-while-revalidate=100").await;
        gate.advance(secs(11));
        let reply = client.send(Ask::get(TARGET).field("cache-control", control)).await;
        assert_eq!((reply.text(), upstream.count()), (NEW, 2), "{control}");
    }
}

#[tokio::test]
async fn an_upstreams_error_passes_as_it_is() {
    for (status, kind, body) in [
        (400, "text/html", &b"<h1>What?</h1>"[..]),
        (401, "text/plain", b"who?"),
        (404, "application/json", b"{\"not\": \"found\" }\n"),
        (404, "text/plain", b""),
        (418, "application/octet-stream", b"\x00\xff\xfe"),
        (429, "application/problem+json", b"{\"title\":\"slow\"}"),
        (500, "application/json", b"{\"broken"),
        (502, "text/plain", b"theirs, not ours"),
        (503, "text/html; charset=latin1", b"\xe9"),
        (504, "text/plain", b"late"),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| ());
        let answer = Answer::new(status, body).field("content-type", kind);
        let answer = answer.field("www-authenticate", "Basic realm=\"theirs\"");
        upstream.answer(answer.field("retry-after", "7").field("x-theirs", "1"));
        for ask in [Ask::get(TARGET), Ask::post(TARGET, "{}"), Ask::new("BREW", TARGET)] {
            let reply = gate.stranger().send(ask).await;
            assert_eq!((reply.status, &reply.body[..]), (status, body));
            for (name, value) in [
                ("content-type", kind),
                ("www-authenticate", "Basic realm=\"theirs\""),
                ("retry-after", "7"),
                ("x-theirs", "1"),
            ] {
                assert_eq!(reply.field(name), Some(value), "{status} lost {name}");
            }
        }
        assert_eq!(upstream.count(), 3, "{status}");
    }
}
