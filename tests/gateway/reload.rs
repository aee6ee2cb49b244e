//! The configuration loaded again under traffic.
//!
//! *Claims*
//! 1. Routes, limits, lifetimes, masking, upstreams, log and admin token are those of the file from then on,
//!    for connections that were open before too; what bounds one connection is that of its beginning.
//! 2. What is stored, under way and owed stays; but an answer that was made under another masking,
//!    allow-list or upstream is a miss, and a fetch begun under it is neither stored nor joined.
//! 3. A bad file changes nothing and is told with all its mistakes; what takes a restart is told by its key.
//! 4. No request fails or waits because of a reload, and no counter goes back.
//! 5. What is known of an upstream lives on while its name and URL stay, under the limits of the file; bodies
//!    under way stay within one bound.
//!
//! Who may ask for one: `reload_access`.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use unitgate::config::{
    AccessLog, CachePolicy, CallerMode, Concurrency, Config, Lane, Level, LogFormat, NamedUpstream,
    Rate, Route,
};

use crate::support::{
    Answer, Ask, Gate, INTEGRATION, INTEGRATIONS, MASK, OTHER_UNIT, Process, UNIT, UNIT_ID,
    Upstream, Wire, configuration, fetch, key, list, secs, token,
};

fn to(upstream: &Upstream) -> NamedUpstream {
    NamedUpstream { url: format!("http://{}", upstream.address()).parse().unwrap() }
}

/// Every upstream of the configuration is this one from now on.
fn turn_to(config: &mut Config, upstream: &Upstream) {
    config.upstreams.values_mut().for_each(|named| *named = to(upstream));
}

fn open_route(name: &str, path: &str) -> Route {
    let mut route = Route::new(name, path, "converflow");
    route.caller = CallerMode::Open;
    route.cache = Some(CachePolicy { jitter: 0.0, ..Config::default().cache.policy });
    route
}

#[tokio::test]
async fn a_changed_lifetime_is_that_of_what_is_stored_from_then_on() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    let changed = gate.reload(|config| Gate::policy(config, |policy| policy.ttl = secs(10)));
    assert_eq!(changed, ["cache.ttl"]);
    assert!(alice.get(OTHER_UNIT).await.cache().ends_with("; stored; ttl=10"));
    gate.advance(secs(11));
    assert_eq!(alice.get(OTHER_UNIT).await.cache(), "unitgate; hit; ttl=-1");
    let before = alice.get(UNIT).await;
    assert_eq!(before.cache(), "unitgate; hit; ttl=49", "it keeps the life it was given");
}

#[tokio::test]
async fn what_did_not_change_stays_a_hit_wherever_its_route_stands_now() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.routes.push(open_route("open", "/open")));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.stranger().get("/open").await;
    let count = upstream.count();
    let changed = gate.reload(|config| {
        config.routes.reverse();
        config.routes.insert(0, open_route("first", "/first"));
        config.limits.caller = Some(Rate { per_second: 7, burst: 7 });
        config.log.level = Level::Debug;
    });
    for told in ["routes.first (new)", "the order of routes", "limits.caller", "log.level"] {
        assert!(changed.contains(&told.to_owned()), "{changed:?}");
    }
    assert!(alice.get(UNIT).await.is_hit() && gate.stranger().get("/open").await.is_hit());
    assert_eq!(upstream.count(), count);
    gate.stranger().get("/first").await;
    assert!(gate.stranger().get("/open").await.is_hit(), "a new route has a number of its own");
}

#[tokio::test]
async fn a_route_that_takes_the_place_and_path_of_another_answers_nothing_of_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.routes.push(open_route("one", "/open")));
    gate.stranger().get("/open").await;
    gate.reload(|config| Gate::route(config, "one").name = "other".to_owned());
    assert!(!gate.stranger().get("/open").await.is_hit());
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_route_that_was_added_is_served_and_one_that_was_taken_away_is_404() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    assert_eq!(gate.stranger().get("/new").await.status, 404);
    gate.reload(|config| config.routes.push(open_route("new", "/new")));
    assert_eq!(gate.stranger().get("/new").await.status, 200);
    gate.reload(|config| config.routes.retain(|route| route.name != "new"));
    assert_eq!(gate.stranger().get("/new").await.status, 404);
}

