//! Interim responses (RFC 9110 §15.2): 102, 103 and the like, ahead of the answer they announce.
//!
//! *Claims*
//! 1. They reach whoever waits for the answer, in order and at once, whatever the method; who joined a
//!    flight too, whenever that was.
//! 2. They reach nobody else: no HTTP/1.0 client, nobody who is answered from the cache, and nobody who
//!    shows something else to be known by.
//! 3. Their fields are reduced and masked as those of an answer are; a 100 is not passed on, a 101 is a 502.
//! 4. They never mix with another answer, and a flood of them is bounded.

use unitgate::config::{Config, SecretsMode};

use crate::support::{
    Answer, Ask, Client, Gate, Held, INTEGRATION, MASK, Reply, UNIT, Upstream, Wire, key, secs,
    shared_with,
};

const TARGET: &str = "/any/thing";

/// Where the hints of these tests point to.
const LINK: &str = "</style.css>; rel=preload; as=style";

async fn shared(change: impl FnOnce(&mut Config)) -> (Upstream, Gate, Client) {
    let (upstream, gate, client) = shared_with(change).await;
    upstream.answer(Answer::new(200, "the answer").field("cache-control", "max-age=60"));
    (upstream, gate, client)
}

/// A request over a connection of its own.
async fn asked(client: &Client, ask: Ask) -> Wire {
    let mut wire = client.connect().await;
    wire.write(&client.bytes(ask)).await;
    wire
}

/// A request over a connection of its own that has reached the upstream, which holds it.
async fn held(upstream: &Upstream, client: &Client, ask: Ask) -> (Wire, Held) {
    let held = upstream.hold();
    let wire = asked(client, ask).await;
    held.arrived().await;
    (wire, held)
}

/// The next thing that is said, interim or final, to no HEAD.
async fn next(wire: &mut Wire) -> Reply {
    wire.read_any(false).await.expect("closed without an answer")
}

/// Its fields by name and value, sorted.
fn fields(reply: &Reply) -> Vec<(&str, &str)> {
    let pairs = reply.fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let mut fields: Vec<_> = pairs.collect();
    fields.sort_unstable();
    fields
}

#[tokio::test]
async fn they_come_at_once_and_in_order_while_the_upstream_holds_its_answer() {
    for (method, body) in [
        ("GET", ""),
        ("HEAD", ""),
        ("GET", "x"),
        ("POST", "{}"),
        ("DELETE", ""),
        ("OPTIONS", ""),
        ("FOO", "x"),
    ] {
        let ask = Ask::new(method, TARGET).body(body);
        let (upstream, gate, client) = shared(|_| ()).await;
        let (mut wire, held) = held(&upstream, &client, ask.clone()).await;
        held.interim(102, &[]);
        let processing = next(&mut wire).await;
        assert_eq!((processing.status, fields(&processing)), (102, vec![]), "{ask:?}");
        held.interim(103, &[("Link", LINK), ("Link", "</other>; rel=preload")]);
        // A client that has never heard of it takes it for a 100 (RFC 9110 §15.2).
        held.interim(142, &[("x-step", "3")]);
        held.interim(103, &[("link", "</last>; rel=preload")]);
        let hints = next(&mut wire).await;
        let links = vec![("link", "</other>; rel=preload"), ("link", LINK)];
        assert_eq!((hints.status, fields(&hints)), (103, links), "{ask:?}");
        let unheard_of = next(&mut wire).await;
        assert_eq!((unheard_of.status, fields(&unheard_of)), (142, vec![("x-step", "3")]));
        assert_eq!(next(&mut wire).await.field("link"), Some("</last>; rel=preload"));
        held.release();
        let bodiless = method == "HEAD";
        let answer = wire.read_any(bodiless).await.unwrap();
        assert_eq!((answer.status, answer.field("link")), (200, None), "{ask:?}");
        assert_eq!(answer.text(), if bodiless { "" } else { "the answer" });
        assert_eq!((upstream.count(), gate.metric("requests_total", &[])), (1, 1.0));
    }
}

