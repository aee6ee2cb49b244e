//! Straight upstream: routes without a cache, and writes.
//!
//! *Invariants*
//! 1. Nothing is looked up, joined or stored here.
//! 2. A write runs to its end when its client leaves; it is never coalesced, nor sent twice.
//! 3. A write is answered only after what it made old has been invalidated: whoever asks after a
//!    completed write never gets bytes fetched before it.
//! 4. A write whose secret field holds a mask goes nowhere: our own masking must not lead a client to
//!    overwrite the real secret.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, StatusCode};

use super::compose::{Asking, Composed};
use super::fetch::{Failed, TripFacts};
use super::inbound::Payload;
use super::reply::Reply;
use super::{Asked, Gateway};
use crate::cache::generation::{Scope, Strength};
use crate::cache::policy::{Forward, Validators};
use crate::cache::stored::{Owner, Stored, detached};
use crate::cache::{Invalidation, Source, unit_scope};
use crate::caller::{Caller, CallerId};
use crate::error::Error;
use crate::telemetry::Cause;
use crate::upstream::fields::{self, Codings, Marks};
use crate::upstream::{Ask, Kind, Sent};

/// A request on its way straight upstream, detached from its client.
struct Errand {
    gateway: Gateway,
    route: u16,
    target: String,
    caller: Option<CallerId>,
    peer: IpAddr,
    ask: Ask,
    asking: Asking,
    unit: Option<String>,
}

impl Gateway {
    /// Sends a request straight upstream.
    pub(super) async fn forward<B: Payload>(
        &self,
        asked: Asked<'_, '_, B>,
        caller: Option<&Caller>,
        why: Forward,
    ) -> Result<Reply, Error> {
        asked.account.forward = Some(why);
        let body = if asked.inbound.is_safe_read() {
            Bytes::new()
        } else {
            self.guarded_body(&asked).await?
        };
        let errand = self.errand(&asked, caller, body);
        // A task of its own: a client that leaves must not leave a write half done, nor an answer that
        // revokes its token unheard.
        let run = self.0.shutdown.spawn(errand.run()).await;
        match run.unwrap_or_else(|_panicked| Err(Error::Lost.into())) {
            Ok((stored, trip)) => Ok(Reply::forwarded(stored, why, trip)),
            Err(failed) => {
                asked.account.trip = failed.trip;
                Err(failed.error)
            }
        }
    }

    /// The body of a write, after a look for masks under secret names.
    async fn guarded_body<B: Payload>(&self, asked: &Asked<'_, '_, B>) -> Result<Bytes, Error> {
        let route = asked.matched.route;
        let coded = asked.inbound.fields().contains_key(CONTENT_ENCODING);
        if coded && !route.forwards_all() {
            return Err(Error::BodyCoded);
        }
        let body = asked.inbound.read_body(self).await?;
        // What is not JSON holds no member that could be a mask; the upstream will judge it.
        let json = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&body);
        if route.config.refuse_masked_write && self.0.masker.masked_secret(json).unwrap_or(false) {
            return Err(Error::MaskedSecretInWrite);
        }
        Ok(body)
    }

    fn errand<B>(&self, asked: &Asked<'_, '_, B>, caller: Option<&Caller>, body: Bytes) -> Errand {
        let fields = asked.inbound.fields();
        let conditional = asked.matched.route.forwards_all()
            && !asked.matched.route.masks()
            && [RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE]
                .iter()
                .any(|name| fields.contains_key(name));
        Errand {
            gateway: self.clone(),
            route: asked.matched.route.index,
            target: asked.matched.target.to_owned(),
            caller: caller.map(|caller| caller.id),
            peer: asked.inbound.peer,
            ask: Ask {
                method: asked.method().clone(),
                target: Bytes::copy_from_slice(asked.matched.target.as_bytes()),
                fields: self.fields_sent(asked, caller),
                body,
                kind: if asked.method().is_safe() { Kind::Safe } else { Kind::Write },
            },
            asking: Asking { method: asked.method().clone(), conditional },
            unit: asked.matched.unit.map(str::to_owned),
        }
    }

    /// The fields that go upstream: made of the key and the token, or on an open route the client's.
    pub(super) fn fields_sent<B>(
        &self,
        asked: &Asked<'_, '_, B>,
        caller: Option<&Caller>,
    ) -> HeaderMap {
        let (inbound, route) = (asked.inbound, asked.matched.route);
        let client = inbound.fields();
        let marks = Marks::of(client, inbound.version(), &self.0.via, &self.0.dice);
        let marks = Marks {
            request_id: detached(&inbound.id),
            traceparent: marks.traceparent.as_ref().map(detached),
            ..marks
        };
        if route.forwards_all() {
            let codings = if route.masks() { Codings::Identity } else { Codings::Client };
            let mut fields = fields::request_for_all(client, inbound.method(), codings, &marks);
            if route.masks() {
                // A part of a body can't be proven masked, and the client knows our validators only.
                Validators::default().condition(&mut fields);
            }
            return fields;
        }
        let content_type =
            if inbound.is_safe_read() { None } else { client.get(CONTENT_TYPE).cloned() };
        let token = caller.map(|caller| caller.token.authorization());
        fields::request_for_key(token, content_type, &marks)
    }
}

