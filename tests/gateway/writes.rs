//! Writes go straight upstream, once, and what they made old is not served any more.
//!
//! *Claims*
//! 1. A write is never coalesced, stored or sent twice; its body and `Content-Type` pass as they are.
//! 2. A 2xx drops the lists of the unit that its answer names, for every caller, negative entries too; a
//!    4xx drops nothing; an unknown outcome makes the writer's own lists stale.
//! 3. Whoever asks after a write has completed never gets bytes fetched before it, also not from a flight.
//! 4. A client that leaves does not stop its write.
//! 5. A body whose secret holds a mask goes nowhere; nor does one that is too large or coded.

use crate::support::{
    Answer, Ask, Gate, Held, INTEGRATION, INTEGRATIONS, MASK, OTHER_UNIT, Seen, UNIT, UNIT_ID,
    Upstream, key, list, secs, token,
};

/// Reads get `read`, writes get `write`.
fn by_method(read: Answer, write: Answer) -> impl Fn(&Seen) -> Answer {
    move |seen| if seen.method == "GET" { read.clone() } else { write.clone() }
}

fn before() -> Answer {
    Answer::json(200, list(MASK, "Before."))
}

fn after() -> Answer {
    Answer::json(200, list(MASK, "After."))
}

fn wrote(unit: &str) -> Answer {
    Answer::json(200, format!(r#"{{"id":"x","unitId":"{unit}","apiKey":"{MASK}"}}"#))
}

#[tokio::test]
async fn a_write_goes_upstream_with_its_body_and_content_type() {
    let (reads, writes) = (Upstream::start().await, Upstream::start().await);
    let gate = Gate::start(&reads, |config| {
        let url = format!("http://{}", writes.address()).parse().unwrap();
        config.upstreams.get_mut("chat").unwrap().url = url;
    });
    let secret = key("e5");
    let body = format!(r#"{{ "apiKey" : "{secret}" , "title":"Caf\u00e9" }}"#);
    let alice = gate.client("alice");
    let target = format!("{INTEGRATION}?notify=a%20b");
    let put = Ask::new("PUT", &target)
        .field("content-type", "application/json; charset=utf-8")
        .field("cookie", "session=1")
        .body(body.clone());
    writes.answer(Answer::json(201, format!(r#"{{"unitId":"{UNIT_ID}","apiKey":"{secret}"}}"#)));
    let reply = alice.send(put).await;
    assert_eq!((reply.status, reply.json()["apiKey"].as_str()), (201, Some(MASK)));
    assert_eq!(reply.field("cache-control"), Some("private, no-store"));
    assert!(reply.cache().starts_with("unitgate; fwd=method"), "{}", reply.cache());
    let seen = writes.last();
    assert_eq!((seen.method.as_str(), &seen.target), ("PUT", &target));
    assert_eq!(seen.body, body);
    assert_eq!(seen.field("content-type"), Some("application/json; charset=utf-8"));
    let bearer = format!("Bearer {}", token("alice"));
    assert_eq!(seen.field("authorization"), Some(bearer.as_str()));
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "via",
        "x-request-id",
    ];
    assert_eq!(seen.names(), expected);
    assert_eq!(alice.send(Ask::post(INTEGRATIONS, &body)).await.status, 200);
    assert_eq!((reads.last().method.as_str(), &reads.last().body[..]), ("POST", body.as_bytes()));
    assert_eq!((reads.count(), writes.count()), (1, 1));
    assert!(!gate.log().contains("Caf"), "a body was logged");
    assert!(!gate.log().contains(&secret));
}

#[tokio::test]
async fn equal_writes_are_never_coalesced() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(wrote(UNIT_ID));
    let held: Vec<_> = (0..10).map(|_| upstream.hold()).collect();
    let alice = gate.client("alice");
    let writes: Vec<_> = (0..10).map(|_| alice.begin(Ask::put(INTEGRATION, "{}"))).collect();
    upstream.arrived(10).await;
    held.into_iter().for_each(Held::release);
    for write in writes {
        let reply = write.reply().await;
        assert_eq!(reply.status, 200);
        assert!(!reply.cache().contains("collapsed"));
    }
    assert_eq!(upstream.count(), 10);
    assert_eq!(gate.metric("upstream_requests_total", &["cause=\"write\""]), 10.0);
}

#[tokio::test]
async fn a_write_drops_the_lists_of_its_unit_for_every_caller() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answers(by_method(before(), wrote(UNIT_ID)));
    let (alice, bob, writer) = (gate.client("alice"), gate.client("bob"), gate.client("writer"));
    let second_page = format!("{UNIT}?page=2");
    for client in [&alice, &bob] {
        for target in [UNIT, OTHER_UNIT, &second_page] {
            client.get(target).await;
        }
    }
    assert_eq!(writer.put(INTEGRATION, "{}").await.status, 200);
    upstream.answer(after());
    for client in [&alice, &bob] {
        for target in [UNIT, &second_page] {
            assert_eq!(client.get(target).await.text(), list(MASK, "After."), "{target}");
        }
        assert!(client.get(OTHER_UNIT).await.is_hit(), "another unit was dropped");
    }
    assert_eq!(gate.metric("cache_invalidations_total", &["source=\"write\""]), 1.0);
}

#[tokio::test]
async fn the_unit_is_found_at_any_depth_and_in_any_case() {
    let shapes = [
        format!(r#"{{"data":{{"integration":[{{"unitId":"{UNIT_ID}"}}]}}}}"#),
        format!(r#"[[[{{"unitId":"{}"}}]]]"#, UNIT_ID.to_uppercase()),
        format!(r#"{{"unitI\u0064":"{UNIT_ID}"}}"#),
        format!(r#"{{"unitId":null,"old":{{"unitId":"another"}},"new":{{"unitId":"{UNIT_ID}"}}}}"#),
    ];
    for shape in shapes {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        upstream.answers(by_method(before(), Answer::json(200, shape.clone())));
        let alice = gate.client("alice");
        alice.get(UNIT).await;
        gate.client("writer").put(INTEGRATION, "{}").await;
        assert!(!alice.get(UNIT).await.is_hit(), "{shape}");
    }
}

#[tokio::test]
async fn negative_entries_are_dropped_too() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.negative_ttl = secs(60));
    });
    upstream.answers(by_method(Answer::json(404, "{}"), wrote(UNIT_ID)));
    let alice = gate.client("alice");
    assert_eq!(alice.get(UNIT).await.status, 404);
    assert!(alice.get(UNIT).await.is_hit());
    gate.client("writer").send(Ask::post(INTEGRATIONS, "{}")).await;
    upstream.answer(after());
    assert_eq!(alice.get(UNIT).await.status, 200);
}

#[tokio::test]
async fn no_stale_copy_survives_a_write() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answers(by_method(before().field("etag", "\"one\""), wrote(UNIT_ID)));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.advance(secs(70));
    gate.client("writer").put(INTEGRATION, "{}").await;
    upstream.answer(Answer::json(503, "{}"));
    assert_eq!(alice.get(UNIT).await.status, 503);
    assert_eq!(upstream.last().field("if-none-match"), None);
}

#[tokio::test]
async fn a_write_that_names_no_unit_drops_the_writers_lists() {
    for answer in [
        Answer::json(200, r#"{"id":"x"}"#),
        Answer::json(200, r#"{"unitId":4.2}"#),
        Answer::json(200, r#"{"unitId":".."}"#),
        Answer::json(200, r#"{"unitId":"a/b"}"#),
        Answer::new(204, ""),
        Answer::new(200, "done").field("content-type", "text/plain"),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        upstream.answers(by_method(before(), answer.clone()));
        let (alice, bob) = (gate.client("alice"), gate.client("bob"));
        for client in [&alice, &bob] {
            client.get(UNIT).await;
            client.get(OTHER_UNIT).await;
        }
        alice.put(INTEGRATION, "{}").await;
        for target in [UNIT, OTHER_UNIT] {
            assert!(!alice.get(target).await.is_hit(), "{answer:?}");
            assert!(bob.get(target).await.is_hit(), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_outcome_makes_the_writers_lists_stale() {
    for outcome in [
        Answer::json(500, "{}"),
        Answer::json(503, "{}"),
        Answer::new(502, "<html>").field("content-type", "text/html"),
        Answer::reset(),
        Answer::silence(),
        wrote(UNIT_ID).cut(5),
        wrote(UNIT_ID).stall_after(5),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |config| {
            config.upstream.first_byte = secs(1);
            config.upstream.total = secs(1);
        });
        upstream.answers(by_method(before(), outcome.clone()));
        let (alice, bob) = (gate.client("alice"), gate.client("bob"));
        for client in [&alice, &bob] {
            client.get(UNIT).await;
        }
        let failed = alice.put(INTEGRATION, "{}").await;
        assert!(failed.status >= 500, "{outcome:?}");
        upstream.next(Answer::json(503, "{}"));
        let stale = alice.get(UNIT).await;
        assert_eq!(
            stale.text(),
            list(MASK, "Before."),
            "stale, and excused by an error: {outcome:?}"
        );
        assert!(stale.cache().contains("detail=stale-if-error"), "{}", stale.cache());
        upstream.answer(after());
        assert_eq!(alice.get(UNIT).await.text(), list(MASK, "After."), "{outcome:?}");
        assert!(bob.get(UNIT).await.is_hit(), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_refused_write_drops_nothing() {
    for status in [400, 403, 404, 409, 422, 429] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        let refusal = Answer::json(status, format!(r#"{{"unitId":"{UNIT_ID}"}}"#));
        upstream.answers(by_method(before(), refusal));
        let alice = gate.client("alice");
        alice.get(UNIT).await;
        assert_eq!(alice.put(INTEGRATION, "{}").await.status, status);
        assert!(alice.get(UNIT).await.is_hit(), "{status}");
    }
}

#[tokio::test]
async fn a_write_that_was_never_sent_drops_nothing() {
    let mut writes = Upstream::start().await;
    let reads = Upstream::start().await;
    let gate = Gate::start(&reads, |config| {
        let url = format!("http://{}", writes.address()).parse().unwrap();
        config.upstreams.get_mut("chat").unwrap().url = url;
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    writes.stop().await;
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 502);
    assert!(alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn a_flight_begun_before_a_write_is_not_joined_or_kept_after_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let early = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    upstream.answers(by_method(after(), wrote(UNIT_ID)));
    assert_eq!(gate.client("writer").put(INTEGRATION, "{}").await.status, 200);
    let later = alice.get(UNIT).await;
    assert!(!later.cache().contains("collapsed"), "joined a flight from before the write");
    assert_eq!(later.text(), list(MASK, "After."));
    held.release_with(before());
    assert_eq!(early.reply().await.text(), list(MASK, "Before."), "it asked before the write");
    let kept = alice.get(UNIT).await;
    assert!(kept.is_hit());
    assert_eq!(kept.text(), list(MASK, "After."));
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_read_begun_while_a_write_is_under_way_is_not_kept_after_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let write = upstream.hold();
    let writing = gate.client("writer").begin(Ask::put(INTEGRATION, "{}"));
    write.arrived().await;
    let read = upstream.hold();
    let reading = alice.enter(Ask::get(UNIT)).await;
    read.arrived().await;
    let second = upstream.hold();
    let other = gate.client("bob").enter(Ask::get(UNIT)).await;
    second.arrived().await;
    second.release_with(before());
    assert_eq!(other.reply().await.status, 200);
    write.release_with(wrote(UNIT_ID));
    assert_eq!(writing.reply().await.status, 200);
    read.release_with(before());
    assert_eq!(reading.reply().await.status, 200);
    upstream.answer(after());
    for name in ["alice", "bob"] {
        assert_eq!(gate.client(name).get(UNIT).await.text(), list(MASK, "After."), "{name}");
    }
}

#[tokio::test]
async fn a_list_asked_for_in_another_spelling_is_not_served_past_a_write() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    for spelled in [
        UNIT.replace("6f1c", "%36f1c"),
        UNIT.replace("a11a", "A11A"),
        UNIT.replace("unit/", "unit/./"),
    ] {
        upstream.answers(by_method(before(), wrote(UNIT_ID)));
        let first = alice.get(&spelled).await;
        gate.client("writer").put(INTEGRATION, "{}").await;
        upstream.answer(after());
        let second = alice.get(&spelled).await;
        let refused = (400..500).contains(&first.status);
        assert!(refused || second.text() == list(MASK, "After."), "{spelled}: {}", second.cache());
    }
}

#[tokio::test]
async fn a_voided_flight_that_lands_first_is_not_kept_either() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let early = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    upstream.answers(by_method(after(), wrote(UNIT_ID)));
    gate.client("writer").put(INTEGRATION, "{}").await;
    held.release_with(before());
    let early = early.reply().await;
    assert!(!early.cache().contains("stored"), "{}", early.cache());
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "After."));
    assert_eq!(
        early.field("cache-control"),
        Some("private, no-store"),
        "nor by the client's own cache"
    );
}

#[tokio::test]
async fn a_flight_of_the_writer_is_not_kept_after_an_unknown_outcome() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let held = upstream.hold();
    let early = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    upstream.answers(by_method(after(), Answer::json(500, "{}")));
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 500);
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "After."));
    held.release_with(before());
    early.reply().await;
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "After."));
}

#[tokio::test]
async fn a_refresh_begun_before_a_write_is_not_kept_after_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answers(by_method(before(), wrote(UNIT_ID)));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.advance(secs(61));
    let held = upstream.hold();
    alice.get(UNIT).await;
    held.arrived().await;
    gate.advance(secs(30));
    let joined = alice.enter(Ask::get(UNIT)).await;
    gate.client("writer").put(INTEGRATION, "{}").await;
    held.release();
    assert_eq!(joined.reply().await.status, 200);
    upstream.answer(after());
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "After."));
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_its_write() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |_| {});
    upstream.answers(by_method(before(), wrote(UNIT_ID)));
    gate.client("alice").get(UNIT).await;
    let held = upstream.hold();
    let write = gate.client("writer").begin(Ask::put(INTEGRATION, r#"{"title":"New"}"#));
    held.arrived().await;
    write.hang_up().await;
    gate.logged("client_gone").await;
    held.release();
    assert!(gate.leave().await);
    assert_eq!(gate.metric("cache_invalidations_total", &["source=\"write\""]), 1.0);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_write_is_not_sent_twice() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    for lost in [Answer::reset(), Answer::raw(""), wrote(UNIT_ID).cut(3)] {
        // A pooled connection, the kind on which a read would be tried again.
        upstream.answer(wrote(UNIT_ID));
        assert_eq!(alice.put(INTEGRATION, "{}").await.status, 200);
        let before = upstream.count();
        upstream.answer(lost.clone());
        let failed = alice.put(INTEGRATION, "{}").await;
        assert_eq!((failed.status, failed.code().as_str()), (502, "upstream_broken"));
        assert_eq!(upstream.count(), before + 1, "{lost:?}");
    }
    upstream.answer(Answer::json(503, "{}"));
    let before = upstream.count();
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 503);
    assert_eq!(upstream.count(), before + 1);
}

#[tokio::test]
async fn a_masked_secret_goes_nowhere() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    for body in [
        format!(r#"{{"apiKey":"{MASK}"}}"#),
        r#"{"title":"x","api_key":"***"}"#.to_owned(),
        r#"{"deep":[{"er":{"virtualKey":"****************"}}]}"#.to_owned(),
        r#"{"\u0061piKey":"cal_\u002a***"}"#.to_owned(),
        r#"{"credentials":[{"name":"cal_live_*****"}]}"#.to_owned(),
        r#"{"apiKey":"real","apiKey":"cal_****"}"#.to_owned(),
    ] {
        let refused = alice.put(INTEGRATION, &body).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (422, "masked_secret_in_write"),
            "{body}"
        );
        let refused = alice.send(Ask::post(INTEGRATIONS, &body)).await;
        assert_eq!(refused.status, 422, "{body}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn asterisks_elsewhere_are_nobodys_business() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let bodies = [
        r#"{"title":"****","prompt":"cal_****"}"#.to_owned(),
        format!(r#"{{"apiKey":"{}"}}"#, key("f6")),
        r#"{"apiKey":"**"}"#.to_owned(),
        r#"{"apiKey":"*** see vault"}"#.to_owned(),
        r#"{"apiKey":null}"#.to_owned(),
        r#"{"apiKey":""}"#.to_owned(),
        String::new(),
        "not JSON at all ****".to_owned(),
    ];
    for body in &bodies {
        assert_eq!(gate.client("alice").put(INTEGRATION, body).await.status, 200, "{body}");
        assert_eq!(upstream.last().body, body.as_bytes());
    }
    assert_eq!(upstream.count(), bodies.len());
}

#[tokio::test]
async fn the_look_for_masks_is_a_switch_of_each_route() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::route(config, "integration-update").refuse_masked_write = false;
    });
    let body = format!(r#"{{"apiKey":"{MASK}"}}"#);
    assert_eq!(gate.client("alice").put(INTEGRATION, &body).await.status, 200);
    assert_eq!(upstream.last().body, body);
    assert_eq!(gate.client("alice").send(Ask::post(INTEGRATIONS, &body)).await.status, 422);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_body_over_the_limit_goes_nowhere() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.request_body = 1_000);
    let alice = gate.client("alice");
    let fits = format!("\"{}\"", "x".repeat(998));
    assert_eq!(alice.put(INTEGRATION, &fits).await.status, 200);
    assert_eq!(upstream.last().body.len(), 1_000);
    let refused = alice.put(INTEGRATION, &format!("\"{}\"", "x".repeat(999))).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "request_too_large"));
    let head = Ask::new("PUT", INTEGRATION).field("transfer-encoding", "chunked");
    let mut wire = alice.connect().await;
    wire.write(&alice.bytes(head)).await;
    wire.write(format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1_001)).as_bytes()).await;
    assert_eq!(wire.read(false).await.unwrap().status, 413);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_chunked_body_arrives_whole_with_its_length() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let mut wire = alice.connect().await;
    wire.write(&alice.bytes(Ask::new("PUT", INTEGRATION).field("transfer-encoding", "chunked")))
        .await;
    for chunk in ["8\r\n{\"title\"\r\n", "5\r\n:\"ab\"\r\n", "1\r\n}\r\n", "0\r\n\r\n"] {
        wire.write(chunk.as_bytes()).await;
    }
    assert_eq!(wire.read(false).await.unwrap().status, 200);
    assert_eq!(upstream.last().body, r#"{"title":"ab"}"#);
    assert_eq!(upstream.last().field("content-length"), Some("14"));
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_nowhere() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let mut wire = alice.connect().await;
    wire.write(&alice.bytes(Ask::new("PUT", INTEGRATION).field("content-length", "100"))).await;
    wire.write(b"{\"title\":").await;
    wire.finish().await;
    wire.rest().await;
    assert_eq!(alice.get(INTEGRATION).await.status, 200);
    assert_eq!(upstream.count(), 1, "half a write was sent");
}

