//! [`Places`]: how many connections are served, and how many are told to come back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places for connections; clones share them, so that several ports keep one cap.
#[derive(Clone, Debug)]
pub struct Places {
    served: Arc<Semaphore>,
    /// For those that are turned away, while they are told so.
    shed: Arc<Semaphore>,
}

/// Where a connection is.
pub(super) enum Place {
    Served(OwnedSemaphorePermit),
    Shed(OwnedSemaphorePermit),
}

impl Places {
    /// `connections` places, at least one.
    pub fn new(connections: usize) -> Self {
        let served = connections.clamp(1, Semaphore::MAX_PERMITS);
        Self { served: Arc::new(Semaphore::new(served)), shed: Arc::new(Semaphore::new(SHED)) }
    }

    /// Waits until a connection can be accepted, to be served or to be turned away.
    pub(super) async fn any(&self) {
        // The places are never closed, so neither is an error.
        tokio::select! {
            biased;
            place = self.served.acquire() => drop(place),
            place = self.shed.acquire() => drop(place),
        }
    }

    /// A place for a connection that was accepted; `None` where one that was seen has been taken since.
    pub(super) fn take(&self) -> Option<Place> {
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        take(&self.served).map(Place::Served).or_else(|| take(&self.shed).map(Place::Shed))
    }
}

/// Most connections that are being turned away at once: each takes a descriptor and up to a second.
const SHED: usize = 16;