#[tokio::test]
async fn who_joins_a_flight_gets_them_too_whenever_that_was() {
    let (upstream, _gate, client) = shared(|_| ()).await;
    let (mut leader, held) = held(&upstream, &client, Ask::get(TARGET)).await;
    held.interim(103, &[("link", "</one>")]);
    assert_eq!(next(&mut leader).await.field("link"), Some("</one>"));
    let mut joiner = asked(&client, Ask::get(TARGET)).await;
    let heard = next(&mut joiner).await;
    assert_eq!((heard.status, heard.field("link")), (103, Some("</one>")));
    held.interim(103, &[("link", "</two>")]);
    let mut late = asked(&client, Ask::get(TARGET)).await;
    for link in ["</one>", "</two>"] {
        assert_eq!(next(&mut late).await.field("link"), Some(link));
    }
    for wire in [&mut leader, &mut joiner] {
        assert_eq!(next(wire).await.field("link"), Some("</two>"));
    }
    held.release();
    for (wire, collapsed) in [(leader, false), (joiner, true), (late, true)] {
        let mut wire = wire;
        let answer = next(&mut wire).await;
        assert_eq!((answer.status, answer.text()), (200, "the answer"));
        assert_eq!(answer.cache().contains("collapsed"), collapsed, "{}", answer.cache());
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn who_shows_something_else_to_be_known_by_hears_only_what_is_its_own() {
    for (name, theirs, others) in [
        ("cookie", "session=alice", Some("session=bob")),
        ("cookie", "session=alice", None),
        ("authorization", "Basic YWxpY2U6eA==", Some("Basic Ym9iOng=")),
        ("authorization", "Basic YWxpY2U6eA==", None),
    ] {
        let (upstream, _gate, client) = shared(|_| ()).await;
        let personal = || Answer::new(200, "mine").field("cache-control", "private");
        let ask = |who: Option<&str>| {
            who.into_iter().fold(Ask::get(TARGET), |ask, who| ask.field(name, who))
        };
        let (mut alice, first) = held(&upstream, &client, ask(Some(theirs))).await;
        first.interim(103, &[("link", "</alice>")]);
        assert_eq!(next(&mut alice).await.field("link"), Some("</alice>"));
        // On the same flight, which may yet bring something for all.
        let second = upstream.hold();
        let mut same = asked(&client, ask(Some(theirs))).await;
        assert_eq!(
            next(&mut same).await.field("link"),
            Some("</alice>"),
            "the same, at another place"
        );
        let mut other = asked(&client, ask(others)).await;
        let witness = client.enter(ask(others)).await;
        first.interim(103, &[("link", "</alice/2>")]);
        assert_eq!(next(&mut same).await.field("link"), Some("</alice/2>"));
        first.release_with(personal());
        assert_eq!(next(&mut alice).await.field("link"), Some("</alice/2>"));
        assert_eq!(next(&mut alice).await.text(), "mine");
        upstream.answer(personal());
        second.arrived().await;
        drop(second);
        let heard = next(&mut other).await;
        assert_eq!((heard.status, heard.field("link")), (200, None), "{name}: {others:?}");
        assert_eq!(witness.reply().await.status, 200);
    }
}

#[tokio::test]
async fn who_is_answered_from_the_cache_gets_none() {
    let (upstream, gate, client) = shared(|_| ()).await;
    upstream.answer(
        Answer::new(200, "the answer")
            .field("cache-control", "max-age=60, stale-while-revalidate=60")
            .field("etag", "\"a\""),
    );
    let (mut wire, first) = held(&upstream, &client, Ask::get(TARGET)).await;
    first.interim(103, &[("link", LINK)]);
    assert_eq!(next(&mut wire).await.status, 103);
    first.release();
    assert_eq!(next(&mut wire).await.status, 200);
    // What is stored has none of it (RFC 9111 §3: only a final response is stored).
    for ask in [Ask::get(TARGET), Ask::get(TARGET).field("if-none-match", "\"a\"")] {
        let mut wire = asked(&client, ask).await;
        let hit = next(&mut wire).await;
        assert!(hit.is_hit() && matches!(hit.status, 200 | 304), "{hit:?}");
        assert_eq!(hit.field("link"), None);
    }
    // Nor does a refresh tell who was answered before it.
    gate.advance(secs(61));
    let (mut wire, refresh) = held(&upstream, &client, Ask::get(TARGET)).await;
    assert!(next(&mut wire).await.is_hit());
    refresh.interim(103, &[("link", LINK)]);
    let mut again = asked(&client, Ask::get(TARGET)).await;
    assert!(next(&mut again).await.is_hit());
    refresh.release();
    wire.write(&client.bytes(Ask::get("/other"))).await;
    let other = next(&mut wire).await;
    assert_eq!((other.status, other.is_hit()), (200, false));
}

#[tokio::test]
async fn none_goes_to_a_client_of_http_1_0() {
    for line in ["GET /any/thing", "POST /any/thing", "GET /any/thing?x"] {
        let (upstream, _gate, client) = shared(|_| ()).await;
        let hold = upstream.hold();
        let mut old = client.connect().await;
        let rest = "HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n";
        old.write(format!("{line} {rest}").as_bytes()).await;
        hold.arrived().await;
        hold.interim(102, &[]);
        hold.interim(103, &[("link", LINK)]);
        if line == "GET /any/thing" {
            // One of HTTP/1.1 on the same flight gets them.
            let mut new = asked(&client, Ask::get(TARGET)).await;
            assert_eq!(next(&mut new).await.status, 102);
            assert_eq!(next(&mut new).await.status, 103);
        }
        hold.release();
        assert_eq!(next(&mut old).await.status, 200, "{line}");
        // Nor is it sent late.
        old.write(format!("GET /next {rest}").as_bytes()).await;
        assert_eq!(next(&mut old).await.status, 200, "{line}");
    }
}

#[tokio::test]
async fn what_concerns_one_connection_does_not_pass() {
    let (upstream, _gate, client) = shared(|_| ()).await;
    let (mut wire, held) = held(&upstream, &client, Ask::get(TARGET)).await;
    held.interim(
        103,
        &[
            ("Connection", "x-listed, close"),
            ("X-Listed", "secret"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "close"),
            ("Proxy-Authenticate", "Basic"),
            ("TE", "trailers"),
            ("Trailer", "x-after"),
            ("Upgrade", "websocket"),
            // RFC 9110 §15.2: it has no content, and so nothing that would frame any.
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "9"),
            // For this gateway alone.
            ("Unitgate-Cache-Control", "max-age=1"),
            ("CDN-Cache-Control", "max-age=2"),
            ("Link", LINK),
        ],
    );
    let hints = next(&mut wire).await;
    assert_eq!(hints.status, 103);
    assert_eq!(fields(&hints), [("cdn-cache-control", "max-age=2"), ("link", LINK)]);
    held.release();
    assert_eq!(next(&mut wire).await.text(), "the answer");
    wire.write(&client.bytes(Ask::get(TARGET))).await;
    assert!(next(&mut wire).await.is_hit(), "its close was for its own connection");
}

#[tokio::test]
async fn a_100_of_the_upstreams_is_not_passed_on() {
    let (upstream, _gate, client) = shared(|_| ()).await;
    let (mut wire, plain) = held(&upstream, &client, Ask::get(TARGET)).await;
    plain.interim(100, &[("x-a", "1")]);
    plain.interim(102, &[]);
    assert_eq!(next(&mut wire).await.status, 102);
    plain.release();
    assert_eq!(next(&mut wire).await.status, 200);
    // Who asked for one has got it here, before the upstream was asked.
    let expecting = upstream.hold();
    let head = Ask::new("POST", "/form").field("expect", "100-continue");
    let mut wire = asked(&client, head.field("content-length", "2")).await;
    assert_eq!(next(&mut wire).await.status, 100);
    assert_eq!(upstream.count(), 1);
    wire.write(b"{}").await;
    expecting.arrived().await;
    expecting.interim(100, &[]);
    expecting.interim(103, &[("link", LINK)]);
    assert_eq!(next(&mut wire).await.status, 103);
    expecting.release();
    assert_eq!(next(&mut wire).await.status, 200);
    let seen = upstream.last();
    assert_eq!((seen.field("expect"), &seen.body[..]), (None, &b"{}"[..]));
}

#[tokio::test]
async fn a_101_is_no_interim_response_but_a_502() {
    for method in ["GET", "POST", "HEAD", "FOO"] {
        let (upstream, _gate, client) = shared(|_| ()).await;
        let ask = Ask::new(method, TARGET).field("connection", "upgrade");
        let ask = ask.field("upgrade", "websocket");
        let (mut wire, held) = held(&upstream, &client, ask.clone()).await;
        held.interim(103, &[("link", LINK)]);
        assert_eq!(next(&mut wire).await.status, 103);
        let switch = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        held.release_with(Answer::raw(switch).stall_after(usize::MAX));
        let bodiless = method == "HEAD";
        let refused = wire.read_any(bodiless).await.unwrap();
        assert_eq!((refused.status, refused.field("upgrade")), (502, None), "{method}");
        if !bodiless {
            assert_eq!(refused.code(), "upstream_broken");
        }
        assert_eq!(upstream.last().field("upgrade"), None);
        // The connection is still one of HTTP.
        wire.write(&client.bytes(Ask::get("/next"))).await;
        assert_eq!(next(&mut wire).await.text(), "the answer");
    }
}

#[tokio::test]
async fn on_a_token_route_only_link_passes_and_a_key_in_it_is_masked() {
    for (method, target) in
        [("GET", UNIT), ("HEAD", UNIT), ("GET", INTEGRATION), ("PUT", INTEGRATION)]
    {
        let ask = Ask::new(method, target);
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| ());
        let (alice, bob) = (gate.client("alice"), gate.client("bob"));
        let secret = key("c3");
        let (mut wire, first) = held(&upstream, &alice, ask.clone()).await;
        // Another caller's own request hears nothing of it.
        let (mut other, second) = held(&upstream, &bob, ask.clone()).await;
        let link = format!("</list?key={secret}>; rel=preload");
        first.interim(
            103,
            &[("link", &link), ("set-cookie", &secret), ("x-key", &secret), ("etag", "\"a\"")],
        );
        let hints = next(&mut wire).await;
        assert_eq!(hints.status, 103, "{ask:?}");
        let masked = format!("</list?key={MASK}>; rel=preload");
        assert_eq!(fields(&hints), [("link", masked.as_str())], "{ask:?}");
        first.release();
        second.release();
        for wire in [&mut wire, &mut other] {
            let answer = wire.read_any(method == "HEAD").await.unwrap();
            assert_eq!(answer.status, 200, "{method} {target}");
        }
        assert!(!gate.log().contains(&secret));
    }
}

