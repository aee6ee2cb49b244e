//! One signal to stop, one drain deadline, and the tasks that a drain waits for.
//!
//! *Invariants*
//! 1. Every task of the library is spawned here, so that a drain knows what is still under way.
//! 2. Draining begins once and is never taken back.
//! 3. A task that panics is counted out like one that ended.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::wake::until;

/// The process's way to its end; clones share one state.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// The phase is past running; read for each reply, so it is no lock.
    leaving: Arc<AtomicBool>,
    phase: Arc<watch::Sender<Phase>>,
    tasks: Arc<Tasks>,
}

/// What the drain waits for. Counted for each fetch, so it is no channel that looks for listeners each time.
#[derive(Debug, Default)]
struct Tasks {
    count: AtomicUsize,
    none: Notify,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// The signal came: `/readyz` says 503, connections are still accepted for the configured delay.
    Leaving,
    /// Another process has the sockets: nothing is accepted here, connections that are open go on until
    /// their next answer.
    Closing,
    /// Nothing is accepted any more; what is in flight is finished.
    Draining,
}

impl Shutdown {
    /// A process that is running.
    pub fn new() -> Self {
        Self {
            leaving: Arc::default(),
            phase: Arc::new(watch::Sender::new(Phase::Running)),
            tasks: Arc::default(),
        }
    }

    /// How far the end has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether the end has begun: connections are not to be kept.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Moves on to `phase`; a step back is ignored.
    pub fn enter(&self, phase: Phase) {
        self.leaving.fetch_or(phase > Phase::Running, Ordering::Relaxed);
        self.phase.send_if_modified(|now| {
            let ahead = phase > *now;
            if ahead {
                *now = phase;
            }
            ahead
        });
    }

    /// Resolves once nothing is to be accepted any more.
    pub async fn closing(&self) {
        self.reached(Phase::Closing).await;
    }

    /// Resolves once draining has begun.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    async fn reached(&self, least: Phase) {
        let mut phase = self.phase.subscribe();
        // An error would mean that the sender is gone, but we hold it.
        drop(phase.wait_for(|phase| *phase >= least).await);
    }

    /// Runs `work` as a task that the drain waits for.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.spawn_on(&Handle::current(), work)
    }

    /// The same on another runtime than the one that calls.
    pub fn spawn_on<F>(&self, runtime: &Handle, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let tracked = self.track();
        #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
        runtime.spawn(async move {
            let _tracked = tracked;
            work.await
        })
    }

    /// Something the drain waits for until the returned guard is dropped.
    pub fn track(&self) -> Tracked {
        self.tasks.count.fetch_add(1, Ordering::Relaxed);
        Tracked(Arc::clone(&self.tasks))
    }

    /// Tasks and guards that are still there.
    pub fn tracked(&self) -> usize {
        self.tasks.count.load(Ordering::Acquire)
    }

    /// Resolves once nothing is under way any more.
    pub async fn idle(&self) {
        until(&self.tasks.none, || (self.tracked() == 0).then_some(())).await;
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// Something the drain waits for.
#[derive(Debug)]
pub struct Tracked(Arc<Tasks>);

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_a_task_and_no_longer() {
        let shutdown = Shutdown::new();
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let task = shutdown.spawn(async move { gate.await.is_ok() });
        assert_eq!(shutdown.tracked(), 1);
        open.send(()).unwrap();
        shutdown.idle().await;
        assert!(task.await.unwrap());
    }

    #[tokio::test]
    async fn a_task_that_panics_does_not_hold_up_the_drain() {
        let shutdown = Shutdown::new();
        let task = shutdown.spawn(async { panic!("on purpose") });
        assert!(task.await.is_err());
        shutdown.idle().await;
    }

    #[test]
    fn draining_is_never_taken_back() {
        let shutdown = Shutdown::new();
        shutdown.enter(Phase::Draining);
        shutdown.enter(Phase::Leaving);
        assert_eq!(shutdown.phase(), Phase::Draining);
    }
}
