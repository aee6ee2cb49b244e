//! Random interleavings of everything that can happen to a unit's list, against a small reference.
//!
//! *Invariants that must hold after every step*
//! 1. A caller never receives bytes that were fetched with another one's token.
//! 2. At most one upstream request per key and generation is in flight.
//! 3. Nothing is served beyond its windows, nor anything fetched before a completed write, or a 401, to
//!    whoever asks after it.
//! 4. No raw secret is in any body or line of the log.
//! 5. Every exchange is recorded exactly once.
//!
//! The upstream stamps each list with a number and with whom it was fetched for; the reference knows when
//! each number was given out, and which of them are too old for whom. The steps are drawn from a seed, so a
//! failure can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::support::{
    Answer, Ask, Client, Gate, INTEGRATION, Reply, Seen, Upstream, key, secs, token,
};

const CALLERS: [&str; 3] = ["alice", "bob", "carol"];
const UNITS: [&str; 2] = ["unit-1", "unit-2"];
const SEEDS: u64 = 80;
const STEPS: usize = 120;

/// Longer than stale-while-revalidate: whoever asks then waits for the refresh that is under way.
const PAST_THE_WINDOW: u64 = 31;

/// What the upstream does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fair,
    Failing,
    Resetting,
    Garbled,
}

/// What is true of the upstream: shared by its script and the reference.
struct World {
    weather: Weather,
    revoked: BTreeSet<String>,
    /// The time by the gateway's clock, in seconds since the start.
    now: u64,
    /// What was given out; a stamp is its place here.
    stamps: Vec<Stamp>,
    /// A refresh is under way while time passes.
    refreshing: bool,
}

/// When a list was given out, and how much later it may have been received: its age counts from there.
struct Stamp {
    given: u64,
    slack: u64,
}

impl World {
    /// Answers a request as the upstream is now.
    fn answer(&mut self, seen: &Seen) -> Answer {
        let caller = caller_of(seen);
        match self.weather {
            Weather::Failing => return Answer::json(503, r#"{"message":"later"}"#),
            Weather::Resetting => return Answer::reset(),
            Weather::Garbled => {
                return Answer::json(200, format!("{{\"apiKey\":\"{}\"", key("a1")));
            }
            Weather::Fair => {}
        }
        if self.revoked.contains(&caller) {
            return Answer::json(401, r#"{"message":"no"}"#);
        }
        if seen.method == "PUT" {
            let unit = String::from_utf8(seen.body.to_vec()).unwrap();
            return Answer::json(200, format!(r#"{{"unitId":{unit},"apiKey":"{}"}}"#, key("b2")));
        }
        self.list(&caller)
    }

    /// A list with a new stamp.
    fn list(&mut self, caller: &str) -> Answer {
        let stamp = self.stamps.len();
        let slack = if self.refreshing { PAST_THE_WINDOW } else { 0 };
        self.stamps.push(Stamp { given: self.now, slack });
        let secret = key("a1");
        Answer::json(
            200,
            format!(
                r#"{{"data":[{{"apiKey":"{secret}","prompt":"use {secret}","stamp":{stamp},"for":"{caller}"}}]}}"#
            ),
        )
    }

    fn is_fair_to(&self, caller: &str) -> bool {
        self.weather == Weather::Fair && !self.revoked.contains(caller)
    }
}

/// The caller's name, out of its token.
fn caller_of(seen: &Seen) -> String {
    let sent = seen.field("authorization").unwrap().strip_prefix("Bearer ").unwrap();
    (*CALLERS.iter().find(|name| token(name) == sent).expect("a token of somebody")).to_owned()
}

/// A run: the gateway, the upstream and the reference.
struct Run {
    upstream: Upstream,
    gate: Gate,
    world: Arc<Mutex<World>>,
    chance: u64,
    /// Stamps below these are too old: by unit after a write, by caller after a 401.
    written: BTreeMap<String, usize>,
    rejected: BTreeMap<String, usize>,
    /// Requests begun.
    sent: usize,
    /// Units that were invented for one step.
    invented: usize,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |config| {
            config.limits.caller = None;
            config.limits.caller_upstream = None;
        });
        let world = World {
            weather: Weather::Fair,
            revoked: BTreeSet::new(),
            now: 0,
            stamps: Vec::new(),
            refreshing: false,
        };
        let world = Arc::new(Mutex::new(world));
        let script = Arc::clone(&world);
        upstream.answers(move |seen| script.lock().answer(seen));
        let (written, rejected) = (BTreeMap::new(), BTreeMap::new());
        Self { upstream, gate, world, chance: seed, written, rejected, sent: 0, invented: 0 }
    }

    /// A number below `many` (splitmix64).
    fn draw(&mut self, many: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % many
    }

    fn caller(&mut self) -> &'static str {
        CALLERS[usize::try_from(self.draw(3)).unwrap()]
    }

    fn unit(&mut self) -> &'static str {
        UNITS[usize::try_from(self.draw(2)).unwrap()]
    }

