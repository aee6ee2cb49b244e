//! One caller never sees what another one's token brought, and nothing that could tell them apart leaks.
//!
//! *Claims*
//! 1. What is stored belongs to a token, a route and a target; a token is one caller however spelled.
//! 2. An upstream 401 ends everything of its token and of nobody else; a 403 or 404 ends its target for
//!    good; the `exp` of a JWT ends reuse.
//! 3. What goes upstream is made of the key and the token: no other field of a client's crosses.
//! 4. What comes back is an allow-list: no cookie, validator, id or CORS field of the upstream's passes.
//! 5. No token stands in a log, a metric or a reply.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use unitgate::config::Lane;

use crate::support::{
    Answer, Ask, Client, Gate, INTEGRATION, MASK, OTHER_UNIT, Reply, START, Seen, UNIT, Upstream,
    key, list, secs, token,
};

/// An answer that shows whose token fetched it.
fn personal() -> impl Fn(&Seen) -> Answer {
    |seen| {
        let whose = if seen.field("authorization").unwrap().contains("alice") {
            "alice"
        } else {
            "somebody"
        };
        Answer::json(200, list(MASK, &format!("For {whose}.")))
            .field("cache-control", "public, max-age=300")
    }
}

/// A token in the form of a JWT that ends at `exp` seconds past the gate's start.
fn jwt(name: &str, exp: u64) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"sub":"{name}","exp":{}}}"#, START.as_secs() + exp);
    format!("{}.{}.{}", part(r#"{"alg":"HS256"}"#), part(&claims), part("no signature"))
}

#[tokio::test]
async fn two_tokens_never_share_an_answer_even_a_public_one() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answers(personal());
    let (alice, bob) = (gate.client("alice"), gate.client("bob"));
    for _ in 0..2 {
        assert!(alice.get(UNIT).await.text().contains("For alice."));
        assert!(bob.get(UNIT).await.text().contains("For somebody."));
    }
    assert_eq!(upstream.count(), 2);
    let spent: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.field("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(spent, [format!("Bearer {}", token("alice")), format!("Bearer {}", token("bob"))]);
}

#[tokio::test]
async fn equal_bytes_of_two_tokens_are_kept_once_and_all_else_apart() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let (alice, bob) = (gate.client("alice"), gate.client("bob"));
    alice.get(UNIT).await;
    bob.get(UNIT).await;
    assert_eq!(upstream.count(), 2);
    let (hers, his) = (kept(&alice).await, kept(&bob).await);
    assert_eq!(hers.body.as_ptr(), his.body.as_ptr());
}

/// A hit, past the sockets.
async fn kept(client: &Client) -> Reply {
    let reply = client.enter(Ask::get(UNIT)).await.reply().await;
    assert!(reply.is_hit());
    reply
}

#[tokio::test]
async fn two_tokens_never_share_a_flight() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answers(personal());
    let (first, second) = (upstream.hold(), upstream.hold());
    let alice = gate.client("alice").enter(Ask::get(UNIT)).await;
    first.arrived().await;
    let bob = gate.client("bob").enter(Ask::get(UNIT)).await;
    second.arrived().await;
    second.release();
    assert!(bob.reply().await.text().contains("For somebody."));
    first.release_with(Answer::json(401, "{}"));
    assert_eq!(alice.reply().await.status, 401);
    assert!(
        gate.client("bob").get(UNIT).await.is_hit(),
        "a refusal to one token is nothing to another"
    );
}

#[tokio::test]
async fn the_same_token_asks_for_another_unit_anew() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    assert!(!alice.get(OTHER_UNIT).await.is_hit());
    assert_eq!(upstream.count(), 2);
    assert_eq!(upstream.last().target, OTHER_UNIT);
}