#[tokio::test]
async fn a_coded_body_is_refused_since_nobody_could_look_into_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let ask = Ask::put(INTEGRATION, "{}").field("content-encoding", "gzip");
    let refused = gate.client("alice").send(ask).await;
    assert_eq!((refused.status, refused.code().as_str()), (415, "request_coded"));
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_write_needs_a_token_too() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    assert_eq!(gate.stranger().put(INTEGRATION, "{}").await.status, 401);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_401_to_a_write_drops_all_of_its_token() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answers(by_method(before(), Answer::json(401, "{}")));
    let (alice, bob) = (gate.client("alice"), gate.client("bob"));
    alice.get(UNIT).await;
    bob.get(UNIT).await;
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 401);
    assert!(!alice.get(UNIT).await.is_hit());
    assert!(bob.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn what_a_write_answers_is_not_served_to_a_read() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(wrote(UNIT_ID).field("cache-control", "max-age=300"));
    let alice = gate.client("alice");
    alice.put(INTEGRATION, "{}").await;
    for asked in 2..=3 {
        let read = alice.get(INTEGRATION).await;
        assert!(read.cache().starts_with("unitgate; fwd=bypass"), "{}", read.cache());
        assert_eq!(upstream.count(), asked);
    }
}

#[tokio::test]
async fn which_member_names_the_unit_is_configuration() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        let route = Gate::route(config, "integration-update");
        route.invalidates.as_mut().unwrap().member = "org".to_owned();
        config.routes[0].path = "/api/v1/calcom/integration/unit/{org}".to_owned();
        Gate::route(config, "integration-create").invalidates = None;
    });
    let answer = format!(r#"{{"org":"{UNIT_ID}","unitId":"another"}}"#);
    upstream.answers(by_method(before(), Answer::json(200, answer)));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.client("writer").send(Ask::post(INTEGRATIONS, "{}")).await;
    assert!(alice.get(UNIT).await.is_hit());
    gate.client("writer").put(INTEGRATION, "{}").await;
    assert!(!alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn what_must_be_revalidated_does_not_outlast_an_unknown_outcome() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    upstream.next(before().field("cache-control", "max-age=60, must-revalidate"));
    alice.get(UNIT).await;
    upstream.answer(Answer::json(503, "{}"));
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 503);
    assert_eq!(alice.get(UNIT).await.status, 503);
}

