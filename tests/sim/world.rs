//! [`World`]: what is true, and what was seen of the gateway; the checks of the claims.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use unitgate::clock::Dice;

/// The callers; each is a host with a token of its own.
pub(crate) const CALLERS: [&str; 3] = ["alice", "bob", "carol"];

/// The units that they ask for.
pub(crate) const UNITS: [&str; 2] = ["unit-1", "unit-2"];

/// How much the simulation's time moves in one step.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// The gateway's windows.
pub(crate) const TTL: Duration = Duration::from_secs(1);
pub(crate) const REVALIDATE: Duration = Duration::from_secs(1);
pub(crate) const IF_ERROR: Duration = Duration::from_secs(2);

/// How much later the second try of a request may be seen: it has to connect first.
const AGAIN: Duration = Duration::from_millis(600);

/// The token of a caller by name.
pub(crate) fn token(name: &str) -> String {
    format!("tok.{name}-{}", "Z9".repeat(12))
}

/// The unmasked key that the upstream shows to a caller.
pub(crate) fn key(name: &str) -> String {
    format!("cal_live_{}", format!("{name}0").repeat(5))
}

/// Everything that one run shares.
pub(crate) type Shared = Arc<Mutex<World>>;

/// What the upstream does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    Failing,
    Resetting,
    Halving,
    Garbling,
    Silent,
}

impl Weather {
    pub(crate) const ALL: [Self; 6] =
        [Self::Fair, Self::Failing, Self::Resetting, Self::Halving, Self::Garbling, Self::Silent];
}

/// A list that was given out.
struct Stamp {
    version: u64,
    /// Its place in the order of events, or that of its latest confirmation.
    given: u64,
    /// When the gateway had it.
    received: Option<Duration>,
}

/// What somebody who asks now may expect.
#[derive(Clone, Copy)]
pub(crate) struct Floor {
    asked: Duration,
    version: u64,
    given: u64,
}

/// Whose answers an event ends.
enum Scope {
    Unit(String),
    Caller(String),
}

/// A request of the gateway's that is under way at the upstream.
struct Flight {
    caller: String,
    unit: String,
    since: Duration,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) over: bool,
    pub(crate) weather: Weather,
    pub(crate) revoked: BTreeSet<String>,
    pub(crate) story: Vec<String>,
    pub(crate) wrong: Vec<String>,
    pub(crate) tally: Tally,
    /// Request ids that were sent, and how often each was answered.
    pub(crate) ids: BTreeMap<String, usize>,
    order: u64,
    versions: BTreeMap<String, u64>,
    stamps: Vec<Stamp>,
    /// Places of the 401s that were given out.
    rejections: Vec<u64>,
    written: BTreeMap<String, u64>,
    rejected: BTreeMap<String, u64>,
    purged: BTreeMap<String, u64>,
    flights: BTreeMap<u64, Flight>,
    /// By key: since when the latest request without an answer was under way, and until when.
    lost: BTreeMap<(String, String), (Duration, Duration)>,
    ended: Vec<(Duration, Scope)>,
}

/// What happened, so that a simulation that does nothing is noticed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) hits: u64,
    pub(crate) stale: u64,
    pub(crate) excused: u64,
    pub(crate) fetched: u64,
    pub(crate) joined: u64,
    pub(crate) confirmed: u64,
    pub(crate) writes: u64,
    pub(crate) rejections: u64,
    pub(crate) failures: u64,
    pub(crate) unanswered: u64,
    pub(crate) purges: u64,
    pub(crate) crashes: u64,
    pub(crate) partitions: u64,
}

