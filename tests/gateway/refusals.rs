//! What is told in place of an answer, whatever was asked and by which route.
//!
//! *Claims*
//! 1. A refusal of HEAD is that of GET without its body: the same status and fields, and the connection
//!    serves the next request.
//! 2. On an open route too a failure is 502 or 504 in our own words, never cached, with nothing of the
//!    upstream in it.
//!
//! That each code is a problem (RFC 9457) with what its status owes: `protocol`.

use std::collections::BTreeSet;

use http::HeaderName;
use unitgate::config::{Config, Lane, Rate};

use crate::support::{Answer, Ask, Gate, INTEGRATIONS, Reply, UNIT, Upstream, secs, token};

/// The replies to GET and to HEAD with these fields, and that to a request after each on its connection.
async fn both(gate: &Gate, target: &str, fields: &[(&str, &str)]) -> [Reply; 2] {
    let client = gate.stranger();
    let mut replies = Vec::new();
    for method in ["GET", "HEAD"] {
        let mut wire = client.connect().await;
        let ask = Ask::new(method, target).field("X-Request-Id", "the-same-for-both");
        let ask = fields.iter().fold(ask, |ask, (name, value)| ask.field(name, value));
        wire.write(&client.bytes(ask)).await;
        replies.push(wire.read(method == "HEAD").await.expect("a reply"));
        wire.write(&client.bytes(Ask::get("/after").field("X-Request-Id", "after"))).await;
        let after = wire.read(false).await.expect("the connection goes on");
        assert_eq!(after.field("x-request-id"), Some("after"), "a body followed {target}");
    }
    replies.try_into().expect("two methods")
}

/// Checks that a refusal of HEAD is that of GET but for its body.
fn assert_same_without_body(what: &str, [get, head]: &[Reply; 2], status: u16, code: &str) {
    assert_eq!((get.status, get.code().as_str()), (status, code), "{what}");
    assert_eq!((head.status, head.body.len()), (status, 0), "{what}");
    assert_eq!(head.field("cache-control"), Some("no-store"), "{what}");
    // RFC 9110 §9.3.2: the fields that GET would have had, its length among them.
    let length = get.body.len().to_string();
    assert_eq!(head.field("content-length"), Some(length.as_str()), "{what}");
    // The second one was told a moment later, and had one request less.
    let live = ["date", "ratelimit"];
    for (name, value) in get.fields.iter().filter(|(name, _)| !live.contains(&name.as_str())) {
        assert_eq!(head.fields.get(name), Some(value), "{what}: {name}");
    }
    let [names, same] = [get, head]
        .map(|reply| reply.fields.keys().map(HeaderName::as_str).collect::<BTreeSet<_>>());
    assert_eq!(names, same, "{what}");
}

