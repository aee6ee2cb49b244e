//! What the gateway makes of an upstream that fails, lies or stalls.
//!
//! *Claims*
//! 1. Each failure is a 502, or a 504 where a deadline passed, told in our own words only.
//! 2. It is not stored: the next request is tried anew, and service is back as soon as the upstream is.
//! 3. A failure of a key with many waiting costs at most three upstream requests, and all are answered.
//! 4. A pooled connection that the upstream closed is tried once more, unseen, for reads; nothing else is.
//! 5. Error statuses are answers: they keep their status. Redirects lose where they lead to.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use unitgate::config::{Config, NamedUpstream};

use crate::support::{
    Answer, Ask, Gate, INTEGRATION, MASK, Process, Reply, UNIT, Upstream, fetch, list, token,
};

/// What must never be seen of a failing upstream.
const WORDS: &str = "words-of-the-upstream";

/// Bodies of 4 KiB at most; deadlines that nothing here can meet by being slow.
fn small(config: &mut Config) {
    config.upstream.max_body = 4096;
}

/// The same with deadlines that are what is tested.
fn impatient(config: &mut Config) {
    small(config);
    config.upstream.first_byte = Duration::from_millis(200);
    config.upstream.total = Duration::from_millis(300);
}

/// An answer's head by hand, and what follows it.
fn raw(head: &str, body: &str) -> Answer {
    Answer::raw(format!("HTTP/1.1 {head}\r\nX-Words: {WORDS}\r\n\r\n{body}"))
}

fn assert_told_in_our_words(case: &str, reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{case}: {reply:?}");
    let problem = reply.json();
    assert_eq!(problem["status"], status, "{case}");
    assert_eq!(reply.field("cache-control"), Some("no-store"), "{case}");
    assert!(!reply.everything().contains(WORDS), "{case}: {}", reply.everything());
    assert!(!reply.everything().contains("127.0.0.1"), "{case}: {}", reply.everything());
}

