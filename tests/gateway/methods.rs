//! Methods on a route that serves any: what crosses, how often, and what goes no further.
//!
//! *Claims*
//! 1. Only GET and HEAD without content are looked up; each other request is forwarded once and answers who
//!    asked alone.
//! 2. `TRACE` and `CONNECT` reach nobody.
//! 3. `Max-Forwards` counts for `OPTIONS`: at 0 it is answered here (RFC 9110 §7.6.2).

use unitgate::config::{Config, Methods};

use crate::support::{Answer, Ask, Client, Gate, INTEGRATION, Upstream};

const TARGET: &str = "/any/thing";

/// What `Allow` says where any method is served.
const ALLOW: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";

/// All that is no GET or HEAD; methods are compared with their case (RFC 9110 §9.1).
const OTHERS: [&str; 10] =
    ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "FOO", "get", "Head", "M-SEARCH"];

/// A shared cache that has [`TARGET`] stored.
async fn stored() -> (Upstream, Gate, Client) {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| ());
    let client = gate.stranger();
    upstream.answer(Answer::new(200, "stored").field("cache-control", "max-age=60"));
    assert_eq!(client.get(TARGET).await.text(), "stored");
    assert!(client.get(TARGET).await.is_hit());
    (upstream, gate, client)
}

#[tokio::test]
async fn a_get_with_content_crosses_with_it_and_is_neither_looked_up_nor_stored() {
    for (method, target) in [("GET", TARGET), ("GET", "/other"), ("HEAD", TARGET)] {
        let (upstream, gate, client) = stored().await;
        upstream.answers(|seen| {
            let body = seen.body.clone();
            Answer::new(200, body).field("cache-control", "max-age=60")
        });
        for asked in 2..4 {
            let body = format!("q={asked}");
            let reply = client.send(Ask::new(method, target).body(body.clone())).await;
            assert_eq!(reply.cache(), "unitgate; fwd=bypass; fwd-status=200");
            assert_eq!((upstream.count(), upstream.last().body), (asked, body.clone().into()));
            assert_eq!(upstream.last().method, method);
            if method == "GET" {
                assert_eq!(reply.text(), body);
            }
        }
        // Nor does it change what is stored.
        assert_eq!(client.get(TARGET).await.text(), "stored");
        assert!(!client.get("/other").await.is_hit());
        assert_eq!(upstream.count(), 4);
        assert_eq!(gate.metric("upstream_requests_total", &["cause=\"forward\""]), 2.0);
    }
}

#[tokio::test]
async fn a_get_whose_content_is_empty_is_a_plain_one() {
    let (upstream, _gate, client) = stored().await;
    assert!(client.send(Ask::get(TARGET).field("Content-Length", "0")).await.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn each_other_request_is_forwarded_once_and_answers_who_asked_alone() {
    for method in OTHERS {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| ());
        let client = gate.stranger();
        upstream.answers(|seen| {
            let body = seen.body.clone();
            Answer::new(200, body).field("cache-control", "public, max-age=60")
        });
        let (one, two) = (upstream.hold(), upstream.hold());
        let asks = ["one", "two"].map(|body| Ask::new(method, TARGET).body(body));
        let mut pending = Vec::new();
        for ask in asks {
            pending.push(client.enter(ask).await);
        }
        upstream.arrived(2).await;
        // Nor is a read joined to them.
        assert!(!client.get(TARGET).await.cache().contains("collapsed"), "{method}");
        for held in [two, one] {
            held.release();
        }
        let mut bodies = Vec::new();
        for pending in pending {
            let reply = pending.reply().await;
            assert_eq!(reply.cache(), "unitgate; fwd=method; fwd-status=200", "{method}");
            bodies.push(reply.text().to_owned());
        }
        assert_eq!(
            (bodies, upstream.count()),
            (vec!["one".to_owned(), "two".into()], 3),
            "{method}"
        );
        assert!(
            upstream.seen().iter().filter(|seen| seen.method == method).count() == 2,
            "{method}"
        );
        assert!(!client.get("/other").await.is_hit());
    }
}

#[tokio::test]
async fn what_another_method_answers_is_not_served_to_a_read() {
    for method in OTHERS {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| ());
        let client = gate.stranger();
        let body = |body: &str| Answer::new(200, body).field("cache-control", "max-age=60");
        upstream.next(body("theirs"));
        assert_eq!(client.send(Ask::new(method, TARGET)).await.status, 200);
        upstream.next(body("ours"));
        let read = client.get(TARGET).await;
        assert_eq!((read.text(), upstream.count()), ("ours", 2), "{method}");
        assert!(read.cache().starts_with("unitgate; fwd=uri-miss"), "{}", read.cache());
    }
}

#[tokio::test]
async fn what_may_change_something_is_not_sent_twice() {
    for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "FOO", "get"] {
        let (upstream, _gate, client) = stored().await;
        // On a pooled connection, on which a GET would be tried once more.
        assert_eq!(client.send(Ask::new(method, "/a")).await.status, 200);
        upstream.answer(Answer::reset());
        let lost = client.send(Ask::new(method, "/a").body("x")).await;
        assert_eq!((lost.status, lost.code().as_str()), (502, "upstream_broken"), "{method}");
        assert_eq!(upstream.count(), 3, "{method}");
    }
}

