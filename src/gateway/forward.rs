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
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE};

use super::compose::Asking;
use super::effect::Effect;
use super::inbound::{Inbound, Payload};
use super::interim::Interim;
use super::landing::{Credentials, Failed, Landed, Landing, TripFacts};
use super::reply::Reply;
use super::{Asked, Gateway};
use crate::cache::fields::detached;
use crate::cache::flight::Publisher;
use crate::cache::policy::{Forward, Validators};
use crate::caller::{Caller, CallerId};
use crate::error::Error;
use crate::route::allow;
use crate::telemetry::Cause;
use crate::upstream::fields::{self, Codings, Marks};
use crate::upstream::{Ask, Intake, Kind, Outbound, Sent};

/// A request on its way straight upstream, detached from its client.
struct Errand {
    gateway: Gateway,
    route: u16,
    target: String,
    /// Whom the client took us for.
    host: Option<String>,
    caller: Option<CallerId>,
    peer: IpAddr,
    ask: Ask,
    /// The memory that the body takes.
    intake: Intake,
    asking: Asking,
    unit: Option<String>,
}

impl Gateway {
    /// Sends a request straight upstream.
    pub(super) async fn forward<B: Payload>(
        &self,
        asked: Asked<'_, '_, B>,
        caller: Option<&Caller<'_>>,
        why: Forward,
    ) -> Result<Reply, Error> {
        asked.account.forward = Some(why);
        // What a read has of content crosses only where everything does.
        self.admit_wait()?;
        let contentless = asked.inbound.is_safe_read() && !asked.matched.route.forwards_all();
        let (body, intake) =
            if contentless { Default::default() } else { self.guarded_body(&asked).await? };
        let errand = self.errand(&asked, caller, body, intake);
        // Detached: a client that leaves must not leave a write half done, nor an answer that revokes its
        // token unheard.
        let ticket = self.0.flights.alone(|publisher| Box::pin(errand.run(publisher)));
        match self.landed(ticket, &asked).await {
            Ok(landed) => Ok(Reply::forwarded(&landed, why, self.0.clock.now())),
            Err(failed) => Err(asked.account.failed(&failed)),
        }
    }

    /// The answer to an OPTIONS that goes no further (RFC 9110 §7.6.2, §9.3.7).
    pub(super) fn last_recipient<B>(
        &self,
        asked: &Asked<'_, '_, B>,
        caller: Option<&Caller<'_>>,
    ) -> Reply {
        let owner = caller.map(|caller| caller.id);
        let allow = allow(asked.matched.route.config.methods.named());
        Reply::of_ours(self.options(owner, &allow))
    }

    /// The body of a write, after a look for masks under secret names.
    async fn guarded_body<B: Payload>(
        &self,
        asked: &Asked<'_, '_, B>,
    ) -> Result<(Bytes, Intake), Error> {
        let route = asked.matched.route;
        let coded = asked.inbound.fields().contains_key(CONTENT_ENCODING);
        if coded && !route.forwards_all() {
            return Err(Error::BodyCoded);
        }
        let (body, intake) = asked.inbound.read_body(self).await?;
        // What is not JSON holds no member that could be a mask; the upstream will judge it.
        let json = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&body);
        if route.config.refuse_masked_write
            && self.0.follows.masker.masked_secret(json).unwrap_or(false)
        {
            return Err(Error::MaskedSecretInWrite);
        }
        Ok((body, intake))
    }

    fn errand<B>(
        &self,
        asked: &Asked<'_, '_, B>,
        caller: Option<&Caller<'_>>,
        body: Bytes,
        intake: Intake,
    ) -> Errand {
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
            host: asked.inbound.host().map(str::to_owned),
            caller: caller.map(|caller| caller.id),
            peer: asked.inbound.line().peer,
            ask: Ask {
                method: asked.method().clone(),
                target: Bytes::copy_from_slice(asked.matched.target.as_bytes()),
                fields: Arc::new(self.fields_sent(asked, caller)),
                body,
                kind: if asked.method().is_safe() { Kind::Safe } else { Kind::Write },
                interim: None,
            },
            intake,
            asking: Asking { method: asked.method().clone(), conditional },
            unit: asked.matched.unit.map(str::to_owned),
        }
    }

    /// The fields that go upstream: made of the key and the token, or on an open route the client's.
    pub(super) fn fields_sent<B>(
        &self,
        asked: &Asked<'_, '_, B>,
        caller: Option<&Caller<'_>>,
    ) -> Outbound {
        let (inbound, route) = (asked.inbound, asked.matched.route);
        let client = inbound.fields();
        let marks = self.marks(inbound);
        if route.forwards_all() {
            let codings = if route.masks() { Codings::Identity } else { Codings::Client };
            let mut fields = fields::request_for_all(client, inbound.method(), codings, &marks);
            if route.masks() {
                // A part of a body can't be proven masked, and the client knows our validators only.
                Validators::default().condition(&mut fields);
            }
            return Outbound::All(fields);
        }
        let content_type =
            if inbound.is_safe_read() { None } else { client.get(CONTENT_TYPE).cloned() };
        let authorization = caller.map(|caller| caller.token().authorization());
        let mut more = HeaderMap::new();
        fields::count_hop(inbound.method(), client, &mut more);
        Outbound::Key { authorization, content_type, marks, more }
    }

    /// What marks a request on its way.
    fn marks<B>(&self, inbound: &Inbound<'_, B>) -> Marks {
        let (via, request_id) = (&self.0.follows.via, inbound.line().id.detached());
        if !inbound.has_marks() {
            let via = via.alone(inbound.version());
            return Marks { via, request_id, traceparent: None };
        }
        let marks = Marks::of(inbound.fields(), inbound.version(), via.name(), request_id);
        Marks { traceparent: marks.traceparent.as_ref().map(detached), ..marks }
    }
}

impl Errand {
    async fn run(mut self, publisher: Publisher<Landing, Arc<Interim>>) -> Landing {
        let askers = publisher.clone();
        self.ask.interim =
            Some(self.gateway.on_interim(self.route, Credentials::default(), publisher));
        self.done(&askers).await.map(Arc::new).map_err(Arc::new)
    }

    async fn done(self, askers: &Publisher<Landing, Arc<Interim>>) -> Result<Landed, Failed> {
        let Self { gateway, route, caller, peer, ask, intake, asking, target, host, unit } = self;
        let write = ask.kind == Kind::Write;
        let cause = if write { Cause::Write } else { Cause::Forward };
        let method = asking.method.clone();
        let effect = Effect {
            gateway: &gateway,
            route,
            caller,
            method: &method,
            target: &target,
            host: host.as_deref(),
            unit: unit.as_deref(),
        };
        let asked = gateway.ask(route, caller.as_ref(), peer, ask, cause, Some(askers)).await;
        drop(intake);
        let answer = match asked {
            Ok(answer) => answer,
            Err(failed) => {
                if write && failed.sent == Sent::Maybe {
                    effect.lost();
                }
                return Err(failed);
            }
        };
        let trip = TripFacts::of(cause, &answer.trip);
        let status = answer.status;
        let targets = if write { effect.targets(&answer) } else { Vec::new() };
        let composed = gateway.compose(route, &asking, answer);
        if write {
            effect.of_answer(status, &targets, composed.as_ref().ok());
        }
        let composed =
            composed.map_err(|error| Failed { error, trip: Some(trip), sent: Sent::Maybe })?;
        let stored = composed.unkept(caller);
        Ok(Landed::unkept(stored, trip))
    }
}

/// Some readers of JSON pass it over, so the guard does as well.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
