//! The process put together: telemetry, gateway, ports; from a configuration to open doors and back.
//!
//! *Invariants*
//! 1. Everything that can fail fails before the first connection is accepted.
//! 2. The operators' port opens first and closes last, so that readiness is always told.
//! 3. A drain never lasts past its deadline, whatever is still under way.

mod door;
pub(crate) mod ports;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::admin::{self, Access, Admin, Changes, Pass, Probes, Readiness};
use crate::caller::Callers;
use crate::clock::{Clock, Dice};
use crate::config::Config;
use crate::error::Error;
use crate::gateway::{ANSWERED_5XX, Current, Gateway, Ground};
use crate::handover::Offer;
use crate::listener::{self, BindError, Given, Places, Pulse, Refused, Tls, TlsError, Workers};
use crate::reload::{self, Reload, labels, target_view};
use crate::shutdown::{Phase, Shutdown};
use crate::telemetry::{Lines, Setup, Telemetry, Vocabulary};
use crate::upstream::{self, SetupError, UpstreamError, Upstreams};

pub(crate) use door::Door;

/// A gateway with its ports open.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    admin: Option<admin::Running>,
    gateway: Current,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
    reload: Arc<Reload>,
    serving: JoinHandle<io::Result<()>>,
    pulse: Pulse,
    offer: Option<Offer>,
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
    /// Listening sockets that are open already.
    pub given: Given,
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
        let Setting { clock, dice, workers, mut given, .. } = setting;
        let ground = upstream::Ground {
            callers: config.limits.keys,
            clock: clock.clone(),
            dice: dice.clone(),
            dial: None,
        };
        let upstreams = Upstreams::new(&config.upstream, &config.upstreams, ground)?;
        ports::warn_of_roots(config, upstreams.roots());
        let (tls, port_dice) = (Tls::load(&config.listen)?, dice.clone());
        telemetry.metrics.tls_certificate_last_load_successful.set(i64::from(tls.is_some()));
        let (sockets, addresses) = ports::open_public(&config.listen, &mut given)?;
        let most = ports::room(config);
        let first = Gateway::new(
            config,
            Ground {
                callers: callers.clone(),
                upstreams: Arc::new(upstreams),
                telemetry: Arc::clone(&telemetry),
                clock: clock.clone(),
                dice,
                shutdown: shutdown.clone(),
            },
        );
        let sweeping = first.sweeping();
        let gateway = Current::new(first);
        let parts = reload::Parts {
            current: gateway.clone(),
            telemetry: Arc::clone(&telemetry),
            access: access(config)?,
            listen: watch::Sender::new(config.listen.clone()),
            callers,
            clock: clock.clone(),
        };
        let listen = parts.listen.subscribe();
        let reload = Arc::new(Reload::new(config, parts));
        let admin = open_admin(config, given.admin, &reload, &telemetry, &shutdown)?;
        let pulse = workers.pulse(&shutdown);
        let door = Door::new(gateway.clone(), Arc::clone(&telemetry), clock.clone());
        let offer = ports::offer(&config.listen, &sockets, admin.as_ref(), &clock, &shutdown)?;
        let ground = listener::Ground {
            places: Places::new(most),
            workers,
            tls,
            clock,
            dice: port_dice,
            shutdown: shutdown.clone(),
        };
        drop(shutdown.spawn(sweeping));
        #[expect(
            clippy::disallowed_methods,
            reason = "the drain waits for this task by its handle"
        )]
        let serving =
            tokio::spawn(async move { listener::serve(sockets, listen, ground, door).await });
        Ok(Self { addresses, admin, gateway, telemetry, shutdown, reload, serving, pulse, offer })
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
    pub fn gateway(&self) -> &Current {
        &self.gateway
    }

    /// What loads the configuration again, once it is told from where.
    pub fn reload(&self) -> &Arc<Reload> {
        &self.reload
    }

    /// Its metrics and logs.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Whether the workers turn.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// From here on a process that comes after finds this one, where that is configured. To be called once
    /// the process before has let go.
    ///
    /// # Errors
    /// `listen.handover` can't be had.
    pub fn publish_offer(&mut self) -> Result<(), StartError> {
        let Some(offer) = &mut self.offer else { return Ok(()) };
        let published = offer.publish();
        published.map_err(|cause| StartError::Handover { path: offer.path().to_owned(), cause })
    }

    /// Resolves once another process serves our sockets: nothing is accepted here any more then, and the
    /// operators' port has moved to a free one. To be followed by [`leave`](Self::leave). May be dropped
    /// and called again.
    pub async fn handed_over(&mut self) {
        let Some(offer) = &mut self.offer else { return std::future::pending().await };
        let successor = offer.taken().await;
        self.offer = None;
        self.stand_aside();
        successor.release();
    }

    /// Leaves the sockets to another process that serves them: nothing is accepted here any more, and operators
    /// are answered at a free port. To be followed by [`leave`](Self::leave).
    pub fn stand_aside(&mut self) {
        if let Some(Err(error)) = self.admin.as_mut().map(admin::Running::move_aside) {
            warn!(%error, "no other port for operators; both processes answer at the old one");
        }
        self.shutdown.enter(Phase::Closing);
    }

    /// Leaves in order: readiness off, the configured delay, no more connections, what is in flight
    /// finished. Returns whether everything was finished before the deadline.
    pub async fn leave(mut self) -> bool {
        let drain = self.reload.in_force().shutdown;
        let handed_over = self.shutdown.phase() == Phase::Closing;
        self.shutdown.enter(Phase::Leaving);
        let left = async {
            let mut served = None;
            if handed_over {
                // Another process serves: there is time for each client to hear of the end with its next
                // answer, and for those who have only just connected to ask.
                let linger = drain.delay.max(drain.deadline / 2);
                served = timeout(linger, &mut self.serving).await.ok();
            } else {
                tokio::time::sleep(drain.delay).await;
            }
            self.shutdown.enter(Phase::Draining);
            let served = match served {
                Some(served) => served,
                None => self.serving.await,
            };
            if let Ok(Err(error)) = served {
                error!(%error, "the public port failed");
            }
            self.shutdown.idle().await;
        };
        let finished = timeout(drain.deadline, left).await.is_ok();
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
    /// The sockets can't be offered to a process that comes after.
    #[error(
        "listen.handover {path} can't be listened on: {cause}; choose a folder that this user may write to"
    )]
    Handover {
        /// As configured.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A public address can't be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// TLS can't be set up from its files.
    #[error(transparent)]
    Tls(#[from] TlsError),
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

pub(crate) fn callers(config: &Config) -> Result<Callers, StartError> {
    match config.caller.key().map_err(StartError::Key)? {
        Some(secret) => Ok(Callers::from_secret(&secret)),
        None => Callers::random().map_err(|error| StartError::Key(io::Error::other(error))),
    }
}

fn access(config: &Config) -> Result<Arc<RwLock<Access>>, StartError> {
    let pass = config.admin.token().map_err(StartError::Token)?.as_deref().map(Pass::of);
    Ok(Arc::new(RwLock::new(Access { pass, hosts: config.admin.hosts.clone() })))
}

pub(crate) fn telemetry(
    config: &Config,
    callers: &Callers,
    setting: &Setting,
) -> prometheus::Result<Telemetry> {
    let routes = labels(config);
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

fn open_admin(
    config: &Config,
    given: Option<TcpListener>,
    reload: &Arc<Reload>,
    telemetry: &Arc<Telemetry>,
    shutdown: &Shutdown,
) -> Result<Option<admin::Running>, StartError> {
    let gateway = reload.gateway();
    // A reload under which it would fail is refused.
    let masking = gateway.load().masks_its_own_sample();
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
            details: [("fetches under way".to_owned(), flights.load().flights().to_string())]
                .into_iter()
                .chain(flights.load().upstreams_told())
                .collect(),
        }),
        upstreams: Box::new(move || upstreams.load().measure_upstreams()),
        cache: Box::new(move || cache.load().cache_sizes()),
        limiter_keys: Box::new(move |limiter| limits.load().limiter_keys(limiter)),
    };
    let (purging, reload) = (gateway.clone(), Arc::clone(reload));
    let changes = Changes {
        access: Arc::clone(reload.access()),
        purge: Arc::new(move |purge, strength| purging.load().purge(purge, strength)),
        reload: Arc::new(move || reload.run().map_err(|error| error.mistakes())),
    };
    admin::start(address, given, Admin::new(Arc::clone(telemetry), probes, changes))
        .map(Some)
        .map_err(|cause| StartError::Admin { address, cause })
}

/// Longest wait for the log's last lines.
const FLUSH: Duration = Duration::from_secs(1);