impl Tally {
    fn fields(&mut self) -> [&mut u64; 13] {
        [
            &mut self.hits,
            &mut self.stale,
            &mut self.excused,
            &mut self.fetched,
            &mut self.joined,
            &mut self.confirmed,
            &mut self.writes,
            &mut self.rejections,
            &mut self.failures,
            &mut self.unanswered,
            &mut self.purges,
            &mut self.crashes,
            &mut self.partitions,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.fields().into_iter().zip(other.clone().fields()) {
            *sum += *more;
        }
    }

    pub(crate) fn expect_something_of_everything(&self) {
        assert!(self.clone().fields().iter().all(|many| **many > 0), "{self:?}");
    }
}

impl World {
    pub(crate) fn new() -> Shared {
        Arc::new(Mutex::new(Self {
            now: Duration::ZERO,
            over: false,
            weather: Weather::Fair,
            revoked: BTreeSet::new(),
            story: Vec::new(),
            wrong: Vec::new(),
            tally: Tally::default(),
            ids: BTreeMap::new(),
            order: 0,
            versions: BTreeMap::new(),
            stamps: Vec::new(),
            rejections: Vec::new(),
            written: BTreeMap::new(),
            rejected: BTreeMap::new(),
            purged: BTreeMap::new(),
            flights: BTreeMap::new(),
            lost: BTreeMap::new(),
            ended: Vec::new(),
        }))
    }

    pub(crate) fn tell(&mut self, what: impl AsRef<str>) {
        self.story.push(format!("{:>7.2} {}", self.now.as_secs_f64(), what.as_ref()));
    }

    pub(crate) fn complain(&mut self, what: impl AsRef<str>) {
        self.tell(format!("WRONG: {}", what.as_ref()));
        self.wrong.push(what.as_ref().to_owned());
    }

    fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    // What the upstream does.

    /// The list of a unit as it is now, for a caller.
    pub(crate) fn list(&mut self, caller: &str, unit: &str) -> (usize, String) {
        let (given, version) = (self.next(), self.version(unit));
        let stamp = self.stamps.len();
        self.stamps.push(Stamp { version, given, received: None });
        let secret = key(caller);
        let body = format!(
            r#"{{"data":[{{"unitId":"{unit}","apiKey":"{secret}","prompt":"use {secret}","version":{version},"for":"{caller}","stamp":{stamp}}}]}}"#
        );
        (stamp, body)
    }

    /// Says that a list that was given out is still right; whether it is.
    pub(crate) fn confirm(&mut self, stamp: usize, unit: &str) -> bool {
        let (given, version) = (self.next(), self.version(unit));
        let known = self.stamps.get_mut(stamp).filter(|known| known.version == version);
        known.map(|known| known.given = given).is_some()
    }

    fn version(&self, unit: &str) -> u64 {
        self.versions.get(unit).copied().unwrap_or_default()
    }

    pub(crate) fn write(&mut self, unit: &str) -> u64 {
        let version = self.versions.entry(unit.to_owned()).or_default();
        *version += 1;
        *version
    }

    /// A 401, with its number.
    pub(crate) fn reject(&mut self) -> usize {
        let place = self.next();
        self.rejections.push(place);
        self.rejections.len() - 1
    }

    // What is seen between the gateway and the upstream.

    pub(crate) fn received(&mut self, stamp: usize) {
        if let Some(stamp) = self.stamps.get_mut(stamp) {
            stamp.received = Some(self.now);
        }
    }

    pub(crate) fn took_off(&mut self, id: u64, caller: &str, unit: &str, since: Duration) {
        let (caller, unit) = (caller.to_owned(), unit.to_owned());
        // Where a pooled connection turned out closed, this may be the unseen second try of the same flight.
        let lost = self.lost.remove(&(caller.clone(), unit.clone()));
        let first = lost.filter(|(_, over)| self.now < *over + AGAIN);
        let since = first.map_or(since, |(first, _)| since.min(first));
        self.tell(format!("   {id} asks for {unit} as {caller}"));
        self.flights.insert(id, Flight { caller, unit, since });
    }

    /// A request is over, with or without an answer.
    pub(crate) fn landed(&mut self, id: u64, answered: bool) {
        self.tell(format!("   {id} is over"));
        if let Some(Flight { caller, unit, since }) = self.flights.remove(&id)
            && !answered
        {
            self.lost.insert((caller, unit), (since, self.now));
        }
    }

    pub(crate) fn ends_unit(&mut self, unit: &str) {
        self.ended.push((self.now, Scope::Unit(unit.to_owned())));
    }

