//! Instructions of a hit, a miss and masking, counted under valgrind: the same on a busy machine.
//!
//! `cargo bench --bench instructions`, which needs valgrind and `gungraun-runner` of the same version as
//! the library (`benches/instructions.sh` sees to both). A count above its limit fails the run: find out
//! why, and raise a limit only for what is worth it.

#![allow(unused_qualifications, missing_docs, reason = "what the macros make of it")]

use std::hint::black_box;

use bytes::Bytes;
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use http::{Request, Response};
use http_body_util::Full;
use tokio::runtime::Runtime;
use unitgate::config::{AccessLog, Config};
use unitgate::mask::Masker;
use unitgate::server::Server;

use support::gate;

mod support;

/// Requests that wait to be answered by a gateway.
struct Prepared {
    runtime: Runtime,
    server: Server,
    requests: Vec<Request<Full<Bytes>>>,
}

impl Prepared {
    fn new(access: AccessLog, targets: impl Iterator<Item = String>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the machine runs a runtime");
        let server = runtime.block_on(gate::gateway(access));
        let requests = targets.map(|target| gate::request(&target)).collect();
        let prepared = Self { runtime, server, requests };
        prepared
            .runtime
            .block_on(gate::answered(prepared.server.gateway(), gate::request(gate::TARGET)));
        prepared
    }

    /// Everything is given back, so that ending it is not counted.
    fn answered(mut self) -> (Self, Option<Response<Full<Bytes>>>) {
        let mut last = None;
        for request in std::mem::take(&mut self.requests) {
            last = Some(self.runtime.block_on(gate::answered(self.server.gateway(), request)));
        }
        (self, last)
    }
}

fn hits(access: AccessLog) -> Prepared {
    Prepared::new(access, std::iter::repeat_n(gate::TARGET.to_owned(), MANY))
}

fn misses() -> Prepared {
    Prepared::new(AccessLog::Off, (0..MANY).map(|unit| format!("{}{unit}", gate::TARGET)))
}

#[library_benchmark]
#[bench::log_off(args = (AccessLog::Off), setup = hits)]
#[bench::log_on(args = (AccessLog::All), setup = hits)]
fn hundred_hits(prepared: Prepared) -> (Prepared, Option<Response<Full<Bytes>>>) {
    black_box(prepared.answered())
}

#[library_benchmark(setup = misses)]
#[bench::log_off()]
fn hundred_misses(prepared: Prepared) -> (Prepared, Option<Response<Full<Bytes>>>) {
    black_box(prepared.answered())
}

fn bodies(masked: bool) -> (Masker, Bytes) {
    let masker = Masker::new(&Config::default().secrets, &[]);
    let one = String::from_utf8(support::answer().to_vec()).expect("it is text");
    let mask = format!("cal_{}", "*".repeat(16));
    let key = if masked { mask.clone() } else { ["cal_live_", &"a1".repeat(8)].concat() };
    let many = vec![one.replace(&mask, &key); 12].join(",");
    (masker, Bytes::from(format!("[{many}]")))
}

#[library_benchmark]
#[bench::masked(args = (true), setup = bodies)]
#[bench::unmasked(args = (false), setup = bodies)]
fn sixteen_kilobytes((masker, body): (Masker, Bytes)) -> bool {
    black_box(masker.json(body)).is_ok()
}

const MANY: usize = 100;

/// Most instructions, with some room for what differs between machines.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(
        Callgrind::with_args(["--cache-sim=no"]).hard_limits([(EventKind::Ir, instructions)]),
    );
    config
}

library_benchmark_group!(name = hit, benchmarks = hundred_hits);
library_benchmark_group!(name = miss, benchmarks = hundred_misses);
library_benchmark_group!(name = mask, benchmarks = sixteen_kilobytes);

main!(config = at_most(u64::MAX), library_benchmark_groups = [hit, miss, mask]);