async fn fails(case: &str, answer: Answer, status: u16, code: &str) {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, if status == 504 { impatient } else { small });
    let alice = gate.client("alice");
    upstream.next(answer);
    let failed = alice.get(UNIT).await;
    assert_told_in_our_words(case, &failed, status, code);
    assert_eq!(upstream.count(), 1, "{case}: it was asked again");
    let next = alice.get(UNIT).await;
    assert_eq!((next.status, next.text()), (200, list(MASK, "Be kind.").as_str()), "{case}");
    assert!(!next.is_hit(), "{case}");
    assert_eq!(upstream.count(), 2, "{case}: the next request was not tried anew");
    assert!(!gate.log().contains(WORDS), "{case}: {}", gate.log());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_502_and_not_stored() {
    let body = list(MASK, WORDS);
    fails("reset before the head", Answer::reset(), 502, "upstream_broken").await;
    fails("closed before the head", Answer::raw(""), 502, "upstream_broken").await;
    fails(
        "closed inside the head",
        Answer::raw(format!("HTTP/1.1 200 {WORDS}\r\nConte")),
        502,
        "upstream_broken",
    )
    .await;
    fails(
        "reset after the head",
        Answer::json(200, body.clone()).reset_after(0),
        502,
        "upstream_broken",
    )
    .await;
    fails(
        "reset inside the body",
        Answer::json(200, body.clone()).reset_after(20),
        502,
        "upstream_broken",
    )
    .await;
    fails(
        "closed inside the body",
        Answer::json(200, body.clone()).cut(20),
        502,
        "upstream_broken",
    )
    .await;
    fails(
        "closed one byte short",
        Answer::json(200, body.clone()).cut(body.len() - 1),
        502,
        "upstream_broken",
    )
    .await;
    fails(
        "a length above the body",
        raw("200 OK\r\nContent-Length: 90", "{}"),
        502,
        "upstream_broken",
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_is_framed_wrongly_is_502_and_not_stored() {
    let chunked = |chunks: &str| raw("200 OK\r\nTransfer-Encoding: chunked", chunks);
    fails(
        "differing lengths",
        raw("200 OK\r\nContent-Length: 2\r\nContent-Length: 3", "{}1"),
        502,
        "upstream_broken",
    )
    .await;
    fails(
        "differing lengths in a line",
        raw("200 OK\r\nContent-Length: 2, 3", "{}1"),
        502,
        "upstream_broken",
    )
    .await;
    fails(
        "no number for a length",
        raw("200 OK\r\nContent-Length: two", "{}"),
        502,
        "upstream_broken",
    )
    .await;
    fails("a signed length", raw("200 OK\r\nContent-Length: +2", "{}"), 502, "upstream_broken")
        .await;
    fails(
        "a length of 2^64",
        raw("200 OK\r\nContent-Length: 18446744073709551616", "{}"),
        502,
        "upstream_broken",
    )
    .await;
    fails("a chunk size that is none", chunked("zz\r\n{}\r\n0\r\n\r\n"), 502, "upstream_broken")
        .await;
    fails("a chunk larger than said", chunked("1\r\n{}\r\n0\r\n\r\n"), 502, "upstream_broken")
        .await;
    fails("chunks without an end", chunked("2\r\n{}\r\n"), 502, "upstream_broken").await;
    fails(
        "no HTTP at all",
        Answer::raw(format!("SSH-2.0-{WORDS}\r\n\r\n")),
        502,
        "upstream_broken",
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_502_and_not_stored() {
    fails(
        "a body above upstream.max_body",
        Answer::json(200, "1".repeat(4097)),
        502,
        "upstream_broken",
    )
    .await;
    let announced = raw("200 OK\r\nContent-Length: 4097", "");
    fails("an announced one", announced, 502, "upstream_broken").await;
    let chunked = format!("1100\r\n{}\r\n0\r\n\r\n", "1".repeat(0x1100));
    fails(
        "a chunked one",
        raw("200 OK\r\nTransfer-Encoding: chunked", &chunked),
        502,
        "upstream_broken",
    )
    .await;
    let many =
        (0..101).fold(Answer::json(200, "{}"), |answer, n| answer.field(&format!("x-{n}"), WORDS));
    fails("more fields than upstream.max_fields", many, 502, "upstream_broken").await;
    let large = Answer::json(200, "{}").field("x-large", &WORDS.repeat(20_000));
    fails("a huge field", large, 502, "upstream_broken").await;
}

#[tokio::test]
async fn a_body_that_fills_its_cap_exactly_is_served() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, small);
    upstream.answer(Answer::json(200, "1".repeat(4096)));
    assert_eq!(gate.client("alice").get(UNIT).await.body.len(), 4096);
}

#[tokio::test]
async fn an_answer_that_fits_no_request_of_ours_is_502_and_not_stored() {
    let switch = raw("101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket", WORDS);
    fails("101", switch, 502, "upstream_broken").await;
    fails("status 600", Answer::json(600, "{}"), 502, "upstream_broken").await;
    fails("status 999", Answer::json(999, "{}"), 502, "upstream_broken").await;
    fails("status 99", raw("99 Low\r\nContent-Length: 2", "{}"), 502, "upstream_broken").await;
    let part = Answer::json(206, "{}").field("content-range", "bytes 0-1/9");
    fails("206 to a plain GET", part, 502, "unasked_status").await;
    fails("304 to a plain GET", Answer::not_modified(), 502, "unasked_status").await;
}

#[tokio::test]
async fn an_answer_that_can_t_be_proven_masked_is_502_and_not_stored() {
    fails("an empty 200", Answer::json(200, ""), 502, "unmaskable_answer").await;
    fails("a page", Answer::new(200, format!("<p>{WORDS}</p>")), 502, "unmaskable_answer").await;
    fails("half of a value", Answer::json(200, format!("[\"{WORDS}\"")), 502, "unmaskable_answer")
        .await;
    fails(
        "a value and a half",
        Answer::json(200, format!("[] \"{WORDS}")),
        502,
        "unmaskable_answer",
    )
    .await;
    let coded = Answer::json(200, WORDS).field("content-encoding", "br2");
    fails("an unknown coding", coded, 502, "undecodable_answer").await;
    let wide = Answer::new(200, "{}").field("content-type", "application/json; charset=utf-16");
    fails("another charset", wide, 502, "answer_not_utf8").await;
}

#[tokio::test]
async fn an_upstream_that_does_not_begin_or_does_not_finish_is_504() {
    fails("no byte at all", Answer::silence(), 504, "upstream_timeout").await;
    let half_a_head = Answer::raw("HTTP/1.1 200 OK\r\nX-").stall_after(usize::MAX);
    fails("half a head", half_a_head, 504, "upstream_timeout").await;
    let half_a_body = Answer::json(200, list(MASK, WORDS)).stall_after(30);
    fails("half a body", half_a_body, 504, "upstream_timeout").await;
}

/// A server that plays `play` on each connection, for as long as the set lives.
async fn server<P, F>(play: P) -> (SocketAddr, JoinSet<()>)
where
    P: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _peer)) = listener.accept().await {
            // What a client asks for is one read here: the requests are small.
            if stream.read(&mut [0; 4096]).await.is_ok() {
                connections.spawn(play(stream));
            }
        }
    });
    (address, serving)
}

