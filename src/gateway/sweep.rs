//! What nobody can use any more is let go of, beside the requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Gateway;
use crate::cache::Cache;
use crate::clock::Clock;

impl Gateway {
    /// Drops what is past its last window, under this and every later configuration, until the drain begins.
    pub fn sweeping(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = &self.0;
        let sweeping = sweep(Arc::clone(&shared.cache), shared.clock.clone());
        let shutdown = shared.shutdown.clone();
        async move {
            tokio::select! {
                () = shutdown.draining() => {}
                () = sweeping => {}
            }
        }
    }
}

async fn sweep(cache: Arc<Cache>, clock: Clock) {
    loop {
        sleep(EVERY).await;
        let mut sweep = cache.sweep();
        while sweep.step(&clock.now()) {
            sleep(REST).await;
        }
    }
}

/// From the end of a sweep to the next one.
const EVERY: Duration = Duration::from_mins(1);

/// After each step, so that a million entries take a few percent of a core while they are looked at.
const REST: Duration = Duration::from_millis(1);