#[tokio::test]
async fn a_write_still_drops_the_lists_of_its_unit_when_families_and_routes_moved() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.reload(|config| {
        config.routes.reverse();
        let mut first = open_route("first", "/first");
        first.family = Some("another".to_owned());
        config.routes.insert(0, first);
    });
    assert!(alice.get(UNIT).await.is_hit());
    upstream.next(Answer::json(200, format!("{{\"unitId\":\"{UNIT_ID}\"}}")));
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 200);
    assert!(!alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn what_a_caller_owes_is_not_forgiven_by_another_rate() {
    let upstream = Upstream::start().await;
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let gate = Gate::start(&upstream, |config| config.limits.caller = rate(1, 3));
    gate.advance(secs(1_000));
    let alice = gate.client("alice");
    for _ in 0..3 {
        assert_eq!(alice.get(UNIT).await.status, 200);
    }
    assert_eq!(alice.get(UNIT).await.status, 429);
    gate.advance(secs(1));
    gate.reload(|config| {
        config.limits.caller = rate(1, 5);
        config.routes.reverse();
    });
    let bob = gate.client("bob");
    for (client, admitted) in [(&alice, 3), (&bob, 5)] {
        for _ in 0..admitted {
            assert_eq!(client.get(UNIT).await.status, 200);
        }
        assert_eq!(client.get(UNIT).await.status, 429);
    }
    gate.reload(|config| config.limits.caller = None);
    assert_eq!(alice.get(UNIT).await.status, 200);
}

#[tokio::test]
async fn who_is_known_to_the_upstream_stays_known() {
    let upstream = Upstream::start().await;
    let lane =
        |milliseconds| Some(Lane { in_flight: 1, wait: Duration::from_millis(milliseconds) });
    let gate = Gate::start(&upstream, |config| config.limits.lane = lane(100));
    let known = gate.client("known");
    known.get(UNIT).await;
    gate.reload(|config| config.limits.lane = lane(101));
    let held = upstream.hold();
    let guess = gate.client("guess-1").begin(Ask::get(UNIT));
    held.arrived().await;
    assert_eq!(gate.client("guess-2").get(UNIT).await.status, 503);
    assert_eq!(known.get(OTHER_UNIT).await.status, 200);
    held.release();
    assert_eq!(guess.reply().await.status, 200);
}

#[tokio::test]
async fn under_another_masking_what_was_stored_is_a_miss_and_is_masked_anew() {
    let upstream = Upstream::start().await;
    upstream.answer(Answer::json(200, list(MASK, "a word nobody should see")));
    let gate = Gate::start(&upstream, |config| config.routes.push(open_route("open", "/open")));
    let alice = gate.client("alice");
    assert!(alice.get(UNIT).await.text().contains("a word nobody should see"));
    gate.stranger().get("/open").await;
    let changed = gate.reload(|config| config.secrets.names.push("prompt".to_owned()));
    assert_eq!(changed, ["secrets.names"]);
    let reply = alice.get(UNIT).await;
    assert!(!reply.is_hit() && !reply.text().contains("nobody"), "{}", reply.text());
    assert!(!gate.stranger().get("/open").await.text().contains("nobody"));
    assert_eq!(upstream.count(), 4);
    assert!(alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn under_another_upstream_what_was_stored_is_a_miss_and_the_new_one_is_asked() {
    let (mut old, new) = (Upstream::start().await, Upstream::start().await);
    new.answer(Answer::json(200, "\"new\""));
    let gate = Gate::start(&old, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    let changed = gate.reload(|config| turn_to(config, &new));
    assert_eq!(changed, ["upstreams.chat.url", "upstreams.converflow.url"]);
    old.stop().await;
    assert_eq!(alice.get(UNIT).await.text(), "\"new\"");
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!((old.count(), new.count()), (1, 1));
}

#[tokio::test]
async fn what_passes_otherwise_is_a_miss() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.routes.push(open_route("open", "/open")));
    gate.stranger().get("/open").await;
    gate.reload(|config| {
        let route = Gate::route(config, "open");
        route.forward = unitgate::config::ForwardMode::All;
    });
    assert!(!gate.stranger().get("/open").await.is_hit());
    gate.reload(|config| Gate::route(config, "open").caller = CallerMode::Token);
    assert_eq!(gate.stranger().get("/open").await.status, 401);
}

#[tokio::test]
async fn a_fetch_under_way_is_neither_joined_nor_stored_and_its_token_stays_with_its_upstream() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    new.answer(Answer::json(200, "\"new\""));
    let gate = Gate::start(&old, |_| ());
    let alice = gate.client("alice");
    let held = old.hold();
    let before = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    gate.reload(|config| turn_to(config, &new));
    let after = alice.get(UNIT).await;
    assert!(!after.cache().contains("collapsed"), "{}", after.cache());
    assert_eq!(after.text(), "\"new\"");
    held.release();
    let before = before.reply().await;
    assert_eq!((before.status, before.text()), (200, &*list(MASK, "Be kind.")));
    assert_eq!(before.field("cache-control"), Some("private, no-store"));
    let kept = alice.get(UNIT).await;
    assert!(kept.is_hit() && kept.text() == "\"new\"", "{}", kept.text());
    let superseded = gate.metric("cache_not_stored_total", &["reason=\"superseded\""]);
    assert_eq!(superseded, 1.0);
    assert_eq!((old.count(), new.count()), (1, 1));
    assert!(old.seen().iter().all(|seen| seen.field("authorization").is_some()));
}

#[tokio::test]
async fn a_fetch_begun_two_reloads_ago_is_not_stored_either() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let gate = Gate::start(&old, |_| ());
    let alice = gate.client("alice");
    let held = old.hold();
    let before = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    gate.reload(|config| config.limits.peer = None);
    gate.reload(|config| turn_to(config, &new));
    held.release();
    assert_eq!(before.reply().await.status, 200);
    assert_eq!(gate.scraped("cache_entries", &[]).await, 0.0);
    // And back again: it was superseded for good, since nobody heard meanwhile what ended it.
    gate.reload(|config| turn_to(config, &old));
    assert!(!alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn a_fetch_under_way_is_joined_and_stored_where_nothing_that_shapes_it_changed() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    let held = upstream.hold();
    let before = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    gate.reload(|config| config.log.access = AccessLog::Errors);
    let after = alice.enter(Ask::get(UNIT)).await;
    held.release();
    assert_eq!(before.reply().await.status, 200);
    assert!(after.reply().await.cache().contains("collapsed"));
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_refresh_under_way_is_not_stored_over_what_the_new_upstream_said() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    new.answer(Answer::json(200, "\"new\""));
    let mut gate = Gate::start(&old, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.advance(secs(61));
    let held = old.hold();
    assert!(alice.get(UNIT).await.is_hit(), "it is stale, and refreshed meanwhile");
    held.arrived().await;
    gate.reload(|config| turn_to(config, &new));
    assert_eq!(alice.get(UNIT).await.text(), "\"new\"");
    held.release();
    let asked = alice.clone();
    assert_eq!(asked.get(UNIT).await.text(), "\"new\"");
    assert!(gate.leave().await);
    assert_eq!(gate.metric("cache_not_stored_total", &["reason=\"superseded\""]), 1.0);
}

#[tokio::test]
async fn a_connection_that_was_open_before_obeys_too() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let mut wire = gate.stranger().connect().await;
    wire.get("/new", &[]).await;
    assert_eq!(wire.read(false).await.unwrap().status, 404);
    gate.reload(|config| config.routes.push(open_route("new", "/new")));
    wire.get("/new", &[]).await;
    assert_eq!(wire.read(false).await.unwrap().status, 200);
}

#[tokio::test]
async fn connections_to_the_upstreams_are_kept_where_nothing_about_them_changed() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.reload(|config| Gate::policy(config, |policy| policy.ttl = secs(10)));
    alice.get(OTHER_UNIT).await;
    assert_eq!(upstream.connections(), 1);
    let changed = gate.reload(|config| config.upstream.max_body = 1_024);
    assert_eq!(changed, ["upstream.max_body"]);
    upstream.answer(Answer::json(200, format!("\"{}\"", "a".repeat(2_000))));
    let large = alice.get(&format!("{UNIT}?large")).await;
    assert_eq!((large.status, upstream.connections()), (502, 2));
}