#[tokio::test]
async fn an_upstream_that_drips_is_ended_by_the_total_deadline() {
    let (address, _serving) = server(|mut stream| async move {
        let mut drops = tokio::time::interval(Duration::from_millis(20));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n[").await.ok();
        while stream.write_all(b" ").await.is_ok() {
            drops.tick().await;
        }
    })
    .await;
    let gate = Gate::before(address, impatient);
    let begun = tokio::time::Instant::now();
    let reply = gate.client("alice").get(UNIT).await;
    assert_told_in_our_words("drip", &reply, 504, "upstream_timeout");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(gate.metric("upstream_errors_total", &["total_timeout"]), 1.0);
}

#[tokio::test]
async fn an_endless_body_is_left_at_the_cap() {
    let (address, _serving) = server(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok();
        while stream.write_all(b"5\r\n    1\r\n").await.is_ok() {}
    })
    .await;
    let gate = Gate::before(address, small);
    let reply = gate.client("alice").get(UNIT).await;
    assert_told_in_our_words("endless", &reply, 502, "upstream_broken");
    assert_eq!(gate.metric("upstream_errors_total", &["too_large"]), 1.0);
}

#[tokio::test]
async fn a_refused_connection_is_502_and_service_is_back_as_soon_as_the_upstream_is() {
    let mut upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, small);
    let alice = gate.client("alice");
    upstream.stop().await;
    for _ in 0..3 {
        let reply = alice.get(UNIT).await;
        assert_told_in_our_words("refused", &reply, 502, "upstream_unreachable");
    }
    upstream.restart().await;
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "Be kind."));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_502() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        // A label of 64 characters is none: the resolver refuses it without asking anyone.
        let url = format!("http://{}.test", "a".repeat(64)).parse().unwrap();
        config.upstreams.insert("converflow".to_owned(), NamedUpstream { url });
    });
    let reply = gate.client("alice").get(UNIT).await;
    assert_told_in_our_words("name", &reply, 502, "upstream_unreachable");
    assert!(!reply.everything().contains("aaaa"), "{}", reply.everything());
    assert_eq!(gate.metric("upstream_errors_total", &["resolve"]), 1.0);
}

#[tokio::test]
async fn a_5xx_keeps_its_status_and_is_neither_stored_nor_retried() {
    for status in [500, 501, 502, 503, 504, 507, 599] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, small);
        upstream.next(Answer::json(status, r#"{"message":"try later"}"#).field("retry-after", "7"));
        let reply = gate.client("alice").get(UNIT).await;
        assert_eq!((reply.status, reply.text()), (status, r#"{"message":"try later"}"#));
        assert_eq!(reply.field("retry-after"), Some("7"));
        assert_eq!(reply.field("cache-control"), Some("private, no-store"));
        assert_eq!(upstream.count(), 1, "{status} was retried");
        assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
    }
}

#[tokio::test]
async fn a_5xx_whose_words_can_t_be_proven_keeps_its_status_with_our_own() {
    for (status, words) in [(500, format!("<h1>{WORDS}</h1>")), (503, WORDS.to_owned())] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, small);
        upstream.next(Answer::new(status, words));
        let reply = gate.client("alice").get(UNIT).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, "unmaskable_error_answer"));
        assert!(!reply.everything().contains(WORDS), "{}", reply.everything());
    }
}

