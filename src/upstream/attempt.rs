//! From a request to the head of its answer: one try, and perhaps a second.
//!
//! *Invariants*
//! 1. Only what went to a connection that was there before is tried again, on a new one: a request of which nothing
//!    was sent, or a read whose connection ended.
//! 2. Each retry of what may have been sent is one that the budget allows (`retries.rs`).

use std::pin::pin;
use std::time::Duration;

use http::Response;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::failure::NoHead;
use super::known::Known;
use super::origin::path;
use super::pool::Lent;
use super::{Ask, Kind, Sent, Trip, UpstreamError, Upstreams};
use crate::clock::Now;

/// A head that arrived, its body still to come.
pub(super) struct Head {
    pub(super) response: Response<Incoming>,
    pub(super) line: Lent,
    pub(super) at: Now,
}

/// How one try goes.
struct Try<'k> {
    upstream: usize,
    known: &'k Known,
    path: PathAndQuery,
    /// How long the connection may have been idle; `None` = it has to be new.
    idle: Option<Duration>,
    began: Instant,
    /// When the exchange ends.
    total: Instant,
}

impl Upstreams {
    /// Sends the request, if need be twice, until a head is there.
    pub(super) async fn head(
        &self,
        upstream: usize,
        ask: &Ask,
        began: Instant,
        trip: &mut Trip,
    ) -> Result<Head, (UpstreamError, Sent)> {
        let way = self.known.get(upstream).zip(path(&ask.target));
        let (known, path) = way.ok_or((UpstreamError::Target, Sent::Nothing))?;
        known.retries.asked(trip.started_at);
        let idle = match ask.kind {
            Kind::Safe => self.limits.idle,
            Kind::Write => WRITE_IDLE,
        };
        let total = began + self.limits.total;
        let mut way = Try { upstream, known, path, idle: Some(idle), began, total };
        let (refused, sent) = match self.attempt(&way, ask, trip).await {
            Ok(head) => return Ok(head),
            Err(refused) => refused,
        };
        let lost = refused.closed && ask.kind == Kind::Safe;
        if !trip.reused || !(refused.unsent || lost) {
            return Err((refused.error, sent));
        }
        // What was not sent asks nothing more of the upstream when it is.
        trip.denied = !refused.unsent && !self.may_retry(known);
        if trip.denied {
            return Err((refused.error, sent));
        }
        (way.idle, way.began) = (None, Instant::now());
        trip.requested_at = self.ground.clock.now();
        self.attempt(&way, ask, trip).await.map_err(|(refused, again)| {
            (refused.error, if sent == Sent::Maybe { sent } else { again })
        })
    }

    fn may_retry(&self, known: &Known) -> bool {
        known.retries.retry(self.limits.retries, self.ground.clock.mono())
    }

    /// One try: a request on a connection, up to the end of the head.
    async fn attempt(
        &self,
        way: &Try<'_>,
        ask: &Ask,
        trip: &mut Trip,
    ) -> Result<Head, (NoHead, Sent)> {
        trip.tries += 1;
        let first_byte = way.began + self.limits.first_byte;
        let mut lent = None;
        let outcome = {
            // Pinned here: what is timed would be moved into the timeout, and with it once more.
            let answering = pin!(async {
                let line = self.line(way).await?;
                let request = way.known.origin.request(ask, &way.path, line.speaks_http2());
                let request = request.ok_or(NoHead::broken(UpstreamError::Target))?;
                lent.insert(line).send(request).await
            });
            timeout_at(way.total.min(first_byte), answering).await
        };
        let at = self.ground.clock.now();
        trip.reused = lent.as_ref().is_some_and(|line| line.reused);
        // Without a connection there was nothing to send on.
        let Some(mut line) = lent else {
            let refused = match outcome {
                Ok(Err(refused)) => refused,
                _elapsed => NoHead::broken(late(way, first_byte)),
            };
            return Err((refused, Sent::Nothing));
        };
        match outcome {
            Ok(Ok(response)) => Ok(Head { response, line, at }),
            Ok(Err(refused)) => {
                let sent = if refused.unsent { Sent::Nothing } else { Sent::Maybe };
                Err((refused, sent))
            }
            Err(_elapsed) => {
                line.retire();
                Err((NoHead::broken(late(way, first_byte)), Sent::Maybe))
            }
        }
    }

    /// A connection to go by.
    async fn line(&self, way: &Try<'_>) -> Result<Lent, NoHead> {
        let base = way.known.origin.base();
        match way.idle {
            Some(idle) => self.pool.lend(way.upstream, base, idle, way.began).await,
            None => self.pool.connect(way.upstream, base).await,
        }
    }
}

/// Which deadline ran out.
fn late(way: &Try<'_>, first_byte: Instant) -> UpstreamError {
    if first_byte < way.total {
        UpstreamError::FirstByteTimeout
    } else {
        UpstreamError::TotalTimeout
    }
}

/// Longest idle time of a connection on which a write may start.
const WRITE_IDLE: Duration = Duration::from_secs(1);
