//! What an entry of the cache costs in memory beside its body, and what equal bodies of many callers cost.
//!
//! `cargo bench --bench memory`. Each scene is a process of its own, filled through `Current::handle` from a
//! sample upstream; what is told is the growth of its resident memory (Linux).

use std::convert::Infallible;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use unitgate::config::AccessLog;
use unitgate::gateway::Current;
use unitgate::machine;

mod support;

use support::gate::{self, Scene};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    machine::refuse_huge_pages().expect("the kernel has no say in it");
    let scene = std::env::var("UNITGATE_BENCH_SCENE").ok();
    let mut numbers = scene.iter().flat_map(|scene| scene.split('x')).map(str::parse);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the machine runs threads");
    match (numbers.next(), numbers.next()) {
        (Some(Ok(callers)), Some(Ok(units))) => runtime.block_on(fill(callers, units)),
        _ => compare(),
    }
}

fn compare() {
    for (callers, units) in [(1, 100_000), (1, 1_000), (100, 1_000)] {
        let own = std::env::current_exe().expect("a process has a file");
        let scene = format!("{callers}x{units}");
        let mut scene_of = Command::new(own);
        scene_of.env("UNITGATE_BENCH_SCENE", scene);
        let status = scene_of.status();
        assert!(status.expect("the bench starts itself").success(), "a scene failed");
    }
}

/// So many callers ask for so many units each, and what that took is told.
async fn fill(callers: usize, units: usize) {
    let (listener, address) = support::loopback().await;
    #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
    tokio::spawn(serve_units(listener));
    let scene = Scene { upstream: address, access: AccessLog::Off, cache: 8 << 30 };
    let server = scene.open(std::io::sink());
    let gateway = server.gateway();
    // What is there once, such as pooled connections and the limiters' tables, is there before.
    for unit in 0..100 {
        ask(gateway, usize::MAX, units + unit).await;
    }
    let before = resident();
    for caller in 0..callers {
        for unit in 0..units {
            ask(gateway, caller, unit).await;
        }
    }
    let sizes = gateway.load().cache_sizes();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (grown, entries) = (resident().saturating_sub(before), callers * units);
    let (each, body) = (grown / entries, support::answer().len());
    writeln!(
        std::io::stdout(),
        "{callers:>3} callers × {units:>6} units: {:>6.1} MB resident, {each:>5} bytes an entry with a body of {body}; beyond a body of its own {:>5}; counted {:>5} each",
        mega(grown),
        i128::try_from(each).unwrap_or_default() - i128::try_from(body).unwrap_or_default(),
        sizes.bytes / sizes.entries.max(1),
    )
    .ok();
    assert_eq!(usize::try_from(sizes.entries).ok(), Some(entries + 100), "not all were kept");
}

async fn ask(gateway: &Current, caller: usize, unit: usize) {
    let mut request = gate::request(&format!("/api/v1/calcom/integration/unit/unit-{unit:06}"));
    let token = HeaderValue::from_str(&format!("Bearer {caller:048}")).expect("it is ASCII");
    request.headers_mut().insert(AUTHORIZATION, token);
    gate::answered(gateway, &gate::session(), request).await;
}

/// The usual answer, about the unit that was asked for.
async fn serve_units(listener: TcpListener) {
    let answer = String::from_utf8(support::answer().to_vec()).expect("it is text");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let answer = answer.clone();
        #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let unit = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                let body = Bytes::from(answer.replace("unit-1", &unit));
                let mut response = Response::new(Full::new(body));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                async move { Ok::<_, Infallible>(response) }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// Resident memory in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or_default() * PAGE
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
fn mega(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

const PAGE: usize = 4096;
