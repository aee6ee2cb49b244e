//! What a write ends on an open route (RFC 9111 §4.4).
//!
//! *Claims*
//! 1. A successful unsafe method, an unknown one included, ends what is stored for its target, all variants
//!    of it, and what is under way; nothing else.
//! 2. So it does for `Location` and `Content-Location`, if they are of the same origin: relative, the
//!    upstream's, or the one that the client named us by.
//! 3. A safe method ends nothing, nor does one that failed; one of which nobody knows ends its target.

use crate::support::{Answer, Ask, Client, Gate, Upstream, secs};

const TARGET: &str = "/folder/thing?a=1";

/// A gate with what GET brings stored for these targets; writes are answered by `answer`.
async fn stored(targets: &[&str], answer: Answer) -> (Upstream, Gate, Client) {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| {});
    let client = gate.stranger();
    upstream.answers(move |seen| match seen.method.as_str() {
        "GET" => Answer::new(200, "read").field("cache-control", "max-age=600, stale-if-error=600"),
        _ => answer.clone(),
    });
    for target in targets {
        client.get(target).await;
        assert!(client.get(target).await.is_hit());
    }
    (upstream, gate, client)
}

#[tokio::test]
async fn a_successful_unsafe_method_ends_its_target_and_nothing_else() {
    let others = ["/folder/thing", "/folder/thing?a=2", "/folder/", "/folder/thing/more?a=1"];
    for method in ["POST", "PUT", "DELETE", "PATCH", "LOCK", "M-SEARCH", "FROB"] {
        for status in [200, 201, 202, 204, 205, 299, 301, 303, 304, 307, 399] {
            let body = if matches!(status, 204 | 205 | 304) { "" } else { "done" };
            let (upstream, _gate, client) =
                stored(&[&[TARGET], &others[..]].concat(), Answer::new(status, body)).await;
            let written = client.send(Ask::new(method, TARGET)).await;
            // Nobody asked under a condition.
            let shown = if status == 304 { 502 } else { status };
            assert_eq!(written.status, shown, "{method} {status}");
            assert!(written.cache().contains("fwd=method"), "{}", written.cache());
            for other in others {
                assert!(client.get(other).await.is_hit(), "{method} {status}: {other}");
            }
            assert!(!client.get(TARGET).await.is_hit(), "{method} {status}");
            assert_eq!(upstream.count(), 7);
        }
    }
}

#[tokio::test]
async fn a_failed_method_ends_nothing() {
    let target = [TARGET, "/other"];
    for answer in [400, 401, 403, 404, 405, 409, 412, 422, 429, 499, 500, 501, 502, 503, 504, 599] {
        let answer = Answer::new(answer, "no").field("location", "/other");
        let answer = answer.field("content-location", TARGET);
        let (upstream, _gate, client) = stored(&target, answer).await;
        for method in ["POST", "PUT", "DELETE", "PATCH", "FROB"] {
            assert!(client.send(Ask::new(method, TARGET)).await.status >= 400);
        }
        for target in target {
            assert!(client.get(target).await.is_hit());
        }
        assert_eq!(upstream.count(), 7);
    }
}

#[tokio::test]
async fn a_safe_method_ends_nothing() {
    let target = [TARGET, "/other"];
    let answer = Answer::new(200, "read").field("location", "/other");
    let (upstream, _gate, client) = stored(&target, answer.field("content-location", TARGET)).await;
    let ask = |method| Ask::new(method, TARGET);
    let asks = [
        ask("OPTIONS"),
        ask("PROPFIND"),
        ask("REPORT"),
        ask("SEARCH"),
        ask("QUERY").body("q"),
        Ask::get(TARGET).body("{}"),
        ask("HEAD").field("cache-control", "no-cache"),
    ];
    for (before, ask) in asks.into_iter().enumerate() {
        assert_eq!(client.send(ask).await.status, 200);
        assert_eq!(upstream.count(), 3 + before);
        for target in target {
            assert!(client.get(target).await.is_hit());
        }
    }
}

#[tokio::test]
async fn all_variants_of_a_target_end_and_no_stale_copy_survives() {
    let (upstream, gate, client) = stored(&[], Answer::new(200, "done")).await;
    upstream.answers(|seen| match seen.method.as_str() {
        "GET" => {
            let answer = Answer::new(200, "read").field("vary", "x-kind").field("etag", "\"a\"");
            answer.field("cache-control", "max-age=60, stale-if-error=600")
        }
        _ => Answer::new(200, "done"),
    });
    let kind = |kind| Ask::get(TARGET).field("x-kind", kind);
    for one in ["a", "b", "c"] {
        client.send(kind(one)).await;
    }
    gate.advance(secs(61));
    client.send(Ask::post(TARGET, "{}").field("x-kind", "a")).await;
    upstream.answer(Answer::new(503, "failing"));
    for one in ["a", "b", "c"] {
        assert_eq!(client.send(kind(one)).await.status, 503, "{one}");
        assert_eq!(upstream.last().field("if-none-match"), None, "there is nothing to ask about");
    }
    assert_eq!(upstream.count(), 7);
}

/// Whether a POST to `/folder/write` with this field in its answer ends what is stored for `target`.
async fn ends(target: &str, answer: Answer, host: Option<&str>) -> bool {
    let (upstream, _gate, client) = stored(&[target], answer).await;
    let ask = Ask::post("/folder/write", "{}");
    client.send(host.into_iter().fold(ask, |ask, host| ask.field("host", host))).await;
    let ended = !client.get(target).await.is_hit();
    assert_eq!(upstream.count(), if ended { 3 } else { 2 });
    ended
}

