//! Interim responses (RFC 9110 §15.2): 102, 103 and the like, from the upstream to whoever waits.
//!
//! *Invariants*
//! 1. None goes to a client of HTTP/1.0, nor to one that waits for nothing.
//! 2. Their fields are reduced and masked as those of an answer are.
//! 3. On an open route a joiner hears only what was sent to one who shows the same to be known by: nobody
//!    can tell yet whether the answer is for all.
//!
//! Over HTTP/2 none go out: hyper's server has no way to send them.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderMap, StatusCode, Version};

use super::landing::{Credentials, Landing};
use super::{Asked, Gateway};
use crate::cache::flight::{Ended, Publisher, Role, Ticket};
use crate::error::Error;
use crate::upstream::{OnInterim, fields};

/// An interim response, presentable.
#[derive(Debug)]
pub(super) struct Interim {
    status: StatusCode,
    fields: HeaderMap,
    /// What the flight's leader showed to be known by; on an open route only.
    credentials: Credentials,
}

impl Interim {
    /// Whether a joiner may hear of it.
    fn suits<B>(&self, asked: &Asked<'_, '_, B>) -> bool {
        asked.matched.route.wants_token()
            || !self.fields.contains_key(SET_COOKIE)
                && self.credentials == Credentials::of(&asked.inbound.selecting())
    }
}

impl Gateway {
    /// What tells a flight's waiters of interim responses as they come.
    pub(super) fn on_interim(
        &self,
        route: u16,
        credentials: Credentials,
        publisher: Publisher<Landing, Arc<Interim>>,
    ) -> OnInterim {
        let gateway = self.clone();
        OnInterim::new(move |status, fields| {
            let fields = gateway.interim_fields(route, fields);
            let credentials = credentials.clone();
            publisher.publish(Arc::new(Interim { status, fields, credentials }));
        })
    }

    /// Waits for a flight, and sends what comes ahead of it.
    pub(super) async fn landed<B>(
        &self,
        ticket: Ticket<Landing, Arc<Interim>>,
        asked: &Asked<'_, '_, B>,
    ) -> Landing {
        let takes = asked.inbound.version() > Version::HTTP_10;
        let leads = ticket.role() == Role::Leader;
        let ahead = asked.account.ahead;
        let hear = |interim: Arc<Interim>| {
            if takes && (leads || interim.suits(asked)) {
                ahead.send(interim.status, &interim.fields);
            }
        };
        match ticket.landed(self.0.follows.patience, hear).await {
            Ended::Landed(landing) => landing,
            Ended::Lost => Err(Arc::new(Error::Lost.into())),
            Ended::TimedOut => Err(Arc::new(Error::TimedOut.into())),
        }
    }

    fn interim_fields(&self, route: u16, upstream: &HeaderMap) -> HeaderMap {
        let route = self.route_at(route);
        let shown = if route.wants_token() {
            fields::interim_allowed(upstream)
        } else {
            fields::answer_all(upstream)
        };
        self.cleared(route, shown)
    }
}
