//! [`Run`]: one seed from its first step to its last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};
use unitgate::cache::generation::Strength;
use unitgate::cache::purge::Purge;
use unitgate::clock::{Clock, Dice};
use unitgate::config::{CachePolicy, Config, Level, NamedUpstream};
use unitgate::listener::{Given, Workers};
use unitgate::portless::Portless;
use unitgate::server::Setting;
use unitgate::telemetry::{Lines, diagnostics};
use unitgate::upstream::Dial;

use crate::capture::Capture;
use crate::client::Caller;
use crate::tap::Tap;
use crate::world::{
    CALLERS, IF_ERROR, REVALIDATE, Shared, TICK, TTL, Tally, UNITS, Weather, World, draw, key,
    moment, pick, token,
};
use crate::{RECOVERY, TROUBLE};

/// How it went.
pub(crate) struct Run {
    pub(crate) wrong: Vec<String>,
    pub(crate) tally: Tally,
    story: Vec<String>,
}

/// A gateway from its start to its end or crash.
#[derive(Clone)]
struct Life {
    portless: Portless,
    left: bool,
}

/// What the hosts are made of.
#[derive(Clone)]
struct Stage {
    world: Shared,
    clock: Clock,
    dice: Dice,
    lines: Lines,
    lives: Arc<Mutex<Vec<Life>>>,
    leave: Arc<tokio::sync::Notify>,
}

impl Run {
    pub(crate) fn of(seed: u64) -> Self {
        let (log, world) = (Capture::default(), World::new());
        let lines = Lines::to(log.clone()).unwrap();
        let clock = Clock::steered(Duration::from_hours(500_000));
        let (captured, _hearing) =
            diagnostics::subscriber(&config().log, None, clock.clone(), lines.clone());
        let _diagnostics = tracing::subscriber::set_default(captured);
        let stage = Stage {
            world,
            clock,
            dice: Dice::seeded(seed),
            lines,
            lives: Arc::default(),
            leave: Arc::default(),
        };
        stage.play(seed);
        stage.check_records(&log);
        let mut world = stage.world.lock();
        let (wrong, story) = (std::mem::take(&mut world.wrong), std::mem::take(&mut world.story));
        Self { wrong, story, tally: world.tally.clone() }
    }

    pub(crate) fn story(&self) -> String {
        self.story.join("\n")
    }
}

