//! What of a composed answer may be kept, for how long, and what its readers are told of that.
//!
//! *Invariants*
//! 1. A client is never told to keep what was not kept here, nor past the end of its own token.
//! 2. Fields that the upstream meant for who asked are kept for nobody else.

use std::mem;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, EXPIRES, VARY};
use http::{HeaderName, HeaderValue, Method};

use super::compose::{Composed, OWN_TARGET};
use super::fetch::Job;
use crate::cache::Held;
use crate::cache::fields::{About, Fields, Terms, detached};
use crate::cache::generation::Stamp;
use crate::cache::policy::{self, Life, NotStored, Validators, Variant};
use crate::cache::stored::{KeyRef, Owner, Stored, Unshown};
use crate::cache::times::{Times, Windows};
use crate::caller::CallerId;
use crate::clock::Now;
use crate::numbered;

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
        // First: the fields are kept as those of this body.
        if judged.is_ok() {
            self.body = job.gateway.0.bodies.shared(&self.body, self.tag);
        } else {
            self.hold_share();
        }
        let life = judged.unwrap_or(UNKEPT);
        let variant = Variant::of(&self.ruling, &job.selecting).unwrap_or_default();
        let KeyRef { route, target, .. } = job.key.as_ref();
        let (made_under, windows) = (plan.made_under, Windows::from(&life));
        let about = About {
            terms: Terms { route, made_under, status: self.status, windows },
            target,
            prefix: job.gateway.route_at(job.route).begins_with(),
            fields_masked: self.facts.fields_masked,
        };
        // RFC 9111 §5.2.2.4 and §5.2.2.7: fields that are for who asked, but for nobody else.
        let shareable = (*job.key.owner() == Owner::Open)
            .then(|| policy::fields_to_store(&rules, &self.ruling, &self.shown))
            .filter(|shareable| shareable.len() != self.shown.len())
            .map(|shareable| Fields::of(&about, &self.body, &shareable));
        let ends = job.token_expires;
        let stored = self.into_stored(stamp, &about, &life, ends, variant, judged.is_ok());
        Judged { stored, shareable, verdict: judged.map(|_life| ()) }
    }

    /// The answer as nobody may keep it.
    pub(super) fn unkept(mut self, owner: Option<CallerId>) -> Held {
        let terms =
            Terms { status: self.status, windows: Windows::from(&UNKEPT), ..Terms::default() };
        let fields_masked = self.facts.fields_masked;
        let about = About { terms, fields_masked, ..About::default() };
        let stamp = Stamp::unkept(owner);
        self.hold_share();
        Held::new(self.into_stored(stamp, &about, &UNKEPT, None, Variant::default(), false))
    }

    /// What nobody keeps counts until its last reader has it.
    fn hold_share(&mut self) {
        let share = mem::take(&mut self.share);
        self.body = self.body.clone().keeping(share);
    }

    fn into_stored(
        mut self,
        stamp: Stamp,
        about: &About<'_>,
        life: &Life,
        token_expires: Option<Duration>,
        variant: Variant,
        kept: bool,
    ) -> Stored {
        let is_hidden = |name| RULING.contains(name) && !self.shown.contains_key(name);
        let hidden = Fields::hidden(self.ruling.iter().filter(|(name, _)| is_hidden(*name)));
        if stamp.caller().is_some() {
            self.shown.insert(CACHE_CONTROL, cache_control(life, kept));
            // A client's own cache must not mix the answers to two of its tokens.
            self.shown.insert(VARY, HeaderValue::from(AUTHORIZATION));
        }
        let validators = own_validators(&self.validators);
        Stored {
            stamp,
            fields: Fields::of(about, &self.body, &self.shown),
            body: self.body,
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
pub(super) fn disowned(stored: &Stored) -> Held {
    let fields = stored.lines().with(&CACHE_CONTROL, cache_control(&UNKEPT, false));
    Held::new(Stored { fields, ..stored.clone() })
}

/// The whole lifetime; the client subtracts the `Age` beside it (RFC 9111 §4.2.3).
fn cache_control(life: &Life, kept: bool) -> HeaderValue {
    if !kept {
        return HeaderValue::from_static("private, no-store");
    }
    // More than 136 years are that long.
    let seconds = u32::try_from(life.lifetime.as_secs()).unwrap_or(u32::MAX);
    let max_age = numbered::max_age(seconds);
    if !life.stale_forbidden {
        return max_age;
    }
    HeaderValue::from_maybe_shared([max_age.as_bytes(), b", must-revalidate"].concat())
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
