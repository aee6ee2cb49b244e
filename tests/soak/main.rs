//! A soak: the real binary under mixed load while its upstream fails in turn; run by `tests/soak/run`.
//!
//! *Load*: readers who mostly hit, a writer, callers with bad tokens or none, clients that send half a head, do
//! not read or leave in the middle. *Faults*, each for [`FAULT`] and followed by fair weather: 5xx, resets, answers that
//! drip, a black hole.
//!
//! *Claims*
//! 1. No answer is wrong: its status is one of those expected, its body is the caller's own and of the unit asked
//!    for, nothing older than a completed write, without a key; once an upstream is well for [`SETTLED`], all are 200.
//! 2. Resident memory and descriptors are flat: after a warm-up of a quarter, the median of the last third is at
//!    most that of the first and [`MEMORY_SLACK`] or [`DESCRIPTOR_SLACK`] more. Samples are taken in the quiet ends of
//!    the fair phases, where the same is under way each time.
//! 3. At the end nothing is left under way, SIGTERM ends it with 0, and no line of its log held a key or a token.
#![cfg(test)]

#[path = "../common/http1.rs"]
mod http1;
mod load;
mod process;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::process::{Sample, Unitgate};
use crate::upstream::Fault;

/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(3);

/// How long the upstream is well after it, until everybody is to be served again.
const SETTLED: Duration = Duration::from_secs(5);

/// How long it stays well then.
const QUIET: Duration = Duration::from_millis(1500);

/// How much more memory may be held at the end: what an allocator keeps back varies.
const MEMORY_SLACK: u64 = 6 << 20;

/// How many more descriptors may be open at the end.
const DESCRIPTOR_SLACK: u64 = 12;

/// Between two samples.
const SAMPLING: Duration = Duration::from_millis(250);

/// What all tasks share.
#[derive(Default)]
pub(crate) struct Scene {
    pub(crate) fault: Mutex<Option<Fault>>,
    /// The upstream has been well for long enough.
    pub(crate) settled: AtomicBool,
    pub(crate) over: AtomicBool,
    pub(crate) book: Mutex<load::Book>,
}

impl Scene {
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

#[test]
#[ignore = "takes minutes: tests/soak/run"]
fn under_mixed_load_and_faults_memory_and_descriptors_are_flat_and_no_answer_is_wrong() {
    let minutes = std::env::var("SOAK_MINUTES").map_or(2.0, |text| text.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(soak(Duration::from_secs_f64(minutes * 60.0)));
}

async fn soak(length: Duration) {
    let scene = Arc::new(Scene::default());
    let mut tasks = JoinSet::new();
    let upstream = upstream::start(&mut tasks, Arc::clone(&scene)).await;
    let unitgate = Unitgate::start(upstream);
    let mut clients = load::start(unitgate.address(), &scene);
    let samples = conduct(&scene, &unitgate, length).await;
    scene.over.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let wrong = scene.book.lock().wrong.clone();
    eprintln!("{}", scene.book.lock().summary());
    let flat = judge(&samples);
    let said = unitgate.end().await;
    assert!(wrong.is_empty(), "wrong answers: {wrong:#?}");
    flat.unwrap();
    said.unwrap();
    assert!(scene.book.lock().all_kinds_happened(), "{}", scene.book.lock().summary());
}

/// Goes through the phases and takes samples.
async fn conduct(scene: &Scene, unitgate: &Unitgate, length: Duration) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    for fault in Fault::ALL.into_iter().cycle() {
        if began.elapsed() >= length {
            break;
        }
        *scene.fault.lock() = Some(fault);
        sleep(FAULT).await;
        *scene.fault.lock() = None;
        sleep(SETTLED).await;
        scene.settled.store(true, Ordering::SeqCst);
        let until = Instant::now() + QUIET;
        while Instant::now() < until {
            samples.push(unitgate.sample());
            sleep(SAMPLING).await;
        }
        scene.settled.store(false, Ordering::SeqCst);
    }
    samples
}

/// Whether memory and descriptors are flat.
fn judge(samples: &[Sample]) -> Result<(), String> {
    let warm = &samples[samples.len() / 4..];
    let (first, last) = (&warm[..warm.len() / 3], &warm[warm.len() - warm.len() / 3..]);
    let memory = |part: &[Sample]| median(part.iter().map(|sample| sample.memory).collect());
    let descriptors = |part: &[Sample]| median(part.iter().map(|it| it.descriptors).collect());
    let (memory, descriptors) =
        ([memory(first), memory(last)], [descriptors(first), descriptors(last)]);
    let told = format!(
        "{} samples; memory {} kB, then {} kB; descriptors {}, then {}",
        warm.len(),
        memory[0] >> 10,
        memory[1] >> 10,
        descriptors[0],
        descriptors[1]
    );
    eprintln!("{told}");
    let flat = memory[1] <= memory[0] + MEMORY_SLACK
        && descriptors[1] <= descriptors[0] + DESCRIPTOR_SLACK;
    if flat { Ok(()) } else { Err(told) }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().expect("the soak was long enough for samples")
}

#[test]
fn what_grows_is_noticed() {
    let sample = |step: u64| Sample { memory: (50 << 20) + step * (1 << 20), descriptors: 40 };
    assert!(judge(&(0..40).map(sample).collect::<Vec<_>>()).is_err());
    let leak = |step: u64| Sample { memory: 50 << 20, descriptors: 40 + step };
    assert!(judge(&(0..40).map(leak).collect::<Vec<_>>()).is_err());
    assert!(judge(&[Sample { memory: 50 << 20, descriptors: 40 }; 40]).is_ok());
}
