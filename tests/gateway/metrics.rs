//! What the gateway counts.
//!
//! *Claims*
//! 1. Every series exists from the start, and traffic makes no new one; no label holds a token, a unit or
//!    a path.
//! 2. Every request ends in exactly one class and outcome; every upstream request has exactly one cause.
//! 3. Each metric moves when what it counts happens, through the gateway or a connection.
//! 4. `promtool check metrics` has nothing to say about a scrape taken after traffic.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use parking_lot::{Condvar, Mutex};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use unitgate::clock::{Clock, Dice};
use unitgate::config::{Concurrency, Config, Http2, Lane, Rate};
use unitgate::gateway::Session;
use unitgate::listener::{Ahead, Given, Workers};
use unitgate::server::{Server, Setting};
use unitgate::telemetry::Lines;

use crate::support::{
    Answer, Ask, Gate, INTEGRATION, INTEGRATIONS, MASK, OTHER_UNIT, PATIENCE, START, UNIT, UNIT_ID,
    Upstream, key, list, secs, token,
};

/// The series of a scrape with their values.
fn series(scrape: &str) -> BTreeMap<String, f64> {
    let lines = scrape.lines().filter(|line| line.starts_with("unitgate_"));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

async fn scrape(gate: &Gate) -> String {
    gate.operator().get("/metrics").await.text().to_owned()
}

/// One request of every kind that can be provoked with one upstream; returns how many were sent.
async fn traffic(upstream: &Upstream, gate: &Gate) -> usize {
    let (alice, bob) = (gate.client("alice"), gate.client("bob"));
    let mut sent = 0;
    for target in [UNIT, UNIT, INTEGRATION, "/nowhere", "/metrics"] {
        alice.get(target).await;
        alice.head(target).await;
        sent += 2;
    }
    for method in ["DELETE", "BREW", "OPTIONS"] {
        alice.send(Ask::new(method, UNIT)).await;
        sent += 1;
    }
    alice.put(INTEGRATION, r#"{"title":"new"}"#).await;
    alice.put(INTEGRATION, &format!(r#"{{"apiKey":"{MASK}"}}"#)).await;
    alice.send(Ask::post(INTEGRATIONS, "{}")).await;
    gate.stranger().get(UNIT).await;
    sent += 4;
    // A failure, a retry, a key that was not masked, an answer that says not to be stored.
    upstream.next(Answer::reset());
    upstream.next(Answer::reset());
    bob.get(INTEGRATION).await;
    upstream.next(Answer::json(200, list(&key("a1"), &key("b2"))).field("etag", "\"1\""));
    bob.get(UNIT).await;
    upstream.next(Answer::json(200, "{}").field("cache-control", "no-store"));
    bob.get(OTHER_UNIT).await;
    upstream.next(Answer::json(200, "nonsense"));
    bob.get(OTHER_UNIT).await;
    sent += 4;
    // Stale, refreshed, revalidated, revoked, gone.
    let held = upstream.hold();
    gate.advance(secs(61));
    bob.get(UNIT).await;
    held.arrived().await;
    gate.advance(secs(40));
    let excused = bob.enter(Ask::get(UNIT)).await;
    held.release_with(Answer::json(503, "{}"));
    excused.reply().await;
    upstream.next(Answer::not_modified().field("etag", "\"1\""));
    bob.get(UNIT).await;
    upstream.next(Answer::json(401, "{}"));
    bob.get(INTEGRATION).await;
    sent += 4;
    // Coalesced, and a client that leaves.
    let held = upstream.hold();
    let first = bob.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    let second = bob.enter(Ask::get(UNIT)).await;
    let leaver = bob.enter(Ask::get(UNIT)).await;
    leaver.hang_up().await;
    held.release();
    first.reply().await;
    second.reply().await;
    gate.logged("client_gone").await;
    sent + 3
}

#[tokio::test]
async fn every_series_is_there_from_the_start_and_reads_0() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let given = [
        "unitgate_build_info",
        "unitgate_cache_capacity_bytes",
        "unitgate_config_last_load",
        "unitgate_ready",
        "unitgate_upstream_limit",
    ];
    for (name, value) in series(&scrape(&gate).await) {
        let is_given = given.iter().any(|given| name.starts_with(given));
        assert_eq!(value > 0.0, is_given, "{name} is {value}");
    }
}

#[tokio::test]
async fn traffic_makes_no_new_series_and_no_label_tells_of_a_request() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |_| ());
    let before = series(&scrape(&gate).await);
    traffic(&upstream, &gate).await;
    let text = scrape(&gate).await;
    let after = series(&text);
    let new: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert!(new.is_empty(), "{new:?}");
    assert_eq!(before.len(), after.len());
    for secret in
        [UNIT_ID, "/api", "nowhere", "BREW", "127.0.0.1", &token("alice"), &token("bob"), "cal_"]
    {
        assert!(!text.contains(secret), "{secret} stands in a label");
    }
    assert!(gate.leave().await);
}

#[tokio::test]
async fn where_any_method_is_served_the_unheard_of_share_one_label() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::shared(&upstream, |_| ());
    let before = series(&scrape(&gate).await);
    let client = gate.stranger();
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let unheard_of = ["BREW", "PROPFIND", "get", "Post", "other", "M-SEARCH", "x~1"];
    for method in known.iter().chain(&unheard_of) {
        let reply = client.send(Ask::new(method, "/thing")).await;
        assert_eq!((reply.status, upstream.last().method.as_str()), (200, *method));
    }
    let of = |route: &str, method: &str| {
        let labels = [format!("route=\"{route}\""), format!("method=\"{method}\"")];
        gate.metric("requests_total", &[&labels[0], &labels[1]])
    };
    for method in known {
        assert_eq!(of("any", method), 1.0, "{method}");
    }
    assert_eq!(of("any", "other"), count(unheard_of.len()));
    assert_eq!(gate.metric("requests_total", &[]), count(known.len() + unheard_of.len()));
    // Refused, and of no route: what the route does not serve makes no label either.
    for (method, label) in [("TRACE", "other"), ("CONNECT", "other")] {
        let before = of("none", label);
        let target = if method == "CONNECT" { "gate.test:80" } else { "/thing" };
        assert!(client.send(Ask::new(method, target)).await.status >= 405);
        assert_eq!(of("none", label), before + 1.0, "{method}");
    }
    let text = scrape(&gate).await;
    let new: Vec<_> = series(&text).into_keys().filter(|it| !before.contains_key(it)).collect();
    assert!(new.is_empty(), "{new:?}");
    for method in ["BREW", "PROPFIND", "\"get\"", "Post", "SEARCH", "x~1", "TRACE", "thing"] {
        assert!(!text.contains(method), "{method} stands in a label");
    }
    assert!(gate.leave().await);
}