impl Errand {
    async fn run(self) -> Result<(Arc<Stored>, TripFacts), Failed> {
        let Self { gateway, route, caller, peer, ask, asking, target, unit } = self;
        let write = ask.kind == Kind::Write;
        let cause = if write { Cause::Write } else { Cause::Forward };
        let effect =
            Effect { gateway: &gateway, route, caller, target: &target, unit: unit.as_deref() };
        let answer = match gateway.ask(route, caller.as_ref(), peer, ask, cause).await {
            Ok(answer) => answer,
            Err(failed) => {
                if write && failed.sent == Sent::Maybe {
                    effect.unknown();
                }
                return Err(failed);
            }
        };
        let trip = TripFacts::of(cause, &answer.trip);
        let status = answer.status;
        let composed = gateway.compose(route, &asking, answer);
        if write {
            effect.of_answer(status, composed.as_ref().ok());
        }
        let composed =
            composed.map_err(|error| Failed { error, trip: Some(trip), sent: Sent::Maybe })?;
        Ok((composed.unkept(caller.map_or(Owner::Open, Owner::Caller)), trip))
    }
}

/// What a write makes old.
struct Effect<'a> {
    gateway: &'a Gateway,
    route: u16,
    caller: Option<CallerId>,
    target: &'a str,
    unit: Option<&'a str>,
}

impl Effect<'_> {
    /// The upstream answered. `composed` is missing if its answer couldn't be proven masked.
    fn of_answer(&self, status: StatusCode, composed: Option<&Composed>) {
        if status.is_server_error() {
            self.unknown();
        } else if status.is_success() || status.is_redirection() {
            // RFC 9111 §4.4: the target itself, whatever else the answer names.
            self.drop_scope(self.gateway.0.cache.target_scope(self.target), Strength::Hard);
            self.succeeded(composed);
        }
    }

    /// It succeeded: the units that its answer names are dropped for every caller.
    fn succeeded(&self, composed: Option<&Composed>) {
        let Some((family, member)) = self.gateway.route_at(self.route).invalidates else { return };
        let named = composed.map(|composed| &composed.facts);
        let mut units: Vec<&str> = named
            .into_iter()
            .flat_map(|facts| &facts.units)
            .filter(|unit| usize::from(unit.member) == member)
            .map(|unit| &*unit.id)
            .chain(self.unit)
            .collect();
        units.dedup();
        for unit in &units {
            self.drop_scope(unit_scope(family, unit), Strength::Hard);
        }
        if units.is_empty() || named.is_some_and(|facts| facts.more_units) {
            // It changed something, and we can't tell what: the writer must not read its own past.
            self.drop_for_writer(family, Strength::Hard);
        }
    }

    /// Nobody knows whether it took effect: the writer's lists are to be asked for anew.
    fn unknown(&self) {
        if let Some((family, _member)) = self.gateway.route_at(self.route).invalidates {
            self.drop_for_writer(family, Strength::Soft);
        }
    }

    fn drop_for_writer(&self, family: u16, strength: Strength) {
        if let Some(caller) = self.caller {
            self.drop_scope(Scope::CallerFamily(caller, family), strength);
        }
    }

    fn drop_scope(&self, scope: Scope, strength: Strength) {
        self.gateway.invalidate(&Invalidation { scope, strength, source: Source::Write });
    }
}

/// Some readers of JSON pass it over, so the guard does as well.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