#[tokio::test]
async fn deadlines_toward_the_upstream_are_those_of_the_file() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    gate.reload(|config| config.upstream.first_byte = secs(1));
    upstream.answer(Answer::silence());
    let begun = Instant::now();
    assert_eq!(gate.client("alice").get(UNIT).await.status, 504);
    assert!(begun.elapsed() < secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn another_content_of_the_same_ca_file_is_taken_over() {
    let upstream = Upstream::start().await;
    let files = TempDir::new().unwrap();
    let path = files.path().join("ca.pem");
    let certificate = || rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    fs::write(&path, certificate()).unwrap();
    let gate = Gate::start(&upstream, |config| config.upstream.ca_file = Some(path.clone()));
    assert_eq!(gate.reload(|_| ()), Vec::<String>::new());
    fs::write(&path, certificate()).unwrap();
    assert_eq!(gate.reload(|_| ()), ["upstream.ca_file"]);
    assert_eq!(gate.reload(|_| ()), Vec::<String>::new());
    fs::write(&path, "-----BEGIN CERTIFICATE-----\nnone\n").unwrap();
    assert!(gate.load().is_err(), "it is no certificate");
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_is_told_with_all_its_mistakes_and_mended() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    let loaded = || gate.metric("config_last_load_successful", &[]);
    let at = || gate.metric("config_last_load_success_timestamp_seconds", &[]);
    let (first, begun) = (loaded(), at());
    gate.advance(secs(1));
    gate.write_text("cache.ttl = 5\nlisten.adress = 1\nlimits.keys = \"many\"\n");
    let mistakes = gate.load().unwrap_err().mistakes();
    assert_eq!((first, loaded(), at()), (1.0, 0.0, begun));
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    let log = gate.log();
    let line = log.lines().find(|line| line.contains("was not reloaded")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "error");
    for mistake in &mistakes {
        assert!(line["mistakes"].as_str().unwrap().contains(mistake.as_str()), "{line}");
    }
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(alice.get(OTHER_UNIT).await.status, 200);
    gate.reload(|_| ());
    assert_eq!((loaded(), at()), (1.0, begun + 1.0));
}

#[tokio::test]
async fn new_connections_are_held_to_the_new_bounds_and_old_ones_go_on() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let client = gate.client("alice");
    let mut old = client.connect().await;
    old.write(&client.bytes(Ask::get(UNIT))).await;
    assert_eq!(old.read(false).await.unwrap().status, 200);

    let changed = gate.reload(|config| config.listen.connections_per_peer = 1);
    assert_eq!(changed, ["listen.connections_per_peer"]);
    assert_eq!(client.connect().await.read(false).await.unwrap().status, 503);
    old.write(&client.bytes(Ask::get(UNIT))).await;
    assert_eq!(old.read(false).await.unwrap().status, 200);

    let changed = gate.reload(|config| {
        config.listen.connections_per_peer = 0;
        config.listen.connection_requests = 1;
        config.listen.idle = Duration::from_millis(100);
    });
    assert_eq!(changed.len(), 3, "{changed:?}");
    let reply = client.get(UNIT).await;
    assert_eq!((reply.status, reply.field("connection")), (200, Some("close")));
    assert!(client.connect().await.read(false).await.is_none(), "it is idle");
    old.write(&client.bytes(Ask::get(UNIT))).await;
    let reply = old.read(false).await.unwrap();
    assert_eq!((reply.status, reply.field("connection")), (200, None));
}

