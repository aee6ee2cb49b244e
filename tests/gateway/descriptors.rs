//! When the process may open no more files.
//!
//! *Claims*
//! 1. Connections in service go on; new ones wait, without a busy loop, and are served when there is room.
//! 2. An upstream that can't be connected to for want of descriptors is a 502 or 503, and recovers.
//! 3. What the limits lower is said at the start; as many workers run as there are processors to run on.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Process, UNIT, Upstream, Wire, configuration, fetch, token};

/// Leaves the process `spare` descriptors beyond those it has open: the limit is a number that none may
/// reach, and the lowest free one is taken first.
fn limit(gate: &Process, spare: usize) {
    let open: BTreeSet<u64> = fs::read_dir(format!("/proc/{}/fd", gate.pid()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let mut free = (0..).filter(|number| !open.contains(number));
    set(gate, free.nth(spare).unwrap());
}

fn set(gate: &Process, most: u64) {
    let pid = Pid::from_raw(i32::try_from(gate.pid()).unwrap()).unwrap();
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(most), maximum }).unwrap();
}

/// Processor time that it has used, in hundredths of a second (Linux' `USER_HZ`).
fn used(gate: &Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gate.pid())).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

async fn asks(wire: &mut Wire) -> Option<u16> {
    wire.get("/nowhere", &[]).await;
    wire.read(false).await.map(|reply| reply.status)
}

#[tokio::test]
async fn out_of_descriptors_connections_go_on_and_new_ones_wait_without_a_busy_loop() {
    let upstream = Upstream::start().await;
    let mut gate = Process::start(upstream.address(), "listen.idle = \"2s\"", &[]).await;
    limit(&gate, 3);
    let mut served = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::to(gate.address()).await;
        assert_eq!(asks(&mut wire).await, Some(404));
        served.push(wire);
    }
    let before = used(&gate);
    let mut waiting = Wire::to(gate.address()).await;
    waiting.get("/nowhere", &[]).await;
    gate.logged("a connection could not be accepted").await;
    assert_eq!(asks(&mut served[0]).await, Some(404));
    // Served once an idle connection has been closed, some two seconds later, by nobody's doing.
    assert_eq!(waiting.read(false).await.unwrap().status, 404);
    let ticks = used(&gate) - before;
    assert!(ticks < 50, "{ticks} hundredths of a second were used for waiting");
}

#[tokio::test]
async fn an_upstream_that_gets_no_descriptor_fails_as_its_own_fault_and_recovers() {
    let upstream = Upstream::start().await;
    let gate = Process::start(upstream.address(), "", &[]).await;
    let bearer = format!("Bearer {}", token("alice"));
    let mut wire = Wire::to(gate.address()).await;
    assert_eq!(asks(&mut wire).await, Some(404));
    limit(&gate, 0);
    wire.get(UNIT, &[("Authorization", &bearer)]).await;
    let refused = wire.read(false).await.unwrap();
    assert!([502, 503].contains(&refused.status), "{}", refused.status);
    assert_eq!(upstream.count(), 0);
    limit(&gate, 8);
    wire.get(UNIT, &[("Authorization", &bearer)]).await;
    assert_eq!(wire.read(false).await.unwrap().status, 200);
}

#[tokio::test]
async fn connections_are_lowered_to_the_limit_of_open_files_and_beyond_it_told_to_come_back() {
    let upstream = Upstream::start().await;
    let program = ["taskset", "-c", "0", "sh", "-c", "ulimit -n 64; exec \"$0\""];
    let mut gate = Process::under(&program, &configuration(upstream.address(), ""), |_| ());
    gate.logged("operators' port: /metrics").await;
    assert!(gate.log().contains("listen.connections lowered from 10000 to 32"), "{}", gate.log());
    let workers = fs::read_dir(format!("/proc/{}/task", gate.pid())).unwrap().filter(|task| {
        let name = fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap();
        name.trim().strip_prefix("unitgate-").is_some_and(|name| name.parse::<u8>().is_ok())
    });
    assert_eq!(workers.count(), 1);
    let mut wires = Vec::new();
    for _ in 0..32 {
        let mut wire = Wire::to(gate.address()).await;
        assert_eq!(asks(&mut wire).await, Some(404));
        wires.push(wire);
    }
    let turned_away = Wire::to(gate.address()).await.read(false).await.unwrap();
    assert_eq!((turned_away.status, turned_away.field("retry-after")), (503, Some("1")));
    assert_eq!(fetch(gate.admin(), "/healthz", &[]).await.status, 200);
    for wire in &mut wires {
        assert_eq!(asks(wire).await, Some(404));
    }
}
