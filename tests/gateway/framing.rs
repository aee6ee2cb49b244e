//! Framing on an open route, in both directions: what two readers could read differently is not passed on.
//!
//! *Claims*
//! 1. A request's body crosses with one length of its own, whatever the method and however it came.
//! 2. An answer that is framed wrongly or cut is a 502, and never stored.
//! 3. What goes out has the length that it really has; a HEAD is told what the upstream told.
//! 4. Bytes that nobody asked for are nobody's answer, and no body is taken for a request.

use std::fmt::Write as _;
use std::time::Duration;

use crate::intermediary::{TARGET, lasting, said, values};
use crate::support::{Answer, Ask, Gate, Reply, UNIT, Upstream, secs, shared, shared_with};

/// What a test looks for where it must not be.
const WORDS: &str = "words-of-the-upstream";

/// An answer's head by hand, and what follows it; the connection stays open.
fn raw(head: &str, body: &str) -> Answer {
    let head = format!("HTTP/1.1 {head}\r\nCache-Control: max-age=60\r\nX-Words: {WORDS}");
    Answer::raw(format!("{head}\r\n\r\n{body}")).stall_after(usize::MAX)
}

/// A body as chunks, with what may stand beside them.
fn chunked(body: &str) -> String {
    let mut chunks = String::new();
    for piece in body.as_bytes().chunks(3) {
        let piece = std::str::from_utf8(piece).unwrap();
        write!(chunks, "{:x};ext=\"1\"\r\n{piece}\r\n", piece.len()).unwrap();
    }
    chunks + "0\r\nX-Trailer: t\r\n\r\n"
}