#[tokio::test]
async fn what_takes_a_restart_is_told_by_its_key_each_time_and_the_rest_is_applied() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    gate.write(|config| {
        config.listen.address = vec![([127, 0, 0, 1], 1).into()];
        config.cache.max_bytes = 0;
        config.listen.connections = 1;
        config.routes.push(open_route("new", "/new"));
    });
    let keys = ["cache.max_bytes", "listen.address", "listen.connections"];
    for changed in [&["routes.new (new)"][..], &[]] {
        let reloaded = gate.load().unwrap();
        assert_eq!(
            (reloaded.restart, reloaded.changed),
            (keys.map(str::to_owned).to_vec(), changed.iter().map(ToString::to_string).collect())
        );
    }
    let log = gate.log();
    for key in keys {
        let told = log.lines().filter(|line| line.contains(&format!("\"key\":\"{key}\"")));
        assert_eq!(told.filter(|line| line.contains("takes a restart")).count(), 2, "{key}");
    }
    assert_eq!(gate.stranger().get("/new").await.status, 200);
    assert!(gate.stranger().get("/new").await.is_hit(), "the cache is what it was");
}

#[tokio::test]
async fn the_key_of_the_digests_stays_and_its_change_is_told() {
    let upstream = Upstream::start().await;
    let files = TempDir::new().unwrap();
    let path = files.path().join("key");
    fs::write(&path, "the key of the digests, long enough").unwrap();
    let gate = Gate::start(&upstream, |config| config.caller.key_file = Some(path.clone()));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    fs::write(&path, "another key of the digests, as long").unwrap();
    for _ in 0..2 {
        assert_eq!(gate.load().unwrap().restart, ["caller.key_file"]);
    }
    assert!(alice.get(UNIT).await.is_hit());
    fs::write(&path, "short").unwrap();
    assert!(gate.load().is_err());
}

