//! What an intermediary owes both sides, on an open route with any method in front of any upstream.
//!
//! *Claims*
//! 1. Whatever a request names, the upstream gets its own `Host`; without one of its own that is valid a
//!    request gets no further.
//! 2. Hop-by-hop fields cross in neither direction, are not replayed, and select no variant; what is meant
//!    for all no `Connection` can take away.
//! 3. `Via` grows on whatever goes upstream, and a loop ends whatever its method.
//! 4. Each answer has a date, that of its receipt where the upstream gave none.

use crate::support::{Answer, Ask, Client, Reply, secs, shared, shared_with};

/// What is asked for.
pub(crate) const TARGET: &str = "/any/thing?x=1";

/// Sends bytes over a connection of their own.
pub(crate) async fn said(client: &Client, bytes: &str) -> Reply {
    let mut wire = client.connect().await;
    wire.write(bytes.as_bytes()).await;
    wire.read(bytes.starts_with("HEAD ")).await.expect("closed without an answer")
}

/// An answer that may be stored for a minute.
pub(crate) fn lasting(status: u16, body: &str) -> Answer {
    Answer::new(status, body).field("cache-control", "max-age=60")
}

/// All values of a field.
pub(crate) fn values<'a>(fields: &'a http::HeaderMap, name: &str) -> Vec<&'a str> {
    fields.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn the_upstream_gets_its_own_host_whatever_the_request_named() {
    let (upstream, _gate, client) = shared().await;
    let own = upstream.address().to_string();
    for method in ["GET", "HEAD", "POST", "OPTIONS", "FOO"] {
        for target in ["/a", "http://elsewhere.test/a", "https://elsewhere.test:8443/a"] {
            client.send(Ask::new(method, target).field("Host", "gate.test")).await;
            let seen = upstream.last();
            assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, "/a"));
            assert_eq!(values(&seen.fields, "host"), [&own], "{method} {target}");
        }
    }
    said(&client, "GET http://elsewhere.test HTTP/1.1\r\nHost: gate.test\r\n\r\n").await;
    assert_eq!(upstream.last().target, "/");
}

