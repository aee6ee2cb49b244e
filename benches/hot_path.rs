//! The pieces of a hit, and a whole hit through [`Current::handle`] without sockets; allocations as well
//! as time.
//!
//! `cargo bench --bench hot_path`. The first lines count allocations, the rest is time.

use std::hint::black_box;
use std::io::Write;

use criterion::Criterion;
use http::{Method, StatusCode, Uri};
use tokio::runtime::Runtime;
use unitgate::cache::policy::CacheStatus;
use unitgate::caller::{Callers, LastCaller};
use unitgate::clock::Clock;
use unitgate::config::{AccessLog, Config};
use unitgate::gateway::{Current, Session};
use unitgate::limit::Limits;
use unitgate::route::Routes;
use unitgate::server::Server;

use support::gate::{self, TARGET, gateway, raise};

mod support;

fn main() {
    let runtime = Runtime::new().expect("the machine runs threads");
    let gateway = |access| runtime.block_on(gateway(access, std::io::sink()));
    let (server, quiet) = (gateway(AccessLog::All), gateway(AccessLog::Off));
    let session = gate::session();
    for (name, server) in [("log on", &server), ("log off", &quiet)] {
        runtime.block_on(hit(server.gateway(), &session));
        let counted = allocation_counter::measure(|| {
            runtime.block_on(hit(server.gateway(), &session));
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
    let session = gate::session();
    for (name, server) in [("access log on", server), ("access log off", quiet)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(hit(black_box(server.gateway()), &session)));
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
    let fields = gate::request(TARGET).headers().clone();
    group.bench_function("identify", |bencher| {
        bencher.iter(|| callers.identify(black_box(&fields), &LastCaller::default()));
    });
    let last = LastCaller::default();
    group.bench_function("identify again", |bencher| {
        bencher.iter(|| callers.identify(black_box(&fields), &last));
    });
    let routes = Routes::new(&config);
    let uri = Uri::from_static(TARGET);
    group.bench_function("route", |bencher| {
        bencher.iter(|| routes.resolve(&Method::GET, black_box(&uri)).is_ok());
    });
    let mut unlimited = config.limits;
    raise(&mut unlimited);
    let limits = Limits::new(&unlimited, &[None], clock.mono());
    let caller = callers.identify(&fields, &last).expect("the request has a token");
    group.bench_function("admit", |bencher| {
        bencher.iter(|| limits.admit(black_box(&caller.id), 0, clock.mono()).is_ok());
    });
    group.bench_function("cache-status", |bencher| {
        bencher.iter(|| CacheStatus::hit(black_box(42)).member("unitgate"));
    });
    group.bench_function("header map clone", |bencher| bencher.iter(|| black_box(&fields).clone()));
    group.finish();
}

async fn hit(gateway: &Current, session: &Session) -> StatusCode {
    gate::answered(gateway, session, gate::request(TARGET)).await.status()
}