#[tokio::test]
async fn a_body_crosses_with_one_length_of_its_own_whatever_the_method() {
    let (upstream, _gate, client) = shared().await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "FOO"] {
        for body in ["", "0123456789"] {
            let framings = [
                format!("Content-Length: {}\r\n\r\n{body}", body.len()),
                format!(
                    "Transfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n{}",
                    chunked(body)
                ),
            ];
            for framing in framings {
                let before = upstream.count();
                let head = format!("{method} {TARGET} HTTP/1.1\r\nHost: gate.test\r\n{framing}");
                said(&client, &head).await;
                let seen = upstream.last();
                assert_eq!(upstream.count(), before + 1, "{head:?}");
                assert_eq!((seen.method.as_str(), &seen.body[..]), (method, body.as_bytes()));
                // RFC 9110 §8.6: a length of 0 is said where content could be expected.
                let lengths = values(&seen.fields, "content-length");
                let none = body.is_empty() && !["POST", "PUT", "PATCH"].contains(&method);
                let length = body.len().to_string();
                assert_eq!(lengths, if none { vec![] } else { vec![length.as_str()] }, "{head:?}");
                for name in ["transfer-encoding", "trailer", "x-trailer"] {
                    assert_eq!(seen.field(name), None, "{head:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_length_beside_a_coding_does_not_cross_and_ends_the_connection_whatever_the_method() {
    let (upstream, _gate, client) = shared().await;
    for (asked, method) in ["GET", "HEAD", "POST", "OPTIONS", "FOO"].iter().enumerate() {
        let mut wire = client.connect().await;
        let framing =
            "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: gate.test\r\n\r\n";
        let head = format!("{method} {TARGET} HTTP/1.1\r\nHost: gate.test\r\n");
        wire.write(format!("{head}{framing}{smuggled}").as_bytes()).await;
        assert_eq!(wire.read(*method == "HEAD").await.unwrap().status, 200, "{method}");
        assert!(wire.rest().await.is_empty(), "the connection went on after {method}");
        let seen = upstream.last();
        assert_eq!(upstream.count(), asked + 1, "{method}");
        assert_eq!((&seen.body[..], seen.field("content-length")), (&b"{}"[..], Some("2")));
    }
}

#[tokio::test]
async fn a_body_above_the_limit_reaches_nobody_whatever_the_method() {
    let (upstream, _gate, client) = shared_with(|config| config.limits.request_body = 8).await;
    for method in ["GET", "POST", "OPTIONS", "FOO"] {
        let reply = client.send(Ask::new(method, TARGET).body("012345678")).await;
        assert_eq!((reply.status, reply.code().as_str()), (413, "request_too_large"), "{method}");
        assert_eq!(client.send(Ask::new(method, TARGET).body("01234567")).await.status, 200);
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_body_that_breaks_off_reaches_nobody_whatever_the_method() {
    let (upstream, mut gate, client) = shared().await;
    for method in ["GET", "POST", "OPTIONS", "FOO"] {
        let head = format!("{method} {TARGET} HTTP/1.1\r\nHost: gate.test\r\n");
        for broken in [
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
        ] {
            let reply = said(&client, &format!("{head}{broken}")).await;
            assert_eq!((reply.status, reply.code().as_str()), (400, "request_broken"), "{method}");
            assert_eq!(reply.field("connection"), Some("close"), "{method}");
        }
        for cut in ["Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "Content-Length: 3\r\n\r\n{}"]
        {
            let mut wire = client.connect().await;
            wire.write(format!("{head}{cut}").as_bytes()).await;
            wire.finish().await;
            wire.rest().await;
        }
    }
    assert!(gate.leave().await);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn the_body_of_what_is_answered_here_is_never_taken_for_a_request() {
    let (upstream, _gate, client) = shared_with(|config| {
        config.listen.via = Some("gate-a".to_owned());
    })
    .await;
    let inner = "GET /inner HTTP/1.1\r\nHost: gate.test\r\n\r\n";
    let length = inner.len();
    for (line, field, status) in [
        ("OPTIONS /a", "Max-Forwards: 0", 204),
        ("TRACE /a", "X-A: 1", 405),
        ("FOO /a", "Via: 1.1 gate-a", 508),
        ("GET /a", "Connection: Host", 400),
    ] {
        let mut wire = client.connect().await;
        let head = format!("{line} HTTP/1.1\r\nHost: gate.test\r\nContent-Length: {length}\r\n");
        wire.write(format!("{head}{field}\r\n\r\n{inner}").as_bytes()).await;
        assert_eq!(wire.read(false).await.unwrap().status, status, "{line}");
        // Either this is answered, or nothing more is.
        wire.write(b"GET /next HTTP/1.1\r\nHost: gate.test\r\n\r\n").await;
        drop(wire.read(false).await);
    }
    assert!(upstream.seen().iter().all(|seen| seen.target == "/next"), "{:?}", upstream.seen());
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_answered_408_and_closed() {
    let (upstream, _gate, client) = shared_with(|config| {
        config.listen.head = Duration::from_millis(100);
    })
    .await;
    let mut wire = client.connect().await;
    wire.write(b"GET /slow HTTP/1.1\r\nHost: gate").await;
    let reply = wire.read(false).await.unwrap();
    assert_eq!((reply.status, reply.field("connection")), (408, Some("close")));
    assert!(wire.rest().await.is_empty());
    assert_eq!(upstream.count(), 0);
}

/// Answers that break off or that nobody can frame, each with a lifetime of a minute.
fn broken() -> Vec<(&'static str, Answer)> {
    let length = |value: &str| raw(&format!("200 OK\r\nContent-Length: {value}"), "{}1");
    let coded =
        |value: &str, body: &str| raw(&format!("200 OK\r\nTransfer-Encoding: {value}"), body);
    let chunks = |body: &str| coded("chunked", body);
    let old = format!("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nX-Words: {WORDS}\r\n\r\n");
    vec![
        ("lengths that differ", length("2\r\nContent-Length: 3")),
        ("a list of lengths that differ", length("2, 3")),
        ("a length in words", length("two")),
        ("a signed length", length("+2")),
        ("a negative length", length("-1")),
        ("a hexadecimal length", length("0x2")),
        ("an empty length", length("")),
        ("a length of 2^64", length("18446744073709551616")),
        ("a length above the cap", length("99999999999")),
        ("closed before the end", length("9").cut(usize::MAX)),
        ("closed one byte before the end", length("4").cut(usize::MAX)),
        ("reset before the end", length("9").reset_after(usize::MAX)),
        ("reset without a length", raw("200 OK", WORDS).reset_after(usize::MAX)),
        ("a chunk size that is none", chunks("zz\r\n{}\r\n0\r\n\r\n")),
        ("a chunk size beyond counting", chunks("fffffffffffffffff\r\n{}\r\n0\r\n\r\n")),
        ("a chunk larger than said", chunks("1\r\n{}\r\n0\r\n\r\n")),
        ("a chunk that is cut", chunks("9\r\n{}").cut(usize::MAX)),
        ("chunks without their last", chunks("2\r\n{}\r\n").cut(usize::MAX)),
        ("chunks without their end", chunks("2\r\n{}\r\n0\r\n").cut(usize::MAX)),
        ("chunks that are reset", chunks("2\r\n{}\r\n").reset_after(usize::MAX)),
        ("an unknown coding", coded("gzip", WORDS).cut(usize::MAX)),
        ("a coding that was not asked for", coded("gzip, chunked", "2\r\n{}\r\n0\r\n\r\n")),
        ("chunked twice", coded("chunked, chunked", "2\r\n{}\r\n0\r\n\r\n")),
        ("chunked on two lines", coded("chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        ("chunked with a parameter", coded("chunked;q=1", "2\r\n{}\r\n0\r\n\r\n")),
        // RFC 9112 §6.1: HTTP/1.0 has none, and so its framing is faulty.
        ("a coding in HTTP/1.0", Answer::raw(format!("{old}2\r\n{{}}\r\n0\r\n\r\n"))),
        // RFC 9112 §5.2: replaced by 502, or unfolded.
        ("a folded line", raw("200 OK\r\nX-Fold: a\r\n b\r\nContent-Length: 2", "{}")),
        ("a gap before a colon", raw("200 OK\r\nX-Gap : a\r\nContent-Length: 2", "{}")),
        ("a control in a field", raw("200 OK\r\nX-Bell: \u{7}\r\nContent-Length: 2", "{}")),
        ("a switch of protocols", raw("101 Switching Protocols\r\nUpgrade: x", WORDS)),
        ("a status above 599", raw("600 High\r\nContent-Length: 2", "{}").cut(usize::MAX)),
        ("a status below 100", raw("99 Low\r\nContent-Length: 2", "{}")),
        ("another protocol", Answer::raw(format!("SSH-2.0-{WORDS}\r\n\r\n"))),
        ("no head", Answer::raw(WORDS)),
    ]
}

fn assert_is_502_in_our_words(case: &str, reply: &Reply) {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (502, "upstream_broken"),
        "{case}: {reply:?}"
    );
    assert_eq!(reply.field("cache-control"), Some("no-store"), "{case}");
    assert!(!reply.everything().contains(WORDS), "{case}: {}", reply.everything());
}

#[tokio::test]
async fn an_answer_that_is_framed_wrongly_or_cut_is_502_and_not_stored() {
    for (case, answer) in broken() {
        let (upstream, gate, client) = shared().await;
        upstream.next(answer);
        assert_is_502_in_our_words(case, &client.get(TARGET).await);
        assert_eq!(upstream.count(), 1, "{case}: it was asked again");
        upstream.answer(lasting(200, "whole"));
        let next = client.get(TARGET).await;
        assert_eq!((next.text(), next.is_hit()), ("whole", false), "{case}");
        assert_eq!(upstream.count(), 2, "{case}");
        assert!(client.get(TARGET).await.is_hit(), "{case}");
        assert!(!gate.log().contains(WORDS), "{case}");
    }
}

#[tokio::test]
async fn a_cut_answer_to_what_is_not_cached_is_502_too() {
    for ask in [Ask::get(TARGET).body("x"), Ask::post(TARGET, "{}"), Ask::new("FOO", TARGET)] {
        for answer in [
            lasting(200, WORDS).cut(5),
            raw("200 OK\r\nTransfer-Encoding: chunked", "9\r\nab").cut(usize::MAX),
            lasting(404, WORDS).cut(5),
        ] {
            let (upstream, _gate, client) = shared().await;
            upstream.next(answer);
            assert_is_502_in_our_words(&format!("{ask:?}"), &client.send(ask.clone()).await);
            assert_eq!(upstream.count(), 1, "{ask:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_that_was_cut_is_502_and_not_stored_either() {
    for status in [400, 401, 403, 404, 410, 500, 503] {
        for answer in [
            lasting(status, WORDS).field("content-encoding", "gzip").cut(5),
            lasting(status, WORDS).reset_after(5),
            raw(&format!("{status} No\r\nTransfer-Encoding: chunked"), "9\r\nab").cut(usize::MAX),
        ] {
            let (upstream, _gate, client) = shared().await;
            upstream.next(answer);
            assert_is_502_in_our_words(&status.to_string(), &client.get(TARGET).await);
            upstream.answer(lasting(200, "whole"));
            assert_eq!(client.get(TARGET).await.text(), "whole", "{status}");
            assert_eq!(upstream.count(), 2, "{status}");
        }
    }
}

#[tokio::test]
async fn a_404_that_was_cut_is_not_kept_for_the_negative_ttl() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.negative_ttl = secs(60));
    });
    let alice = gate.client("alice");
    upstream.next(Answer::json(404, r#"{"message":"none"}"#).cut(5));
    // The status is known and counts; the words are ours.
    let cut = alice.get(UNIT).await;
    assert_eq!((cut.status, cut.code().as_str()), (404, "unmaskable_error_answer"));
    assert!(!cut.cache().contains("stored"), "{}", cut.cache());
    assert_eq!(alice.get(UNIT).await.status, 200);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn what_goes_out_has_the_length_it_really_has() {
    let length = |value: &str| raw(&format!("200 OK\r\nContent-Length: {value}"), "{}");
    let chunks = |beside: &str| {
        let body = "1;ext=1\r\n{\r\n1\r\n}\r\n0\r\nX-Trailer: t\r\n\r\n";
        raw(&format!("200 OK\r\n{beside}Transfer-Encoding: chunked"), body)
    };
    for (case, answer) in [
        ("a length", length("2")),
        ("a length twice", length("2\r\nContent-Length: 2")),
        ("a length twice on a line", length("2, 2")),
        ("a length with zeros ahead", length("0002")),
        ("chunks", chunks("")),
        ("chunks and a trailer", chunks("Trailer: X-Trailer\r\n")),
        // RFC 9112 §6.3: the coding wins.
        ("chunks and another length", chunks("Content-Length: 9\r\n")),
        ("neither", raw("200 OK", "{}").cut(usize::MAX)),
        ("HTTP/1.0", Answer::raw("HTTP/1.0 200 OK\r\nCache-Control: max-age=60\r\n\r\n{}")),
    ] {
        let (upstream, _gate, client) = shared().await;
        upstream.answer(answer);
        for hit in [false, true] {
            let reply = client.get(TARGET).await;
            assert_eq!((reply.status, reply.is_hit(), reply.text()), (200, hit, "{}"), "{case}");
            assert_eq!(values(&reply.fields, "content-length"), ["2"], "{case}");
            for name in ["transfer-encoding", "trailer", "x-trailer"] {
                assert_eq!(reply.field(name), None, "{case}");
            }
        }
        assert_eq!(upstream.count(), 1, "{case}");
    }
}

#[tokio::test]
async fn what_has_no_content_is_not_said_to_have_any() {
    let claimed = |status: &str| raw(&format!("{status}\r\nContent-Length: 5"), "");
    for (answer, status, length) in [
        // RFC 9110 §8.6: none in a 204; RFC 9110 §15.3.6: nothing in a 205.
        (claimed("204 None"), 204, vec![]),
        (raw("205 Reset\r\nContent-Length: 2", "{}"), 205, vec!["0"]),
        (raw("205 Reset\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 205, vec!["0"]),
        (raw("200 OK\r\nContent-Length: 0", ""), 200, vec!["0"]),
    ] {
        for asks in [vec![Ask::get(TARGET), Ask::get(TARGET)], vec![Ask::post(TARGET, "{}")]] {
            let (upstream, _gate, client) = shared().await;
            upstream.answer(answer.clone());
            for ask in asks {
                let mut wire = client.connect().await;
                wire.write(&client.bytes(ask.field("Connection", "close"))).await;
                let reply = wire.read(false).await.unwrap();
                assert_eq!((reply.status, reply.body.len()), (status, 0));
                assert_eq!(values(&reply.fields, "content-length"), length, "{status}");
                assert!(wire.rest().await.is_empty(), "{status}");
            }
        }
    }
    let (upstream, _gate, client) = shared().await;
    upstream.answer(claimed("304 Same\r\nETag: \"a\""));
    let ask = Ask::get(TARGET).field("If-None-Match", "\"a\"").field("Connection", "close");
    let mut wire = client.connect().await;
    // With content of its own it goes straight upstream, its condition too.
    wire.write(&client.bytes(ask.body("x"))).await;
    let reply = wire.read(false).await.unwrap();
    assert_eq!((reply.status, reply.field("etag")), (304, Some("\"a\"")));
    assert!(wire.rest().await.is_empty());
}

#[tokio::test]
async fn a_head_is_told_the_length_that_the_upstream_told_and_none_otherwise() {
    for (head, status, length) in [
        ("200 OK\r\nContent-Length: 5", 200, vec!["5"]),
        ("200 OK\r\nContent-Length: 99999999999", 200, vec!["99999999999"]),
        ("404 None\r\nContent-Length: 7", 404, vec!["7"]),
        ("200 OK\r\nContent-Length: 0", 200, vec!["0"]),
        ("200 OK", 200, vec![]),
        ("404 None", 404, vec![]),
        ("200 OK\r\nTransfer-Encoding: chunked", 200, vec![]),
        // RFC 9112 §6.3: of the two the coding counts, and the length is removed.
        ("200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", 200, vec![]),
        // RFC 9110 §8.6: what goes on is a number.
        ("200 OK\r\nContent-Length: 5, 5", 200, vec!["5"]),
        ("200 OK\r\nContent-Length: 5\r\nContent-Length: 5", 200, vec!["5"]),
        ("204 None\r\nContent-Length: 5", 204, vec![]),
        ("200 OK\r\nContent-Length: 5, 6", 502, vec![]),
        ("200 OK\r\nContent-Length: five", 502, vec![]),
    ] {
        let (upstream, _gate, client) = shared().await;
        upstream.answer(raw(head, ""));
        let mut wire = client.connect().await;
        wire.write(&client.bytes(Ask::new("HEAD", TARGET).field("Connection", "close"))).await;
        let reply = wire.read(true).await.unwrap();
        assert_eq!(reply.status, status, "{head:?}");
        if status != 502 {
            assert_eq!(values(&reply.fields, "content-length"), length, "{head:?}");
        }
        assert!(wire.rest().await.is_empty(), "{head:?}");
        assert_eq!(upstream.last().method, "HEAD");
    }
}

#[tokio::test]
async fn a_connection_that_framed_an_answer_in_two_ways_is_not_used_again() {
    for (coding, connections) in [(false, 1), (true, 2)] {
        let (upstream, _gate, client) = shared().await;
        // RFC 9112 §6.3: it may be an attempt at response splitting.
        upstream.next(if coding {
            let answer = Answer::new(200, "2\r\n{}\r\n0\r\n\r\n").field("content-length", "12");
            answer.field("transfer-encoding", "chunked")
        } else {
            Answer::new(200, "{}")
        });
        assert_eq!(client.get("/first").await.text(), "{}");
        assert_eq!(client.get("/second").await.status, 200);
        assert_eq!((upstream.count(), upstream.connections()), (2, connections));
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_are_nobodys_answer() {
    let planted = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nplanted";
    for (ask, head, body) in [
        (Ask::get(TARGET), "200 OK\r\nContent-Length: 2", "{}"),
        (Ask::get(TARGET), "200 OK\r\nTransfer-Encoding: chunked", "2\r\n{}\r\n0\r\n\r\n"),
        (Ask::get(TARGET), "204 None", ""),
        (Ask::get(TARGET), "204 None\r\nContent-Length: 47", ""),
        (Ask::new("HEAD", TARGET), "200 OK\r\nContent-Length: 47", ""),
        (Ask::get(TARGET).field("If-None-Match", "\"a\"").body("x"), "304 Same", ""),
        (Ask::post(TARGET, "{}"), "200 OK\r\nContent-Length: 0", ""),
        (
            Ask::get(TARGET),
            "200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
    ] {
        let (upstream, _gate, client) = shared().await;
        upstream.next(raw(head, &format!("{body}{planted}")));
        assert!(client.send(ask.clone()).await.status < 400, "{head:?}");
        // Over the same pool: writes have one of their own.
        let post = format!("{ask:?}").contains("POST");
        let next = if post { Ask::post("/next", "{}") } else { Ask::get("/next") };
        let next = client.send(next).await;
        assert!(!next.text().contains("planted"), "{ask:?} {head:?}");
        assert_eq!((upstream.last().target.as_str(), upstream.connections()), ("/next", 2));
    }
}