#[tokio::test]
async fn a_token_is_one_caller_however_its_field_is_spelled() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    gate.client("alice").get(UNIT).await;
    for scheme in ["bearer ", "BEARER ", "Bearer   "] {
        let spelled = gate.client_with(&format!("{scheme}{}", token("alice")));
        assert!(spelled.get(UNIT).await.is_hit(), "{scheme:?}");
    }
    gate.client_with(&format!("bEaReR  {}", token("alice"))).get(OTHER_UNIT).await;
    let expected = format!("Bearer {}", token("alice"));
    assert_eq!(upstream.last().field("authorization"), Some(expected.as_str()));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_401_drops_everything_of_its_token_and_of_nobody_else() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let (alice, bob) = (gate.client("alice"), gate.client("bob"));
    for target in [UNIT, OTHER_UNIT] {
        alice.get(target).await;
        bob.get(target).await;
    }
    upstream
        .next(Answer::json(401, "{}").field("www-authenticate", "Bearer error=\"invalid_token\""));
    let refused = alice.get(&format!("{UNIT}?page=2")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.field("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    assert_eq!(upstream.count(), 5);
    for target in [UNIT, OTHER_UNIT] {
        assert!(bob.get(target).await.is_hit());
        assert!(!alice.get(target).await.is_hit());
    }
    assert_eq!(upstream.count(), 7);
    assert_eq!(gate.metric("cache_invalidations_total", &["source=\"unauthorized\""]), 1.0);
}

#[tokio::test]
async fn a_401_on_a_route_without_a_cache_drops_the_lists_too() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    upstream.next(Answer::json(401, "{}"));
    assert_eq!(alice.get(INTEGRATION).await.status, 401);
    assert!(!alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn no_stale_copy_survives_a_401() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    alice.get(OTHER_UNIT).await;
    gate.advance(secs(100));
    upstream.next(Answer::json(401, "{}"));
    assert_eq!(alice.get(UNIT).await.status, 401);
    upstream.answer(Answer::json(503, "{}"));
    assert_eq!(alice.get(UNIT).await.status, 503);
    assert_eq!(alice.get(OTHER_UNIT).await.status, 503);
}

#[tokio::test]
async fn a_401_voids_the_flights_of_its_token() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let early = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    upstream.next(Answer::json(401, "{}"));
    assert_eq!(alice.get(OTHER_UNIT).await.status, 401);
    upstream.answer(Answer::json(200, list(MASK, "After the refusal.")));
    let later = alice.get(UNIT).await;
    assert!(!later.cache().contains("collapsed"), "joined a flight from before the refusal");
    assert_eq!((later.text(), upstream.count()), (list(MASK, "After the refusal.").as_str(), 3));
    held.release_with(Answer::json(200, list(MASK, "Before the refusal.")));
    early.reply().await;
    let kept = alice.get(UNIT).await;
    assert!(kept.is_hit());
    assert_eq!(kept.text(), list(MASK, "After the refusal."));
}

