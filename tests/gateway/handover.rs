//! Another process takes the place of the one that runs.
//!
//! *Claims*
//! 1. A new process takes over the listening sockets, and not one request fails meanwhile, on new
//!    connections and on kept ones; a client that has only just connected is answered.
//! 2. Both can be asked for metrics and readiness meanwhile.
//! 3. Until the new one serves, the old one goes on as if nothing had happened.
//! 4. Two processes share a port only where that is configured, each with an operators' port of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use unitgate::shutdown::Shutdown;

use crate::support::{Process, UNIT, Upstream, Wire, configuration, fetch, token};

const TAKEN_OVER: &str = "took over the listening sockets";
const LEAVING: &str = "another process serves our sockets: leaving";
const ASIDE: &str = "operators' port until the end of this process";

fn handing_over(folder: &Path) -> String {
    format!("listen.handover = \"{}\"", folder.join("handover").display())
}

/// Clients that ask without a pause, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Clients with a new connection for each request, and some that keep theirs as long as they may.
    fn on(address: std::net::SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            Shutdown::new().spawn(async move {
                let bearer = format!("Bearer {}", token("alice"));
                let mut kept = None;
                while !stop.load(SeqCst) {
                    let mut wire = match kept.take() {
                        Some(wire) => wire,
                        None => Wire::to(address).await,
                    };
                    wire.get(UNIT, &[("Authorization", &bearer)]).await;
                    let reply = wire.read(false).await.expect("a request failed");
                    assert_eq!(reply.status, 200);
                    answered.fetch_add(1, SeqCst);
                    let closes = reply.field("connection") == Some("close");
                    kept = (number % 2 == 0 && !closes).then_some(wire);
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Self { stop, answered, clients }
    }

    fn answered(&self) -> usize {
        self.answered.load(SeqCst)
    }

    /// Waits until that many more were answered.
    async fn more(&self, requests: usize) {
        let enough = self.answered() + requests;
        while self.answered() < enough && self.clients.iter().all(|client| !client.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    /// Ends them; fails if one of their requests did.
    async fn end(self) -> usize {
        self.stop.store(true, SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        self.answered.load(SeqCst)
    }
}

#[tokio::test]
async fn a_new_process_takes_over_without_a_failed_request() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let more = handing_over(folder.path());
    let mut old = Process::start(upstream.address(), &more, &[]).await;
    let (address, admin) = (old.address(), old.admin());
    let load = Load::on(address);
    for _ in 0..3 {
        load.more(100).await;
        let mut new = Process::start(upstream.address(), &more, &[]).await;
        assert_eq!((new.address(), new.admin()), (address, admin));
        new.logged(TAKEN_OVER).await;
        old.logged(LEAVING).await;
        assert_eq!(old.ended().await.code(), Some(0), "{}", old.log());
        load.more(100).await;
        assert_eq!(fetch(admin, "/readyz", &[]).await.status, 200);
        old = new;
    }
    assert!(load.end().await >= 600);
}

#[tokio::test]
async fn a_client_that_has_only_just_connected_is_answered_by_the_old_process() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let more = handing_over(folder.path());
    let mut old = Process::start(upstream.address(), &more, &[]).await;
    let mut first = Wire::to(old.address()).await;
    // A second connection is answered, so the first was accepted.
    assert_eq!(fetch(old.address(), "/nowhere", &[]).await.status, 404);
    let _new = Process::start(upstream.address(), &more, &[]).await;
    old.logged(ASIDE).await;
    first.get("/nowhere", &[]).await;
    let reply = first.read(false).await.unwrap();
    assert_eq!((reply.status, reply.field("connection")), (404, Some("close")));
    assert_eq!(old.ended().await.code(), Some(0));
}

#[tokio::test]
async fn both_processes_answer_operators_meanwhile() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let more = handing_over(folder.path());
    let mut old = Process::start(upstream.address(), &more, &[]).await;
    let held = upstream.hold();
    let mut under_way = Wire::to(old.address()).await;
    under_way.get(UNIT, &[("Authorization", &format!("Bearer {}", token("alice")))]).await;
    held.arrived().await;
    let mut new = Process::start(upstream.address(), &more, &[]).await;
    new.logged(TAKEN_OVER).await;
    old.logged(ASIDE).await;
    let aside = old.announced(ASIDE);
    assert_ne!(aside, new.admin());
    assert_eq!(fetch(new.admin(), "/readyz", &[]).await.status, 200);
    let leaving = fetch(aside, "/readyz", &[]).await;
    assert_eq!((leaving.status, leaving.json()["draining"].as_bool()), (503, Some(true)));
    assert!(fetch(aside, "/metrics", &[]).await.text().contains("\nunitgate_ready 0\n"));
    held.release();
    assert_eq!(under_way.read(false).await.unwrap().status, 200);
    assert_eq!(old.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_new_process_that_never_serves_changes_nothing() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let more = handing_over(folder.path());
    let mut old = Process::start(upstream.address(), &more, &[]).await;
    let path = folder.path().join("handover");
    // One that dies with the sockets in its hands.
    let mut dying = UnixStream::connect(&path).await.unwrap();
    dying.write_all(b"unitgate handover 1\n\n").await.unwrap();
    assert!(dying.read(&mut [0; 64]).await.unwrap() > 0);
    drop(dying);
    old.logged("a new process did not take over").await;
    // One that speaks otherwise.
    let mut other = UnixStream::connect(&path).await.unwrap();
    other.write_all(b"unitgate handover 9\n\n").await.unwrap();
    assert_eq!(other.read(&mut [0; 64]).await.unwrap(), 0);
    assert_eq!(fetch(old.address(), "/nowhere", &[]).await.status, 404);
    assert_eq!(fetch(old.admin(), "/readyz", &[]).await.status, 200);
    // And then a real one.
    let _new = Process::start(upstream.address(), &more, &[]).await;
    old.logged(LEAVING).await;
}

#[tokio::test]
async fn a_signal_closes_the_port_whether_or_not_it_could_be_handed_over() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let gate = Process::start(upstream.address(), &handing_over(folder.path()), &[]).await;
    gate.signal("TERM");
    assert_eq!(gate.ended().await.code(), Some(0));
    TcpStream::connect(gate.address()).await.unwrap_err();
    // What it left behind is in nobody's way.
    Process::start(upstream.address(), &handing_over(folder.path()), &[]).await;
}

#[tokio::test]
async fn a_socket_for_the_hand_over_that_can_not_be_opened_is_a_message() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let more = handing_over(&folder.path().join("missing"));
    let gate = Process::run(&configuration(upstream.address(), &more), &[]);
    assert_eq!(gate.ended().await.code(), Some(1));
    assert!(gate.errors().contains("listen.handover"), "{}", gate.log());
}

#[tokio::test]
async fn two_processes_share_a_port_only_where_configured() {
    let upstream = Upstream::start().await;
    let first = Process::start(upstream.address(), "listen.reuse_port = true", &[]).await;
    let on_it = |reuse: bool| {
        configuration(upstream.address(), &format!("listen.reuse_port = {reuse}")).replacen(
            "127.0.0.1:0",
            &first.address().to_string(),
            1,
        )
    };
    let refused = Process::run(&on_it(false), &[]);
    assert_eq!(refused.ended().await.code(), Some(1));
    assert!(refused.errors().contains("cannot listen on"), "{}", refused.log());
    let mut second = Process::run(&on_it(true), &[]);
    second.logged("operators' port: /metrics").await;
    assert_eq!(second.address(), first.address());
    assert_ne!(second.admin(), first.admin());
    for admin in [first.admin(), second.admin()] {
        assert_eq!(fetch(admin, "/readyz", &[]).await.status, 200);
    }
    first.signal("TERM");
    assert_eq!(first.ended().await.code(), Some(0));
    assert_eq!(fetch(second.address(), "/nowhere", &[]).await.status, 404);
}