#[tokio::test]
async fn every_request_ends_once_and_every_upstream_request_has_one_cause() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |_| ());
    let sent = traffic(&upstream, &gate).await;
    assert!(gate.leave().await);
    let counted = |name, labels: &[&str]| gate.metric(name, labels);
    assert_eq!(counted("requests_total", &[]), count(sent));
    assert_eq!(counted("request_duration_seconds_count", &[]), count(sent));
    for outcome in [
        "hit",
        "stale",
        "stale_if_error",
        "revalidated",
        "miss",
        "coalesced",
        "forwarded",
        "refused",
        "limited",
        "upstream_failed",
        "gateway_failed",
        "client_gone",
    ] {
        let label = format!("outcome=\"{outcome}\"");
        let (requests, durations) = (
            counted("requests_total", &[&label]),
            counted("request_duration_seconds_count", &[&label]),
        );
        assert_eq!(requests, durations, "{outcome}");
        let never = ["limited", "gateway_failed"].contains(&outcome);
        assert_eq!(requests > 0.0, !never, "{outcome}");
    }
    let classes: f64 = ["none", "2xx", "3xx", "4xx", "5xx"]
        .iter()
        .map(|class| counted("requests_total", &[&format!("status=\"{class}\"")]))
        .sum();
    assert_eq!(classes, count(sent));
    assert_eq!(gate.log().matches("\"outcome\":").count(), sent, "an access line each");
    assert_eq!(counted("upstream_requests_total", &[]), count(upstream.count()));
    for cause in ["miss", "revalidate", "refresh", "forward", "write", "retry"] {
        assert!(
            counted("upstream_requests_total", &[&format!("cause=\"{cause}\"")]) > 0.0,
            "{cause}"
        );
    }
    assert_eq!(counted("requests_in_flight", &[]), 0.0);
}

#[tokio::test]
async fn a_304_that_matches_nothing_costs_a_second_request_with_a_cause_of_its_own() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    upstream.next(Answer::json(200, "{}").field("etag", "\"1\""));
    alice.get(UNIT).await;
    gate.advance(secs(100));
    upstream.next(Answer::not_modified().field("etag", "\"2\""));
    assert_eq!(alice.get(UNIT).await.status, 200);
    assert_eq!(upstream.count(), 3);
    assert_eq!(gate.metric("upstream_requests_total", &[]), 3.0);
}