#[tokio::test]
async fn a_403_or_404_ends_a_stored_answer_for_good() {
    for status in [403, 404] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        let alice = gate.client("alice");
        alice.get(UNIT).await;
        alice.get(OTHER_UNIT).await;
        gate.advance(secs(100));
        upstream.next(Answer::json(status, r#"{"message":"not yours"}"#));
        let refused = alice.get(UNIT).await;
        assert_eq!((refused.status, refused.text()), (status, r#"{"message":"not yours"}"#));
        upstream.answer(Answer::json(503, "{}"));
        assert_eq!(
            alice.get(UNIT).await.status,
            503,
            "an outage brought back what {status} had ended"
        );
        assert_eq!(alice.get(OTHER_UNIT).await.status, 200, "another target was ended by {status}");
    }
}

#[tokio::test]
async fn a_refusal_whose_body_cannot_be_shown_still_ends_the_answer() {
    for status in [401, 403, 404] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        let alice = gate.client("alice");
        alice.get(UNIT).await;
        gate.advance(secs(100));
        upstream.next(Answer::new(status, "<html>no</html>").field("content-type", "text/html"));
        assert_eq!(alice.get(UNIT).await.status, status);
        upstream.answer(Answer::json(503, "{}"));
        assert_eq!(alice.get(UNIT).await.status, 503, "{status}");
    }
}

#[tokio::test]
async fn a_refusal_whose_body_breaks_off_still_ends_the_answer_and_keeps_its_status() {
    let broken = |status| {
        let whole = || Answer::json(status, r#"{"message":"no, not any more"}"#);
        [whole().cut(5), whole().reset_after(5), Answer::json(status, "9".repeat(9 << 20))]
    };
    for status in [401, 403, 404] {
        for answer in broken(status) {
            let upstream = Upstream::start().await;
            let gate = Gate::start(&upstream, |_| {});
            let alice = gate.client("alice");
            alice.get(UNIT).await;
            gate.advance(secs(100));
            upstream.next(answer);
            let refused = alice.get(UNIT).await;
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (status, "unmaskable_error_answer")
            );
            upstream.answer(Answer::json(503, "{}"));
            assert_eq!(
                alice.get(UNIT).await.status,
                503,
                "an outage brought back what {status} had ended"
            );
        }
    }
}

#[tokio::test]
async fn a_401_to_a_forwarded_read_counts_though_its_client_has_left() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    let held = upstream.hold();
    let read = alice.begin(Ask::get(INTEGRATION));
    held.arrived().await;
    read.hang_up().await;
    held.release_with(Answer::json(401, "{}"));
    gate.logged("client_gone").await;
    gate.leave().await;
    assert_eq!(gate.metric("upstream_requests_total", &[]), 2.0);
    assert_eq!(gate.metric("cache_invalidations_total", &["unauthorized"]), 1.0);
}

#[tokio::test]
async fn who_leaves_while_waiting_for_a_place_upstream_asks_nothing() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |config| {
        config.limits.lane = Some(Lane { in_flight: 1, wait: secs(60) });
    });
    let held = upstream.hold();
    let first = gate.client("alice").begin(Ask::get(UNIT));
    held.arrived().await;
    let (read, write) = (Ask::get(INTEGRATION), Ask::put(INTEGRATION, "{}"));
    for ask in [read, write] {
        gate.client("bob").enter(ask).await.hang_up().await;
    }
    held.release();
    assert_eq!(first.reply().await.status, 200);
    assert!(gate.leave().await);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_client_is_told_no_lifetime_past_the_exp_of_its_token() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client_with(&format!("Bearer {}", jwt("alice", 10)));
    assert_eq!(alice.get(UNIT).await.field("cache-control"), Some("private, max-age=10"));
    gate.advance(secs(10));
    let later = alice.get(UNIT).await;
    assert_eq!(later.field("cache-control"), Some("private, no-store"));
    assert!(!later.cache().contains("stored"), "{}", later.cache());
}

#[tokio::test]
async fn a_refusal_seen_by_the_background_refresh_ends_the_answer() {
    for status in [401, 403, 404] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        let alice = gate.client("alice");
        alice.get(UNIT).await;
        gate.advance(secs(70));
        let held = upstream.hold();
        assert_eq!(alice.get(UNIT).await.status, 200, "stale while revalidating");
        held.arrived().await;
        gate.advance(secs(30));
        let joined = alice.enter(Ask::get(UNIT)).await;
        held.release_with(Answer::json(status, "{}"));
        assert_eq!(joined.reply().await.status, status);
        upstream.answer(Answer::json(503, "{}"));
        assert_eq!(alice.get(UNIT).await.status, 503, "{status}");
        assert_eq!(upstream.count(), 3);
    }
}