#[tokio::test]
async fn without_exactly_one_valid_host_a_request_reaches_nobody_whatever_its_method() {
    let (upstream, _gate, client) = shared().await;
    for method in ["GET", "HEAD", "POST", "PROPFIND", "FOO", "OPTIONS"] {
        for (target, hosts) in [
            ("/a", ""),
            ("/a", "Host: a\r\nHost: a\r\n"),
            ("/a", "Host: a\r\nHost: b\r\n"),
            ("/a", "Host: a, b\r\n"),
            ("/a", "Host: me@a\r\n"),
            ("/a", "Host:\r\n"),
            ("/a", "Host: a:99999\r\n"),
            ("http://elsewhere.test/a", ""),
            ("http://elsewhere.test/a", "Host: a\r\nHost: a\r\n"),
            ("http://elsewhere.test/a", "Host: a b\r\n"),
            ("http://me@elsewhere.test/a", "Host: a\r\n"),
        ] {
            let head = format!("{method} {target} HTTP/1.1\r\n{hosts}Max-Forwards: 0\r\n\r\n");
            let reply = said(&client, &head).await;
            assert_eq!(reply.status, 400, "{head:?}");
            if method != "HEAD" {
                assert_eq!(reply.code(), "bad_host", "{head:?}");
            }
        }
    }
    assert_eq!(upstream.count(), 0);
    // RFC 9112 §3.2: only HTTP/1.1 has to name one.
    assert_eq!(said(&client, "GET /a HTTP/1.0\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn an_absolute_target_is_the_same_entry_and_its_authority_wins_over_host() {
    let (upstream, _gate, client) = shared().await;
    let written = |location: &str| Answer::new(201, "").field("location", location);
    upstream.answer(lasting(200, "one"));
    assert!(!client.get("/thing").await.is_hit());
    let hosted = |ask: Ask| ask.field("Host", "field.test");
    assert!(client.send(hosted(Ask::get("http://target.test/thing"))).await.is_hit());
    // RFC 9111 §4.4: what a write names is dropped where it is on the request's own host, which an
    // absolute-form target names (RFC 9112 §3.2.2).
    for (location, dropped) in
        [("http://field.test/thing", false), ("http://target.test/thing", true)]
    {
        upstream.next(written(location));
        client.send(hosted(Ask::new("POST", "http://target.test/form")).body("x")).await;
        assert_eq!(client.get("/thing").await.is_hit(), !dropped, "{location}");
    }
}

const HOP_BY_HOP: [(&str, &str); 13] = [
    ("connection", "x-listed, x-absent"),
    ("connection", "X-Other"),
    ("x-listed", "secret"),
    ("x-other", "secret"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("proxy-authorization", "Basic eDp5"),
    ("proxy-authenticate", "Basic"),
    ("proxy-authentication-info", "x"),
    ("te", "trailers, deflate"),
    ("trailer", "x-after"),
    ("upgrade", "websocket"),
    ("http2-settings", "AAMAAABkAAQAAP__"),
];

#[tokio::test]
async fn hop_by_hop_fields_do_not_go_up_whatever_the_method() {
    let (upstream, gate, client) = shared().await;
    upstream.answer(lasting(200, "x").field("etag", "\"a\""));
    let hops = |ask: Ask| HOP_BY_HOP.iter().fold(ask, |ask, (name, value)| ask.field(name, value));
    let asks = [
        Ask::get(TARGET),
        Ask::new("HEAD", "/head"),
        Ask::get(TARGET).body("x"),
        Ask::post("/other", "{}"),
        Ask::new("OPTIONS", "/other"),
        Ask::new("FOO", "/other"),
        Ask::get(TARGET),
    ];
    for (asked, ask) in asks.into_iter().enumerate() {
        // The last one revalidates.
        gate.advance(secs(61));
        client.send(hops(ask).field("X-Kept", "1")).await;
        let seen = upstream.last();
        assert_eq!((upstream.count(), seen.field("x-kept")), (asked + 1, Some("1")));
        for (name, _) in HOP_BY_HOP {
            assert_eq!(seen.field(name), None, "{name} crossed with {}", seen.method);
        }
    }
    assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
}

#[tokio::test]
async fn hop_by_hop_fields_do_not_come_down_nor_are_they_replayed() {
    let (upstream, gate, client) = shared().await;
    let hops = |answer: Answer| {
        HOP_BY_HOP.iter().fold(answer, |answer, (name, value)| answer.field(name, value))
    };
    upstream.answer(hops(lasting(200, "x").field("etag", "\"a\"").field("x-kept", "1")));
    let none_in = |reply: &Reply| {
        for (name, _) in HOP_BY_HOP {
            assert_eq!(reply.field(name), None, "{name} crossed: {}", reply.cache());
        }
        assert_eq!(reply.field("x-kept"), Some("1"), "{}", reply.cache());
    };
    for ask in [
        Ask::get(TARGET),
        Ask::get(TARGET),
        Ask::new("HEAD", TARGET),
        Ask::new("HEAD", "/head"),
        Ask::post("/other", "{}"),
        Ask::new("FOO", "/other"),
    ] {
        none_in(&client.send(ask).await);
    }
    // A 304 brings none either (RFC 9111 §3.2), nor takes away what is stored under such a name.
    upstream.answer(lasting(200, "x").field("etag", "\"a\"").field("x-listed", "end-to-end"));
    client.get("/renewed").await;
    gate.advance(secs(61));
    upstream.answer(hops(Answer::not_modified().field("etag", "\"a\"").field("x-kept", "1")));
    for hit in [false, true] {
        let renewed = client.get("/renewed").await;
        assert_eq!((renewed.status, renewed.is_hit()), (200, hit));
        assert_eq!(renewed.field("x-listed"), Some("end-to-end"));
        assert_eq!((renewed.field("x-kept"), renewed.field("x-other")), (Some("1"), None));
        assert_eq!((renewed.field("keep-alive"), renewed.field("connection")), (None, None));
    }
}

#[tokio::test]
async fn a_connection_that_claims_what_is_for_all_takes_nothing_away() {
    let claim = "Cache-Control, Content-Type, close";
    let (upstream, gate, client) = shared().await;
    let secret = Answer::new(200, "x").field("connection", claim).field("content-type", "a/b");
    upstream.answer(secret.field("cache-control", "no-store"));
    for _ in 0..2 {
        let reply = client.get(TARGET).await;
        assert_eq!(reply.field("cache-control"), Some("no-store"));
        assert_eq!(reply.field("content-type"), Some("a/b"));
        assert!(!reply.is_hit());
    }
    // The same of a 304, which rules what was stored.
    upstream.answer(lasting(200, "x").field("etag", "\"a\""));
    client.get("/renewed").await;
    gate.advance(secs(61));
    let renewal = Answer::not_modified().field("etag", "\"a\"").field("connection", claim);
    upstream.answer(renewal.field("cache-control", "no-store"));
    client.get("/renewed").await;
    assert!(!client.get("/renewed").await.is_hit());
}

#[tokio::test]
async fn a_field_that_connection_lists_selects_no_variant() {
    let (upstream, gate, client) = shared().await;
    upstream.answers(|seen| {
        let language = seen.field("accept-language").unwrap_or("none");
        lasting(200, language).field("vary", "accept-language")
    });
    let german = || Ask::get(TARGET).field("Accept-Language", "de");
    let listed = || german().field("Connection", "accept-language");
    assert_eq!(client.send(listed()).await.text(), "none");
    assert_eq!(client.send(german()).await.text(), "de");
    // What the upstream is not told of is not looked up either.
    assert_eq!(client.send(listed()).await.text(), "none");
    assert_eq!(client.get(TARGET).await.text(), "none");
    assert_eq!(client.send(german()).await.text(), "de");
    assert_eq!(upstream.count(), 2);
    // Nor is a flight for another variant shared.
    gate.advance(secs(61));
    let held = upstream.hold();
    let leader = client.enter(german()).await;
    held.arrived().await;
    let joiner = client.enter(listed()).await;
    held.release();
    assert_eq!((leader.reply().await.text(), joiner.reply().await.text()), ("de", "none"));
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn via_grows_on_whatever_goes_upstream_and_the_upstreams_own_comes_down() {
    let (upstream, gate, client) = shared_with(|config| {
        config.listen.via = Some("gate-a".to_owned());
    })
    .await;
    let control = "max-age=60, stale-while-revalidate=60";
    let answer = Answer::new(200, "x").field("cache-control", control).field("etag", "\"a\"");
    upstream.answer(answer.field("via", "1.1 origin-side"));
    let marked = |ask: Ask| ask.field("Via", "1.0 fred").field("Via", "2.0 gate-b (a, b)");
    let asks = [
        Ask::get(TARGET),
        Ask::new("HEAD", "/head"),
        Ask::post("/other", "{}"),
        Ask::new("OPTIONS", "/other"),
        Ask::new("FOO", "/other"),
        Ask::get(TARGET).body("x"),
        // Refreshed behind the answer.
        Ask::get(TARGET),
        // Revalidated.
        Ask::get(TARGET).field("Cache-Control", "no-cache"),
    ];
    for (asked, ask) in asks.into_iter().enumerate() {
        if asked == 6 {
            gate.advance(secs(61));
        }
        let reply = client.send(marked(ask)).await;
        assert_eq!(values(&reply.fields, "via"), ["1.1 origin-side"]);
        upstream.arrived(asked + 1).await;
        let seen = upstream.last();
        let expected = ["1.0 fred, 2.0 gate-b (a, b), 1.1 gate-a"];
        assert_eq!(values(&seen.fields, "via"), expected, "{asked} {}", seen.method);
    }
    // A name that Connection lists was for us alone, but who passed it on stays known (RFC 9110 §7.6.3).
    client.send(marked(Ask::new("FOO", TARGET)).field("Connection", "via")).await;
    assert!(upstream.last().field("via").unwrap().ends_with("1.1 gate-a"));
}

#[tokio::test]
async fn a_loop_is_508_whatever_the_method_and_before_anything_is_looked_up() {
    let (upstream, _gate, client) = shared_with(|config| {
        config.listen.via = Some("gate-a".to_owned());
    })
    .await;
    upstream.answer(lasting(200, "x"));
    client.get(TARGET).await;
    for method in ["GET", "POST", "OPTIONS", "PROPFIND", "FOO"] {
        for via in ["1.1 gate-a", "1.0 fred, 1.1 Gate-A (x)", "1.1 other\r\nVia: 2.0 gate-a"] {
            let head = format!("{method} {TARGET} HTTP/1.1\r\nHost: gate.test\r\nVia: {via}\r\n");
            let reply = said(&client, &format!("{head}Max-Forwards: 0\r\n\r\n")).await;
            assert_eq!((reply.status, reply.code().as_str()), (508, "loop"), "{method} {via}");
        }
    }
    let other = client.send(Ask::new("FOO", TARGET).field("Via", "1.1 gate-b")).await;
    assert_eq!((other.status, upstream.count()), (200, 2));
}

#[tokio::test]
async fn an_answer_without_a_date_gets_that_of_its_receipt_whatever_the_method() {
    let (upstream, gate, client) = shared().await;
    upstream.answer(lasting(200, "x").field("etag", "\"a\""));
    let (receipt, later) = ("Fri, 15 Jan 2027 08:00:00 GMT", "Fri, 15 Jan 2027 08:01:30 GMT");
    for ask in [
        Ask::get(TARGET),
        Ask::new("HEAD", "/head"),
        Ask::post("/other", "{}"),
        Ask::new("FOO", "/other"),
        Ask::new("OPTIONS", "/other").field("Max-Forwards", "0"),
    ] {
        assert_eq!(client.send(ask.clone()).await.field("date"), Some(receipt), "{ask:?}");
    }
    gate.advance(secs(30));
    let hit = client.get(TARGET).await;
    assert_eq!(
        (hit.is_hit(), hit.field("date"), hit.field("age")),
        (true, Some(receipt), Some("30"))
    );
    gate.advance(secs(60));
    upstream.answer(Answer::not_modified().field("etag", "\"a\""));
    assert_eq!(client.get(TARGET).await.field("date"), Some(later));
    let theirs = "Fri, 15 Jan 2027 07:59:00 GMT";
    upstream.answer(lasting(200, "x").field("date", theirs));
    for _ in 0..2 {
        assert_eq!(client.get("/dated").await.field("date"), Some(theirs));
    }
}
