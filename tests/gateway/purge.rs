//! What operators end over their port.
//!
//! *Claims*
//! 1. A purge is of a unit, a caller, a URL or everything, and of nothing else; it says what it ended.
//! 2. Hard: the next request is a miss, and no copy stands in for a failure. Soft: the next request asks
//!    whether the copy holds, which still stands in for a failure.
//! 3. What is under way is answered to those who wait for it, kept for nobody and joined by nobody.
//! 4. It is counted and told, the token nowhere; nothing of it is on the public port.
//!
//! Who may purge: `purge_access`.

use std::fs;
use std::path::PathBuf;

use http::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};
use tempfile::TempDir;
use unitgate::caller::{Callers, LastCaller};
use unitgate::config::{CachePolicy, CallerMode, Config, ForwardMode, Route, SecretsMode};

use crate::support::{
    Answer, Ask, Client, Gate, OTHER_UNIT, Process, Reply, UNIT, UNIT_ID, Upstream, Wire, fetch,
    key, secs, token,
};

pub(crate) const TOKEN: &str = "the-operators-own-token";
const KEY: &str = "the key of the digests, long enough";
const OPEN: &str = "/open/thing?a=1";
pub(crate) const EVERYTHING: &str = r#"{"all":true}"#;

/// A gateway that can be purged, in front of an upstream whose answers live for a minute: the shipped
/// routes, and an open one.
pub(crate) struct Desk {
    upstream: Upstream,
    pub(crate) gate: Gate,
}

impl Desk {
    pub(crate) async fn start() -> Self {
        let upstream = Upstream::start().await;
        upstream.answer(old());
        let files = TempDir::new().unwrap();
        let gate = Gate::start(&upstream, |config| {
            config.admin.token_file = Some(file(&files, "token", &format!(" {TOKEN}\n")));
            config.caller.key_file = Some(file(&files, "key", KEY));
            open_route(config);
        });
        Self { upstream, gate }
    }

    /// Whoever can ask for a target.
    fn client(&self, target: &str) -> Client {
        if target.starts_with("/open/") { self.gate.stranger() } else { self.gate.client("alice") }
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.client(target).get(target).await
    }

    pub(crate) async fn purge(&self, what: &str) -> Reply {
        self.gate.operator().send(ask(what)).await
    }

    /// How many entries and fetches a purge has ended.
    async fn purged(&self, what: &Value) -> (u64, u64) {
        let reply = self.purge(&what.to_string()).await;
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        assert_eq!(reply.field("content-type"), Some("application/json"));
        assert_eq!(reply.field("cache-control"), Some("no-store"));
        let told = reply.json();
        assert_eq!(told["soft"], what.get("soft").cloned().unwrap_or(json!(false)));
        (told["entries"].as_u64().unwrap(), told["fetches"].as_u64().unwrap())
    }

    pub(crate) fn purges(&self) -> f64 {
        self.gate.metric("cache_invalidations_total", &["source=\"purge\""])
    }
}