#[tokio::test]
async fn on_an_open_route_that_masks_each_field_is_masked() {
    let (upstream, _gate, client) = shared(|config| {
        Gate::route(config, "any").secrets = SecretsMode::Mask;
    })
    .await;
    upstream.answer(Answer::json(200, "{}"));
    let secret = key("d4");
    let (mut wire, held) = held(&upstream, &client, Ask::get(TARGET)).await;
    held.interim(103, &[("link", &format!("</{secret}>")), ("x-key", &secret)]);
    let hints = next(&mut wire).await;
    let link = format!("</{MASK}>");
    assert_eq!(fields(&hints), [("link", link.as_str()), ("x-key", MASK)]);
    held.release();
    assert_eq!(next(&mut wire).await.status, 200);
}

#[tokio::test]
async fn what_fails_after_them_is_told_all_the_same() {
    let cut = || Answer::new(200, "the answer").cut(3);
    for (answer, status) in [(Answer::reset(), 502), (cut(), 502), (Answer::silence(), 504)] {
        let (upstream, _gate, client) = shared(|config| config.upstream.first_byte = secs(1)).await;
        let (mut wire, held) = held(&upstream, &client, Ask::get(TARGET)).await;
        held.interim(103, &[("link", LINK)]);
        assert_eq!(next(&mut wire).await.status, 103, "{answer:?}");
        held.release_with(answer.clone());
        let failed = next(&mut wire).await;
        assert_eq!((failed.status, failed.field("link")), (status, None), "{answer:?}");
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn who_waits_for_a_revalidation_gets_them_whatever_becomes_of_it() {
    for (answer, cache) in [
        (Answer::not_modified().field("etag", "\"a\""), "fwd-status=304"),
        (Answer::new(503, "failing"), "detail=stale-if-error"),
        (Answer::reset(), "detail=stale-if-error"),
    ] {
        let (upstream, gate, client) = shared(|_| ()).await;
        let stored = Answer::new(200, "old").field("cache-control", "max-age=60");
        upstream.next(stored.field("etag", "\"a\""));
        client.get(TARGET).await;
        gate.advance(secs(61));
        let (mut wire, held) = held(&upstream, &client, Ask::get(TARGET)).await;
        held.interim(103, &[("link", LINK)]);
        assert_eq!(next(&mut wire).await.status, 103, "{answer:?}");
        upstream.answer(answer.clone());
        held.release();
        let old = next(&mut wire).await;
        assert_eq!((old.status, old.text()), (200, "old"), "{answer:?}");
        assert!(old.cache().contains(cache), "{}", old.cache());
    }
}

#[tokio::test]
async fn requests_sent_at_once_get_each_its_own_and_in_order() {
    let (upstream, _gate, client) = shared(|_| ()).await;
    client.get("/stored").await;
    let (first, second) = (upstream.hold(), upstream.hold());
    let mut wire = client.connect().await;
    let asks = ["/stored", "/a", "/stored", "/b"].map(|target| client.bytes(Ask::get(target)));
    wire.write(&asks.concat()).await;
    for held in [first, second] {
        assert!(next(&mut wire).await.is_hit());
        held.arrived().await;
        held.interim(103, &[("link", LINK)]);
        assert_eq!(next(&mut wire).await.status, 103);
        held.release();
        let answer = next(&mut wire).await;
        assert_eq!((answer.status, answer.is_hit()), (200, false));
    }
}

#[tokio::test]
async fn one_never_breaks_into_an_earlier_answer_that_is_still_being_sent() {
    let (upstream, _gate, client) = shared(|_| ()).await;
    // More than the sockets between gateway and client take.
    let large = "x".repeat(24 << 20);
    upstream.next(Answer::new(200, large.clone()));
    let mut wire = asked(&client, Ask::get("/large")).await;
    upstream.arrived(1).await;
    let held = upstream.hold();
    held.interim(103, &[("link", LINK)]);
    wire.write(&client.bytes(Ask::get(TARGET))).await;
    let earlier = next(&mut wire).await;
    assert!(earlier.text() == large, "it was broken into");
    let hints = next(&mut wire).await;
    assert_eq!((hints.status, hints.field("link")), (103, Some(LINK)));
    held.release();
    assert_eq!(next(&mut wire).await.text(), "the answer");
}

#[tokio::test]
async fn a_flood_of_them_is_bounded_and_the_answer_still_comes() {
    let long = format!("</{}>", "l".repeat(10_000));
    for (ask, link, fewest) in [
        (Ask::get(TARGET), LINK, 16),
        (Ask::post(TARGET, "{}"), LINK, 16),
        // Those too large to wait for their turn together may be fewer.
        (Ask::get(TARGET), long.as_str(), 1),
    ] {
        let (upstream, _gate, client) = shared(|_| ()).await;
        let (mut wire, held) = held(&upstream, &client, ask).await;
        for _ in 0..100 {
            held.interim(103, &[("link", link)]);
        }
        held.release();
        let mut heard = 0;
        let answer = loop {
            let reply = next(&mut wire).await;
            if reply.status >= 200 {
                break reply;
            }
            assert_eq!((reply.status, reply.field("link")), (103, Some(link)));
            heard += 1;
        };
        assert!((fewest..=16).contains(&heard), "{heard}");
        assert_eq!((answer.status, answer.text()), (200, "the answer"));
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn a_cookie_that_comes_ahead_goes_to_its_asker_alone() {
    let (upstream, _gate, client) = shared(|_| ()).await;
    let (mut leader, held) = held(&upstream, &client, Ask::get(TARGET)).await;
    let mut joiner = asked(&client, Ask::get(TARGET)).await;
    held.interim(103, &[("set-cookie", "session=leader")]);
    held.interim(103, &[("link", "</all>")]);
    assert_eq!(next(&mut leader).await.field("set-cookie"), Some("session=leader"));
    assert_eq!(next(&mut joiner).await.field("link"), Some("</all>"));
    held.release();
}