impl Stage {
    fn play(&self, seed: u64) {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(60))
            .repair_rate(0.5)
            .simulation_duration(Duration::from_mins(10))
            .build();
        let stage = self.clone();
        sim.host("gateway", move || stage.clone().gateway());
        let (world, dice) = (self.world.clone(), self.split());
        sim.host("upstream", move || crate::upstream::serve(world.clone(), dice.clone()));
        for name in CALLERS {
            let many = if has_pairs(seed) { 2 } else { 1 };
            let each = |half| Caller::new(name, half, self.world.clone(), self.split());
            let callers: Vec<_> = (0..many).map(each).collect();
            sim.client(name, async {
                let spawn = |caller: Caller| tokio::task::spawn_local(caller.live());
                for caller in callers.into_iter().map(spawn).collect::<Vec<_>>() {
                    caller.await??;
                }
                Ok(())
            });
        }
        let mut chaos = Chaos { dice: self.split(), due: Duration::ZERO, down: None };
        let calm = draw(&chaos.dice, 3) == 0;
        if !calm {
            sim.set_fail_rate(0.004);
        }
        while self.world.lock().now < TROUBLE {
            chaos.act(self, &mut sim);
            self.step(&mut sim);
        }
        chaos.end(self, &mut sim);
        self.world.lock().over = true;
        let late = TROUBLE + RECOVERY * 3;
        while !self.step(&mut sim) {
            assert!(self.world.lock().now < late, "a caller does not end");
        }
        self.leave.notify_one();
        while !self.lives.lock().last().unwrap().left {
            self.step(&mut sim);
            assert!(self.world.lock().now < late, "the gateway does not leave");
        }
    }

    /// One step of time for everybody; whether all callers are done.
    fn step(&self, sim: &mut Sim<'_>) -> bool {
        let done = sim.step().unwrap();
        self.clock.advance(TICK);
        let mut world = self.world.lock();
        world.now += TICK;
        world.check_flights();
        done
    }

    /// Dice of their own for one of the hosts.
    fn split(&self) -> Dice {
        Dice::seeded(self.dice.roll())
    }

    async fn gateway(self) -> turmoil::Result {
        let setting = Setting {
            lines: self.lines.clone(),
            clock: self.clock.clone(),
            dice: self.split(),
            workers: Workers::here(),
            given: Given::default(),
        };
        let world = self.world.clone();
        let dial = Dial::new(move |uri| {
            let world = world.clone();
            async move {
                let dialled = world.lock().now;
                let stream = TcpStream::connect((uri.host().unwrap(), 80)).await?;
                Ok::<_, io::Error>(Tap::new(stream, world, dialled))
            }
        });
        let portless = Portless::new(&config(), setting, dial)?;
        let life = self.lives.lock().len();
        self.lives.lock().push(Life { portless: portless.clone(), left: false });
        let listener = TcpListener::bind("0.0.0.0:80").await?;
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = self.leave.notified() => break,
                accepted = listener.accept() => {
                    let (stream, peer): (TcpStream, SocketAddr) = accepted?;
                    let portless = portless.clone();
                    connections.spawn(async move { portless.serve(stream, peer).await });
                }
            }
        }
        portless.leave().await;
        self.lives.lock()[life].left = true;
        Ok(())
    }

    /// Claims 4 and 5 of the whole run.
    fn check_records(&self, log: &Capture) {
        assert!(self.lines.flush(Duration::from_secs(10)), "the log could not be written");
        let log = log.take();
        let mut world = self.world.lock();
        for name in CALLERS.iter().chain(&["nobody"]) {
            if log.contains(&key(name)) || log.contains(&token(name)) {
                world.complain(format!("a secret of {name} is in the log"));
            }
        }
        let mut recorded = 0.0;
        for life in self.lives.lock().iter() {
            let scrape = life.portless.telemetry().scrape();
            recorded += sum(&scrape, "unitgate_requests_total");
            if sum(&scrape, "unitgate_requests_in_flight") != 0.0 {
                world.complain("an exchange never ended");
            }
        }
        let lines = log.lines().filter(|line| line.contains("\"outcome\":"));
        let logged = u32::try_from(lines.clone().count()).unwrap();
        if (f64::from(logged) - recorded).abs() > 0.5 {
            world.complain(format!("{logged} exchanges are logged, {recorded} are counted"));
        }
        let mut times: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for line in lines {
            let id = line.split("\"request_id\":\"").nth(1).and_then(|rest| rest.split('"').next());
            *times.entry(id.unwrap_or_default()).or_default() += 1;
        }
        let mut wrong = Vec::new();
        for (id, answers) in &world.ids {
            let recorded = times.remove(id.as_str()).unwrap_or_default();
            if recorded > 1 || recorded < *answers {
                wrong.push(format!("{id} was answered {answers} times and recorded {recorded}"));
            }
        }
        wrong.extend(times.keys().map(|id| format!("{id:?} was recorded, and nobody sent it")));
        for what in wrong {
            world.complain(what);
        }
    }
}

/// Whether each caller has two connections, so that one key may be asked for twice at once.
pub(crate) fn has_pairs(seed: u64) -> bool {
    seed % 4 == 3
}

/// Who makes the trouble.
struct Chaos {
    dice: Dice,
    due: Duration,
    down: Option<&'static str>,
}

impl Chaos {
    fn act(&mut self, stage: &Stage, sim: &mut Sim<'_>) {
        let now = stage.world.lock().now;
        if now < self.due {
            return;
        }
        self.due = now + moment(&self.dice, Duration::from_millis(800));
        match draw(&self.dice, 18) {
            0 => self.part(stage, sim, "gateway", "upstream"),
            1 => {
                let caller = *pick(&self.dice, &CALLERS);
                self.part(stage, sim, "gateway", caller);
            }
            2..6 => self.mend(stage, sim),
            6..9 => {
                let fair = draw(&self.dice, 2) == 0;
                let weather = if fair { Weather::Fair } else { *pick(&self.dice, &Weather::ALL) };
                let mut world = stage.world.lock();
                world.weather = weather;
                world.tell(format!("-- the upstream is {weather:?}"));
            }
            9 => {
                let caller = *pick(&self.dice, &CALLERS);
                let mut world = stage.world.lock();
                world.revoked.insert(caller.to_owned());
                world.tell(format!("-- {caller}'s token is revoked"));
            }
            10..12 => {
                let mut world = stage.world.lock();
                world.revoked.clear();
                world.weather = Weather::Fair;
                world.tell("-- all tokens are good, and the upstream is well");
            }
            12..14 => self.purge(stage),
            14 => self.crash(stage, sim, "upstream"),
            _ if draw(&self.dice, 3) == 0 => self.crash(stage, sim, "gateway"),
            _ => {}
        }
    }

