//! The process: command line, configuration, telemetry, runtime, signals, exit code.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use unitgate::clock::{Clock, Dice};
use unitgate::config::Config;
use unitgate::demo;
use unitgate::handover::{Predecessor, RelieveError};
use unitgate::listener::{Given, Workers};
use unitgate::machine;
use unitgate::reload::Source;
use unitgate::server::{Server, Setting};
use unitgate::systemd::{self, Notifier};
use unitgate::telemetry::{Lines, diagnostics};

/// A caching, masking, rate-limiting reverse proxy in front of the Cal.com integration API.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Command {
    /// The configuration; every key is explained in the shipped file.
    #[arg(long, value_name = "FILE", default_value = "config.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Checks the configuration; prints the effective one and what follows from it.
    Check,
    /// Starts a sample upstream and a gateway on loopback, and shows what each feature does.
    Demo(demo::Options),
    /// Asks a running gateway's admin port whether it is alive; for images without a shell.
    Healthcheck {
        /// The admin address; by default the configured one.
        #[arg(long, value_name = "ADDRESS")]
        address: Option<SocketAddr>,
    },
}

/// See Cargo.toml for what it is worth. Not in the library: tests count allocations with another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = Command::parse();
    let result = match command.action {
        None => load(&command.config)
            .map_or_else(|| Ok(bad_configuration()), |config| run(&config, command.config)),
        Some(Action::Check) => check(&command.config),
        Some(Action::Demo(options)) => demo(&options),
        Some(Action::Healthcheck { address }) => healthcheck(&command.config, address),
    };
    result.unwrap_or_else(|error| {
        complain(&format!("unitgate: {error:#}"));
        ExitCode::FAILURE
    })
}