fn count(many: usize) -> f64 {
    f64::from(u32::try_from(many).unwrap())
}

#[tokio::test]
async fn a_request_under_way_and_its_connection_are_counted_while_they_last() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let held = upstream.hold();
    let pending = gate.client("alice").begin(Ask::get(UNIT));
    held.arrived().await;
    assert_eq!(gate.metric("requests_in_flight", &[]), 1.0);
    assert_eq!(gate.metric("connections", &[]), 1.0);
    held.release();
    pending.reply().await;
    assert_eq!(gate.metric("requests_in_flight", &[]), 0.0);
}

#[tokio::test]
async fn what_stands_before_an_upstream_is_told() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.upstream.concurrency = Some(Concurrency { least: 1, most: 1 });
        config.upstream.breaker.as_mut().unwrap().of = 1;
    });
    let alice = gate.client("alice");
    let converflow = ["upstream=\"converflow\""];
    let held = upstream.hold();
    let first = alice.begin(Ask::get(UNIT));
    held.arrived().await;
    let second = alice.enter(Ask::get(OTHER_UNIT)).await;
    assert_eq!(gate.scraped("upstream_in_flight", &converflow).await, 1.0);
    assert_eq!(gate.metric("upstream_limit", &converflow), 1.0);
    assert_eq!(gate.metric("upstream_queued", &converflow), 1.0);
    held.release_with(Answer::json(503, "{}"));
    assert_eq!(first.reply().await.status, 503);
    assert_eq!(second.reply().await.code(), "upstream_open");
    let open = ["upstream=\"converflow\"", "reason=\"open\""];
    assert_eq!(gate.metric("upstream_refused_total", &open), 1.0);
    assert_eq!(gate.scraped("upstream_breaker_state", &converflow).await, 2.0);
    assert_eq!(gate.metric("upstream_buffered_bytes", &[]), 0.0);
    // An address needs no resolver that could fail; the resolver's own tests see it move.
    assert_eq!(gate.metric("upstream_dns_fallbacks_total", &[]), 0.0);
}

#[tokio::test]
async fn the_upstream_s_failures_durations_and_clock_are_told() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    upstream.next(Answer::json(200, "{}").field("date", "Fri, 15 Jan 2027 08:00:30 GMT"));
    alice.get(INTEGRATION).await;
    let converflow = "upstream=\"converflow\"";
    assert_eq!(gate.metric("upstream_clock_skew_seconds", &[converflow]), 30.0);
    assert_eq!(gate.metric("upstream_request_duration_seconds_count", &[converflow]), 1.0);
    alice.put(INTEGRATION, "{}").await;
    assert_eq!(gate.metric("upstream_request_duration_seconds_count", &["upstream=\"chat\""]), 1.0);
    upstream.next(Answer::json(200, "{}").cut(1));
    alice.get(INTEGRATION).await;
    assert_eq!(gate.metric("upstream_errors_total", &[converflow, "kind=\"truncated\""]), 1.0);
    assert_eq!(gate.metric("upstream_errors_total", &[]), 1.0);
    assert_eq!(gate.metric("errors_total", &["code=\"upstream_broken\""]), 1.0);
}

#[tokio::test]
async fn what_the_cache_holds_and_lets_go_of_is_told() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.cache.max_bytes = 1 << 20);
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    assert_eq!(gate.scraped("cache_entries", &[]).await, 1.0);
    let bytes = gate.scraped("cache_bytes", &[]).await;
    assert!(bytes > count(list(MASK, "Be kind.").len()), "{bytes}");
    assert!(gate.scraped("cache_resident_ratio", &[]).await > 0.0);
    assert_eq!(gate.scraped("cache_capacity_bytes", &[]).await, f64::from(1 << 20));
    assert_eq!(gate.scraped("cache_insertions_total", &[]).await, 1.0);
    gate.advance(secs(30));
    alice.get(UNIT).await;
    assert_eq!(gate.metric("cache_served_age_seconds_count", &[]), 1.0);
    assert_eq!(gate.metric("cache_served_age_seconds_sum", &[]), 30.0);
    gate.advance(secs(70));
    alice.get(UNIT).await;
    assert_eq!(gate.scraped("cache_evictions_total", &["cause=\"replaced\""]).await, 1.0);
    gate.advance(secs(100));
    upstream.next(Answer::json(404, "{}"));
    alice.get(UNIT).await;
    assert_eq!(gate.scraped("cache_evictions_total", &["cause=\"ended\""]).await, 1.0);
    assert_eq!(gate.metric("cache_not_stored_total", &["reason=\"status\""]), 1.0);
    assert_eq!(gate.scraped("cache_entries", &[]).await, 0.0);
}

