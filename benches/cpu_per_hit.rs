//! CPU per hit of the whole gateway, against a bare hyper server that answers the same bytes.
//!
//! `cargo bench --bench cpu_per_hit [-- ROUNDS]`. Each server is a process of its own with two worker
//! threads; the rounds are interleaved, so that a machine that slows down slows both. What is compared
//! is the servers' own CPU time (user and system) for each request, which a busy neighbour disturbs
//! less than a rate. The load generator is this process: 64 keep-alive connections, one request at a
//! time on each.

#![expect(clippy::indexing_slicing, reason = "a bench that reads past an end had better stop")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unitgate::clock::Clock;
use unitgate::config::AccessLog;

mod support;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the machine runs threads");
    match std::env::var("UNITGATE_BENCH_ROLE").as_deref() {
        Ok("bare") => runtime.block_on(bare()),
        Ok("gateway") => runtime.block_on(gateway(AccessLog::Off)),
        Ok("gateway with access log") => runtime.block_on(gateway(AccessLog::All)),
        _ => {
            let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(7);
            compare(&runtime, rounds);
        }
    }
}

/// One server process.
struct Contestant {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    micros: Vec<f64>,
    rates: Vec<f64>,
}

fn compare(runtime: &tokio::runtime::Runtime, rounds: usize) {
    let mut contestants: Vec<Contestant> =
        ["bare", "gateway", "gateway with access log"].map(start).into();
    let clock = Clock::real();
    for contestant in &contestants {
        runtime.block_on(load(contestant.address, 2_000));
    }
    for _ in 0..rounds {
        for contestant in &mut contestants {
            let (cpu, began) = (cpu_seconds(&contestant.child), clock.mono());
            runtime.block_on(load(contestant.address, REQUESTS));
            let took = clock.mono().saturating_sub(began).as_secs_f64();
            let spent = cpu_seconds(&contestant.child) - cpu;
            contestant.micros.push(spent * 1e6 / f64::from(REQUESTS));
            contestant.rates.push(f64::from(REQUESTS) / took);
        }
    }
    let mut out = std::io::stdout();
    let base = median(&contestants[0].micros);
    for contestant in &mut contestants {
        let (micros, rate) = (median(&contestant.micros), median(&contestant.rates));
        writeln!(
            out,
            "{:<24} {micros:>6.2} µs CPU per request, {:.2} times bare, {rate:>7.0} requests/s (medians of {rounds})",
            contestant.name,
            micros / base
        )
        .ok();
        contestant.child.kill().ok();
        contestant.child.wait().ok();
    }
}

fn start(role: &'static str) -> Contestant {
    let own = std::env::current_exe().expect("a process has a file");
    let mut child = Command::new(own)
        .env("UNITGATE_BENCH_ROLE", role)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the bench starts itself");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("the output is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the server tells its address");
    let address = line.trim().parse().expect("the line is an address");
    Contestant { name: role, child, address, micros: Vec::new(), rates: Vec::new() }
}

/// `requests` over 64 connections.
async fn load(address: SocketAddr, requests: u32) {
    let each = requests / CONNECTIONS;
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("the server listens");
                stream.set_nodelay(true).ok();
                let mut buffer = vec![0; 16 * 1024];
                for _ in 0..each {
                    stream.write_all(REQUEST).await.expect("the server reads");
                    read_reply(&mut stream, &mut buffer).await;
                }
            })
        })
        .collect();
    for connection in connections {
        connection.await.expect("no connection failed");
    }
}

/// Reads one reply whole, by its Content-Length; anything but a 200 ends the bench.
async fn read_reply(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.expect("the server answers");
        assert!(read > 0, "the server closed the connection");
        filled += read;
        let reply = &buffer[..filled];
        let Some(head) = reply.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        assert!(reply.starts_with(b"HTTP/1.1 200"), "not a 200");
        let text =
            std::str::from_utf8(&reply[..head]).expect("a head is ASCII").to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length: usize =
            length.and_then(|digits| digits.parse().ok()).expect("the length is told");
        if filled >= head + 4 + length {
            return;
        }
    }
}

async fn bare() {
    let (listener, address) = support::loopback().await;
    tell(address);
    support::serve_bare(listener, support::answer()).await;
}

async fn gateway(access: AccessLog) {
    let null =
        std::fs::OpenOptions::new().write(true).open("/dev/null").expect("there is a null device");
    let server = support::gate::gateway(access, null).await;
    tell(server.addresses()[0]);
    std::future::pending::<()>().await;
}

fn tell(address: SocketAddr) {
    let mut out = std::io::stdout();
    writeln!(out, "{address}").ok();
    out.flush().ok();
}

/// User and system time of a process so far (Linux: fields 14 and 15 of its stat, in ticks of 10 ms).
fn cpu_seconds(child: &Child) -> f64 {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("the server runs");
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 =
        after.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks * TICK.as_secs_f64()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

const CONNECTIONS: u32 = 64;
const REQUESTS: u32 = 64_000;
const TICK: Duration = Duration::from_millis(10);
const REQUEST: &[u8] = b"GET /api/v1/calcom/integration/unit/unit-1 HTTP/1.1\r\nhost: unitgate.internal\r\nauthorization: Bearer 0123456789abcdef0123456789abcdef0123456789abcdef\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";