#[tokio::test]
async fn a_success_drops_what_is_stored_unless_its_method_is_known_to_be_safe() {
    for method in OTHERS {
        let (upstream, _gate, client) = stored().await;
        upstream.next(Answer::new(404, ""));
        client.send(Ask::new(method, TARGET)).await;
        assert!(client.get(TARGET).await.is_hit(), "a failed {method}");
        // RFC 9111 §4.4: also where nobody knows whether a method is safe. Of PROPFIND it is known.
        upstream.next(Answer::new(204, ""));
        client.send(Ask::new(method, TARGET)).await;
        let safe = ["OPTIONS", "PROPFIND"].contains(&method);
        assert_eq!(client.get(TARGET).await.is_hit(), safe, "{method}");
    }
}

#[tokio::test]
async fn trace_and_connect_reach_nobody() {
    let (upstream, _gate, client) = stored().await;
    for field in ["X-Echo", "Max-Forwards"] {
        for target in [TARGET, "http://elsewhere.test/x", "/"] {
            let reply = client.send(Ask::new("TRACE", target).field(field, "0")).await;
            assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
            assert_eq!(reply.field("allow"), Some(ALLOW));
            assert!(!reply.everything().to_lowercase().contains("x-echo"));
        }
    }
    let tunnel = client.send(Ask::new("CONNECT", "elsewhere.test:443")).await;
    assert_eq!((tunnel.status, tunnel.code().as_str()), (501, "method_not_implemented"));
    let mut wire = client.connect().await;
    wire.write(b"CONNECT /x HTTP/1.1\r\nHost: gate.test\r\n\r\n").await;
    assert!(wire.read(false).await.is_none_or(|reply| reply.status >= 400));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_options_that_may_go_no_further_is_answered_here() {
    let (upstream, _gate, client) = stored().await;
    for (target, hops) in [(TARGET, "0"), ("/never-heard-of", "0"), (TARGET, "00")] {
        let reply = client.send(Ask::new("OPTIONS", target).field("Max-Forwards", hops)).await;
        assert_eq!((reply.status, reply.field("allow")), (204, Some(ALLOW)));
        // RFC 9110 §8.6, §6.6.1.
        assert_eq!(reply.field("content-length"), None);
        assert!(reply.field("date").is_some() && reply.field("x-request-id").is_some());
        assert_eq!(reply.cache(), "", "the cache was not asked");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_options_goes_on_with_one_hop_less() {
    let (upstream, _gate, client) = stored().await;
    for (hops, left) in [
        ("5", "4"),
        ("1", "0"),
        ("010", "9"),
        ("4294967296", "4294967295"),
        // More than can be counted: as many as can be.
        ("99999999999999999999", "18446744073709551614"),
    ] {
        let reply = client.send(Ask::new("OPTIONS", TARGET).field("Max-Forwards", hops)).await;
        assert_eq!((reply.status, reply.text()), (200, "stored"), "the upstream's own answer");
        let seen = upstream.last();
        assert_eq!((seen.method.as_str(), seen.field("max-forwards")), ("OPTIONS", Some(left)));
    }
    client.send(Ask::new("OPTIONS", TARGET)).await;
    assert_eq!((upstream.last().field("max-forwards"), upstream.count()), (None, 7));
}

#[tokio::test]
async fn what_is_no_number_of_hops_counts_for_nothing_and_passes() {
    let (upstream, _gate, client) = stored().await;
    for (asked, hops) in ["x", "-1", "+1", "1.5", "0x0", "0, 0", "1 2"].iter().enumerate() {
        let reply = client.send(Ask::new("OPTIONS", TARGET).field("Max-Forwards", hops)).await;
        assert_eq!((reply.status, upstream.count()), (200, asked + 2), "{hops}");
        assert_eq!(upstream.last().field("max-forwards"), Some(*hops));
    }
    let twice = Ask::new("OPTIONS", TARGET).field("Max-Forwards", "0").field("Max-Forwards", "0");
    assert_eq!(client.send(twice).await.status, 200);
    assert_eq!(upstream.last().fields.get_all("max-forwards").iter().count(), 2);
}

#[tokio::test]
async fn max_forwards_of_another_method_passes_untouched() {
    let (upstream, _gate, client) = stored().await;
    for method in ["GET", "HEAD", "POST", "DELETE", "PROPFIND", "FOO", "options"] {
        for hops in ["0", "5", "x"] {
            let before = upstream.count();
            let target = format!("/{method}/{hops}");
            client.send(Ask::new(method, &target).field("Max-Forwards", hops)).await;
            let seen = upstream.last();
            assert_eq!((seen.method.as_str(), seen.field("max-forwards")), (method, Some(hops)));
            assert_eq!(upstream.count(), before + 1);
        }
    }
}

#[tokio::test]
async fn a_token_route_counts_hops_too_and_tells_its_own_methods() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config: &mut Config| {
        let methods = [http::Method::GET, http::Method::OPTIONS];
        Gate::route(config, "integration").methods = Methods::from(methods);
    });
    let ask = |hops| Ask::new("OPTIONS", INTEGRATION).field("Max-Forwards", hops);
    assert_eq!(gate.stranger().send(ask("0")).await.status, 401);
    let alice = gate.client("alice");
    let here = alice.send(ask("0")).await;
    assert_eq!((here.status, here.field("allow")), (204, Some("GET, OPTIONS")));
    assert_eq!(upstream.count(), 0);
    assert_eq!(alice.send(ask("5")).await.status, 200);
    let seen = upstream.last();
    assert_eq!((seen.method.as_str(), seen.field("max-forwards")), ("OPTIONS", Some("4")));
}
