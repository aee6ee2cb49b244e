//! [`Workers`]: the threads that serve connections, each with a runtime of its own.
//!
//! *Invariants*
//! 1. A connection stays with its worker; a new one goes to the worker that has the fewest.
//! 2. What is shared between workers is shared by the gateway: its cache, flights and limits are one.
//!
//! *Why not one runtime that steals work:* a hit is over before another thread could take it, and the locks
//! and wakes that stealing needs cost each hit some 5 %. *Why not a socket per worker (`SO_REUSEPORT`):* the
//! kernel spreads connections by a hash, and a client with a handful of them would find one worker with most.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::watch;

use crate::shutdown::Shutdown;
use crate::socket::Postman;

/// The threads that serve connections; they end when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Crew>);

#[derive(Debug)]
struct Crew {
    workers: Vec<Worker>,
    /// Dropped with the crew, which ends the threads.
    _stop: watch::Sender<()>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Workers {
    /// The runtime that calls, and no threads.
    pub fn here() -> Self {
        let runtime = Handle::current();
        // Else its tasks are at home on no thread, and each write goes out by itself.
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            employ(&runtime);
        }
        Self::of(vec![runtime], watch::Sender::new(()))
    }

    /// That many threads, at least one.
    ///
    /// # Errors
    /// The machine refuses a thread or what a runtime needs.
    pub fn start(threads: usize) -> io::Result<Self> {
        let stop = watch::Sender::new(());
        let started = (1..=threads.max(1)).map(|number| start(number, stop.subscribe()));
        let handles = started.collect::<io::Result<_>>()?;
        Ok(Self::of(handles, stop))
    }

    /// What tells whether they all turn.
    pub fn pulse(&self, shutdown: &Shutdown) -> Pulse {
        Pulse { workers: self.clone(), shutdown: shutdown.clone() }
    }

    fn of(runtimes: Vec<Handle>, stop: watch::Sender<()>) -> Self {
        let worker = |runtime| Worker { runtime, connections: Arc::default() };
        let workers = runtimes.into_iter().map(worker).collect();
        Self(Arc::new(Crew { workers, _stop: stop }))
    }

    /// A place at the worker with the fewest connections. `None` never happens: there is a worker.
    pub(super) fn seat(&self) -> Option<Seat> {
        let least = self.0.workers.iter().min_by_key(|worker| worker.connections.load(Relaxed))?;
        least.connections.fetch_add(1, Relaxed);
        Some(Seat { runtime: least.runtime.clone(), connections: Arc::clone(&least.connections) })
    }
}

/// Whether the workers turn; keeps them alive.
#[derive(Clone, Debug)]
pub struct Pulse {
    workers: Workers,
    shutdown: Shutdown,
}

impl Pulse {
    /// Resolves once each worker has run a task that was given to it now; never while one is wedged.
    pub async fn beat(&self) {
        let beats: Vec<_> = self.workers.0.workers.iter().map(|worker| &worker.runtime).collect();
        let beats: Vec<_> =
            beats.into_iter().map(|runtime| self.shutdown.spawn_on(runtime, async {})).collect();
        for beat in beats {
            if beat.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A connection's place at a worker, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

fn start(number: usize, mut stop: watch::Receiver<()>) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS_AT_ONCE)
        .build()?;
    let handle = runtime.handle().clone();
    employ(&handle);
    thread::Builder::new().name(format!("unitgate-{number}")).spawn(move || {
        // An error says that the crew is gone.
        runtime.block_on(async { while stop.changed().await.is_ok() {} });
        // A name that is still being resolved must not hold up the exit.
        runtime.shutdown_background();
    })?;
    Ok(handle)
}

/// Has what connections put off be sent, for as long as the runtime lasts.
fn employ(runtime: &Handle) {
    #[expect(clippy::disallowed_methods, reason = "it never ends, and no drain is to wait for it")]
    drop(runtime.spawn(Postman::default()));
}

/// Connections that are served before what they began is: of hundreds that ask for the same at once, the first
/// should be on its way to the upstream before the last has been read.
const EVENTS_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_beat_waits_for_a_worker_that_is_wedged() {
        let workers = Workers::start(2).unwrap();
        let pulse = workers.pulse(&Shutdown::new());
        pulse.beat().await;
        let (free, wedge) = std::sync::mpsc::channel::<()>();
        let (wedged, told) = tokio::sync::oneshot::channel();
        let runtime = &workers.0.workers[1].runtime;
        drop(Shutdown::new().spawn_on(runtime, async move {
            wedged.send(()).unwrap();
            wedge.recv().unwrap_err();
        }));
        told.await.unwrap();
        let minute = std::time::Duration::from_mins(1);
        assert!(tokio::time::timeout(minute, pulse.beat()).await.is_err());
        drop(free);
        pulse.beat().await;
    }

    #[test]
    fn connections_are_spread_evenly_and_a_worker_that_lost_one_gets_the_next() {
        let workers = Workers::start(3).unwrap();
        let mut seats: Vec<_> = (0..6).filter_map(|_| workers.seat()).collect();
        let loads =
            || workers.0.workers.iter().map(|w| w.connections.load(Relaxed)).collect::<Vec<_>>();
        assert_eq!(loads(), [2, 2, 2]);
        seats.remove(1);
        assert_eq!(loads(), [2, 1, 2]);
        seats.extend(workers.seat());
        assert_eq!(loads(), [2, 2, 2]);
    }

    #[test]
    fn each_worker_is_a_thread_of_its_own_that_ends_with_the_crew() {
        let workers = Workers::start(2).unwrap();
        let tasks = Shutdown::new();
        let named = |seat: &Seat| {
            let (told, name) = std::sync::mpsc::channel();
            let tell = async move { told.send(thread::current().name().map(str::to_owned)) };
            drop(tasks.spawn_on(&seat.runtime, tell));
            name.recv().unwrap().unwrap()
        };
        let seats: Vec<_> = (0..2).filter_map(|_| workers.seat()).collect();
        assert_eq!(seats.iter().map(named).collect::<Vec<_>>(), ["unitgate-1", "unitgate-2"]);
        let (held, gone) = std::sync::mpsc::channel::<()>();
        let forever = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        drop(tasks.spawn_on(&seats[0].runtime, forever));
        drop(workers);
        // The task went with its runtime.
        assert!(gone.recv().is_err());
    }
}