#[tokio::test]
async fn what_is_past_its_last_window_is_let_go_of_without_being_asked_for() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_config| {});
    gate.client("alice").get(UNIT).await;
    let some_sweeps = async || {
        // The runtime's time jumps to the next timer whenever nothing else is to be done.
        tokio::time::pause();
        tokio::time::sleep(secs(300)).await;
        tokio::time::resume();
    };
    some_sweeps().await;
    assert_eq!(gate.scraped("cache_entries", &[]).await, 1.0);
    gate.advance(Duration::from_hours(48));
    some_sweeps().await;
    assert_eq!(gate.scraped("cache_evictions_total", &["cause=\"expired\""]).await, 1.0);
    assert_eq!(gate.scraped("cache_entries", &[]).await, 0.0);
}

#[tokio::test]
async fn a_full_cache_evicts_by_size() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.cache.max_bytes = 8 << 10);
    for unit in 0..20 {
        gate.client("alice").get(&format!("{OTHER_UNIT}-{unit}")).await;
    }
    assert!(gate.scraped("cache_evictions_total", &["cause=\"size\""]).await > 0.0);
    assert!(gate.scraped("cache_bytes", &[]).await <= f64::from(8 << 10));
}

#[tokio::test]
async fn stale_and_coalesced_answers_are_told() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    traffic(&upstream, &gate).await;
    assert_eq!(gate.metric("cache_stale_served_total", &["window=\"while_revalidate\""]), 1.0);
    assert_eq!(gate.metric("cache_stale_served_total", &["window=\"if_error\""]), 1.0);
    assert_eq!(gate.metric("cache_coalesced_total", &[]), 1.0);
}

#[tokio::test]
async fn what_ends_stored_answers_is_told_by_its_source() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    alice.put(INTEGRATION, "{}").await;
    assert_eq!(gate.metric("cache_invalidations_total", &["source=\"write\""]), 1.0);
    alice.get(UNIT).await;
    upstream.next(Answer::json(401, "{}"));
    alice.get(INTEGRATION).await;
    assert_eq!(gate.metric("cache_invalidations_total", &["source=\"unauthorized\""]), 1.0);
}

#[tokio::test]
async fn a_403_or_404_that_ends_a_stored_answer_is_told_as_gone() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    for (already, status) in [(0.0, 403), (1.0, 404)] {
        alice.get(UNIT).await;
        gate.advance(secs(100));
        upstream.next(Answer::json(status, "{}"));
        assert_eq!(alice.get(UNIT).await.status, status);
        assert_eq!(
            gate.metric("cache_invalidations_total", &["source=\"gone\""]),
            already + 1.0,
            "{status}"
        );
    }
}