#[tokio::test]
async fn location_and_content_location_of_the_same_origin_end_theirs() {
    for name in ["location", "content-location"] {
        for (said, target) in [
            ("/other", "/other"),
            ("/other?a=1", "/other?a=1"),
            ("/other#part", "/other"),
            ("other", "/folder/other"),
            ("./other", "/folder/other"),
            ("../other", "/other"),
            ("?a=1", "/folder/write?a=1"),
            ("/x/../other", "/other"),
            ("//gate.test/other", "/other"),
            ("http://gate.test/other", "/other"),
            ("HTTP://GATE.TEST:80/other", "/other"),
            // TLS may have been taken off in front of us.
            ("https://gate.test/other", "/other"),
            ("https://gate.test:443/other", "/other"),
            ("http://gate.test", "/"),
        ] {
            let answer = || Answer::new(201, "done").field(name, said);
            assert!(ends(target, answer(), Some("gate.test")).await, "{name}: {said}");
        }
    }
    // Both at once.
    let both = || Answer::new(200, "").field("location", "/one").field("content-location", "/two");
    assert!(ends("/one", both(), None).await && ends("/two", both(), None).await);
}

#[tokio::test]
async fn another_origins_location_ends_nothing() {
    for name in ["location", "content-location"] {
        for said in [
            "http://other.test/other",
            "//other.test/other",
            "http://gate.test:8080/other",
            "http://gate.test.other.test/other",
            "http://user@gate.test/other",
            "ftp://gate.test/other",
            "mailto:other",
            "http://[/other",
            "/elsewhere",
            "other",
        ] {
            let answer = || Answer::new(201, "done").field(name, said);
            assert!(!ends("/other", answer(), Some("gate.test")).await, "{name}: {said}");
        }
    }
    // Said twice it says nothing.
    let twice = Answer::new(201, "done").field("location", "/other").field("location", "/other");
    assert!(!ends("/other", twice, None).await);
}

#[tokio::test]
async fn the_upstreams_own_origin_is_the_same_whatever_the_client_calls_us() {
    for host in [None, Some("gate.test"), Some("other.test:81")] {
        let (upstream, _gate, client) = stored(&["/other"], Answer::new(200, "done")).await;
        let ask = || {
            let ask = Ask::post("/folder/write", "{}");
            host.into_iter().fold(ask, |ask, host| ask.field("host", host))
        };
        client.send(ask()).await;
        assert!(client.get("/other").await.is_hit());
        for location in [
            format!("http://{}/other", upstream.address()),
            format!(
                "http://{}/other",
                host.map_or_else(|| client.address().to_string(), str::to_owned)
            ),
        ] {
            upstream.answers(move |seen| match seen.method.as_str() {
                "GET" => Answer::new(200, "read").field("cache-control", "max-age=600"),
                _ => Answer::new(201, "done").field("location", &location),
            });
            client.send(ask()).await;
            assert!(!client.get("/other").await.is_hit(), "{host:?}");
        }
        assert_eq!(upstream.count(), 6);
    }
}

#[tokio::test]
async fn a_fetch_that_began_before_a_write_is_not_kept_nor_joined_after_it() {
    let (upstream, _gate, client) = stored(&[], Answer::new(200, "done")).await;
    let held = upstream.hold();
    let early = client.enter(Ask::get(TARGET)).await;
    held.arrived().await;
    client.send(Ask::new("DELETE", TARGET)).await;
    let held_late = upstream.hold();
    let late = client.enter(Ask::get(TARGET)).await;
    held_late.arrived().await;
    held_late.release_with(Answer::new(200, "after").field("cache-control", "max-age=60"));
    assert_eq!(late.reply().await.text(), "after");
    held.release_with(Answer::new(200, "before").field("cache-control", "max-age=60"));
    assert_eq!(early.reply().await.text(), "before");
    let hit = client.get(TARGET).await;
    assert_eq!((hit.is_hit(), hit.text()), (true, "after"));
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_or_breaks_off_may_have_succeeded_and_ends_its_target() {
    for broken in [
        Answer::new(200, "done, and more").cut(4),
        Answer::new(201, "done").reset_after(2),
        Answer::reset(),
        Answer::raw("HTTP/1.1 nonsense\r\n\r\n"),
    ] {
        let (upstream, _gate, client) = stored(&[TARGET, "/other"], broken.clone()).await;
        assert_eq!(client.send(Ask::post(TARGET, "{}")).await.status, 502);
        assert!(!client.get(TARGET).await.is_hit(), "{broken:?}");
        assert!(client.get("/other").await.is_hit(), "{broken:?}");
        assert_eq!(upstream.count(), 4);
    }
}

#[tokio::test]
async fn a_write_that_was_never_sent_ends_nothing() {
    let (mut upstream, _gate, client) = stored(&[TARGET], Answer::new(200, "done")).await;
    upstream.stop().await;
    assert_eq!(client.send(Ask::post(TARGET, "{}")).await.status, 502);
    assert!(client.get(TARGET).await.is_hit());
}

#[tokio::test]
async fn what_a_write_answers_serves_no_read() {
    let answer = Answer::new(200, "written").field("cache-control", "public, max-age=60");
    let (upstream, _gate, client) = stored(&[], answer.field("content-location", TARGET)).await;
    for method in ["POST", "PUT"] {
        assert_eq!(client.send(Ask::new(method, TARGET)).await.text(), "written");
        let read = client.get(TARGET).await;
        assert_eq!((read.is_hit(), read.text()), (false, "read"));
        // Nor is a write answered from what is stored.
        assert!(client.get(TARGET).await.is_hit());
    }
    assert_eq!(upstream.count(), 4);
}
