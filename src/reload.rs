//! The configuration loaded again, under traffic: by a signal, or over the operators' port.
//!
//! *Invariants*
//! 1. All or nothing: whatever can fail is made before anything is replaced; after a mistake all stays as
//!    it was.
//! 2. Each attempt is told, in the log and in `config_last_load_successful`: a failed one with every mistake,
//!    another with the names of the keys that changed.
//! 3. What takes a restart is told by its key each time, and the rest is applied.
//!
//! *What lives on* is said in [`crate::gateway`], where one configuration follows another. Connections to the
//! upstreams live on where nothing of `[upstream]`, `[upstreams]` and the CA file changed; what was learned of
//! an upstream, where its name and URL did not.

use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::admin::{Access, Pass, Reloaded};
use crate::caller::Callers;
use crate::clock::Clock;
use crate::config::{self, Config, ConfigErrors, LogTarget, Warning};
use crate::gateway::Current;
use crate::mask::Masker;
use crate::route::Routes;
use crate::server::ports::warn_of_roots;
use crate::telemetry::diagnostics::Hearing;
use crate::telemetry::{RouteLabels, TargetView, Telemetry};
use crate::upstream::SetupError;

/// Loads the configuration again and puts it in force.
pub struct Reload {
    parts: Parts,
    source: OnceLock<Source>,
    /// Locked for all of a reload, which keeps two from each other; reading files may take its time.
    state: Mutex<State>,
    /// Locked for moments only.
    in_force: Mutex<Arc<Config>>,
}

/// What a reload works on.
#[derive(Debug)]
pub struct Parts {
    /// The gateway in force.
    pub current: Current,
    /// Metrics and logs as at the start.
    pub telemetry: Arc<Telemetry>,
    /// Who may change something over the operators' port.
    pub access: Arc<RwLock<Access>>,
    /// What new connections are held to.
    pub listen: watch::Sender<config::Listen>,
    /// How callers are told apart, as long as the process lives.
    pub callers: Callers,
    /// Time.
    pub clock: Clock,
}

/// Where a configuration comes from.
pub struct Source {
    /// Reads and checks it, the files that it names too.
    #[expect(clippy::type_complexity, reason = "it is said once")]
    pub load: Box<dyn Fn() -> Result<(Config, Vec<Warning>), ConfigErrors> + Send + Sync>,
    /// The diagnostics that follow it.
    pub hearing: Option<Hearing>,
}

struct State {
    /// What the process was started with.
    started: Arc<Config>,
    files: Files,
}

/// Digests of files that are named by the configuration and can change without it.
#[derive(Clone, Copy, PartialEq)]
struct Files {
    ca: Option<blake3::Hash>,
    caller_key: Option<blake3::Hash>,
    token: Option<Pass>,
}

impl Files {
    fn of(config: &Config) -> std::io::Result<Self> {
        let digest = |secret: Option<Vec<u8>>| secret.map(|secret| blake3::hash(&secret));
        Ok(Self {
            ca: digest(config.upstream.ca_file.as_deref().map(config::read_file).transpose()?),
            caller_key: digest(config.caller.key()?),
            token: config.admin.token()?.as_deref().map(Pass::of),
        })
    }
}

impl Reload {
    /// Follows a configuration that is in force.
    pub fn new(config: &Config, parts: Parts) -> Self {
        let nothing = Files { ca: None, caller_key: None, token: None };
        let files = Files::of(config).unwrap_or(nothing);
        let config = Arc::new(config.clone());
        let state = State { started: Arc::clone(&config), files };
        Self {
            parts,
            source: OnceLock::new(),
            state: Mutex::new(state),
            in_force: Mutex::new(config),
        }
    }

    /// From now on it can be done, from `source`. Only the first one counts.
    pub fn from(&self, source: Source) {
        drop(self.source.set(source));
    }

    /// The gateway in force.
    pub fn gateway(&self) -> &Current {
        &self.parts.current
    }

    /// Who may change something over the operators' port.
    pub fn access(&self) -> &Arc<RwLock<Access>> {
        &self.parts.access
    }

    /// The configuration in force; of what takes a restart, what will be.
    pub fn in_force(&self) -> Arc<Config> {
        Arc::clone(&self.in_force.lock())
    }

    /// Loads the configuration again and puts it in force. It reads files: not for a thread that serves.
    ///
    /// # Errors
    /// Why everything stays as it was.
    pub fn run(&self) -> Result<Reloaded, NotReloaded> {
        let mut state = self.state.lock();
        let done = self.attempt(&mut state);
        let metrics = &self.parts.telemetry.metrics;
        metrics.config_loaded(done.is_ok(), self.parts.clock.now().wall);
        match &done {
            Ok(reloaded) => tell(reloaded),
            Err(why) => {
                let mistakes = why.mistakes().join("\n\n");
                error!(%mistakes, "the configuration was not reloaded; the one before stays in force");
            }
        }
        done
    }

