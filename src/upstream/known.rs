//! What is known of one upstream, for as long as it keeps its name and URL: also under other limits.

use std::sync::Arc;

use super::Dial;
use super::guard::Guard;
use super::origin::Origin;
use super::retries::Retries;
use crate::clock::{Clock, Dice};
use crate::config;

/// An upstream, and what was learned of it; clones share that.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) origin: Origin,
    pub(super) guard: Arc<Guard>,
    pub(super) retries: Arc<Retries>,
}

/// What the upstreams are built from beside their configuration.
#[derive(Clone, Debug)]
pub struct Ground {
    /// How many callers each upstream's guard remembers.
    pub callers: usize,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
    /// Who connects; `None` = TCP.
    pub dial: Option<Dial>,
}

impl Known {
    /// Nothing is known yet.
    pub(super) fn new(origin: Origin, limits: &config::Upstream, ground: &Ground) -> Self {
        let Ground { callers, clock, dice, .. } = ground;
        let guard = Guard::new(limits, *callers, clock.clone(), dice.clone());
        Self { origin, guard: Arc::new(guard), retries: Arc::default() }
    }
}
