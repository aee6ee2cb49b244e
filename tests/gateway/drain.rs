//! How the process ends.
//!
//! *Claims*, of SIGTERM and SIGINT alike:
//! 1. It stops accepting at once, or after the configured delay, while `/readyz` says 503.
//! 2. What is in flight is finished, with `Connection: close`; idle connections are closed.
//! 3. It exits 0, never past its deadline; a second signal ends it at once.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use unitgate::config::Shutdown;

use crate::support::{
    Answer, Gate, INTEGRATION, MASK, Process, UNIT, Upstream, Wire, fetch, list, secs, token,
};

const SIGNALS: [(&str, &str); 2] = [("TERM", "SIGTERM: leaving"), ("INT", "SIGINT: leaving")];

fn bearer() -> String {
    format!("Bearer {}", token("alice"))
}

/// A connection with a request for the unit under way.
async fn asking(gate: &Process) -> Wire {
    let mut wire = Wire::to(gate.address()).await;
    wire.get(UNIT, &[("Authorization", &bearer())]).await;
    wire
}

/// A connection that has served a request and lies idle.
async fn idle(gate: &Process) -> Wire {
    let mut wire = Wire::to(gate.address()).await;
    wire.get("/nowhere", &[]).await;
    assert_eq!(wire.read(false).await.unwrap().status, 404);
    wire
}

#[tokio::test]
async fn a_signal_ends_it_in_order_once_what_is_in_flight_is_finished() {
    for (signal, said) in SIGNALS {
        let upstream = Upstream::start().await;
        let mut gate = Process::start(upstream.address(), "", &[]).await;
        let idle = idle(&gate).await;
        let held = upstream.hold();
        let mut in_flight = asking(&gate).await;
        held.arrived().await;

        gate.signal(signal);
        gate.logged(said).await;
        // Idle connections are closed after the listening sockets.
        assert!(idle.rest().await.is_empty());
        let refused = TcpStream::connect(gate.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(fetch(gate.admin(), "/readyz", &[]).await.status, 503);
        assert_eq!(fetch(gate.admin(), "/healthz", &[]).await.status, 200);

        held.release();
        let reply = in_flight.read(false).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, list(MASK, "Be kind.").as_str()));
        assert_eq!(reply.field("connection"), Some("close"));
        assert!(in_flight.rest().await.is_empty());
        assert_eq!(gate.ended().await.code(), Some(0), "{signal}");
        assert!(gate.log().contains("\"message\":\"stopped\""), "{}", gate.log());
    }
}

#[tokio::test]
async fn without_anything_in_flight_it_ends_at_once() {
    for (signal, _said) in SIGNALS {
        let upstream = Upstream::start().await;
        let gate = Process::start(upstream.address(), "", &[]).await;
        let _idle = idle(&gate).await;
        let begun = Instant::now();
        gate.signal(signal);
        assert_eq!(gate.ended().await.code(), Some(0), "{signal}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (first, said) in SIGNALS {
        for (second, _) in SIGNALS {
            let upstream = Upstream::start().await;
            let mut gate = Process::start(upstream.address(), "", &[]).await;
            let held = upstream.hold();
            let mut in_flight = asking(&gate).await;
            held.arrived().await;
            gate.signal(first);
            gate.logged(said).await;
            let begun = Instant::now();
            gate.signal(second);
            gate.ended().await;
            assert!(
                begun.elapsed() < Duration::from_secs(4),
                "{first} {second}: {:?}",
                begun.elapsed()
            );
            assert!(in_flight.read(false).await.is_none());
        }
    }
}

#[tokio::test]
async fn it_is_gone_by_its_deadline_whatever_is_under_way() {
    for (signal, _said) in SIGNALS {
        let upstream = Upstream::start().await;
        let gate = Process::start(upstream.address(), "shutdown.deadline = \"300ms\"", &[]).await;
        let held = upstream.hold();
        let _in_flight = asking(&gate).await;
        held.arrived().await;
        let begun = Instant::now();
        gate.signal(signal);
        assert_eq!(gate.ended().await.code(), Some(0), "{signal}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(4), "{took:?}");
    }
}

#[tokio::test]
async fn during_the_delay_it_still_accepts_and_is_not_ready() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |config| {
        // Longer than this test could ever take; it leaves in the middle of it.
        config.shutdown = Shutdown { delay: secs(3_000), deadline: secs(6_000) };
    });
    let (alice, operator) = (gate.client("alice"), gate.operator());
    let asked = async {
        assert_eq!(operator.get("/readyz").await.status, 503);
        assert_eq!(alice.get(UNIT).await.status, 200);
    };
    tokio::select! {
        biased;
        _ = gate.leave() => panic!("it did not wait"),
        () = asked => {}
    }
}

#[tokio::test]
async fn a_delay_that_is_over_is_followed_by_the_drain() {
    let upstream = Upstream::start().await;
    let gate = Process::start(upstream.address(), "shutdown.delay = \"200ms\"", &[]).await;
    let begun = Instant::now();
    gate.signal("TERM");
    assert_eq!(gate.ended().await.code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_write_in_flight_is_finished_too() {
    let upstream = Upstream::start().await;
    let mut gate = Process::start(upstream.address(), "", &[]).await;
    let held = upstream.hold();
    let mut wire = Wire::to(gate.address()).await;
    let request = format!(
        "PUT {INTEGRATION} HTTP/1.1\r\nHost: g\r\nAuthorization: {}\r\nContent-Length: 2\r\n\r\n{{}}",
        bearer()
    );
    wire.write(request.as_bytes()).await;
    held.arrived().await;
    gate.signal("TERM");
    gate.logged("SIGTERM: leaving").await;
    held.release_with(Answer::json(200, "{}"));
    assert_eq!(wire.read(false).await.unwrap().status, 200);
    assert_eq!(gate.ended().await.code(), Some(0));
}
