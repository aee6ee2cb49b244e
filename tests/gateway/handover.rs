//! Another process takes the place of the one that runs.
//!
//! *Claims*
//! 1. A new process takes over the listening sockets, and not one request fails meanwhile, on new
//!    connections and on kept ones; a client that has only just connected is answered.
//! 2. Both can be asked for metrics and readiness meanwhile.
//! 3. Until the new one serves, the old one goes on as if nothing had happened.
//! 4. Nobody who asks holds up another; of several the first that serves takes over, and the others are told.
//! 5. At every moment the path leads to a process that serves.
//! 6. Two processes share a port only where that is configured, each with an operators' port of its own.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use unitgate::clock::Clock;
use unitgate::handover::{Offer, Predecessor, RelieveError};
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

/// A socket that listens, for an offer that nobody serves.
fn listening() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).unwrap()
}

/// An offer of these sockets, not published yet.
fn offer(path: &Path, sockets: &[TcpListener], shutdown: &Shutdown) -> Offer {
    let clock = Clock::steered(Duration::ZERO);
    Offer::at(path, sockets, None, clock, shutdown).unwrap()
}

/// Waits beside the runtime, as another process would.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// How many sockets the process at `path` gives.
async fn given(path: &Path) -> Option<(Predecessor, usize)> {
    let path = path.to_owned();
    let asked = apart(move || Predecessor::ask(&path).unwrap()).await;
    asked.map(|(before, given)| (before, given.public.len()))
}

#[tokio::test]
async fn who_says_nothing_or_is_slow_holds_up_nobody() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let more = handing_over(folder.path());
    let mut old = Process::start(upstream.address(), &more, &[]).await;
    let path = folder.path().join("handover");
    let mut silent = UnixStream::connect(&path).await.unwrap();
    let mut slow = UnixStream::connect(&path).await.unwrap();
    slow.write_all(b"unitgate handover 1\n\n").await.unwrap();
    assert!(slow.read(&mut [0; 64]).await.unwrap() > 0);
    let mut new = Process::start(upstream.address(), &more, &[]).await;
    new.logged(TAKEN_OVER).await;
    old.logged(LEAVING).await;
    // Told nothing: it may ask again, whoever is there now.
    drop(silent.read(&mut [0; 64]).await.inspect(|read| assert_eq!(*read, 0)));
    let mut word = [0; 6];
    slow.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"taken\n");
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_on_within_a_second_or_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let shutdown = Shutdown::new();
    let mut old = offer(&path, &[listening()], &shutdown);
    old.publish().unwrap();
    let mut silent = UnixStream::connect(&path).await.unwrap();
    let heard = timeout(Duration::from_secs(10), silent.read(&mut [0; 64])).await;
    assert_eq!(heard.expect("it is kept for longer").unwrap(), 0);
}

#[tokio::test]
async fn the_slower_one_of_two_new_processes_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let shutdown = Shutdown::new();
    let mut old = offer(&path, &[listening()], &shutdown);
    old.publish().unwrap();
    let (mut slow, _) = given(&path).await.unwrap();
    let (mut fast, _) = given(&path).await.unwrap();
    let relieved = Shutdown::new().spawn(apart(move || (fast.relieve(), fast)));
    old.taken().await.release();
    assert!(relieved.await.unwrap().0.is_ok());
    let relieved = apart(move || slow.relieve()).await;
    assert!(matches!(relieved, Err(RelieveError::Taken)), "{relieved:?}");
}

#[tokio::test]
async fn a_process_that_was_too_slow_leaves_with_a_message() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let slow = Process::run(&configuration(upstream.address(), &handing_over(folder.path())), &[]);
    apart(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 21]).unwrap();
        let socket = listening();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)));
        let words = IoSlice::new(b"unitgate handover 1\n\npublic");
        sendmsg(&stream, &[words], &mut control, SendFlags::empty()).unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
        stream.write_all(b"taken\n").unwrap();
    })
    .await;
    assert_eq!(slow.ended().await.code(), Some(1), "{}", slow.log());
    assert!(slow.errors().contains("another new process took over"), "{}", slow.log());
    // It has left nothing but what was there.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn the_path_leads_to_the_old_process_until_it_has_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let shutdown = Shutdown::new();
    let mut old = offer(&path, &[listening()], &shutdown);
    old.publish().unwrap();
    // One that ends before it has taken over leaves the path as it is, and nothing beside it.
    let dying = offer(&path, &[listening(), listening()], &shutdown);
    assert_eq!(given(&path).await.unwrap().1, 1);
    drop(dying);
    assert_eq!(given(&path).await.unwrap().1, 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let mut new = offer(&path, &[listening(), listening()], &shutdown);
    new.publish().unwrap();
    assert_eq!(given(&path).await.unwrap().1, 2);
}

#[tokio::test]
async fn the_old_process_is_there_until_the_new_one_has_settled_and_turns_others_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let (first, second) = (Shutdown::new(), Shutdown::new());
    let mut old = offer(&path, &[listening()], &first);
    old.publish().unwrap();
    let (mut before, _) = given(&path).await.unwrap();
    let relieved = Shutdown::new().spawn(apart(move || (before.relieve(), before)));
    old.taken().await.release();
    let (relieved, before) = relieved.await.unwrap();
    relieved.unwrap();
    let mut between = UnixStream::connect(&path).await.expect("there is somebody");
    assert_eq!(first.tracked(), 1, "the old one may end");
    let mut new = offer(&path, &[listening(), listening()], &second);
    new.publish().unwrap();
    drop(before);
    first.idle().await;
    assert!(!between.read(&mut [0; 1]).await.is_ok_and(|read| read > 0));
    assert_eq!(given(&path).await.unwrap().1, 2);
}

#[tokio::test]
async fn whoever_is_hung_up_on_asks_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let leaving = UnixListener::bind(&path).unwrap();
    let shutdown = Shutdown::new();
    let mut new = offer(&path, &[listening(), listening()], &shutdown);
    let asking = Shutdown::new().spawn({
        let path = path.clone();
        async move { given(&path).await }
    });
    let asked = timeout(Duration::from_secs(10), leaving.accept()).await;
    let (stream, _) = asked.expect("it asked another one").unwrap();
    new.publish().unwrap();
    drop(stream);
    assert_eq!(asking.await.unwrap().unwrap().1, 2);
}
