//! Purging, as an operator asks for it.

use tracing::info;

use super::Gateway;
use crate::cache::Source;
use crate::cache::generation::Strength;
use crate::cache::purge::{Purge, Purged, Several};

impl Gateway {
    /// Ends what is stored and under way, or makes it stale: still good for stale-if-error and to be asked
    /// about.
    ///
    /// # Errors
    /// When a fingerprint stands for several callers.
    pub fn purge(&self, purge: &Purge, strength: Strength) -> Result<Purged, Several> {
        let mut purged = Purged::default();
        if let Some(scope) = self.0.cache.scope_of(purge)? {
            purged.fetches = self.0.flights.count_of(&scope);
            purged.entries = self.0.cache.purge(&scope, strength);
            if purged != Purged::default() {
                self.metrics().cache_invalidations_total.inc(Source::Purge.as_str());
            }
        }
        let soft = strength == Strength::Soft;
        let Purged { entries, fetches } = purged;
        match purge {
            Purge::Unit(unit) => {
                // Whatever was pasted there: a key is not logged.
                let unit = self.0.masker.target(unit);
                info!(%unit, soft, entries, fetches, "purged");
            }
            Purge::Caller(caller) => info!(%caller, soft, entries, fetches, "purged"),
            Purge::Target(target) => {
                let target = self.0.masker.target(target.as_str());
                info!(%target, soft, entries, fetches, "purged");
            }
            Purge::All => info!(all = true, soft, entries, fetches, "purged"),
        }
        Ok(purged)
    }
}
