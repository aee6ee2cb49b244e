//! HEAD on an open route: asked as HEAD, by nobody else's flight.
//!
//! *Invariants*
//! 1. What it brings answers this request alone; of what is stored it renews or stales (RFC 9111 §4.3.5).
//! 2. The upstream is asked with our validators, the client's conditions are applied to what landed.
//!
//! *Why not a GET:* a client that asks for the fields of something large would make us fetch it. On a
//! token route bodies are small and wanted by the next reader: there a HEAD is fetched as GET.

use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode};

use super::compose::Asking;
use super::fetch::Job;
use super::interim::Interim;
use super::landing::{Credentials, Failed, Landed, Landing, Origin, Validated};
use super::reply::Reply;
use super::{Asked, Gateway};
use crate::cache::flight::{Publisher, Role};
use crate::cache::generation::{Stamp, Strength};
use crate::cache::policy::{self, Forward};
use crate::cache::stored::{KeyRef, Stored};
use crate::cache::{Held, Invalidation, Source};
use crate::error::Error;
use crate::telemetry::Cause;
use crate::upstream::{Answer, Sent};

impl Gateway {
    /// Asks with HEAD.
    pub(super) async fn head<B>(
        &self,
        asked: Asked<'_, '_, B>,
        key: &KeyRef<'_>,
        prior: Option<Held>,
        why: Forward,
    ) -> Result<Reply, Error> {
        let cause = if prior.is_some() { Cause::Revalidate } else { Cause::Forward };
        // Detached, so that what it says of a stored response counts though its client leaves.
        let ticket = {
            let job = self.job(&asked, key, None, prior, cause);
            let stamp = job.stamp();
            self.0.flights.alone(|publisher| Box::pin(job.run_head(stamp, publisher)))
        };
        match self.landed(ticket, &asked).await {
            Ok(landed) => Ok(Reply::landed(&landed, Role::Leader, why, self.0.clock.now())),
            Err(failed) => Err(asked.account.failed(&failed)),
        }
    }
}

impl Job {
    async fn run_head(
        mut self,
        stamp: Stamp,
        publisher: Publisher<Landing, Arc<Interim>>,
    ) -> Landing {
        self.interim = Some(self.gateway.on_interim(self.route, Credentials::default(), publisher));
        self.forget_voided();
        self.head(stamp).await.map(Arc::new).map_err(Arc::new)
    }

    async fn head(&self, stamp: Stamp) -> Result<Landed, Failed> {
        let answer = match self.validated(Method::HEAD).await? {
            Validated::Holds(prior, answer) => {
                return Ok(self.renew(&prior, &answer, Origin::Renewed, stamp));
            }
            Validated::Answer(answer) => answer,
        };
        let origin = Origin::Upstream(answer.status);
        if let Some(prior) = self.prior.as_deref().filter(|_| answer.status == StatusCode::OK) {
            if prior.status() == StatusCode::OK && self.freshens(prior, &answer) {
                return Ok(self.renew(prior, &answer, origin, stamp));
            }
            self.stale();
        }
        let trip = self.trip(&answer);
        let asking = Asking { method: Method::HEAD, conditional: false };
        let composed = self
            .gateway
            .compose(self.route, &asking, answer)
            .map_err(|error| Failed { error, trip: Some(trip), sent: Sent::Maybe })?;
        Ok(Landed::unkept(composed.unkept(None), trip))
    }

    /// What is stored for the target is not what the upstream has now.
    fn stale(&self) {
        let scope = self.gateway.0.cache.generations().target(self.key.target());
        let (strength, source) = (Strength::Soft, Source::Head);
        self.gateway.invalidate(&Invalidation { scope, strength, source });
    }

    /// Whether what HEAD said is about the stored bytes.
    fn freshens(&self, prior: &Stored, answer: &Answer) -> bool {
        let (mut known, mut said) = (prior.lines().to_map(), answer.fields.clone());
        if self.gateway.route_at(self.route).masks() {
            // Ours stand there, over the masked bytes.
            prior.validators().replace(&mut known);
            said.remove(CONTENT_LENGTH);
        }
        let length = u64::try_from(prior.body.len()).unwrap_or(u64::MAX);
        policy::head_freshens(&known, &said, length)
    }
}
