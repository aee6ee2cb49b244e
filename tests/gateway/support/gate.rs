//! [`Gate`]: a whole gateway on free ports of loopback, its clock in the test's hand, its log captured.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::subscriber::DefaultGuard;
use unitgate::admin::Reloaded;
use unitgate::clock::{Clock, Dice};
use unitgate::config::{CachePolicy, Config, ConfigErrors, Level, NamedUpstream, Route, Warning};
use unitgate::gateway::Current;
use unitgate::listener::{Given, Workers};
use unitgate::reload::{NotReloaded, Source};
use unitgate::server::{Server, Setting};
use unitgate::telemetry::{Lines, Telemetry, diagnostics};

use super::client::Client;
use super::upstream::Upstream;
use super::{PATIENCE, token};

/// The gateway under test.
pub(crate) struct Gate {
    server: Option<Server>,
    gateway: Current,
    telemetry: Arc<Telemetry>,
    address: SocketAddr,
    admin: SocketAddr,
    clock: Clock,
    log: Capture,
    file: Arc<Mutex<File>>,
    _diagnostics: DefaultGuard,
}

impl Gate {
    /// The shipped configuration in front of `upstream`, on free ports, without jitter; `change` departs
    /// from it. A route's own cache policy is reached with [`policy`](Gate::policy).
    pub(crate) fn start(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Self {
        Self::before(upstream.address(), change)
    }

    /// The same in front of whatever listens at `upstream`.
    pub(crate) fn before(upstream: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.listen.address = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        config.admin.address = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.log.level = Level::Trace;
        let url: http::Uri = format!("http://{upstream}").parse().unwrap();
        for named in config.upstreams.values_mut() {
            *named = NamedUpstream { url: url.clone() };
        }
        Self::policy(&mut config, |policy| policy.jitter = 0.0);
        change(&mut config);
        Self::open(&config)
    }

    /// The whole shared cache of `deploy/open.toml` in front of `upstream`, on free ports; `change` departs
    /// from it.
    pub(crate) fn shared(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/open.toml");
        let text = std::fs::read_to_string(file).unwrap();
        let (mut config, warnings) = Config::parse(&text, []).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        config.listen.address = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        config.admin.address = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.log.level = Level::Trace;
        let url = format!("http://{}", upstream.address()).parse().unwrap();
        config.upstreams.insert("any".to_owned(), NamedUpstream { url });
        change(&mut config);
        Self::open(&config)
    }

    /// Changes the cache policy, in `[cache]` and on every route that is cached.
    pub(crate) fn policy(config: &mut Config, change: impl Fn(&mut CachePolicy)) {
        change(&mut config.cache.policy);
        config.routes.iter_mut().filter_map(|route| route.cache.as_mut()).for_each(change);
    }

    /// A route of the configuration by its name.
    pub(crate) fn route<'a>(config: &'a mut Config, name: &str) -> &'a mut Route {
        config.routes.iter_mut().find(|route| route.name == name).expect("the route exists")
    }

    /// Exactly this configuration.
    pub(crate) fn open(config: &Config) -> Self {
        let log = Capture::default();
        let lines = Lines::to(log.clone()).unwrap();
        let clock = Clock::steered(START);
        let (subscriber, hearing) =
            diagnostics::subscriber(&config.log, None, clock.clone(), lines.clone());
        let diagnostics = tracing::subscriber::set_default(subscriber);
        let setting = Setting {
            lines,
            clock: clock.clone(),
            dice: Dice::seeded(1),
            workers: Workers::here(),
            given: Given::default(),
        };
        let server = Server::start(config, setting).unwrap();
        let file = Arc::new(Mutex::new(File(Ok((config.clone(), Vec::new())))));
        let read = Arc::clone(&file);
        let load = Box::new(move || read.lock().0.clone());
        server.reload().from(Source { load, hearing: Some(hearing) });
        Self {
            gateway: server.gateway().clone(),
            telemetry: Arc::clone(server.telemetry()),
            address: server.addresses()[0],
            admin: server.admin_address().unwrap_or_else(|| server.addresses()[0]),
            server: Some(server),
            clock,
            log,
            file,
            _diagnostics: diagnostics,
        }
    }

    /// A caller with a token of its own.
    pub(crate) fn client(&self, name: &str) -> Client {
        self.client_with(&format!("Bearer {}", token(name)))
    }

    /// A client that sends this `Authorization`.
    pub(crate) fn client_with(&self, authorization: &str) -> Client {
        Client::new(self.address, self.gateway.clone(), Some(authorization.to_owned()))
    }

    /// A client without a token.
    pub(crate) fn stranger(&self) -> Client {
        Client::new(self.address, self.gateway.clone(), None)
    }

    /// A client of the operators' port.
    pub(crate) fn operator(&self) -> Client {
        Client::new(self.admin, self.gateway.clone(), None)
    }

    /// Where the public port listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes the configuration in force to its file with `change`, without loading it.
    pub(crate) fn write(&self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::clone(&self.server().reload().in_force());
        change(&mut config);
        self.file.lock().0 = Ok((config, Vec::new()));
    }

    /// Writes this text to the configuration's file, without loading it.
    pub(crate) fn write_text(&self, text: &str) {
        self.file.lock().0 = Config::parse(text, []);
    }

    /// Loads what the configuration's file holds now.
    pub(crate) fn load(&self) -> Result<Reloaded, NotReloaded> {
        self.server().reload().run()
    }

    /// Changes the configuration in force, by its file; says which keys that changed.
    pub(crate) fn reload(&self, change: impl FnOnce(&mut Config)) -> Vec<String> {
        self.write(change);
        let Reloaded { changed, restart, .. } = self.load().unwrap();
        assert!(restart.is_empty(), "{restart:?}");
        changed
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it has left")
    }

    /// Moves the gateway's clock ahead.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The gateway's clock.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Everything logged so far: access lines and diagnostics, down to `trace`.
    pub(crate) fn log(&self) -> String {
        assert!(self.telemetry.flush(Duration::from_secs(5)), "the log could not be written");
        String::from_utf8(self.log.bytes.lock().clone()).unwrap()
    }

    /// Waits until the log contains `text`.
    pub(crate) async fn logged(&self, text: &str) {
        let mut written = self.log.written.subscribe();
        let contains = |_: &usize| String::from_utf8_lossy(&self.log.bytes.lock()).contains(text);
        let found = timeout(PATIENCE, written.wait_for(contains)).await;
        assert!(found.is_ok(), "not in the log: {text}\n{}", self.log());
    }

    /// Everything in Prometheus' text format. What the cache and the limiters hold is filled in only when
    /// the operators' port is asked.
    pub(crate) fn metrics(&self) -> String {
        self.telemetry.scrape()
    }

    /// The sum of the series of `unitgate_{name}` whose labels contain each of `labels`, such as
    /// `outcome="hit"`. It fails if there is no such series.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics(), name, labels)
    }

    /// The same, as the operators' port says it.
    pub(crate) async fn scraped(&self, name: &str, labels: &[&str]) -> f64 {
        sum(self.operator().get("/metrics").await.text(), name, labels)
    }

    /// Drains: waits for everything under way, refreshes in the background too. Says whether that was done
    /// before the deadline. Log and metrics can still be read.
    pub(crate) async fn leave(&mut self) -> bool {
        self.server.take().expect("it left already").leave().await
    }
}

/// What the configuration's file holds.
struct File(Result<(Config, Vec<Warning>), ConfigErrors>);

fn sum(scrape: &str, name: &str, labels: &[&str]) -> f64 {
    let name = format!("unitgate_{name}");
    let mut series = scrape
        .lines()
        .filter_map(|line| line.strip_prefix(&name))
        .filter(|rest| {
            rest.starts_with([' ', '{']) && labels.iter().all(|label| rest.contains(label))
        })
        .map(|rest| rest.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .peekable();
    assert!(series.peek().is_some(), "no series of {name} has {labels:?}");
    series.sum()
}

/// Where the log goes; says when something was written.
#[derive(Clone)]
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    written: watch::Sender<usize>,
}

impl Default for Capture {
    fn default() -> Self {
        Self { bytes: Arc::default(), written: watch::Sender::new(0) }
    }
}

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.lock().extend_from_slice(bytes);
        self.written.send_modify(|written| *written += bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The wall time at which a gate starts: 2027-01-15 08:00:00 UTC.
pub(crate) const START: Duration = Duration::from_hours(500_000);