#[tokio::test]
async fn the_log_follows_its_level_its_format_and_its_choice_of_exchanges() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.log.level = Level::Error;
        config.log.access = AccessLog::Off;
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    assert_eq!(gate.log(), "");
    gate.reload(|config| {
        config.log.level = Level::Info;
        config.log.access = AccessLog::All;
        config.log.format = LogFormat::Text;
    });
    alice.get(UNIT).await;
    let log = gate.log();
    assert!(log.contains("the configuration was reloaded") && log.contains("log.level"), "{log}");
    assert!(log.lines().any(|line| line.contains(" outcome=hit")), "{log}");
    assert!(!log.contains('{'), "{log}");
}

#[tokio::test]
async fn counters_go_on_and_a_new_route_has_its_series_at_0() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.routes.push(open_route("old", "/old")));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.stranger().get("/old").await;
    let count = |route: &str| {
        let labels = [format!("route=\"{route}\"")];
        gate.metric("requests_total", &[&labels[0]])
    };
    gate.reload(|config| {
        config.routes.retain(|route| route.name != "old");
        config.routes.insert(0, open_route("new", "/new"));
        config.upstreams.insert("more".to_owned(), to(&upstream));
        Gate::route(config, "new").upstream = "more".to_owned();
    });
    assert_eq!((count("old"), count("new"), count("unit-list")), (1.0, 0.0, 1.0));
    assert_eq!(gate.metric("upstream_requests_total", &["route=\"new\""]), 0.0);
    assert_eq!(gate.metric("upstream_errors_total", &["upstream=\"more\""]), 0.0);
    alice.get(UNIT).await;
    gate.stranger().get("/new").await;
    assert_eq!((count("old"), count("new"), count("unit-list")), (1.0, 1.0, 2.0));
    let duration = gate.metric("upstream_request_duration_seconds_count", &["upstream=\"more\""]);
    assert_eq!(duration, 1.0);
    let log = gate.log();
    assert!(log.lines().any(|line| line.contains("\"route\":\"new\"")), "{log}");
}

#[tokio::test]
async fn fifty_reloads_under_traffic_fail_no_request() {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    for upstream in &upstreams {
        upstream.answer(Answer::json(200, list(&key("Ab1"), "kind")));
    }
    let gate = Gate::start(&upstreams[0], |config| {
        config.limits.caller = None;
        config.limits.caller_upstream = None;
    });
    let mut pending = Vec::new();
    for round in 0..50 {
        for client in ["alice", "bob", "carol"] {
            let client = gate.client(client);
            pending.push(client.begin(Ask::get(UNIT)));
            pending.push(client.enter(Ask::get(&format!("{UNIT}?{round}"))).await);
            pending.push(client.begin(Ask::put(INTEGRATION, "{\"title\":\"x\"}")));
        }
        gate.reload(|config| {
            turn_to(config, &upstreams[round % 2]);
            config.routes.rotate_left(1);
            Gate::policy(config, |policy| policy.ttl = secs(u64::try_from(round).unwrap() % 3));
            if round % 5 == 0 {
                config.secrets.names.push(format!("name{round}"));
            }
        });
        tokio::task::yield_now().await;
    }
    for one in pending {
        let reply = one.reply().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().contains(MASK), "{}", reply.text());
    }
    assert_eq!(gate.metric("requests_in_flight", &[]), 0.0);
    assert_eq!(gate.metric("requests_total", &["status=\"2xx\""]), 450.0);
}

