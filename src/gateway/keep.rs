//! What of a composed answer may be kept, for how long, and what its readers are told of that.
//!
//! *Invariants*
//! 1. A client is never told to keep what was not kept here, nor past the end of its own token.
//! 2. Fields that the upstream meant for who asked are kept for nobody else.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, EXPIRES, VARY};
use http::{HeaderName, HeaderValue, Method};

use super::compose::{Composed, OWN_TARGET};
use super::fetch::Job;
use crate::cache::fields::{Fields, detached};
use crate::cache::generation::Stamp;
use crate::cache::policy::{self, Life, NotStored, Validators, Variant};
use crate::cache::stored::{KeyRef, Owner, Stored, Unshown};
use crate::cache::times::Times;
use crate::caller::CallerId;
use crate::clock::Now;

/// An answer that was judged.
pub(super) struct Judged {
    pub(super) stored: Stored,
    /// What of its fields others may see, where that is not all.
    pub(super) shareable: Option<Fields>,
    /// Whether it may be kept.
    pub(super) verdict: Result<(), NotStored>,
}

impl Composed {
    /// The answer with its owner and its life, and whether it may be kept.
    pub(super) fn judged(mut self, job: &Job, stamp: Stamp) -> Judged {
        let plan = job.gateway.plan_at(job.route);
        let dice = &job.gateway.0.dice;
        let rules = plan.rules_with(|ttl| dice.shorten(ttl, plan.jitter));
        let (asked, method) = (&job.selecting, &Method::GET);
        let judged = policy::judge(&rules, method, asked, self.status, &self.ruling, &self.times)
            .and_then(|life| within_token(life, job.token_expires, &self.received))
            // RFC 9111 §3.3.
            .and_then(|life| if self.whole { Ok(life) } else { Err(NotStored::Partial) });
        if judged.is_ok() {
            self.body = job.gateway.0.bodies.shared(&self.body);
        }
        let life = judged.unwrap_or(UNKEPT);
        let variant = Variant::of(&self.ruling, &job.selecting).unwrap_or_default();
        // RFC 9111 §5.2.2.4 and §5.2.2.7: fields that are for who asked, but for nobody else.
        let shareable = (*job.key.owner() == Owner::Open)
            .then(|| policy::fields_to_store(&rules, &self.ruling, &self.shown))
            .filter(|shareable| shareable.len() != self.shown.len())
            .map(|shareable| Fields::about(job.key.target(), &shareable));
        let ends = job.token_expires;
        let KeyRef { route, target, .. } = job.key.as_ref();
        let stored = Stored {
            route,
            made_under: plan.made_under,
            ..self.into_stored(stamp, target, &life, ends, variant, judged.is_ok())
        };
        Judged { stored, shareable, verdict: judged.map(|_life| ()) }
    }

    /// The answer as nobody may keep it.
    pub(super) fn unkept(self, owner: Option<CallerId>) -> Arc<Stored> {
        let stamp = Stamp::unkept(owner);
        Arc::new(self.into_stored(stamp, "", &UNKEPT, None, Variant::default(), false))
    }

    fn into_stored(
        mut self,
        stamp: Stamp,
        target: &str,
        life: &Life,
        token_expires: Option<Duration>,
        variant: Variant,
        kept: bool,
    ) -> Stored {
        let hidden = RULING.iter().filter(|name| !self.shown.contains_key(*name));
        let hidden = hidden
            .flat_map(|name| self.ruling.get_all(name).iter().map(move |value| (name, value)));
        let hidden = Fields::about("", hidden);
        if stamp.caller().is_some() {
            self.shown.insert(CACHE_CONTROL, cache_control(life, kept));
            // A client's own cache must not mix the answers to two of its tokens.
            self.shown.insert(VARY, HeaderValue::from(AUTHORIZATION));
        }
        let validators = own_validators(&self.validators);
        Stored {
            stamp,
            route: 0,
            made_under: 0,
            status: self.status,
            fields: Fields::about(target, &self.shown),
            // What nobody keeps counts until its last reader has it.
            body: if kept { self.body } else { self.body.keeping(self.share) },
            fields_masked: self.facts.fields_masked,
            times: Times::new(&self.received, life, token_expires),
            unshown: Unshown { fields: hidden, validators, variant }.boxed(),
        }
    }
}

/// The life of an answer to a token that ends: not a moment longer than the token's (RFC 7519 §4.1.4).
fn within_token(life: Life, end: Option<Duration>, received: &Now) -> Result<Life, NotStored> {
    let Some(end) = end else { return Ok(life) };
    let left = end.saturating_sub(received.wall);
    if left.is_zero() {
        return Err(NotStored::TokenEnded);
    }
    Ok(Life { lifetime: life.lifetime.min(life.initial_age.saturating_add(left)), ..life })
}

/// The same validators in memory of their own.
fn own_validators(validators: &Validators) -> Validators {
    Validators {
        etag: validators.etag.as_ref().map(detached),
        last_modified: validators.last_modified.as_ref().map(detached),
    }
}

/// An answer that could not be kept after all: a client's own cache must not keep it either.
pub(super) fn disowned(stored: Arc<Stored>) -> Arc<Stored> {
    match Arc::try_unwrap(stored) {
        Ok(stored) if stored.owner() != Owner::Open => {
            let fields = stored.fields.with(&CACHE_CONTROL, cache_control(&UNKEPT, false));
            Arc::new(Stored { fields, ..stored })
        }
        Ok(stored) => Arc::new(stored),
        Err(shared) => shared,
    }
}

/// The whole lifetime; the client subtracts the `Age` beside it (RFC 9111 §4.2.3).
fn cache_control(life: &Life, kept: bool) -> HeaderValue {
    if !kept {
        return HeaderValue::from_static("private, no-store");
    }
    let (mut digits, seconds) = (itoa::Buffer::new(), life.lifetime.as_secs());
    let strict = if life.stale_forbidden { ", must-revalidate" } else { "" };
    HeaderValue::try_from(["private, max-age=", digits.format(seconds), strict].concat())
        .unwrap_or_else(|_impossible| HeaderValue::from_static("private, no-store"))
}

/// The upstream's fields that rule reuse (RFC 9111 §5): kept for the next 304 where they are not shown.
static RULING: [HeaderName; 4] = [CACHE_CONTROL, EXPIRES, VARY, OWN_TARGET];

/// The life of what is not kept.
const UNKEPT: Life = Life {
    lifetime: Duration::ZERO,
    initial_age: Duration::ZERO,
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    keep: Duration::ZERO,
    explicit: false,
    stale_forbidden: true,
};
