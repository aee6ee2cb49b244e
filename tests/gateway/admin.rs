//! The operators' port, beside the public one.
//!
//! *Claims*
//! 1. It answers `/metrics`, `/healthz` and `/readyz`, whatever the public port and the upstream do.
//! 2. Nothing of it is on the public port, and it proxies nothing.
//! 3. `/readyz` is 503 while draining; neither an upstream nor a limit makes it so.

use std::pin::pin;

use tokio::net::TcpListener;
use unitgate::config::Rate;

use crate::support::{Ask, Gate, INTEGRATIONS, Process, UNIT, Upstream, token, unitgate};

#[tokio::test]
async fn it_shows_metrics_life_and_readiness() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let operator = gate.operator();
    let metrics = operator.get("/metrics").await;
    assert_eq!(metrics.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.text().contains("unitgate_build_info"));
    assert_eq!(operator.get("/healthz").await.status, 200);
    let ready = operator.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)));
    assert!(operator.get("/").await.text().contains("/metrics"));
    assert_eq!(operator.head("/healthz").await.status, 200);
    for path in ["/metrics/", "/debug", "/purge", "/healthz/x"] {
        assert_eq!(operator.get(path).await.status, 404, "{path}");
    }
    let refused = operator.send(Ask::new("DELETE", "/metrics")).await;
    assert_eq!((refused.status, refused.field("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn nothing_of_it_is_on_the_public_port() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    for client in [gate.stranger(), gate.client("alice")] {
        for path in ["/", "/metrics", "/healthz", "/readyz"] {
            let reply = client.get(path).await;
            assert_eq!((reply.status, reply.code().as_str()), (404, "no_route"), "{path}");
            assert!(!reply.text().contains("unitgate_"), "{path}");
        }
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn it_proxies_nothing() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    gate.client("alice").get(UNIT).await;
    let bearer = format!("Bearer {}", token("alice"));
    let targets = [
        UNIT.to_owned(),
        format!("http://{}{UNIT}", upstream.address()),
        format!("http://gate.test{UNIT}"),
    ];
    for target in targets {
        let reply = gate.operator().send(Ask::get(&target).field("Authorization", &bearer)).await;
        assert_eq!(reply.status, 404, "{target}");
    }
    let write =
        gate.operator().send(Ask::post(INTEGRATIONS, "{}").field("Authorization", &bearer)).await;
    assert_eq!(write.status, 404);
    let tunnel = gate.operator().send(Ask::new("CONNECT", "gate.test:80")).await;
    assert!((400..=501).contains(&tunnel.status), "{tunnel:?}");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn it_answers_while_the_public_port_has_no_free_connection() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.listen.connections = 1);
    let alice = gate.client("alice");
    let mut only = alice.connect().await;
    only.write(&alice.bytes(Ask::get(UNIT))).await;
    assert_eq!(only.read(false).await.unwrap().status, 200);

    assert_eq!(alice.connect().await.read(false).await.unwrap().status, 503);
    assert_eq!(gate.scraped("connections", &[]).await, 1.0);
    assert_eq!(gate.operator().get("/healthz").await.status, 200);
    assert_eq!(gate.operator().get("/readyz").await.status, 200);
    only.write(&alice.bytes(Ask::get(UNIT))).await;
    assert!(only.read(false).await.unwrap().is_hit());
}

#[tokio::test]
async fn a_slow_operator_keeps_no_other_waiting() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut wire = gate.operator().connect().await;
        wire.write(b"GET /metrics HTTP/1.1\r\nHo").await;
        slow.push(wire);
    }
    assert_eq!(gate.operator().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn readiness_depends_neither_on_the_upstream_nor_on_limits() {
    let mut upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.caller = Some(Rate { per_second: 1, burst: 1 });
    });
    upstream.stop().await;
    assert_eq!(gate.client("alice").get(UNIT).await.status, 502);
    assert_eq!(gate.client("alice").get(UNIT).await.status, 429);
    assert_eq!(gate.operator().get("/readyz").await.status, 200);
    assert_eq!(gate.operator().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn readiness_ends_with_the_drain_and_life_does_not() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |_| ());
    let operator = gate.operator();
    let held = upstream.hold();
    let under_way = gate.client("alice").begin(Ask::get(UNIT));
    held.arrived().await;
    {
        let mut leaving = pin!(gate.leave());
        let asked = async {
            let ready = operator.get("/readyz").await;
            assert_eq!((ready.status, ready.json()["draining"].as_bool()), (503, Some(true)));
            assert!(operator.get("/metrics").await.text().contains("\nunitgate_ready 0\n"));
            assert_eq!(operator.get("/healthz").await.status, 200);
        };
        tokio::select! {
            biased;
            _ = &mut leaving => panic!("it left with a request under way"),
            () = asked => {}
        }
        held.release();
        assert!(leaving.await);
    }
    assert_eq!(under_way.reply().await.status, 200);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.admin.address = None);
    // Without such a port `operator` asks the public one.
    assert_eq!(gate.operator().get("/metrics").await.status, 404);
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn the_healthcheck_command_says_whether_a_gateway_answers() {
    let upstream = Upstream::start().await;
    let gate = Process::start(upstream.address(), "", &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let asked =
        |address: String| unitgate(directory.path(), &["healthcheck", "--address", &address], &[]);
    let healthy = asked(gate.admin().to_string());
    assert_eq!(healthy.code, Some(0), "{}", healthy.stderr);
    let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let unhealthy = asked(nobody.to_string());
    assert_eq!(unhealthy.code, Some(1));
    assert!(unhealthy.stderr.contains(&nobody.to_string()), "{}", unhealthy.stderr);
}