    async fn step(&mut self) {
        match self.draw(20) {
            0..8 => {
                let (caller, unit) = (self.caller(), self.unit());
                self.read(caller, unit).await;
            }
            8..10 => {
                let (caller, unit) = (self.caller(), self.unit());
                self.write(caller, unit).await;
            }
            10..14 => {
                let by = 1 + self.draw(45);
                self.pass(by);
            }
            14 => self.pass(400),
            15..17 => {
                let weathers = [
                    Weather::Fair,
                    Weather::Fair,
                    Weather::Failing,
                    Weather::Resetting,
                    Weather::Garbled,
                ];
                let weather = weathers[usize::try_from(self.draw(5)).unwrap()];
                self.world.lock().weather = weather;
            }
            17 => {
                let caller = self.caller();
                let mut world = self.world.lock();
                if !world.revoked.remove(caller) {
                    world.revoked.insert(caller.to_owned());
                }
            }
            _ => self.crowd().await,
        }
    }

    fn pass(&self, by: u64) {
        self.gate.advance(secs(by));
        self.world.lock().now += by;
    }

    fn client(&self, caller: &str) -> Client {
        self.gate.client(caller)
    }

    /// A read, and if it was answered stale, one that waits for the refresh behind it.
    async fn read(&mut self, caller: &str, unit: &str) {
        let first = self.world.lock().stamps.len();
        if self.ask(caller, unit).await {
            {
                let mut world = self.world.lock();
                world.refreshing = true;
                world.stamps[first..].iter_mut().for_each(|stamp| stamp.slack = PAST_THE_WINDOW);
            }
            self.pass(PAST_THE_WINDOW);
            self.ask(caller, unit).await;
            self.world.lock().refreshing = false;
        }
    }

    /// One request; says whether a refresh was begun behind it.
    async fn ask(&mut self, caller: &str, unit: &str) -> bool {
        let oldest = self.oldest(caller, unit);
        let before = self.upstream.count();
        self.sent += 1;
        let reply = self.client(caller).enter(Ask::get(&path(unit))).await.reply().await;
        self.check(caller, &reply, oldest);
        let fair = self.world.lock().is_fair_to(caller);
        assert!(!fair || reply.status == 200, "the upstream is fine, and {caller} got {reply:?}");
        if reply.status == 401 {
            self.reject(caller);
        }
        let refreshing = reply.is_hit() && reply.cache().contains("ttl=-");
        if refreshing {
            // Its refresh goes out with the caller's token: were it revoked, that is found out now.
            self.upstream.arrived(before + 1).await;
            let revoked = {
                let world = self.world.lock();
                world.weather == Weather::Fair && world.revoked.contains(caller)
            };
            if revoked {
                // When the 401 lands is up to the sockets; the read that follows waits for it.
                self.pass(PAST_THE_WINDOW);
                self.sent += 1;
                let after = self.client(caller).enter(Ask::get(&path(unit))).await.reply().await;
                assert_eq!(after.status, 401, "{after:?}");
                self.reject(caller);
                return false;
            }
        }
        refreshing
    }

    /// From which stamp on `caller` may be given bytes of `unit`.
    fn oldest(&self, caller: &str, unit: &str) -> usize {
        let written = self.written.get(unit).copied().unwrap_or_default();
        written.max(self.rejected.get(caller).copied().unwrap_or_default())
    }

    fn reject(&mut self, caller: &str) {
        let next = self.world.lock().stamps.len();
        self.rejected.insert(caller.to_owned(), next);
    }

