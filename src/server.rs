//! The process put together: telemetry, gateway, ports; from a configuration to open doors and back.
//!
//! *Invariants*
//! 1. Everything that can fail fails before the first connection is accepted.
//! 2. The operators' port opens first and closes last, so that readiness is always told.
//! 3. A drain never lasts past its deadline, whatever is still under way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::admin::{self, Admin, Changes, Pass, Probes, Readiness};
use crate::caller::Callers;
use crate::clock::{Clock, Dice};
use crate::config::{self, Config, LogTarget};
use crate::error::Error;
use crate::gateway::{ANSWERED_5XX, Gateway, Ground, Session};
use crate::listener::{self, Ahead, BindError, Change, Handler, Places, Refused, Workers};
use crate::mask::Masker;
use crate::route::Routes;
use crate::shutdown::{Phase, Shutdown};
use crate::telemetry::{Lines, Rarely, RouteLabels, Setup, TargetView, Telemetry, Vocabulary};
use crate::upstream::{Roots, SetupError, UpstreamError, Upstreams};

/// A gateway with its ports open.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    admin: Option<admin::Running>,
    gateway: Gateway,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
    drain: config::Shutdown,
    serving: JoinHandle<io::Result<()>>,
}

/// What a server is given beside its configuration.
#[derive(Debug)]
pub struct Setting {
    /// Where both logs go.
    pub lines: Lines,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
    /// Who serves the connections.
    pub workers: Workers,
}

