//! The pieces of a hit, and a whole hit through [`Gateway::handle`] without sockets; allocations as well
//! as time.
//!
//! `cargo bench --bench hot_path`. The first lines count allocations, the rest is time.

use std::hint::black_box;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::Criterion;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use tokio::runtime::Runtime;
use unitgate::cache::policy::{CacheStatus, age_value};
use unitgate::caller::Callers;
use unitgate::clock::{Clock, Dice};
use unitgate::config::{AccessLog, Config};
use unitgate::gateway::Gateway;
use unitgate::limit::Limits;
use unitgate::listener::Ahead;
use unitgate::route::Routes;
use unitgate::server::{Server, Setting};
use unitgate::telemetry::Lines;

mod support;

fn main() {
    let runtime = Runtime::new().expect("the machine runs threads");
    let (server, quiet) =
        runtime.block_on(async { (gateway(AccessLog::All).await, gateway(AccessLog::Off).await) });
    for (name, server) in [("log on", &server), ("log off", &quiet)] {
        runtime.block_on(hit(server.gateway()));
        let counted = allocation_counter::measure(|| {
            runtime.block_on(hit(server.gateway()));
        });
        let mut out = std::io::stdout();
        writeln!(
            out,
            "allocations of a hit, {name}: {} ({} bytes)",
            counted.count_total, counted.bytes_total
        )
        .ok();
    }
    let mut criterion = Criterion::default().configure_from_args();
    whole(&mut criterion, &runtime, &server, &quiet);
    pieces(&mut criterion);
    criterion.final_summary();
}

/// A hit from request to reply, everything between two sockets.
fn whole(criterion: &mut Criterion, runtime: &Runtime, server: &Server, quiet: &Server) {
    let mut group = criterion.benchmark_group("hit");
    for (name, server) in [("access log on", server), ("access log off", quiet)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(hit(black_box(server.gateway()))));
        });
    }
    group.finish();
}

fn pieces(criterion: &mut Criterion) {
    let config = Config::default();
    let mut group = criterion.benchmark_group("piece");
    let clock = Clock::real();
    group.bench_function("clock", |bencher| bencher.iter(|| clock.now()));
    let callers = Callers::from_secret(b"bench");
    let fields = request().headers().clone();
    group.bench_function("identify", |bencher| {
        bencher.iter(|| callers.identify(black_box(&fields)));
    });
    let routes = Routes::new(&config);
    let uri = Uri::from_static(TARGET);
    group.bench_function("route", |bencher| {
        bencher.iter(|| routes.resolve(&Method::GET, black_box(&uri)).is_ok());
    });
    let mut unlimited = config.limits;
    raise(&mut unlimited);
    let limits = Limits::new(&unlimited, &[None], clock.clone());
    let caller = callers.identify(&fields).expect("the request has a token");
    group.bench_function("admit", |bencher| {
        bencher.iter(|| limits.admit(black_box(&caller.id), 0).is_ok());
    });
    group.bench_function("cache-status", |bencher| {
        bencher.iter(|| CacheStatus::hit(black_box(42)).member("unitgate"));
    });
    group.bench_function("age", |bencher| {
        bencher.iter(|| age_value(black_box(Duration::from_secs(17))));
    });
    group.bench_function("header map clone", |bencher| bencher.iter(|| black_box(&fields).clone()));
    group.finish();
}

async fn hit(gateway: &Gateway) -> StatusCode {
    let reply = gateway.handle(request(), IpAddr::V4(Ipv4Addr::LOCALHOST), &Ahead::new()).await;
    assert!(reply.headers().contains_key("cache-status"));
    reply.status()
}

fn request() -> Request<Full<Bytes>> {
    Request::get(TARGET)
        .header("host", "unitgate.internal")
        .header("authorization", "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef")
        .header("user-agent", "bench")
        .header("accept", "*/*")
        .body(Full::default())
        .expect("the request is well-formed")
}

/// A gateway as shipped, its rates above the load, in front of a sample upstream.
async fn gateway(access: AccessLog) -> Server {
    let (listener, address) = support::loopback().await;
    #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
    tokio::spawn(support::serve_bare(listener, support::answer()));
    let mut config = Config::default();
    config.listen.address = vec![([127, 0, 0, 1], 0).into()];
    config.admin.address = None;
    config.log.access = access;
    config.cache.policy.ttl = Duration::from_hours(1);
    for route in &mut config.routes {
        if let Some(policy) = &mut route.cache {
            policy.ttl = Duration::from_hours(1);
        }
    }
    for upstream in config.upstreams.values_mut() {
        upstream.url = format!("http://{address}").parse().expect("an address is an authority");
    }
    raise(&mut config.limits);
    let lines = Lines::to(std::io::sink()).expect("the machine runs threads");
    let setting = Setting { lines, clock: Clock::real(), dice: Dice::seeded(1) };
    let server = Server::start(&config, setting).expect("loopback has free ports");
    let gateway = Arc::new(server.gateway().clone());
    assert_eq!(hit(&gateway).await, StatusCode::OK);
    server
}

fn raise(limits: &mut unitgate::config::Limits) {
    for rate in limits.caller.iter_mut().chain(limits.caller_upstream.iter_mut()) {
        rate.per_second = 1_000_000;
        rate.burst = 1_000_000;
    }
}

const TARGET: &str = "/api/v1/calcom/integration/unit/unit-1";