    fn attempt(&self, state: &mut State) -> Result<Reloaded, NotReloaded> {
        let source = self.source.get().ok_or(NotReloaded::NoSource)?;
        let (config, warnings) = (source.load)()?;
        let files = Files::of(&config)?;
        let (gateway, last) = (self.parts.current.load(), self.in_force());
        // With them go their connections: kept as long as nothing about them changed.
        let same = config.upstream == last.upstream
            && config.upstreams == last.upstreams
            && files.ca == state.files.ca;
        let mut upstreams = Arc::clone(gateway.upstreams());
        if !same {
            upstreams = Arc::new(upstreams.succeeded_by(&config.upstream, &config.upstreams)?);
            warn_of_roots(&config, upstreams.roots());
        }
        let target = target_view(&config, &self.parts.callers);
        let telemetry = self.parts.telemetry.under(&config.log, &labels(&config), target);
        let next = gateway.under(&config, upstreams, Arc::new(telemetry));
        if !next.masks_its_own_sample() {
            return Err(NotReloaded::Masking);
        }
        // From here on nothing fails.
        drop(gateway);
        self.parts.current.replace(next);
        self.parts.listen.send_modify(|listen| *listen = listen.under(&config.listen));
        *self.parts.access.write() =
            Access { pass: files.token, hosts: config.admin.hosts.clone() };
        if let Some(hearing) = &source.hearing {
            hearing.follow(&config.log);
        }
        let reloaded = state.follow(&last, &config, files);
        *self.in_force.lock() = Arc::new(config);
        Ok(Reloaded { warnings: warnings.iter().map(ToString::to_string).collect(), ..reloaded })
    }
}

impl State {
    /// Takes over what is in force now; says what that changed.
    fn follow(&mut self, last: &Config, config: &Config, files: Files) -> Reloaded {
        let mut changed = last.changes(config).applied;
        let mut restart = self.started.changes(config).restart;
        let also = |told: &mut Vec<String>, key: &str, differs: bool| {
            if differs && !told.iter().any(|told| told == key) {
                told.push(key.to_owned());
            }
        };
        also(&mut changed, "admin.token_file", files.token != self.files.token);
        also(&mut changed, "upstream.ca_file", files.ca != self.files.ca);
        also(&mut restart, "caller.key_file", files.caller_key != self.files.caller_key);
        let told = last.consequences();
        for line in config.consequences().iter().filter(|line| !told.contains(line)) {
            info!("{line}");
        }
        // The key of the digests stays that of the start.
        self.files = Files { caller_key: self.files.caller_key, ..files };
        Reloaded { changed, restart, warnings: Vec::new() }
    }
}

fn tell(Reloaded { changed, restart, warnings }: &Reloaded) {
    for warning in warnings {
        warn!("{warning}");
    }
    for key in restart {
        warn!(%key, "changed in the file, and takes a restart: what was there before stays in force");
    }
    let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
    info!(%changed, "the configuration was reloaded");
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reload(…)")
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source(…)")
    }
}

/// Why a configuration was not put in force.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    /// It has mistakes.
    #[error(transparent)]
    Mistakes(#[from] ConfigErrors),
    /// The upstreams' clients can't be set up.
    #[error(transparent)]
    Upstream(#[from] SetupError),
    /// A file that it names can't be read.
    #[error("a file that the configuration names can't be read: {0}")]
    File(#[from] std::io::Error),
    /// Masking fails its self-test.
    #[error(
        "masking has failed its self-test with these secrets: change secrets.names or .objects"
    )]
    Masking,
    /// Nobody said from where.
    #[error("this process has no configuration file to read again")]
    NoSource,
}

impl NotReloaded {
    /// Every mistake, in the words of a start.
    pub fn mistakes(&self) -> Vec<String> {
        match self {
            Self::Mistakes(errors) => errors.iter().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        }
    }
}

/// What the route table contributes to the metrics' labels.
pub(crate) fn labels(config: &Config) -> Vec<RouteLabels> {
    let labels = config.routes.iter().map(|route| RouteLabels {
        name: route.name.clone(),
        upstream: route.upstream.clone(),
        methods: route.methods.clone(),
        cached: route.cache.is_some(),
    });
    labels.collect()
}

/// How access lines show targets.
pub(crate) fn target_view(config: &Config, callers: &Callers) -> Option<TargetView> {
    match config.log.target {
        LogTarget::Off => None,
        LogTarget::Full => {
            let masker = Masker::new(&config.secrets, &Routes::members(config));
            Some(TargetView::new(move |target| masker.target(target)))
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