#[tokio::test]
async fn the_exp_of_a_jwt_ends_reuse() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let bearer = gate.client_with(&format!("Bearer {}", jwt("alice", 20)));
    bearer.get(UNIT).await;
    gate.advance(secs(19));
    assert!(bearer.get(UNIT).await.is_hit());
    gate.advance(secs(1));
    upstream.next(Answer::json(401, "{}"));
    assert_eq!(bearer.get(UNIT).await.status, 401);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn the_exp_of_a_jwt_ends_the_stale_windows_too() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let brief = gate.client_with(&format!("Bearer {}", jwt("alice", 80)));
    let lasting = gate.client_with(&format!("Bearer {}", jwt("bob", 1_000)));
    brief.get(UNIT).await;
    lasting.get(UNIT).await;
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(95));
    assert_eq!(lasting.get(UNIT).await.status, 200, "stale-if-error");
    assert_eq!(brief.get(UNIT).await.status, 503);
}

#[tokio::test]
async fn a_jwt_never_lengthens_a_life() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.stale_while_revalidate = secs(0));
    });
    let bearer = gate.client_with(&format!("Bearer {}", jwt("alice", 100_000)));
    bearer.get(UNIT).await;
    gate.advance(secs(60));
    assert!(!bearer.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn who_shows_no_proper_token_is_refused_here() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = format!("Bearer {}", token("alice"));
    let missing = gate.stranger().get(UNIT).await;
    assert_eq!((missing.status, missing.code().as_str()), (401, "token_missing"));
    let challenge = missing.field("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer") && !challenge.contains("error"), "{challenge}");
    for malformed in ["Bearer", "Basic YTpi", "Bearer a b", "Bearer a,b", "Bearer =", "token"] {
        let reply = gate.client_with(malformed).get(UNIT).await;
        assert_eq!(reply.status, 401, "{malformed}");
        assert!(reply.field("www-authenticate").unwrap().starts_with("Bearer"), "{malformed}");
    }
    let twice = gate.client_with(&alice).send(Ask::get(UNIT).field("authorization", &alice)).await;
    assert_eq!((twice.status, twice.code().as_str()), (401, "token_repeated"));
    let longest = gate.client_with(&format!("Bearer {}", "a".repeat(7_000))).get(UNIT).await;
    assert_eq!(longest.status, 200);
    let longer = gate.client_with(&format!("Bearer {}", "a".repeat(7_001))).get(UNIT).await;
    assert_eq!((longer.status, longer.code().as_str()), (401, "token_too_long"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn only_the_key_and_the_token_shape_what_goes_upstream() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let noise = [
        ("accept", "text/html"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "pt-BR"),
        ("baggage", "user=alice"),
        ("cache-control", "no-cache"),
        ("cookie", "session=1"),
        ("forwarded", "for=10.0.0.1"),
        ("if-match", "\"x\""),
        ("if-none-match", "\"x\""),
        ("if-modified-since", "Fri, 15 Jan 2027 08:00:00 GMT"),
        ("origin", "https://example.com"),
        ("range", "bytes=0-10"),
        ("referer", "https://example.com/"),
        ("te", "trailers"),
        ("user-agent", "curious/1.0"),
        ("x-api-key", "something"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "example.com"),
        ("x-forwarded-proto", "https"),
        ("x-http-method-override", "DELETE"),
        ("x-real-ip", "10.0.0.1"),
    ];
    let ask = noise.iter().fold(Ask::get(UNIT), |ask, (name, value)| ask.field(name, value));
    assert_eq!(gate.client("alice").send(ask).await.status, 200);
    let full = upstream.last();
    let allowed =
        ["accept", "accept-encoding", "authorization", "host", "user-agent", "via", "x-request-id"];
    assert_eq!(full.names(), allowed);
    assert_eq!(full.field("accept-encoding"), Some("identity"));
    assert_eq!(full.field("accept"), Some("application/json"));
    let host = upstream.address().to_string();
    assert_eq!(full.field("host"), Some(host.as_str()));
    gate.client("bob").get(UNIT).await;
    let bare = upstream.last();
    for same in ["accept", "accept-encoding", "user-agent", "via"] {
        assert_eq!(full.field(same), bare.field(same), "{same}");
    }
    let ask = noise.iter().fold(Ask::get(INTEGRATION), |ask, (name, value)| ask.field(name, value));
    gate.client("alice").send(ask).await;
    assert_eq!(upstream.last().names(), allowed, "on a route without a cache");
}

#[tokio::test]
async fn via_and_trace_cross_and_nothing_else_of_the_way() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.listen.via = Some("gate-7".to_owned()));
    let trace = format!("00-{}-{}-01", "4b".repeat(16), "5c".repeat(8));
    let ask = Ask::get(UNIT)
        .field("via", "1.0 fred, 1.1 other")
        .field("traceparent", &trace)
        .field("x-request-id", "req-42.A_b");
    let reply = gate.client("alice").send(ask).await;
    let seen = upstream.last();
    assert_eq!(seen.field("via"), Some("1.0 fred, 1.1 other, 1.1 gate-7"));
    assert!(seen.field("traceparent").unwrap().contains(&"4b".repeat(16)));
    assert_eq!(seen.field("x-request-id"), Some("req-42.A_b"));
    assert_eq!(reply.field("x-request-id"), Some("req-42.A_b"));
}

