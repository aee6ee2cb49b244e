//! [`Plan`]: what follows from one route's configuration, worked out once.
//!
//! *Invariants*
//! 1. `made_under` changes with everything that shapes a stored answer, or says whose it is and what ends it:
//!    the upstream it came from, the masker, the fields that pass, what may be stored against the upstream's
//!    word, the path and the family. An entry made under another one is a miss.
//! 2. An answer that was asked for under a plan that was superseded is not stored.
//!
//! *Not in it:* lifetimes. What is stored keeps the life it was given; a purge ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rates::Told;
use crate::cache::policy::{Heuristic, Partition, Rules};
use crate::config::{CachePolicy, CallerMode, Config, SecretsMode};
use crate::route::Route;
use crate::telemetry::Rarely;
use crate::upstream::Upstreams;

/// One route's policy, ready to use.
#[derive(Debug)]
pub(super) struct Plan {
    /// Index of the route's upstream.
    pub(super) upstream: usize,
    /// What may be stored, and for how long.
    pub(super) rules: Rules,
    /// Part by which lifetimes of our own are shortened at random.
    pub(super) jitter: f64,
    /// Fingerprint of the configuration that shapes its answers.
    pub(super) made_under: u64,
    /// Whether another configuration took its place; shared by all plans of a route that are alike in
    /// `made_under`.
    superseded: Arc<AtomicBool>,
    /// What its replies say of the caller's rate.
    pub(super) told: Option<Told>,
    /// When a failure of its upstream was last told.
    pub(super) failures: Rarely,
    /// When a body of it that can't be proven masked was last told.
    pub(super) unproven: Rarely,
    /// When its upstream's clock was last compared with ours.
    pub(super) skew: Rarely,
}

impl Plan {
    pub(super) fn of(route: &Route, config: &Config, upstreams: &Upstreams, masker: u64) -> Self {
        let name = &route.config.upstream;
        let policy = route.cache().unwrap_or(&config.cache.policy);
        let partition = match route.config.caller {
            CallerMode::Token => Partition::Private,
            CallerMode::Open => Partition::Shared,
        };
        Self {
            upstream: upstreams.index(name).unwrap_or_default(),
            rules: rules(policy, partition),
            jitter: policy.jitter,
            made_under: made_under(route, policy, config, masker),
            superseded: Arc::default(),
            told: route.config.rate.or(config.limits.caller).map(Told::of),
            failures: Rarely::new(),
            unproven: Rarely::new(),
            skew: Rarely::new(),
        }
    }

    /// Whether what is asked for under it may still be stored.
    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// It is of the same route as `last`, whose answers are its own where nothing that shapes them changed.
    pub(super) fn follow(&mut self, last: &Self) {
        if self.made_under == last.made_under {
            self.superseded = Arc::clone(&last.superseded);
        }
    }

    /// Another configuration is about to be in force, with these plans.
    pub(super) fn give_way(&self, next: &[Self]) {
        if !next.iter().any(|next| Arc::ptr_eq(&next.superseded, &self.superseded)) {
            self.superseded.store(true, Ordering::Release);
        }
    }

    /// The rules with the route's own lifetimes shortened to `part` of the jitter drawn.
    pub(super) fn rules_with(&self, shorten: impl Fn(Duration) -> Duration) -> Rules {
        let mut rules = self.rules.clone();
        rules.default_ttl = rules.default_ttl.map(&shorten);
        rules.negative_ttl = rules.negative_ttl.map(shorten);
        rules
    }
}

fn rules(policy: &CachePolicy, partition: Partition) -> Rules {
    let set = |ttl: Duration| (!ttl.is_zero()).then_some(ttl);
    let shared = partition == Partition::Shared;
    // The configured windows follow each other: stale-if-error begins where stale-while-revalidate ends.
    // The rules count both from the end of the lifetime, as RFC 5861 does.
    let stale_if_error = set(policy.stale_if_error)
        .map_or(Duration::ZERO, |window| policy.stale_while_revalidate.saturating_add(window));
    Rules {
        partition,
        default_ttl: set(policy.ttl),
        negative_ttl: set(policy.negative_ttl),
        max_ttl: policy.max_ttl,
        stale_while_revalidate: policy.stale_while_revalidate,
        stale_if_error,
        stale_directives: true,
        keep: policy.keep,
        heuristic: (shared && policy.heuristic)
            .then_some(Heuristic { fraction: HEURISTIC_FRACTION, cap: policy.max_ttl.min(DAY) }),
        store_no_store: policy.store_no_store,
        request_directives: policy.request_directives,
        targets: if shared { policy.targeted.clone() } else { Vec::new() },
        store_set_cookie: policy.store_set_cookie,
    }
}

fn made_under(route: &Route, policy: &CachePolicy, config: &Config, masker: u64) -> u64 {
    let mut hash = blake3::Hasher::new();
    let url = config.upstreams.get(&route.config.upstream).map(|upstream| upstream.url.to_string());
    let family = route.config.family.as_deref().unwrap_or_default();
    for text in [&url.unwrap_or_default(), &route.config.name, &route.config.path, family] {
        hash.update(&text.len().to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(FIELDS_VERSION);
    hash.update(&masker.to_le_bytes());
    hash.update(&[
        u8::from(route.config.secrets == SecretsMode::Mask),
        u8::from(route.forwards_all()),
        u8::from(route.wants_token()),
        u8::from(policy.store_no_store),
        u8::from(policy.store_set_cookie),
    ]);
    let digest = hash.finalize();
    let (first, _) = digest.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*first)
}

/// Changes when the lists of fields that pass do.
const FIELDS_VERSION: &[u8] = b"unitgate fields 1";

/// Longest heuristic lifetime: a guess is asked about once a day.
const DAY: Duration = Duration::from_hours(24);

/// RFC 9111 §4.2.2 suggests a tenth of the time since the last modification.
const HEURISTIC_FRACTION: f64 = 0.1;
