//! Purging, as an operator asks for it.

use tracing::info;

use super::Gateway;
use crate::cache::Source;
use crate::cache::generation::Strength;
use crate::cache::purge::{Purge, Purged, Several};
use crate::unit::is_unit_id;

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
            // Whatever was pasted there, no secret is logged.
            Purge::Unit(unit) if is_unit_id(unit.as_bytes()) => {
                let unit = self.0.follows.masker.target(unit);
                info!(%unit, soft, entries, fetches, "purged");
            }
            Purge::Unit(_no_id) => info!(soft, entries, fetches, "nothing to purge: no unit's id"),
            Purge::Caller(digits) => {
                let caller = digits.get(..FINGERPRINT).unwrap_or_default();
                info!(%caller, soft, entries, fetches, "purged");
            }
            Purge::Target(target) => {
                let target = self.0.follows.masker.target(target.as_str());
                info!(%target, soft, entries, fetches, "purged");
            }
            Purge::All => info!(all = true, soft, entries, fetches, "purged"),
        }
        Ok(purged)
    }
}

/// Digits by which logs know a caller.
const FINGERPRINT: usize = 12;