    pub(crate) fn ends_caller(&mut self, caller: &str) {
        self.ended.push((self.now, Scope::Caller(caller.to_owned())));
    }

    /// Claim 2, after each step: more than one flight of a key needs something that began a generation
    /// since the first of them, give or take the step in which it was seen.
    pub(crate) fn check_flights(&mut self) {
        let mut keys: BTreeMap<(&str, &str), (usize, Duration)> = BTreeMap::new();
        for Flight { caller, unit, since } in self.flights.values() {
            let (many, first) = keys.entry((caller, unit)).or_insert((0, *since));
            *many += 1;
            *first = (*first).min(*since);
        }
        let mut wrong = Vec::new();
        for ((caller, unit), (many, first)) in keys {
            let begun = self.ended.iter().filter(|(at, scope)| {
                let about = match scope {
                    Scope::Unit(ended) => ended == unit,
                    Scope::Caller(ended) => ended == caller,
                };
                about && *at + TICK >= first
            });
            let generations = 1 + begun.count();
            if many > generations {
                wrong.push(format!(
                    "{many} requests of {caller} for {unit} in flight in {generations} generations"
                ));
            }
        }
        for what in wrong {
            self.complain(what);
        }
    }

    // What the clients and the operator see.

    pub(crate) fn floor(&self, caller: &str, unit: &str) -> Floor {
        let of = |map: &BTreeMap<String, u64>, key: &str| map.get(key).copied().unwrap_or_default();
        Floor {
            asked: self.now,
            version: of(&self.written, unit),
            given: of(&self.rejected, caller).max(of(&self.purged, unit)),
        }
    }

    pub(crate) fn was_purged(&mut self, unit: &str) {
        let place = self.next();
        self.purged.insert(unit.to_owned(), place);
        self.ends_unit(unit);
    }

    pub(crate) fn was_written(&mut self, unit: &str, version: u64) {
        let written = self.written.entry(unit.to_owned()).or_default();
        *written = (*written).max(version);
    }

    pub(crate) fn was_rejected(&mut self, caller: &str, number: usize) {
        let Some(place) = self.rejections.get(number).copied() else {
            return self.complain(format!("{caller} got a 401 that nobody gave"));
        };
        let rejected = self.rejected.entry(caller.to_owned()).or_default();
        *rejected = (*rejected).max(place);
    }

    /// Claim 3 of a list that a caller received.
    pub(crate) fn check_age(&mut self, floor: Floor, stamp: usize, version: u64, excused: bool) {
        let Some(Stamp { version: true_version, given, received }) = self.stamps.get(stamp) else {
            return self.complain(format!("stamp {stamp} was never given"));
        };
        let (true_version, given) = (*true_version, *given);
        let Some(received) = *received else {
            return self.complain(format!("stamp {stamp} never reached the gateway"));
        };
        if version != true_version {
            self.complain(format!(
                "stamp {stamp} changed from version {true_version} to {version}"
            ));
        }
        if version < floor.version {
            let least = floor.version;
            self.complain(format!("version {version} served after a write of {least} completed"));
        }
        if given < floor.given {
            self.complain(format!("stamp {stamp} served after a purge or 401 that came later"));
        }
        let window = TTL + REVALIDATE + if excused { IF_ERROR } else { Duration::ZERO };
        let age = floor.asked.saturating_sub(received);
        if age > window + TICK {
            self.complain(format!("stamp {stamp} served {age:?} old, excused: {excused}"));
        }
    }
}

/// A number below `many`.
pub(crate) fn draw(dice: &Dice, many: u64) -> u64 {
    dice.roll() % many
}

/// One of them.
pub(crate) fn pick<'a, T>(dice: &Dice, from: &'a [T]) -> &'a T {
    &from[usize::try_from(draw(dice, from.len() as u64)).unwrap()]
}

/// A time below `most`.
pub(crate) fn moment(dice: &Dice, most: Duration) -> Duration {
    Duration::from_millis(draw(dice, u64::try_from(most.as_millis()).unwrap()))
}
