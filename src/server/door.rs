//! [`Door`]: the gateway as the listener sees it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::gateway::{Content, Current, Session};
use crate::listener::{Ahead, Change, Handler, Refused, TlsError};
use crate::telemetry::{Rarely, Telemetry};

/// The gateway as the listener sees it.
#[derive(Clone)]
pub(crate) struct Door {
    gateway: Current,
    /// Its metrics are those of every configuration.
    telemetry: Arc<Telemetry>,
    accept_failures: Arc<Rarely>,
    clock: Clock,
}

impl Door {
    /// The door of `gateway`.
    pub(crate) fn new(gateway: Current, telemetry: Arc<Telemetry>, clock: Clock) -> Self {
        Self { gateway, telemetry, accept_failures: Arc::default(), clock }
    }
}

impl Handler for Door {
    type Body = Full<Content>;
    type Session = Session;

    fn session(&self, peer: SocketAddr) -> Session {
        self.gateway.load().session(peer.ip())
    }

    fn call(
        &self,
        request: &mut Request<Incoming>,
        session: &Session,
        ahead: &Ahead,
    ) -> impl Future<Output = Response<Self::Body>> + Send {
        self.gateway.handle(request, session, ahead)
    }

    fn refused(&self, why: Refused, _peer: SocketAddr) {
        self.telemetry.metrics.connections_ended_total.inc(why.as_str());
    }

    fn streams_refused(&self, count: u64) {
        self.telemetry.metrics.http2_requests_refused_total.inc_by(count);
    }

    fn certificate_changed(&self, outcome: Result<(), TlsError>) {
        self.telemetry.metrics.tls_certificate_last_load_successful.set(i64::from(outcome.is_ok()));
        match outcome {
            Ok(()) => info!("TLS: the changed certificate is in use for new connections"),
            Err(error) => {
                error!(%error, "TLS: the changed files can't be used, the old stay in use");
            }
        }
    }

    fn connections(&self, change: Change) {
        let open = &self.telemetry.metrics.connections;
        match change {
            Change::Opened => open.inc(),
            Change::Closed => open.dec(),
        }
    }

    fn accept_failed(&self, error: &io::Error) {
        if let Some(more) = self.accept_failures.due(self.clock.mono(), ACCEPT_WARNING) {
            warn!(%error, suppressed = more, "a connection could not be accepted; raise the limit of open files");
        }
    }
}

/// Failures to accept are told this often at most.
const ACCEPT_WARNING: Duration = Duration::from_secs(10);