/// The configuration, or its mistakes on standard error.
fn load(path: &Path) -> Option<Config> {
    match Config::load(path, std::env::vars_os()) {
        Ok((config, warnings)) => {
            for warning in warnings {
                complain(&format!("warning: {warning}"));
            }
            Some(config)
        }
        Err(errors) => {
            complain(&errors.to_string());
            None
        }
    }
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let Some(config) = load(path) else {
        return Ok(bad_configuration());
    };
    let mut out = std::io::stdout().lock();
    write!(out, "{}", config.show())?;
    writeln!(out, "\n# What follows:")?;
    for line in config.consequences() {
        writeln!(out, "# - {line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run(config: &Config, path: PathBuf) -> anyhow::Result<ExitCode> {
    // Where it can't be had, bursts are slower, and that is all.
    machine::refuse_huge_pages().ok();
    // Before there are threads.
    let given = Given::by_service_manager()?;
    let clock = Clock::real();
    let lines = Lines::start(config.log.output).context("the log's thread can't be started")?;
    let rust_log = std::env::var("RUST_LOG").ok();
    let (subscriber, hearing) =
        diagnostics::subscriber(&config.log, rust_log.as_deref(), clock.clone(), lines.clone());
    tracing::subscriber::set_global_default(subscriber).context("the log can't be set up")?;
    diagnostics::hook_panics(lines.clone());
    let dice = Dice::seeded(seed()?);
    // Obeys the processors and the control group's quota that the process was given.
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = Workers::start(threads).context("the workers' threads can't be started")?;
    // For what the workers do not do: accepting, the operators' port, signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")?;
    let result = runtime.block_on(async {
        let load = move || Config::load(&path, std::env::vars_os());
        let source = Source { load: Box::new(load), hearing: Some(hearing) };
        serve(config, source, Setting { lines, clock, dice, workers, given }).await
    });
    // A name that is still being resolved must not hold up the exit.
    runtime.shutdown_background();
    result
}

async fn serve(config: &Config, source: Source, mut setting: Setting) -> anyhow::Result<ExitCode> {
    let signals = Signals::watch()?;
    let notifier = Arc::new(Notifier::from_env().context("NOTIFY_SOCKET can't be used")?);
    let lines = setting.lines.clone();
    let before = predecessor(config, &mut setting.given)?;
    let is_heir = before.is_some();
    let mut server = Server::start(config, setting)?;
    server.reload().from(source);
    announce(config, &server);
    if let Err(error) = take_place(&mut server, before, &notifier) {
        if is_heir {
            // Another one serves these sockets, and its readiness is not to be answered by us.
            server.stand_aside();
        }
        // Connections may have been accepted already.
        server.leave().await;
        return Err(error);
    }
    let usec = std::env::var("WATCHDOG_USEC").ok();
    // Where there was a process before, it may be named in what was inherited of it.
    let pid = std::env::var("WATCHDOG_PID").ok().filter(|_| !is_heir);
    let period = systemd::watchdog_period(usec.as_deref(), pid.as_deref());
    let pulse = server.pulse().clone();
    tokio::select! {
        () = live(server, signals, &notifier) => {}
        never = systemd::feed_watchdog(&notifier, period, async || pulse.beat().await) => match never {},
    }
    info!("stopped");
    lines.flush(LAST_WORDS);
    Ok(ExitCode::SUCCESS)
}

/// Takes the place of the process before, if there is one: it lets go, who comes after finds this one, and the
/// service manager knows.
fn take_place(
    server: &mut Server,
    before: Option<Predecessor>,
    notifier: &Notifier,
) -> anyhow::Result<()> {
    let Some(mut before) = before else {
        server.publish_offer()?;
        notifier.ready(SERVING);
        return Ok(());
    };
    let relieved = before.relieve();
    match &relieved {
        Ok(()) => info!("took over the listening sockets of the process before"),
        Err(RelieveError::Taken) => return Ok(relieved?),
        Err(error) => warn!(%error, "the process before may go on serving; stop it"),
    }
    if let Err(error) = server.publish_offer() {
        warn!(%error, "a process that comes after will not find this one");
    }
    match relieved {
        // The other one does not end before it hears that `before` is dropped: the service would end with it.
        Ok(()) => notifier.took_over(SERVING),
        Err(_) => notifier.ready(SERVING),
    }
    Ok(())
}

/// The signals that are heeded.
struct Signals {
    end: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        Ok(Self {
            end: signal(SignalKind::terminate()).context("SIGTERM can't be watched")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT can't be watched")?,
            hangup: signal(SignalKind::hangup()).context("SIGHUP can't be watched")?,
        })
    }
}

/// Serves until a signal or another process ends it, and leaves.
async fn live(mut server: Server, signals: Signals, notifier: &Arc<Notifier>) {
    let Signals { mut end, mut interrupt, mut hangup } = signals;
    let signal = loop {
        tokio::select! {
            _ = end.recv() => break Some("SIGTERM"),
            _ = interrupt.recv() => break Some("SIGINT"),
            () = server.handed_over() => break None,
            _ = hangup.recv() => {
                let (reload, notifier) = (Arc::clone(server.reload()), Arc::clone(notifier));
                // Beside this thread, which accepts connections; its outcome is told by itself.
                drop(tokio::task::spawn_blocking(move || {
                    notifier.reloading();
                    drop(reload.run());
                    notifier.ready(SERVING);
                }));
            }
        }
    };
    match signal {
        Some(signal) => {
            info!("{signal}: leaving; a second signal ends at once");
            notifier.stopping("Leaving: finishing what is under way");
        }
        // The service goes on: its manager hears of it from the other one.
        None => tell_of_successor(&server),
    }
    tokio::select! {
        _finished = server.leave() => {}
        _ = end.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The process whose sockets we take over, if one runs; what the service manager gave wins.
fn predecessor(config: &Config, given: &mut Given) -> anyhow::Result<Option<Predecessor>> {
    let Some(path) = config.listen.handover.as_deref().filter(|_| given.is_empty()) else {
        return Ok(None);
    };
    let Some((before, sockets)) = Predecessor::ask(path)? else { return Ok(None) };
    *given = sockets;
    Ok(Some(before))
}

fn tell_of_successor(server: &Server) {
    info!("another process serves our sockets: leaving; a signal ends at once");
    if let Some(address) = server.admin_address() {
        info!(%address, "operators' port until the end of this process");
    }
}

/// What an operator wants to know of a start.
fn announce(config: &Config, server: &Server) {
    for address in server.addresses() {
        info!(%address, "listening");
    }
    if let Some(address) = server.admin_address() {
        info!(%address, "operators' port: /metrics /healthz /readyz");
    }
    for (name, upstream) in &config.upstreams {
        info!(upstream = %name, url = %upstream.url, "upstream");
    }
    for line in config.consequences() {
        info!("{line}");
    }
}

fn demo(options: &demo::Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")?;
    let mut out = std::io::stdout();
    runtime.block_on(demo::run(options, &mut out, async {
        // Without a handler Ctrl-C ends the process anyway.
        drop(tokio::signal::ctrl_c().await);
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn healthcheck(path: &Path, address: Option<SocketAddr>) -> anyhow::Result<ExitCode> {
    let address = match address {
        Some(address) => address,
        None => match load(path) {
            None => return Ok(bad_configuration()),
            Some(config) => config
                .admin
                .address
                .map(loopback_if_unspecified)
                .context("no admin address to ask: set admin.address or pass --address")?,
        },
    };
    unitgate::admin::healthcheck(address)?;
    Ok(ExitCode::SUCCESS)
}

/// An address that listens everywhere is asked on loopback.
fn loopback_if_unspecified(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn seed() -> anyhow::Result<u64> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).context("the operating system has no entropy")?;
    Ok(u64::from_ne_bytes(seed))
}

/// Words for people; nothing is left to do where even standard error is gone.
fn complain(words: &str) {
    drop(writeln!(std::io::stderr(), "{words}"));
}

/// A configuration with mistakes ends with a code of its own.
fn bad_configuration() -> ExitCode {
    ExitCode::from(2)
}

/// What `systemctl status` shows.
const SERVING: &str = "Serving";

/// Longest wait for the log's last lines.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);