impl Server {
    /// Opens the ports of a valid configuration; must be called inside a runtime.
    ///
    /// # Errors
    /// What can't be opened, read or set up, with the next step.
    pub fn start(config: &Config, setting: Setting) -> Result<Self, StartError> {
        let shutdown = Shutdown::new();
        let callers = callers(config)?;
        let telemetry = Arc::new(telemetry(config, &callers, &setting)?);
        telemetry.metrics.config_loaded(true, setting.clock.now().wall);
        let Setting { clock, dice, workers, .. } = setting;
        let upstreams =
            Upstreams::new(&config.upstream, &config.upstreams, clock.clone(), dice.clone())?;
        warn_of_roots(config, upstreams.roots());
        let sockets = listener::bind(&config.listen.address)?;
        let addresses =
            sockets.iter().map(std::net::TcpListener::local_addr).collect::<Result<_, _>>();
        warn_of_memory(config.cache.max_bytes);
        let (most, lowered) = listener::connection_cap(config.listen.connections);
        if let Some(lowered) = lowered {
            warn!("{lowered}");
        }
        let gateway = Gateway::new(
            config,
            Ground {
                callers,
                upstreams,
                telemetry: Arc::clone(&telemetry),
                clock: clock.clone(),
                dice,
                shutdown: shutdown.clone(),
            },
        );
        let admin = open_admin(config, &gateway, &telemetry, &shutdown)?;
        let door = Door {
            gateway: gateway.clone(),
            accept_failures: Arc::default(),
            clock: clock.clone(),
        };
        let listen = config.listen.clone();
        let (places, until) = (Places::new(most), shutdown.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the drain waits for this task by its handle"
        )]
        let serving = tokio::spawn(async move {
            listener::serve(sockets, &listen, places, workers, clock, until, door).await
        });
        Ok(Self {
            addresses: addresses.map_err(StartError::Socket)?,
            admin,
            gateway,
            telemetry,
            shutdown,
            drain: config.shutdown,
            serving,
        })
    }

    /// Where the public port listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the operators' port listens, if it is on.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(admin::Running::address)
    }

    /// The gateway behind the ports.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Its metrics and logs.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Leaves in order: readiness off, the configured delay, no more connections, what is in flight
    /// finished. Returns whether everything was finished before the deadline.
    pub async fn leave(self) -> bool {
        self.shutdown.enter(Phase::Leaving);
        let left = async {
            tokio::time::sleep(self.drain.delay).await;
            self.shutdown.enter(Phase::Draining);
            if let Ok(Err(error)) = self.serving.await {
                error!(%error, "the public port failed");
            }
            self.shutdown.idle().await;
        };
        let finished = timeout(self.drain.deadline, left).await.is_ok();
        if !finished {
            warn!(
                left = self.shutdown.tracked(),
                "the drain's deadline passed with work under way"
            );
        }
        self.telemetry.flush(FLUSH);
        finished
    }
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A public address can't be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The operators' address can't be listened on.
    #[error("admin.address {address} can't be listened on: {cause}; choose a free one")]
    Admin {
        /// The configured address.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The key of the callers' digests can't be had.
    #[error("the key of the callers' digests can't be had: {0}; check caller.key_file")]
    Key(io::Error),
    /// The operators' token can't be had.
    #[error("the operators' token can't be had: {0}; check admin.token_file")]
    Token(io::Error),
    /// Upstream clients can't be set up.
    #[error(transparent)]
    Upstream(#[from] SetupError),
    /// The metrics can't be registered.
    #[error("the metrics can't be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A socket can't tell its address.
    #[error("a listening socket can't be used: {0}")]
    Socket(io::Error),
}

/// The gateway as the listener sees it.
#[derive(Clone)]
struct Door {
    gateway: Gateway,
    accept_failures: Arc<Rarely>,
    clock: Clock,
}

impl Handler for Door {
    type Body = Full<Bytes>;
    type Session = Session;

    fn session(&self, peer: SocketAddr) -> Session {
        Session::of(peer.ip())
    }

    fn call(
        &self,
        request: Request<Incoming>,
        session: &Session,
        ahead: &Ahead,
    ) -> impl Future<Output = Response<Self::Body>> + Send {
        // Not awaited here: a future around a future is moved once more for each request.
        self.gateway.handle(request, session, ahead)
    }

    fn refused(&self, why: Refused, _peer: SocketAddr) {
        self.gateway.telemetry().metrics.connections_ended_total.inc(why.as_str());
    }

    fn connections(&self, change: Change) {
        let open = &self.gateway.telemetry().metrics.connections;
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

fn callers(config: &Config) -> Result<Callers, StartError> {
    match config.caller.key().map_err(StartError::Key)? {
        Some(secret) => Ok(Callers::from_secret(&secret)),
        None => Callers::random().map_err(|error| StartError::Key(io::Error::other(error))),
    }
}

fn telemetry(
    config: &Config,
    callers: &Callers,
    setting: &Setting,
) -> prometheus::Result<Telemetry> {
    let routes: Vec<RouteLabels> = config
        .routes
        .iter()
        .map(|route| RouteLabels {
            name: route.name.clone(),
            upstream: route.upstream.clone(),
            methods: route.methods.clone(),
            cached: route.cache.is_some(),
        })
        .collect();
    Telemetry::new(Setup {
        clock: setting.clock.clone(),
        dice: setting.dice.clone(),
        log: &config.log,
        routes: &routes,
        vocabulary: Vocabulary {
            errors: Error::CODES.to_vec(),
            upstream_errors: [&UpstreamError::KINDS[..], &[ANSWERED_5XX]].concat(),
            upstream_refused: crate::gateway::reasons_not_to_ask(),
            not_stored: crate::cache::policy::NotStored::ALL
                .iter()
                .map(|reason| reason.as_str())
                .collect(),
            invalidations: crate::cache::Source::ALL.iter().map(|source| source.as_str()).collect(),
            mask_failures: crate::gateway::unproven_reasons(),
            connections_ended: Refused::ALL.iter().map(|why| why.as_str()).collect(),
        },
        target: target_view(config, callers),
        lines: setting.lines.clone(),
    })
}

/// How access lines show targets.
fn target_view(config: &Config, callers: &Callers) -> Option<TargetView> {
    match config.log.target {
        LogTarget::Off => None,
        LogTarget::Full => {
            let masker = Masker::new(&config.secrets, &Routes::members(config));
            Some(TargetView::new(move |target| masker.target(target).into_owned().into()))
        }
        LogTarget::Digest => {
            let callers = callers.clone();
            Some(TargetView::new(move |target| {
                String::from_utf8_lossy(&callers.fingerprint_of(target.as_bytes()))
                    .into_owned()
                    .into()
            }))
        }
    }
}

fn open_admin(
    config: &Config,
    gateway: &Gateway,
    telemetry: &Arc<Telemetry>,
    shutdown: &Shutdown,
) -> Result<Option<admin::Running>, StartError> {
    let masking = gateway.masks_its_own_sample();
    if !masking {
        error!("masking has failed its self-test; /readyz stays 503: roll back this build");
    }
    let Some(address) = config.admin.address else {
        return Ok(None);
    };
    let shutdown = shutdown.clone();
    let (cache, limits, flights) = (gateway.clone(), gateway.clone(), gateway.clone());
    let upstreams = gateway.clone();
    let probes = Probes {
        readiness: Box::new(move || Readiness {
            // This port opens after the public one is bound.
            listening: true,
            draining: shutdown.phase() != Phase::Running,
            masking,
            details: [("fetches under way".to_owned(), flights.flights().to_string())]
                .into_iter()
                .chain(flights.upstreams_told())
                .collect(),
        }),
        upstreams: Box::new(move || upstreams.measure_upstreams()),
        cache: Box::new(move || cache.cache_sizes()),
        limiter_keys: Box::new(move |limiter| limits.limiter_keys(limiter)),
    };
    let purging = gateway.clone();
    let changes = Changes {
        pass: config.admin.token().map_err(StartError::Token)?.as_deref().map(Pass::of),
        hosts: config.admin.hosts.clone(),
        purge: Arc::new(move |purge, strength| purging.purge(purge, strength)),
    };
    admin::start(address, Admin::new(Arc::clone(telemetry), probes, changes))
        .map(Some)
        .map_err(|cause| StartError::Admin { address, cause })
}

fn warn_of_roots(config: &Config, roots: Roots) {
    let secure =
        config.upstreams.values().any(|upstream| upstream.url.scheme_str() == Some("https"));
    if secure && roots.system + roots.extra == 0 {
        warn!(
            "no certificate authority is trusted: every https upstream will fail; install ca-certificates or set upstream.ca_file"
        );
    }
}

/// Warns of a cache that the control group would kill the process for (Linux).
fn warn_of_memory(cache: u64) {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit =
        files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
    if let Some(limit) = limit.filter(|limit: &u64| cache >= *limit) {
        warn!(
            cache,
            limit, "cache.max_bytes is not below the memory this process may use; lower it"
        );
    }
}

/// Longest wait for the log's last lines.
const FLUSH: Duration = Duration::from_secs(1);

/// Failures to accept are told this often at most.
const ACCEPT_WARNING: Duration = Duration::from_secs(10);