#[tokio::test]
async fn the_drain_is_that_of_the_file() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |_| ());
    gate.reload(|config| config.shutdown.deadline = Duration::from_millis(100));
    let _held = upstream.hold();
    let pending = gate.client("alice").begin(Ask::get(UNIT));
    upstream.arrived(1).await;
    let begun = Instant::now();
    assert!(!gate.leave().await);
    assert!(begun.elapsed() < secs(4), "{:?}", begun.elapsed());
    pending.hang_up().await;
}

#[tokio::test]
async fn a_signal_reloads_the_file_and_a_bad_one_is_survived() {
    let upstream = Upstream::start().await;
    let mut gate = Process::start(upstream.address(), "", &[]).await;
    let bearer = format!("Bearer {}", token("alice"));
    let mut wire = Wire::to(gate.address()).await;
    let fields = [("Authorization", bearer.as_str())];
    wire.get(UNIT, &fields).await;
    assert_eq!(wire.read(false).await.unwrap().status, 200);
    gate.write(&configuration(
        upstream.address(),
        "secrets.names = [\"prompt\"]\nlog.level = \"debug\"",
    ));
    gate.signal("HUP");
    gate.logged("secrets.names").await;
    wire.get(UNIT, &fields).await;
    let reply = wire.read(false).await.unwrap();
    assert!(!reply.is_hit() && !reply.text().contains("Be kind."), "{}", reply.text());
    gate.write("cache.ttl = 5\nlisten.adress = 1\n");
    gate.signal("HUP");
    gate.logged("was not reloaded").await;
    let log = gate.log();
    for word in ["config.toml:1: cache.ttl", "config.toml:2: listen.adress", "in force"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    let metrics = fetch(gate.admin(), "/metrics", &[]).await;
    assert!(metrics.text().contains("\nunitgate_config_last_load_successful 0\n"));
    wire.get(UNIT, &fields).await;
    assert!(wire.read(false).await.unwrap().is_hit());
    gate.signal("TERM");
    assert_eq!(gate.ended().await.code(), Some(0));
}

#[tokio::test]
async fn signals_under_load_on_real_threads_fail_no_request() {
    let upstream = Upstream::start().await;
    let more = "limits.caller = \"off\"\nlimits.caller_upstream = \"off\"\n";
    let mut gate = Process::start(upstream.address(), more, &[]).await;
    let (address, bearer) = (gate.address(), format!("Bearer {}", token("alice")));
    let mut clients = tokio::task::JoinSet::new();
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for number in 0..4 {
        let (bearer, over) = (bearer.clone(), std::sync::Arc::clone(&over));
        clients.spawn(async move {
            let mut wire = Wire::to(address).await;
            let mut many = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let target = format!("{UNIT}?{}", (many + number) % 7);
                wire.get(&target, &[("Authorization", &bearer)]).await;
                let reply = wire.read(false).await.expect("the connection was closed");
                assert_eq!(reply.status, 200, "{}", reply.text());
                many += 1;
            }
            many
        });
    }
    for round in 0..20 {
        let name = format!(
            "{more}secrets.names = [\"apiKey\", \"name{round}\"]\ncache.keep = \"{}s\"",
            round + 1
        );
        gate.write(&configuration(upstream.address(), &name));
        gate.signal("HUP");
        gate.reloaded(round + 1).await;
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut asked = 0;
    while let Some(many) = clients.join_next().await {
        asked += many.unwrap();
    }
    assert!(asked > 20, "{asked}");
    assert!(upstream.count() > 20, "each masking asks anew: {}", upstream.count());
}

#[tokio::test]
async fn a_creation_under_way_is_finished_where_it_began() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let gate = Gate::start(&old, |_| ());
    let held = old.hold();
    let write = gate.client("alice").begin(Ask::post(INTEGRATIONS, "{\"title\":\"x\"}"));
    held.arrived().await;
    gate.reload(|config| turn_to(config, &new));
    held.release_with(Answer::json(201, "{}"));
    assert_eq!(write.reply().await.status, 201);
    assert_eq!((old.count(), new.count()), (1, 0));
}