#[tokio::test]
async fn a_writer_that_may_use_directives_does_not_read_its_own_past() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.request_directives = true);
    });
    let alice = gate.client("alice");
    upstream.answers(by_method(before(), Answer::json(500, "{}")));
    alice.get(UNIT).await;
    alice.put(INTEGRATION, "{}").await;
    upstream.answer(after());
    let wish = Ask::get(UNIT).field("cache-control", "max-stale");
    assert_eq!(alice.send(wish).await.text(), list(MASK, "After."));
}

#[tokio::test]
async fn a_unit_named_by_a_number_is_dropped_for_every_caller() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let target = format!("{INTEGRATIONS}/unit/42");
    let bob = gate.client("bob");
    upstream.answers(by_method(before(), Answer::json(200, r#"{"unitId":42}"#)));
    bob.get(&target).await;
    gate.client("alice").put(INTEGRATION, "{}").await;
    upstream.answer(after());
    assert_eq!(bob.get(&target).await.text(), list(MASK, "After."));
}

#[tokio::test]
async fn a_write_drops_its_own_target_whatever_route_reads_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        let policy = config.cache.policy.clone();
        Gate::route(config, "integration").cache = Some(policy);
    });
    let bob = gate.client("bob");
    upstream.answers(by_method(before(), Answer::json(200, "{}")));
    bob.get(INTEGRATION).await;
    assert!(bob.get(INTEGRATION).await.is_hit());
    gate.client("alice").put(INTEGRATION, "{}").await;
    upstream.answer(after());
    assert_eq!(bob.get(INTEGRATION).await.text(), list(MASK, "After."));
}

#[tokio::test]
async fn a_mask_behind_a_byte_order_mark_is_refused_as_well() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let body = format!("\u{feff}{{\"apiKey\":\"{MASK}\"}}");
    let reply = gate.client("alice").put(INTEGRATION, &body).await;
    assert_eq!((reply.status, upstream.count()), (422, 0));
}

#[tokio::test]
async fn a_write_that_is_answered_201_without_a_body_has_succeeded() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(Answer::new(201, ""));
    assert_eq!(gate.client("alice").send(Ask::post(INTEGRATIONS, "{}")).await.status, 201);
}
