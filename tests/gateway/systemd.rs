//! Under a service manager.
//!
//! *Claims*
//! 1. The sockets that it passes are served, and win over the configured addresses, which is told.
//! 2. What is no listening TCP socket is a message and an end, not a guess.
//! 3. A restart with passed sockets loses no connection.
//! 4. It is told of readiness, reload, stop, and life; over a path or an abstract name.
//! 5. After a hand-over it is told which process is the main one now, and of no stop.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram, UnixListener};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::net::UnixDatagram;

use crate::support::{Process, Upstream, Wire, configuration, fetch};

/// Becomes the gateway, to which the sockets from number 3 on are meant.
const ACTIVATED: [&str; 3] = ["sh", "-c", "export LISTEN_PID=$$; exec \"$0\""];

fn activated(configuration: &str, sockets: Vec<(&str, OwnedFd)>) -> Process {
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let names = names.join(":");
    Process::under(&ACTIVATED, configuration, |command| {
        command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
        let number = |(index, (_, parent_fd)): (usize, (&str, OwnedFd))| FdMapping {
            parent_fd,
            child_fd: 3 + i32::try_from(index).unwrap(),
        };
        command.fd_mappings(sockets.into_iter().enumerate().map(number).collect()).unwrap();
    })
}

fn socket() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).unwrap()
}

#[tokio::test]
async fn the_sockets_that_were_passed_win_and_a_mismatch_is_told() {
    let upstream = Upstream::start().await;
    let (public, another, admin) = (socket(), socket(), socket());
    let at = [&public, &another, &admin].map(|socket| socket.local_addr().unwrap());
    let mut gate = activated(
        &configuration(upstream.address(), ""),
        vec![("public", public.into()), ("admin", admin.into()), ("", another.into())],
    );
    gate.logged("operators' port: /metrics").await;
    assert_eq!(gate.admin(), at[2]);
    for public in &at[..2] {
        assert_eq!(fetch(*public, "/nowhere", &[]).await.status, 404);
    }
    assert_eq!(fetch(at[2], "/readyz", &[]).await.status, 200);
    // Both are at the configured 127.0.0.1:0.
    assert!(!gate.log().contains("win over"), "{}", gate.log());

    let public = socket();
    let address = public.local_addr().unwrap();
    let elsewhere = configuration(upstream.address(), "").replacen("127.0.0.1:0", "127.0.0.2:0", 1);
    let mut gate = activated(&elsewhere, vec![("public", public.into())]);
    gate.logged("operators' port: /metrics").await;
    assert_eq!(gate.address(), address);
    gate.logged("win over listen.address").await;
}

#[tokio::test]
async fn what_is_no_listening_tcp_socket_is_a_message_and_an_end() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"no socket").unwrap();
    let here = socket();
    let connection = std::net::TcpStream::connect(here.local_addr().unwrap()).unwrap();
    for passed in [OwnedFd::from(unix), file.into(), connection.into()] {
        let gate = activated(&configuration(upstream.address(), ""), vec![("odd", passed)]);
        assert_eq!(gate.ended().await.code(), Some(1), "{}", gate.log());
        assert!(gate.errors().contains("\"odd\""), "{}", gate.log());
    }
}

#[tokio::test]
async fn sockets_that_are_meant_for_another_process_are_left_alone() {
    let upstream = Upstream::start().await;
    let env = [("LISTEN_FDS", "1"), ("LISTEN_PID", "1")];
    let gate = Process::start(upstream.address(), "", &env).await;
    assert_eq!(fetch(gate.address(), "/nowhere", &[]).await.status, 404);
}