#[tokio::test]
async fn a_redirect_keeps_its_status_and_loses_location_and_body() {
    for status in [300, 301, 302, 303, 307, 308] {
        for path in [UNIT, INTEGRATION] {
            let upstream = Upstream::start().await;
            let gate = Gate::start(&upstream, small);
            upstream.next(
                Answer::json(status, format!("\"{WORDS}\""))
                    .field("location", &format!("/{WORDS}")),
            );
            let reply = gate.client("alice").get(path).await;
            assert_eq!((reply.status, reply.text()), (status, ""));
            assert!(!reply.everything().contains(WORDS), "{}", reply.everything());
            assert_eq!(upstream.count(), 1, "a redirect was followed");
            assert_eq!(gate.client("alice").get(path).await.status, 200, "a redirect was stored");
        }
    }
}

#[tokio::test]
async fn a_pooled_connection_that_the_upstream_closed_is_tried_once_more_unseen() {
    for (ending, ask) in [
        (Answer::reset(), Ask::get(INTEGRATION)),
        (Answer::raw(""), Ask::get(INTEGRATION)),
        (Answer::reset(), Ask::get(UNIT)),
        (Answer::raw(""), Ask::new("HEAD", INTEGRATION)),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, small);
        let alice = gate.client("alice");
        alice.get(INTEGRATION).await;
        upstream.next(ending);
        assert_eq!(alice.send(ask).await.status, 200);
        assert_eq!((upstream.count(), upstream.connections()), (3, 2));
        assert_eq!(gate.metric("upstream_requests_total", &["cause=\"retry\""]), 1.0);
        gate.logged("\"upstream_tries\":2").await;
    }
}

#[tokio::test]
async fn a_second_failure_is_told_and_a_fresh_connection_is_never_tried_again() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, small);
    let alice = gate.client("alice");
    alice.get(INTEGRATION).await;
    upstream.answer(Answer::reset());
    assert_eq!(alice.get(INTEGRATION).await.status, 502);
    assert_eq!(upstream.count(), 3);
    assert_eq!(alice.get(INTEGRATION).await.status, 502);
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_write_of_which_bytes_were_sent_is_not_tried_again() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, small);
    let alice = gate.client("alice");
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 200);
    upstream.next(Answer::reset());
    assert_eq!(alice.put(INTEGRATION, "{}").await.code(), "upstream_broken");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_connection_with_unasked_bytes_is_dropped() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, small);
    let alice = gate.client("alice");
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\"planted\"";
    let answer = Answer::json(200, format!("{{}}{smuggled}")).field("content-length", "2");
    upstream.next(answer);
    assert_eq!(alice.get(INTEGRATION).await.text(), "{}");
    assert_eq!(alice.get(INTEGRATION).await.text(), list(MASK, "Be kind."));
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn five_hundred_misses_of_a_failing_key_cost_three_upstream_requests_at_most() {
    for failure in [Answer::reset(), Answer::json(200, "nonsense")] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, small);
        let alice = gate.client("alice");
        upstream.answer(failure);
        let held = upstream.hold();
        let mut waiting = vec![alice.enter(Ask::get(UNIT)).await];
        held.arrived().await;
        for _ in 1..500 {
            waiting.push(alice.enter(Ask::get(UNIT)).await);
        }
        held.release();
        for pending in waiting {
            assert_eq!(pending.reply().await.status, 502);
        }
        assert!(upstream.count() <= 3, "{} upstream requests", upstream.count());
        upstream.answer(Answer::json(200, "{}"));
        assert_eq!(alice.get(UNIT).await.status, 200);
    }
}

#[tokio::test]
async fn a_stalling_upstream_answers_all_who_wait_within_one_timeout() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, impatient);
    let alice = gate.client("alice");
    upstream.answer(Answer::silence());
    let begun = tokio::time::Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..500 {
        waiting.push(alice.enter(Ask::get(UNIT)).await);
    }
    for pending in waiting {
        assert_eq!(pending.reply().await.status, 504);
    }
    assert!(upstream.count() <= 3, "{} upstream requests", upstream.count());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_process_starts_and_listens_while_the_upstream_is_down() {
    let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let gate = Process::start(nobody, "", &[]).await;
    assert_eq!(fetch(gate.admin(), "/readyz", &[]).await.status, 200);
    assert_eq!(fetch(gate.admin(), "/healthz", &[]).await.status, 200);
    let bearer = format!("Bearer {}", token("alice"));
    let reply = fetch(gate.address(), UNIT, &[("Authorization", &bearer)]).await;
    assert_told_in_our_words("down", &reply, 502, "upstream_unreachable");
}