#[tokio::test]
async fn a_refusal_of_head_is_that_of_get_without_its_body() {
    let bearer = format!("Bearer {}", token("alice"));
    let known = ("Authorization", bearer.as_str());
    let cases = [
        ("/nowhere", &[][..], 404, "no_route"),
        (INTEGRATIONS, &[known], 405, "method_not_allowed"),
        ("/api/v1/calcom/integration/unit/%2e%2e", &[known], 400, "ambiguous_path"),
        ("/api/v1/calcom/integration/unit/a+b", &[known], 400, "bad_parameter"),
        (UNIT, &[known, ("Host", "a b")], 400, "bad_host"),
        (UNIT, &[known, ("Connection", "Host")], 400, "bad_connection"),
        (UNIT, &[known, ("Via", "1.1 me")], 508, "loop"),
        (UNIT, &[], 401, "token_missing"),
        (UNIT, &[("Authorization", "Basic x")], 401, "token_malformed"),
        (UNIT, &[known, ("Cache-Control", "only-if-cached")], 504, "only_if_cached"),
    ];
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.via = Some("me".to_owned());
        Gate::policy(config, |policy| policy.request_directives = true);
    });
    for (target, fields, status, code) in cases {
        let replies = both(&gate, target, fields).await;
        assert_same_without_body(code, &replies, status, code);
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_failure_and_a_limit_are_told_to_head_without_a_body_too() {
    let bearer = format!("Bearer {}", token("alice"));
    let known = [("Authorization", bearer.as_str())];
    let mut upstream = Upstream::start().await;
    let hasty = |config: &mut Config| config.upstream.first_byte = secs(1);
    for (answer, status, code) in [
        (Answer::reset(), 502, "upstream_broken"),
        (Answer::silence(), 504, "upstream_timeout"),
        (Answer::json(200, "nonsense"), 502, "unmaskable_answer"),
        (Answer::not_modified(), 502, "unasked_status"),
    ] {
        upstream.answer(answer);
        let gate = Gate::start(&upstream, hasty);
        assert_same_without_body(code, &both(&gate, UNIT, &known).await, status, code);
    }
    let one = Some(Rate { per_second: 1, burst: 1 });
    for (code, change) in [
        ("caller_limited", Box::new(|config: &mut Config| config.limits.caller = one) as Box<_>),
        ("upstream_limited", Box::new(|config: &mut Config| config.limits.caller_upstream = one)),
    ] as [(_, Box<dyn FnOnce(&mut Config)>); 2]
    {
        let gate = Gate::start(&upstream, change);
        gate.client("alice").get(UNIT).await;
        assert_same_without_body(code, &both(&gate, UNIT, &known).await, 429, code);
    }
    let gate = Gate::start(&upstream, |config| {
        config.limits.lane = Some(Lane { in_flight: 1, wait: secs(0) });
    });
    let held = upstream.hold();
    let first = gate.client("first").begin(Ask::get(UNIT));
    held.arrived().await;
    assert_same_without_body("lane_full", &both(&gate, UNIT, &known).await, 503, "lane_full");
    held.release();
    first.reply().await;
    upstream.stop().await;
    let code = "upstream_unreachable";
    assert_same_without_body(code, &both(&gate, UNIT, &known).await, 502, code);
}

#[tokio::test]
async fn a_failure_on_an_open_route_is_told_in_our_own_words() {
    let mut upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |config| {
        config.upstream.first_byte = secs(1);
        config.upstream.total = secs(1);
        config.upstream.max_body = 64;
    });
    let theirs = |answer: Answer| answer.field("x-theirs", "1").field("cache-control", "max-age=9");
    for (answer, status, code) in [
        (Answer::reset(), 502, "upstream_broken"),
        (theirs(Answer::new(200, "their words")).cut(5), 502, "upstream_broken"),
        (theirs(Answer::new(200, "their words".repeat(9))), 502, "upstream_broken"),
        (Answer::raw("HTTP/1.1 200 their words\r\ntheirs\r\n\r\n"), 502, "upstream_broken"),
        (Answer::raw("HTTP/1.1 99 theirs\r\n\r\n"), 502, "upstream_broken"),
        (theirs(Answer::not_modified()), 502, "unasked_status"),
        (Answer::silence(), 504, "upstream_timeout"),
        (theirs(Answer::new(200, "their words")).stall_after(5), 504, "upstream_timeout"),
    ] {
        upstream.answer(answer.clone());
        for ask in [Ask::get("/thing"), Ask::post("/thing", "{}")] {
            let reply = gate.stranger().send(ask).await;
            assert_own_words(&upstream, &reply, status, code);
        }
    }
    upstream.stop().await;
    for ask in [Ask::get("/thing"), Ask::post("/thing", "{}"), Ask::new("BREW", "/thing")] {
        let reply = gate.stranger().send(ask).await;
        assert_own_words(&upstream, &reply, 502, "upstream_unreachable");
    }
    assert_eq!(gate.metric("requests_total", &["status=\"2xx\""]), 0.0);
}

fn assert_own_words(upstream: &Upstream, reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{reply:?}");
    assert_eq!(reply.field("cache-control"), Some("no-store"));
    let told = reply.everything();
    for secret in ["their", &upstream.address().to_string()] {
        assert!(!told.contains(secret), "{secret} is in {told}");
    }
}
