//! The whole gateway in a simulated network: clients, a gateway and an upstream on hosts of their own,
//! with delay, loss, partitions, crashes, an upstream that misbehaves and tokens that are revoked.
//!
//! *Claims*, whatever happens in whatever order
//! 1. A caller never receives bytes that were fetched with another one's token, nor another one's reply.
//! 2. At most one upstream request per key and generation is in flight.
//! 3. Nothing is served past its windows, nor anything fetched before a completed write, purge or 401 to
//!    whoever asks after it.
//! 4. No raw secret is in anything that a client receives, nor in a line of the log.
//! 5. Every exchange is recorded exactly once.
//! 6. Once the network and the upstream are well again, so is every caller within [`RECOVERY`].
//!
//! *Time* is the simulation's: tokio's is paused and moved by turmoil, our clock is moved along with it.
//! There is no real socket, so nothing waits for the machine. *Chance* is drawn from the seed, so the same
//! seed is the same story, but where callers have two connections each (every fourth seed): in which order
//! tokio wakes those who wait for one thing is its own chance, which turmoil seeds only under
//! `RUSTFLAGS='--cfg tokio_unstable'`. Without that such a seed may have to be run a few times.
//!
//!
//! ```sh
//! cargo test --test sim                     # a few hundred seeds
//! SIM_SEEDS=5000 cargo test --test sim      # more
//! SIM_SEED=17 cargo test --test sim -- --nocapture the_invariants    # one, told step by step
//! ```
#![cfg(test)]

#[path = "../common/capture.rs"]
mod capture;
mod client;
#[path = "../common/http1.rs"]
mod http1;
mod network;
mod tap;
mod upstream;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::network::Run;

/// Seeds of a run that says nothing else.
const SEEDS: u64 = 200;

/// How long the trouble lasts, in simulated time.
const TROUBLE: Duration = Duration::from_secs(8);

/// How soon everybody is served again after it.
const RECOVERY: Duration = Duration::from_secs(8);

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("a number"))
}

/// Runs one seed to its end; says how it went, and says how to run it again when it failed.
fn run(seed: u64) -> Run {
    let told = catch_unwind(AssertUnwindSafe(|| Run::of(seed)));
    let run = told.unwrap_or_else(|_| panic!("{}", again(seed)));
    assert!(run.wrong.is_empty(), "{}\n{}\n{}", run.story(), run.wrong.join("\n"), again(seed));
    run
}

fn again(seed: u64) -> String {
    format!(
        "seed {seed}; again with: SIM_SEED={seed} cargo test --test sim -- --nocapture the_invariants"
    )
}

#[test]
fn the_invariants_hold_whatever_the_network_does() {
    if let Some(seed) = number("SIM_SEED") {
        eprintln!("{}", run(seed).story());
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let mut tally = world::Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return tally;
                }
                tally.add(&run(seed).tally);
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut all = world::Tally::default();
    for tally in tallies {
        all.add(&tally.unwrap_or_else(|told| std::panic::resume_unwind(told)));
    }
    eprintln!("{seeds} seeds: {all:?}");
    // A simulation in which nothing happens proves nothing.
    if seeds >= 100 {
        all.expect_something_of_everything();
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in (0..10).filter(|seed| !network::has_pairs(*seed)) {
        let (once, again) = (run(seed).story(), run(seed).story());
        let differs = once.lines().zip(again.lines()).find(|(once, again)| once != again);
        assert_eq!((differs, once.len()), (None, again.len()), "seed {seed}");
    }
}