pub(crate) fn file(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn open_route(config: &mut Config) {
    let mut route = Route::new("open", "/open/{*rest}", "converflow");
    route.caller = CallerMode::Open;
    route.forward = ForwardMode::All;
    route.secrets = SecretsMode::Verbatim;
    route.refuse_masked_write = false;
    route.cache = Some(CachePolicy { ttl: secs(0), ..config.cache.policy.clone() });
    config.routes.push(route);
}

fn old() -> Answer {
    Answer::json(200, "\"old\"").field("cache-control", "max-age=60").field("etag", "\"1\"")
}

fn new() -> Answer {
    Answer::json(200, "\"new\"").field("cache-control", "max-age=60").field("etag", "\"2\"")
}

pub(crate) fn bare(what: &str) -> Ask {
    Ask::post("/purge", what)
}

pub(crate) fn ask(what: &str) -> Ask {
    bare(what).field("Authorization", &format!("Bearer {TOKEN}"))
}

/// What the caller of that name is known by.
pub(crate) fn digest(name: &str) -> String {
    let mut fields = HeaderMap::new();
    fields.insert(AUTHORIZATION, format!("Bearer {}", token(name)).parse().unwrap());
    Callers::from_secret(KEY.as_bytes()).identify(&fields, &LastCaller::default()).unwrap().id.hex()
}

/// The first digits of that.
pub(crate) fn digits(name: &str, many: usize) -> String {
    digest(name).chars().take(many).collect()
}

// ── Of what ───────────────────────────────────────────────────────────────────────────────────────

/// Everything that several callers have stored: who, and what.
async fn filled() -> (Desk, Vec<(Client, String)>) {
    let desk = Desk::start().await;
    let mut stored = Vec::new();
    for name in ["alice", "bob"] {
        for target in [UNIT, OTHER_UNIT] {
            for query in ["", "?page=1", "?page=2"] {
                stored.push((desk.gate.client(name), format!("{target}{query}")));
            }
        }
    }
    for query in ["?a=1", "?a=2"] {
        stored.push((desk.gate.stranger(), format!("/open/thing{query}")));
    }
    for (client, target) in &stored {
        client.get(target).await;
        assert!(client.get(target).await.is_hit(), "{target}");
    }
    (desk, stored)
}

/// What is still answered from memory, by its place in the list of what was stored.
async fn left(stored: &[(Client, String)]) -> Vec<usize> {
    let mut left = Vec::new();
    for (at, (client, target)) in stored.iter().enumerate() {
        if client.get(target).await.is_hit() {
            left.push(at);
        }
    }
    left
}

#[tokio::test]
async fn a_purge_ends_what_it_is_of_and_nothing_else() {
    // alice: UNIT 0..3, OTHER_UNIT 3..6; bob: the same 6..12; open: 12, 13.
    let url = |target: &str| json!({ "url": target });
    for (what, ended) in [
        (json!({ "unit": UNIT_ID }), &[0, 1, 2, 6, 7, 8][..]),
        (json!({ "unit": UNIT_ID.to_uppercase() }), &[0, 1, 2, 6, 7, 8]),
        (json!({ "unit": "another" }), &[]),
        (json!({ "caller": digits("alice", 12) }), &[0, 1, 2, 3, 4, 5]),
        (json!({ "caller": digest("bob") }), &[6, 7, 8, 9, 10, 11]),
        (json!({ "caller": digest("bob").to_uppercase() }), &[6, 7, 8, 9, 10, 11]),
        (json!({ "caller": digest("carol") }), &[]),
        (url(UNIT), &[0, 6]),
        (url(&format!("{UNIT}?page=1")), &[1, 7]),
        (url(&format!("https://any.example:81{UNIT}?page=1#part")), &[1, 7]),
        (url(&format!("{UNIT}#?page=1")), &[0, 6]),
        (url(&format!("{UNIT}?")), &[]),
        (url(&format!("{UNIT}?page=3")), &[]),
        (url(OPEN), &[12]),
        (url(&format!("http://any.example{OPEN}")), &[12]),
        (json!({ "all": true }), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
    ] {
        let (desk, stored) = filled().await;
        let count = u64::try_from(ended.len()).unwrap();
        assert_eq!(desk.purged(&what).await, (count, 0), "{what}");
        assert_eq!(desk.purged(&what).await, (0, 0), "{what}, once more");
        let expected: Vec<usize> = (0..stored.len()).filter(|at| !ended.contains(at)).collect();
        assert_eq!(left(&stored).await, expected, "{what}");
        assert_eq!(desk.upstream.count(), stored.len() + ended.len(), "{what}");
    }
}

#[tokio::test]
async fn a_caller_is_purged_by_what_the_access_log_calls_it() {
    let desk = Desk::start().await;
    desk.get(UNIT).await;
    desk.gate.client("bob").get(UNIT).await;
    let log = desk.gate.log();
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.find(|line| line["log"] == "access").expect("an access line");
    let caller = line["caller"].as_str().unwrap();
    assert_eq!(caller, digits("alice", 12));
    assert_eq!(desk.purged(&json!({ "caller": caller })).await, (1, 0));
    assert!(!desk.get(UNIT).await.is_hit());
    assert!(desk.gate.client("bob").get(UNIT).await.is_hit());
}

#[tokio::test]
async fn a_url_on_an_open_route_is_purged_in_all_its_variants() {
    let desk = Desk::start().await;
    desk.upstream.answer(old().field("vary", "accept-language"));
    let by = |target, language| Ask::get(target).field("accept-language", language);
    let ask = async |target, language| desk.gate.stranger().send(by(target, language)).await;
    for target in [OPEN, "/open/thing?a=2"] {
        for language in ["de", "en", "fr"] {
            ask(target, language).await;
        }
    }
    assert_eq!(desk.purged(&json!({ "url": OPEN })).await, (3, 0));
    for language in ["de", "en", "fr"] {
        assert!(ask("/open/thing?a=2", language).await.is_hit(), "{language}");
        assert!(!ask(OPEN, language).await.is_hit(), "{language}");
    }
    assert_eq!(desk.upstream.count(), 9);
}

#[tokio::test]
async fn after_a_purge_of_everything_no_memory_is_taken() {
    let (desk, stored) = filled().await;
    let entries = f64::from(u32::try_from(stored.len()).unwrap());
    assert_eq!(desk.gate.scraped("cache_entries", &[]).await, entries);
    assert!(desk.gate.scraped("cache_bytes", &[]).await > 1_000.0);
    assert_eq!(desk.purged(&json!({ "all": true, "soft": true })).await, (14, 0));
    assert_eq!(desk.gate.scraped("cache_entries", &[]).await, entries, "soft frees nothing");
    assert_eq!(desk.purged(&json!({ "all": true })).await, (14, 0));
    assert_eq!(desk.gate.scraped("cache_entries", &[]).await, 0.0);
    assert_eq!(desk.gate.scraped("cache_bytes", &[]).await, 0.0);
    assert_eq!(desk.gate.scraped("cache_evictions_total", &["ended"]).await, entries);
}

// ── Hard and soft ─────────────────────────────────────────────────────────────────────────────────

/// One purge of each kind that ends what is stored for a target.
fn kinds() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "unit": UNIT_ID }), UNIT),
        (json!({ "caller": digest("alice") }), UNIT),
        (json!({ "url": UNIT }), UNIT),
        (json!({ "all": true }), UNIT),
        (json!({ "url": OPEN }), OPEN),
        (json!({ "all": true }), OPEN),
    ]
}