#[tokio::test]
async fn a_request_id_that_is_not_plain_is_replaced() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let long = "x".repeat(65);
    for (asked, id) in (1..).zip(["a b", "a\"b", "a;b", "", &long]) {
        let target = format!("{UNIT}?asked={asked}");
        let reply = gate.client("alice").send(Ask::get(&target).field("x-request-id", id)).await;
        let ours = reply.field("x-request-id").unwrap();
        assert_ne!(ours, id);
        assert!(!ours.is_empty() && ours.len() <= 64, "{ours}");
        assert_eq!(upstream.last().field("x-request-id"), Some(ours));
    }
}

#[tokio::test]
async fn path_and_query_go_upstream_byte_for_byte() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let unit = "/api/v1/calcom/integration/unit/A-b_c.9~";
    for query in ["", "?", "?b=%7e&a=1&&x=%2F+%20", "?q=~!$'()*,;:@/?&=", "?a=1&a=1"] {
        let target = format!("{unit}{query}");
        assert_eq!(gate.client("alice").get(&target).await.status, 200);
        assert_eq!(upstream.last().target, target);
    }
}

#[tokio::test]
async fn the_body_of_a_get_shapes_nothing() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let reply = gate.client("alice").send(Ask::get(UNIT).body(r#"{"admin":true}"#)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.last().body.len(), 0);
    assert!(gate.client("alice").get(UNIT).await.is_hit());
}

#[tokio::test]
async fn only_listed_fields_come_back() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let withheld = [
        ("access-control-allow-origin", "*"),
        ("age", "5"),
        ("alt-svc", "h3=\":443\""),
        ("cache-status", "cdn; hit"),
        ("connection", "x-hop"),
        ("content-digest", "sha-256=:AAAA:"),
        ("etag", "\"upstream-etag\""),
        ("keep-alive", "timeout=5"),
        ("last-modified", "Fri, 15 Jan 2027 07:00:00 GMT"),
        ("ratelimit", "\"upstream\";r=1;t=1"),
        ("retry-after", "7"),
        ("server", "upstream-server"),
        ("set-cookie", "session=upstream-cookie"),
        ("strict-transport-security", "max-age=1"),
        ("vary", "origin"),
        ("via", "1.1 upstream-proxy"),
        ("x-hop", "upstream-hop"),
        ("x-powered-by", "upstream-engine"),
        ("x-request-id", "upstream-request-id"),
    ];
    let answer = Answer::json(200, list(MASK, "Be kind.")).field("content-language", "pt-BR");
    upstream
        .answer(withheld.iter().fold(answer, |answer, (name, value)| answer.field(name, value)));
    let allowed = [
        "cache-control",
        "cache-status",
        "content-language",
        "content-length",
        "content-type",
        "date",
        "etag",
        "ratelimit",
        "ratelimit-policy",
        "vary",
        "x-request-id",
        "age",
        "via",
    ];
    let alice = gate.client("alice");
    for target in [UNIT, UNIT, INTEGRATION] {
        let reply = alice.get(target).await;
        assert_eq!(reply.field("content-language"), Some("pt-BR"));
        assert_eq!(reply.field("vary"), Some("authorization"));
        for name in reply.fields.keys() {
            assert!(allowed.contains(&name.as_str()), "{target}: {name}");
        }
        assert!(!reply.everything().contains("upstream-"), "{:?}", reply.fields);
        assert!(!reply.cache().contains("cdn"));
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_redirect_keeps_its_status_and_nothing_else() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    for status in [301, 302, 303, 307, 308] {
        upstream.answer(
            Answer::json(status, list(MASK, "Elsewhere."))
                .field("location", "https://elsewhere.example/"),
        );
        for target in [UNIT, INTEGRATION] {
            let asked = upstream.count();
            let reply = gate.client("alice").get(target).await;
            assert_eq!(
                (reply.status, reply.body.len(), reply.field("location")),
                (status, 0, None)
            );
            assert_eq!(upstream.count(), asked + 1, "not followed, not stored");
        }
    }
}

#[tokio::test]
async fn no_token_and_no_key_stands_in_log_metrics_or_replies() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let (alice, secret) = (gate.client("alice"), key("d4"));
    let echo = format!(r#"{{"message":"bad token","apiKey":"{secret}"}}"#);
    let mut replies = Vec::new();
    upstream.answer(Answer::json(200, list(&secret, &format!("Use {secret}."))));
    for target in [UNIT, UNIT, INTEGRATION, &format!("{UNIT}?key={secret}")] {
        replies.push(alice.get(target).await);
    }
    replies.push(alice.put(INTEGRATION, &format!(r#"{{"apiKey":"{secret}"}}"#)).await);
    for answer in [
        Answer::json(401, echo.clone()),
        Answer::json(500, echo),
        Answer::new(502, format!("<b>{secret}</b>")),
        Answer::json(200, format!("{{\"apiKey\":\"{secret}")),
        Answer::raw(format!("nonsense {secret}")),
        Answer::json(200, list(&secret, "")).cut(40),
        Answer::reset(),
    ] {
        upstream.next(answer);
        replies.push(alice.get(OTHER_UNIT).await);
    }
    replies.push(gate.client_with(&format!("Basic {}", token("alice"))).get(UNIT).await);
    replies
        .push(gate.stranger().send(Ask::new("BREW", UNIT).field("x-token", &token("alice"))).await);
    let told = replies.iter().map(Reply::everything).collect::<String>();
    for (where_, text) in [("replies", told), ("log", gate.log()), ("metrics", gate.metrics())] {
        assert!(!text.contains(&token("alice")), "a token in the {where_}");
        assert!(!text.contains(&secret), "a key in the {where_}: {text}");
        assert!(!text.contains(&"d4".repeat(8)), "part of a key in the {where_}");
    }
}

#[tokio::test]
async fn callers_are_known_by_twelve_digits_that_a_key_file_makes_lasting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "not secret at all, but long enough\n").unwrap();
    let upstream = Upstream::start().await;
    let mut fingerprints = Vec::new();
    for key_file in [Some(&file), Some(&file), None, None] {
        let gate = Gate::start(&upstream, |config| config.caller.key_file = key_file.cloned());
        gate.client("alice").get(UNIT).await;
        let log = gate.log();
        let line = log.lines().find(|line| line.contains("\"caller\"")).expect("an access line");
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let caller = line["caller"].as_str().unwrap().to_owned();
        assert!(
            caller.len() == 12 && caller.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{caller}"
        );
        fingerprints.push(caller);
    }
    assert_eq!(fingerprints[0], fingerprints[1]);
    assert_ne!(fingerprints[1], fingerprints[2]);
    assert_ne!(fingerprints[2], fingerprints[3]);
}