#[tokio::test]
async fn what_the_masker_did_is_told() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(INTEGRATION).await;
    assert_eq!(gate.metric("masked_fields_total", &[]), 0.0);
    upstream.next(Answer::json(200, list(&key("a1"), &format!("{} {}", key("b2"), key("c3")))));
    alice.get(INTEGRATION).await;
    assert!(gate.metric("masked_fields_total", &[]) >= 2.0);
    assert_eq!(gate.metric("unmasked_answers_total", &[]), 1.0);
    for (answer, reason) in [
        (Answer::json(200, "nonsense"), "not_json"),
        (Answer::json(200, "["), "truncated"),
        (Answer::json(200, [b'"', 0xff, b'"']), "not_utf8"),
        (Answer::json(200, "1 2"), "trailing_bytes"),
        (Answer::json(200, format!(r#"{{"{}":1,"{}":2}}"#, key("a1"), key("b2"))), "name_clash"),
        (Answer::json(200, "x").field("content-encoding", "compress"), "unknown_coding"),
        (Answer::json(200, "x").field("content-encoding", "gzip"), "coding_broken"),
        (Answer::new(200, "{}").field("content-type", "a/b;charset=utf-16"), "charset"),
    ] {
        upstream.next(answer);
        assert_eq!(alice.get(INTEGRATION).await.status, 502, "{reason}");
        assert_eq!(
            gate.metric("mask_failures_total", &[&format!("reason=\"{reason}\"")]),
            1.0,
            "{reason}"
        );
    }
}

#[tokio::test]
async fn each_limiter_tells_its_decisions_and_its_keys() {
    let upstream = Upstream::start().await;
    let one = Some(Rate { per_second: 1, burst: 1 });
    let gates = [
        ("caller", Gate::start(&upstream, |config| config.limits.caller = one)),
        ("upstream", Gate::start(&upstream, |config| config.limits.caller_upstream = one)),
    ];
    for (limiter, gate) in gates {
        let by = |decision| [format!("limiter=\"{limiter}\""), format!("decision=\"{decision}\"")];
        let metric = |decision| {
            let [limiter, decision] = by(decision);
            gate.metric("limiter_decisions_total", &[&limiter, &decision])
        };
        let alice = gate.client("alice");
        alice.get(INTEGRATION).await;
        assert_eq!(alice.get(INTEGRATION).await.status, 429);
        assert_eq!((metric("admitted"), metric("throttled")), (1.0, 1.0), "{limiter}");
        assert_eq!(gate.scraped("limiter_keys", &[&format!("limiter=\"{limiter}\"")]).await, 1.0);
        assert_eq!(gate.metric("requests_total", &["outcome=\"limited\""]), 1.0);
    }
    let peer = Gate::start(&upstream, |config| config.limits.peer = one);
    peer.stranger().get(UNIT).await;
    assert_eq!(peer.stranger().get(UNIT).await.status, 429);
    assert_eq!(peer.metric("limiter_decisions_total", &["\"peer\"", "\"throttled\""]), 1.0);
    assert_eq!(peer.scraped("limiter_keys", &["limiter=\"peer\""]).await, 1.0);
}

#[tokio::test]
async fn the_lane_tells_its_decisions_and_whom_it_knows() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.lane = Some(Lane { in_flight: 1, wait: Duration::ZERO });
    });
    let held = upstream.hold();
    let first = gate.client("alice").begin(Ask::get(UNIT));
    held.arrived().await;
    assert_eq!(gate.client("bob").get(UNIT).await.status, 503);
    assert_eq!(gate.metric("limiter_decisions_total", &["\"lane\"", "\"throttled\""]), 1.0);
    assert_eq!(gate.metric("requests_total", &["outcome=\"gateway_failed\""]), 1.0);
    held.release();
    first.reply().await;
    assert_eq!(gate.scraped("limiter_keys", &["limiter=\"lane\""]).await, 1.0);
}

/// A gateway with one place for a connection: whoever comes second is served once the first has ended.
async fn ends_with(reason: &str, upstream: &Upstream, bytes: &[u8], leave: bool) {
    let gate = Gate::start(upstream, |config| {
        config.listen.connections = 1;
        config.listen.head = Duration::from_millis(100);
        config.listen.idle = Duration::from_millis(200);
    });
    let mut wire = gate.stranger().connect().await;
    wire.write(bytes).await;
    if leave {
        wire.finish().await;
    }
    wire.rest().await;
    assert_eq!(gate.stranger().get("/nowhere").await.status, 404);
    let label = format!("reason=\"{reason}\"");
    assert_eq!(gate.metric("connections_ended_total", &[&label]), 1.0, "{reason}");
}

#[tokio::test]
async fn a_connection_that_does_not_end_in_order_is_told_by_its_reason() {
    let upstream = Upstream::start().await;
    ends_with("malformed_head", &upstream, b"nonsense\r\n\r\n", false).await;
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(40 << 10));
    ends_with("large_head", &upstream, large.as_bytes(), false).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000));
    ends_with("long_target", &upstream, long.as_bytes(), false).await;
    ends_with("slow_head", &upstream, b"GET / HT", false).await;
    ends_with("idle", &upstream, b"", false).await;
    ends_with("aborted", &upstream, b"GET / HT", true).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_told_as_stalled() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.connections = 1;
        config.listen.write = Duration::from_millis(200);
        config.upstream.max_body = 32 << 20;
    });
    // More than the kernel buffers for both ends.
    upstream.answer(Answer::json(200, format!("\"{}\"", "a".repeat(24 << 20))));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let alice = gate.client("alice");
    let address = alice.address();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut unread = tokio::net::TcpStream::from_std(socket.into()).unwrap();
    unread.write_all(&alice.bytes(Ask::get(UNIT))).await.unwrap();
    // There is one place: others are turned away until the stalled one has been given up.
    let freed = async { while gate.stranger().get("/nowhere").await.status != 404 {} };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
    assert_eq!(gate.metric("connections_ended_total", &["reason=\"write_stalled\""]), 1.0);
}