fn softly(mut what: Value) -> Value {
    what["soft"] = json!(true);
    what
}

#[tokio::test]
async fn after_a_hard_purge_the_next_request_is_a_miss_and_no_copy_stands_in() {
    for (what, target) in kinds() {
        let desk = Desk::start().await;
        desk.get(target).await;
        assert_eq!(desk.purged(&what).await, (1, 0), "{what}");
        for failure in [Answer::json(503, "\"failing\""), Answer::reset()] {
            desk.upstream.answer(failure);
            let failed = desk.get(target).await;
            assert!(matches!(failed.status, 502 | 503), "{what}: {failed:?}");
            assert!(failed.cache().starts_with("unitgate; fwd=uri-miss"), "{}", failed.cache());
            assert_eq!(desk.upstream.last().field("if-none-match"), None);
        }
        desk.upstream.answer(new());
        let fetched = desk.get(target).await;
        assert_eq!(fetched.text(), "\"new\"");
        assert_eq!(fetched.cache(), "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60");
        assert_eq!(desk.upstream.last().field("if-none-match"), None);
    }
}

#[tokio::test]
async fn after_a_soft_purge_the_copy_is_asked_about_and_a_304_renews_it() {
    for (what, target) in kinds() {
        let desk = Desk::start().await;
        desk.get(target).await;
        desk.gate.advance(secs(20));
        assert_eq!(desk.purged(&softly(what.clone())).await, (1, 0), "{what}");
        desk.upstream.next(Answer::not_modified().field("etag", "\"1\""));
        let renewed = desk.get(target).await;
        assert_eq!(renewed.text(), "\"old\"");
        assert_eq!(renewed.cache(), "unitgate; fwd=stale; fwd-status=304; stored; ttl=60");
        assert_eq!(desk.upstream.last().field("if-none-match"), Some("\"1\""));
        let hit = desk.get(target).await;
        assert_eq!((hit.text(), hit.cache()), ("\"old\"", "unitgate; hit; ttl=60"));
        // Something else takes its place.
        desk.purged(&softly(what)).await;
        desk.upstream.answer(new());
        assert_eq!(desk.get(target).await.text(), "\"new\"");
        assert!(desk.get(target).await.is_hit());
        assert_eq!(desk.upstream.count(), 3);
    }
}