/// A gate whose upstream has said 429 to alice, and then 503 until its breaker opened.
async fn ill(upstream: &Upstream) -> Gate {
    let gate = Gate::start(upstream, |_| ());
    upstream.next(Answer::json(429, "{}").field("retry-after", "50"));
    assert_eq!(gate.client("alice").get(UNIT).await.status, 429);
    upstream.answer(Answer::json(503, "{}"));
    for n in 0..20 {
        let unit = format!("/api/v1/calcom/integration/unit/u{n}");
        assert_eq!(gate.client(["bob", "carol"][n % 2]).get(&unit).await.status, 503);
    }
    upstream.answer(Answer::json(200, list(MASK, "Be kind.")));
    assert_eq!(gate.client("bob").get(UNIT).await.code(), "upstream_open");
    gate
}

#[tokio::test]
async fn other_limits_neither_close_an_open_breaker_nor_end_a_hold_back() {
    let upstream = Upstream::start().await;
    let gate = ill(&upstream).await;
    let changed = gate.reload(|config| config.upstream.first_byte = secs(7));
    assert_eq!(changed, ["upstream.first_byte"]);
    assert_eq!(gate.client("bob").get(UNIT).await.code(), "upstream_open");
    gate.advance(secs(5));
    assert_eq!(gate.client("alice").get(UNIT).await.code(), "upstream_throttled");
    assert_eq!(gate.client("bob").get(UNIT).await.status, 200, "it may be tried again by now");
    assert_eq!(gate.client("bob").get(OTHER_UNIT).await.status, 200);
    gate.reload(|config| config.upstream.hold_back = secs(5));
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200, "the shorter longest counts");
}

#[tokio::test]
async fn a_breaker_that_is_switched_off_or_on_obeys_at_once() {
    let upstream = Upstream::start().await;
    let gate = ill(&upstream).await;
    let rule = Config::default().upstream.breaker;
    gate.reload(|config| config.upstream.breaker = None);
    assert_eq!(gate.client("bob").get(UNIT).await.status, 200);
    gate.reload(|config| config.upstream.breaker = rule);
    assert_eq!(gate.client("bob").get(OTHER_UNIT).await.status, 200, "and begins closed");
}

#[tokio::test]
async fn an_upstream_that_moved_begins_with_a_closed_breaker_and_holds_nobody_back() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let gate = ill(&old).await;
    gate.reload(|config| turn_to(config, &new));
    for client in ["alice", "bob"] {
        assert_eq!(gate.client(client).get(UNIT).await.status, 200);
    }
    assert_eq!(new.count(), 2);
}

#[tokio::test]
async fn who_is_with_the_upstream_already_is_counted_under_other_limits() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    let held = upstream.hold();
    let before = alice.begin(Ask::get(UNIT));
    held.arrived().await;
    gate.reload(|config| {
        config.upstream.concurrency = Some(Concurrency { least: 1, most: 1 });
        config.upstream.queue = Duration::ZERO;
    });
    assert_eq!(gate.scraped("upstream_in_flight", &["converflow"]).await, 1.0);
    assert_eq!(alice.get(OTHER_UNIT).await.code(), "upstream_busy");
    held.release();
    assert_eq!(before.reply().await.status, 200);
    assert_eq!(alice.get(OTHER_UNIT).await.status, 200);
}

#[tokio::test]
async fn bodies_under_way_before_a_reload_count_after_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    upstream.answer(Answer::json(200, format!("\"{}\"", "a".repeat(1 << 20))));
    let before = alice.enter(Ask::get(INTEGRATION)).await.reply().await;
    gate.reload(|config| {
        config.upstream.max_body = 1200 << 10;
        config.upstream.max_buffered = 2000 << 10;
        config.upstream.queue = Duration::ZERO;
    });
    assert!(gate.scraped("upstream_buffered_bytes", &[]).await >= 1_048_576.0);
    assert_eq!(alice.get(INTEGRATION).await.code(), "buffers_full");
    drop(before);
    assert_eq!(alice.get(INTEGRATION).await.status, 200);
    assert_eq!(gate.scraped("upstream_buffered_bytes", &[]).await, 0.0);
}

#[tokio::test]
async fn retries_made_before_a_reload_count_after_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    for n in 0..11 {
        if n == 5 {
            gate.reload(|config| config.upstream.first_byte = secs(7));
        }
        assert_eq!(alice.get(INTEGRATION).await.status, 200);
        upstream.next(Answer::reset());
        let status = alice.get(INTEGRATION).await.status;
        assert_eq!(status, if n < 10 { 200 } else { 502 }, "{n}");
    }
}