#[tokio::test]
async fn what_http2_refuses_before_it_is_a_request_is_counted() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.listen.http2 = Http2::All);
    let mut stream = tokio::net::TcpStream::connect(gate.address()).await.unwrap();
    // SETTINGS, and a HEADERS frame whose block is no HPACK (RFC 7541 §6.1: index 0).
    let frames = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x80";
    stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], frames].concat()).await.unwrap();
    drop(stream.read_to_end(&mut Vec::new()).await);
    assert_eq!(gate.metric("http2_requests_refused_total", &[]), 1.0);
}

#[tokio::test]
async fn whether_the_certificate_is_in_use_is_told_where_there_is_one() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["gate.example".to_owned()]).unwrap();
    let files = [("crt", made.cert.pem()), ("key", made.signing_key.serialize_pem())];
    let [certificate, key] = files.map(|(name, pem)| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        Some(path)
    });
    let plain = Gate::start(&upstream, |_| ());
    assert_eq!(plain.metric("tls_certificate_last_load_successful", &[]), 0.0);
    let gate = Gate::start(&upstream, |config| {
        config.listen.tls_certificate_file = certificate;
        config.listen.tls_key_file = key;
    });
    assert_eq!(gate.metric("tls_certificate_last_load_successful", &[]), 1.0);
}

#[tokio::test]
async fn readiness_version_and_configuration_are_told() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    assert_eq!(gate.scraped("ready", &[]).await, 1.0);
    assert_eq!(gate.metric("config_last_load_successful", &[]), 1.0);
    assert_eq!(gate.metric("config_last_load_success_timestamp_seconds", &[]), START.as_secs_f64());
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(gate.metric("build_info", &[&version]), 1.0);
}

/// An output that takes nothing until it is opened.
#[derive(Clone, Default)]
struct Blocked(Arc<(Mutex<bool>, Condvar)>);

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (open, opened) = &*self.0;
        opened.wait_while(&mut open.lock(), |open| !*open);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn lines_that_the_output_could_not_take_are_counted_and_keep_nobody_waiting() {
    let blocked = Blocked::default();
    let mut config = Config::default();
    config.listen.address = vec![([127, 0, 0, 1], 0).into()];
    config.admin.address = None;
    let lines = Lines::to(blocked.clone()).unwrap();
    let setting = Setting {
        lines,
        clock: Clock::steered(START),
        dice: Dice::seeded(1),
        workers: Workers::here(),
        given: Given::default(),
    };
    let server = Server::start(&config, setting).unwrap();
    let target = format!("/{}", "a".repeat(4_000));
    let session = Session::of([127, 0, 0, 1].into());
    for _ in 0..12_000 {
        let mut request =
            Request::get(&target).header("host", "g").body(Full::<Bytes>::default()).unwrap();
        let response = server.gateway().handle(&mut request, &session, &Ahead::new()).await;
        assert_eq!(response.status(), 404);
        response.into_body().collect().await.unwrap();
    }
    let dropped =
        series(&server.telemetry().scrape())["unitgate_log_lines_dropped_total{log=\"access\"}"];
    *blocked.0.0.lock() = true;
    blocked.0.1.notify_all();
    assert!(dropped > 0.0 && dropped < 12_000.0, "{dropped}");
}

#[tokio::test]
async fn each_metric_is_moved_by_a_test_of_this_file() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let here = include_str!("metrics.rs");
    for line in scrape(&gate).await.lines() {
        let Some(metric) = line.strip_prefix("# TYPE unitgate_") else { continue };
        let (name, _kind) = metric.split_once(' ').unwrap();
        let read = ["metric(\"", "scraped(\"", "counted(\"", "[\"unitgate_"].iter().any(|read| {
            ["\"", "_count\"", "{"].iter().any(|end| here.contains(&format!("{read}{name}{end}")))
        });
        assert!(read, "no test of this file reads {name}");
    }
}

#[tokio::test]
async fn promtool_has_nothing_to_say() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    traffic(&upstream, &gate).await;
    let text = scrape(&gate).await;
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut tool = tool.expect("promtool is missing: apt-get install --yes prometheus");
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = tool.wait_with_output().unwrap();
    let words = [said.stdout, said.stderr].concat();
    assert!(said.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
}