#[tokio::test]
async fn after_a_soft_purge_the_copy_stands_in_for_a_failure() {
    for (what, target) in kinds() {
        let desk = Desk::start().await;
        desk.get(target).await;
        desk.purged(&softly(what.clone())).await;
        // Neither fresh nor while it is refreshed is it given unasked.
        for (wait, answer, told) in [
            (0, Answer::json(503, "0"), "fwd=stale; fwd-status=503; ttl=60; detail=stale-if-error"),
            (70, Answer::reset(), "fwd=stale; ttl=-10; detail=stale-if-error"),
            (
                60,
                Answer::json(500, "0"),
                "fwd=stale; fwd-status=500; ttl=-70; detail=stale-if-error",
            ),
        ] {
            desk.gate.advance(secs(wait));
            let before = desk.upstream.count();
            desk.upstream.answer(answer);
            let copy = desk.get(target).await;
            assert_eq!((copy.status, copy.text()), (200, "\"old\""), "{what}");
            assert_eq!(copy.cache(), format!("unitgate; {told}"), "{what}");
            assert!(desk.upstream.count() > before, "{what}: the upstream was not asked");
        }
        // Past its window (60 s, and 30 s and 300 s more) it does not.
        desk.gate.advance(secs(260));
        assert_eq!(desk.get(target).await.status, 500, "{what}");
        // A hard one ends what a soft one left.
        desk.purged(&what).await;
        desk.upstream.answer(new());
        desk.get(target).await;
        assert_eq!(desk.upstream.last().field("if-none-match"), None);
    }
}

#[tokio::test]
async fn after_a_soft_purge_what_may_not_be_stale_does_not_stand_in() {
    for target in [UNIT, OPEN] {
        let desk = Desk::start().await;
        desk.upstream.answer(old().field("cache-control", "must-revalidate"));
        desk.get(target).await;
        desk.purged(&json!({ "all": true, "soft": true })).await;
        desk.upstream.answer(Answer::json(503, "0"));
        assert_eq!(desk.get(target).await.status, 503);
    }
}