    /// Invariants 1, 3 and 4 of one reply.
    fn check(&self, caller: &str, reply: &Reply, oldest: usize) {
        for secret in [key("a1"), key("b2"), token(caller)] {
            assert!(!reply.everything().contains(&secret), "a secret is in {reply:?}");
        }
        if reply.status != 200 {
            return;
        }
        let body = reply.json();
        let list = &body["data"][0];
        assert_eq!(list["for"], caller, "{caller} got somebody else's bytes: {reply:?}");
        let stamp = usize::try_from(list["stamp"].as_u64().unwrap()).unwrap();
        assert!(stamp >= oldest, "{caller} got {stamp}, fetched before {oldest}: {reply:?}");
        let world = self.world.lock();
        let Stamp { given, slack } = world.stamps[stamp];
        let (oldest, youngest) = (world.now - given, (world.now - given).saturating_sub(slack));
        let excused = reply.cache().contains("stale-if-error");
        assert!(youngest < if excused { 390 } else { 90 }, "{youngest} s old: {reply:?}");
        if reply.is_hit() {
            let said: u64 = reply.field("age").unwrap().parse().unwrap();
            assert!((youngest..=oldest).contains(&said), "{youngest} to {oldest} s old: {reply:?}");
        }
    }

    /// A write that names a unit. Whoever asks after its success gets nothing older.
    async fn write(&mut self, caller: &str, unit: &str) {
        self.sent += 1;
        let reply = self
            .client(caller)
            .enter(Ask::put(INTEGRATION, &format!("\"{unit}\"")))
            .await
            .reply()
            .await;
        for secret in [key("b2"), token(caller)] {
            assert!(!reply.everything().contains(&secret), "{reply:?}");
        }
        match reply.status {
            200 => {
                let next = self.world.lock().stamps.len();
                self.written.insert(unit.to_owned(), next);
            }
            401 => self.reject(caller),
            _ => assert_ne!(self.world.lock().weather, Weather::Fair, "{reply:?}"),
        }
    }

    /// Several ask for a new unit at once; some leave, one may write meanwhile, and the upstream's answer is
    /// the one from before that.
    async fn crowd(&mut self) {
        let caller = self.caller();
        if !self.world.lock().is_fair_to(caller) {
            return;
        }
        self.invented += 1;
        let unit = format!("new-{}", self.invented);
        let target = path(&unit);
        let held = self.upstream.hold();
        let mut waiting = vec![self.client(caller).enter(Ask::get(&target)).await];
        held.arrived().await;
        let early = self.world.lock().list(caller);
        for _ in 0..self.draw(5) {
            waiting.push(self.client(caller).enter(Ask::get(&target)).await);
        }
        self.sent += waiting.len();
        let oldest = self.oldest(caller, &unit);
        for _ in 0..self.draw(3) {
            // Also the one that began it.
            if let Some(leaver) = waiting.pop() {
                leaver.hang_up().await;
            }
        }
        let mut generations = 1;
        let writes = self.draw(2) == 0;
        if writes {
            self.write(caller, &unit).await;
            generations += 1;
        }
        let after = self.oldest(caller, &unit);
        self.sent += 2;
        let late = [
            self.client(caller).enter(Ask::get(&target)).await,
            self.client(caller).enter(Ask::get(&target)).await,
        ];
        held.release_with(early);
        for pending in waiting {
            let reply = pending.reply().await;
            assert_eq!(reply.status, 200, "{reply:?}");
            self.check(caller, &reply, oldest);
        }
        for pending in late {
            let reply = pending.reply().await;
            assert_eq!(reply.status, 200, "{reply:?}");
            self.check(caller, &reply, after);
        }
        let asked = self.upstream.seen().iter().filter(|seen| seen.target == target).count();
        assert!(asked <= generations, "{asked} requests in {generations} generations of {target}");
    }

    /// Invariants 4 and 5 of the whole run.
    async fn end(mut self) {
        assert!(self.gate.leave().await);
        let log = self.gate.log();
        let secrets = CALLERS.iter().map(|name| token(name)).chain([key("a1"), key("b2")]);
        for secret in secrets {
            assert!(!log.contains(&secret), "a secret is in the log");
        }
        let sent = f64::from(u32::try_from(self.sent).unwrap());
        assert_eq!(self.gate.metric("requests_total", &[]), sent);
        assert_eq!(self.gate.metric("requests_in_flight", &[]), 0.0);
        assert_eq!(log.matches("\"outcome\":").count(), self.sent);
        let upstream = f64::from(u32::try_from(self.upstream.count()).unwrap());
        assert_eq!(self.gate.metric("upstream_requests_total", &[]), upstream);
    }
}

fn path(unit: &str) -> String {
    format!("/api/v1/calcom/integration/unit/{unit}")
}

#[tokio::test]
async fn whatever_happens_in_whatever_order_the_five_invariants_hold() {
    for seed in 0..SEEDS {
        let mut run = Run::new(seed).await;
        // Shown only if an assertion below fails.
        eprintln!("seed {seed}");
        for _ in 0..STEPS {
            run.step().await;
        }
        run.end().await;
    }
}