#[tokio::test]
async fn a_restart_with_passed_sockets_loses_no_connection() {
    let upstream = Upstream::start().await;
    let public = socket();
    let address = public.local_addr().unwrap();
    let start = || {
        let passed = public.try_clone().unwrap();
        activated(&configuration(upstream.address(), ""), vec![("public", passed.into())])
    };
    let mut first = start();
    first.logged("operators' port: /metrics").await;
    assert_eq!(fetch(address, "/nowhere", &[]).await.status, 404);
    first.signal("TERM");
    assert_eq!(first.ended().await.code(), Some(0));
    // Nobody accepts; it waits in the socket that the manager keeps.
    let mut waiting = Wire::to(address).await;
    waiting.get("/nowhere", &[]).await;
    let _second = start();
    assert_eq!(waiting.read(false).await.unwrap().status, 404);
}

/// The next word to the manager that is not a sign of life.
async fn next(manager: &UnixDatagram) -> String {
    loop {
        let word = any(manager).await;
        if word != "WATCHDOG=1" {
            return word;
        }
    }
}

async fn any(manager: &UnixDatagram) -> String {
    let mut word = [0; 512];
    let received = tokio::time::timeout(Duration::from_secs(30), manager.recv(&mut word)).await;
    String::from_utf8(word[..received.expect("nothing was told").unwrap()].to_vec()).unwrap()
}

#[tokio::test]
async fn the_manager_is_told_of_readiness_reload_and_stop() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let named = format!("@unitgate-test-{}", std::process::id());
    let abstracted = SocketAddr::from_abstract_name(named.trim_start_matches('@')).unwrap();
    let sockets = [
        (path.to_str().unwrap(), StdDatagram::bind(&path).unwrap()),
        (named.as_str(), StdDatagram::bind_addr(&abstracted).unwrap()),
    ];
    for (address, manager) in sockets {
        manager.set_nonblocking(true).unwrap();
        let manager = UnixDatagram::from_std(manager).unwrap();
        let env = [("NOTIFY_SOCKET", address)];
        let mut gate = Process::run(&configuration(upstream.address(), ""), &env);
        assert!(next(&manager).await.starts_with("READY=1\nSTATUS="));
        // It listens by now, and has said so; the pipe may be slower.
        gate.logged("operators' port: /metrics").await;
        assert_eq!(fetch(gate.address(), "/nowhere", &[]).await.status, 404);
        gate.signal("HUP");
        assert!(next(&manager).await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert!(next(&manager).await.starts_with("READY=1\n"));
        gate.signal("TERM");
        assert!(next(&manager).await.starts_with("STOPPING=1\n"));
        assert_eq!(gate.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn after_a_hand_over_the_new_process_is_the_main_one_and_the_old_one_stops_nothing() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let more = format!("listen.handover = \"{}\"", folder.path().join("handover").display());
    let told = ("NOTIFY_SOCKET", path.to_str().unwrap());
    let old = Process::run(&configuration(upstream.address(), &more), &[told]);
    assert!(next(&manager).await.starts_with("READY=1\nSTATUS="));
    // What it inherits names the old one.
    let inherited = old.pid().to_string();
    let watchdog = [("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", &inherited)];
    let env = [told, watchdog[0], watchdog[1]];
    let new = Process::run(&configuration(upstream.address(), &more), &env);
    let main = format!("READY=1\nMAINPID={}\nSTATUS=", new.pid());
    let heard = next(&manager).await;
    assert!(heard.starts_with(&main), "{heard}");
    assert_eq!(old.ended().await.code(), Some(0));
    assert_eq!(any(&manager).await, "WATCHDOG=1");
    new.signal("HUP");
    assert!(next(&manager).await.starts_with("RELOADING=1\n"));
    assert!(next(&manager).await.starts_with("READY=1\nSTATUS="));
}

#[tokio::test]
async fn the_watchdog_is_told_while_it_serves_and_while_it_drains() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let more = "shutdown.delay = \"1s\"";
    let gate = Process::run(&configuration(upstream.address(), more), &env);
    assert!(next(&manager).await.starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(any(&manager).await, "WATCHDOG=1");
    }
    gate.signal("TERM");
    assert!(next(&manager).await.starts_with("STOPPING=1\n"));
    assert_eq!(any(&manager).await, "WATCHDOG=1");
}