// ── What is under way ─────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_fetch_under_way_is_answered_to_its_askers_kept_for_nobody_and_joined_by_nobody() {
    for (what, target) in
        kinds().into_iter().chain(kinds().into_iter().map(|(what, target)| (softly(what), target)))
    {
        let desk = Desk::start().await;
        let client = desk.client(target);
        let held = desk.upstream.hold();
        let first = client.enter(Ask::get(target)).await;
        held.arrived().await;
        let joiner = client.enter(Ask::get(target)).await;
        assert_eq!(desk.purged(&what).await, (0, 1), "{what}");
        desk.upstream.answer(new());
        let after = client.get(target).await;
        let told = "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60";
        assert_eq!((after.text(), after.cache()), ("\"new\"", told), "{what}");
        held.release_with(old());
        for asker in [first, joiner] {
            let asker = asker.reply().await;
            assert_eq!((asker.status, asker.text()), (200, "\"old\""), "{what}");
            assert!(!asker.cache().contains("stored"), "{what}: {}", asker.cache());
        }
        let hit = client.get(target).await;
        assert_eq!((hit.text(), hit.is_hit()), ("\"new\"", true), "{what}");
        assert_eq!(desk.upstream.count(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_fetch_under_way_that_lands_before_anybody_else_asks_is_not_kept_either() {
    for (what, target) in kinds() {
        for what in [what.clone(), softly(what)] {
            let desk = Desk::start().await;
            let client = desk.client(target);
            let held = desk.upstream.hold();
            let first = client.enter(Ask::get(target)).await;
            held.arrived().await;
            assert_eq!(desk.purged(&what).await, (0, 1), "{what}");
            held.release();
            assert_eq!(first.reply().await.text(), "\"old\"", "{what}");
            assert_eq!(desk.gate.scraped("cache_entries", &[]).await, 0.0, "{what}");
            assert_eq!(desk.gate.metric("cache_not_stored_total", &["voided"]), 1.0, "{what}");
            desk.upstream.answer(new());
            assert_eq!(client.get(target).await.text(), "\"new\"", "{what}");
        }
    }
}

#[tokio::test]
async fn a_refresh_under_way_is_not_kept() {
    for (what, target) in kinds() {
        for what in [what.clone(), softly(what)] {
            let mut desk = Desk::start().await;
            let client = desk.client(target);
            client.get(target).await;
            desk.gate.advance(secs(70));
            let held = desk.upstream.hold();
            assert!(client.get(target).await.is_hit());
            held.arrived().await;
            assert_eq!(desk.purged(&what).await, (1, 1), "{what}");
            desk.upstream.answer(new());
            assert_eq!(client.get(target).await.text(), "\"new\"", "{what}");
            held.release_with(old());
            let hit = client.get(target).await;
            assert_eq!((hit.text(), hit.is_hit()), ("\"new\"", true), "{what}");
            assert!(desk.gate.leave().await);
            assert_eq!(desk.upstream.count(), 3, "{what}");
            assert_eq!(desk.gate.metric("cache_not_stored_total", &["voided"]), 1.0, "{what}");
        }
    }
}

#[tokio::test]
async fn a_head_under_way_renews_nothing_that_was_purged() {
    for what in [json!({ "url": OPEN }), json!({ "all": true, "soft": true })] {
        let desk = Desk::start().await;
        desk.get(OPEN).await;
        desk.gate.advance(secs(100));
        let held = desk.upstream.hold();
        let asker = desk.gate.stranger().enter(Ask::new("HEAD", OPEN)).await;
        held.arrived().await;
        assert_eq!(desk.purged(&what).await.0, 1, "{what}");
        held.release_with(Answer::not_modified().field("etag", "\"1\""));
        assert_eq!(asker.reply().await.status, 200, "{what}");
        desk.upstream.answer(new());
        assert_eq!(desk.get(OPEN).await.text(), "\"new\"", "{what}");
    }
}

#[tokio::test]
async fn a_revalidation_under_way_gives_its_asker_what_it_brings() {
    for (soft, copy) in [(false, 503), (true, 200)] {
        let desk = Desk::start().await;
        desk.get(UNIT).await;
        desk.gate.advance(secs(100));
        let held = desk.upstream.hold();
        let asker = desk.client(UNIT).enter(Ask::get(UNIT)).await;
        held.arrived().await;
        assert_eq!(desk.purged(&json!({ "all": true, "soft": soft })).await, (1, 1));
        held.release_with(Answer::json(503, "0"));
        assert_eq!(asker.reply().await.status, copy, "soft: {soft}");
    }
}

// ── What is told ──────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn each_purge_is_counted_by_its_source() {
    let desk = Desk::start().await;
    for (done, what) in
        [(1.0, json!({ "all": true })), (2.0, json!({ "unit": UNIT_ID, "soft": true }))]
    {
        desk.get(UNIT).await;
        desk.purged(&what).await;
        assert_eq!(desk.purges(), done);
        assert_eq!(desk.gate.scraped("cache_invalidations_total", &[]).await, done);
    }
}

#[tokio::test]
async fn a_purge_is_logged_and_neither_token_nor_key_with_it() {
    let upstream = Upstream::start().await;
    let files = TempDir::new().unwrap();
    let path = file(&files, "token", TOKEN);
    let keys = format!("admin.token_file = \"{}\"\nlog.level = \"trace\"", path.display());
    let mut gate = Process::start(upstream.address(), &keys, &[("RUST_LOG", "trace")]).await;
    let bearer = format!("Bearer {}", token("alice"));
    fetch(gate.address(), UNIT, &[("Authorization", &bearer)]).await;
    let target = format!("/x?key={}", key("d4"));
    for (token, what, status) in [
        (TOKEN, json!({ "unit": UNIT_ID }), 200),
        (TOKEN, json!({ "url": target }), 200),
        ("a-guess-at-the-token", json!({ "all": true }), 401),
        (TOKEN, json!({ "all": "x", "other": TOKEN }), 400),
    ] {
        let mut wire = Wire::to(gate.admin()).await;
        let body = what.to_string();
        let head = format!("Authorization: Bearer {token}\r\nContent-Length: {}\r\n", body.len());
        wire.write(
            format!("POST /purge HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{body}").as_bytes(),
        )
        .await;
        assert_eq!(wire.read(false).await.unwrap().status, status, "{what}");
    }
    gate.logged("/x?key=cal_").await;
    let log = gate.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let purged: Vec<Value> = lines.filter(|line| line["message"] == "purged").collect();
    assert_eq!(purged.len(), 2, "{log}");
    assert_eq!((&purged[0]["unit"], &purged[0]["entries"]), (&json!(UNIT_ID), &json!(1)));
    for secret in [TOKEN, "a-guess-at-the-token", &key("d4"), &token("alice")] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn nothing_of_it_is_on_the_public_port() {
    let desk = Desk::start().await;
    desk.get(UNIT).await;
    for client in [desk.gate.stranger(), desk.gate.client("alice")] {
        let reply = client.send(bare(EVERYTHING)).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "no_route"));
    }
    assert_eq!(desk.gate.stranger().send(ask(EVERYTHING)).await.status, 404);
    assert!(desk.get(UNIT).await.is_hit());
    assert_eq!((desk.purges(), desk.upstream.count()), (0.0, 1));
    // Where every path is the upstream's, this one is too.
    let upstream = Upstream::start().await;
    upstream.answer(old());
    let files = TempDir::new().unwrap();
    let gate = Gate::shared(&upstream, |config| {
        config.admin.token_file = Some(file(&files, "token", TOKEN));
    });
    gate.stranger().get("/thing").await;
    assert_eq!(gate.stranger().send(ask(EVERYTHING)).await.text(), "\"old\"");
    assert_eq!(
        (upstream.last().target.as_str(), &upstream.last().body[..]),
        ("/purge", EVERYTHING.as_bytes())
    );
    assert!(gate.stranger().get("/thing").await.is_hit());
}

#[tokio::test]
async fn what_was_purged_is_not_brought_back_by_a_304() {
    let desk = Desk::start().await;
    let asks = |who: &str| Ask::get(OPEN).field("cookie", who);
    desk.get(OPEN).await;
    desk.gate.advance(secs(100));
    let held = desk.upstream.hold();
    let leader = desk.client(OPEN).enter(asks("alice")).await;
    held.arrived().await;
    let joiner = desk.client(OPEN).enter(asks("bob")).await;
    assert_eq!(desk.purged(&json!({ "all": true })).await, (1, 1));
    // What the leader gets is its own, so that the joiner asks for itself, after the purge.
    desk.upstream.answers(|seen| match seen.field("if-none-match") {
        Some(tag) => Answer::not_modified().field("etag", tag).field("cache-control", "max-age=60"),
        None => Answer::json(200, "\"new\"").field("cache-control", "max-age=60"),
    });
    held.release_with(Answer::json(200, "0").field("cache-control", "private"));
    leader.reply().await;
    assert_eq!(joiner.reply().await.text(), "\"new\"");
    assert_eq!(desk.get(OPEN).await.text(), "\"new\"");
}