    fn part(&self, stage: &Stage, sim: &Sim<'_>, one: &str, other: &str) {
        match draw(&self.dice, 3) {
            0 => sim.partition(one, other),
            1 => sim.partition_oneway(one, other),
            _ => sim.partition_oneway(other, one),
        }
        let mut world = stage.world.lock();
        world.tally.partitions += 1;
        world.tell(format!("-- {one} and {other} are parted"));
    }

    fn mend(&mut self, stage: &Stage, sim: &mut Sim<'_>) {
        sim.repair("gateway", "upstream");
        for caller in CALLERS {
            sim.repair("gateway", caller);
        }
        if let Some(host) = self.down.take() {
            sim.bounce(host);
        }
        stage.world.lock().tell("-- mended");
    }

    fn crash(&mut self, stage: &Stage, sim: &mut Sim<'_>, host: &'static str) {
        if self.down.is_none() {
            stage.world.lock().tally.crashes += 1;
            stage.world.lock().tell(format!("-- {host} crashes"));
            // As by a loss of power: nobody is told. What its tasks would say when they are dropped would
            // also come in an order that no seed decides.
            let others =
                || CALLERS.iter().chain(&["gateway", "upstream"]).filter(|it| **it != host);
            for other in others() {
                sim.partition(host, *other);
            }
            sim.crash(host);
            for other in others() {
                sim.repair(host, *other);
            }
            self.down = Some(host);
        }
    }

    fn purge(&self, stage: &Stage) {
        let unit = *pick(&self.dice, &UNITS);
        let lives = stage.lives.lock();
        let Some(life) = lives.last() else { return };
        let strength = if draw(&self.dice, 3) == 0 { Strength::Soft } else { Strength::Hard };
        life.portless.gateway().load().purge(&Purge::Unit(unit.to_owned()), strength).unwrap();
        let mut world = stage.world.lock();
        world.tally.purges += 1;
        world.tell(format!("-- {unit} is purged, {strength:?}"));
        match strength {
            Strength::Hard => world.was_purged(unit),
            Strength::Soft => world.ends_unit(unit),
        }
    }

    fn end(&mut self, stage: &Stage, sim: &mut Sim<'_>) {
        sim.set_fail_rate(0.0);
        self.mend(stage, sim);
        let mut world = stage.world.lock();
        world.weather = Weather::Fair;
        world.revoked.clear();
        world.tell("-- all is well again");
    }
}

/// The shipped configuration with everything some thirty times quicker.
fn config() -> Config {
    let mut config = Config::default();
    config.log.level = Level::Trace;
    for named in config.upstreams.values_mut() {
        *named = NamedUpstream { url: "http://upstream:80".parse().unwrap() };
    }
    config.listen.head = Duration::from_secs(1);
    config.listen.body = Duration::from_secs(1);
    config.listen.idle = Duration::from_secs(5);
    config.listen.write = Duration::from_secs(2);
    config.upstream.connect = Duration::from_millis(500);
    config.upstream.first_byte = Duration::from_secs(1);
    config.upstream.total = Duration::from_millis(1500);
    config.upstream.idle = Duration::from_secs(1);
    policy(&mut config.cache.policy);
    config.routes.iter_mut().filter_map(|route| route.cache.as_mut()).for_each(policy);
    config
}

fn policy(policy: &mut CachePolicy) {
    policy.jitter = 0.0;
    policy.ttl = TTL;
    policy.stale_while_revalidate = REVALIDATE;
    policy.stale_if_error = IF_ERROR;
    policy.keep = Duration::from_secs(20);
}

fn sum(scrape: &str, name: &str) -> f64 {
    let series = scrape.lines().filter_map(|line| line.strip_prefix(name));
    let values = series.filter(|rest| rest.starts_with([' ', '{']));
    values.map(|rest| rest.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}
