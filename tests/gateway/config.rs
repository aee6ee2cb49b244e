//! What the operator decides, seen from outside.
//!
//! *Claims*
//! 1. A bad configuration ends the process with a message for people and code 2, all mistakes at once; a
//!    port that is taken ends it too.
//! 2. `check` prints what is in force and what follows from it.
//! 3. The environment overrides the file; a variable that sets nothing is a mistake; Kubernetes' are none.
//! 4. Each key of the shipped file has a test that sees its effect: the table at the end says which.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use unitgate::config::Config;

use crate::support::{
    Answer, Ask, Gate, INTEGRATION, INTEGRATIONS, MASK, OTHER_UNIT, Process, UNIT, UNIT_ID,
    Upstream, configuration, fetch, key, list, secs, token, unitgate,
};

fn folder(configuration: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("config.toml"), configuration).unwrap();
    folder
}

/// Runs with a configuration that is expected to be refused; what it said.
fn refused(configuration: &str, env: &[(&str, &str)]) -> String {
    let folder = folder(configuration);
    let mut said = String::new();
    for arguments in [&[][..], &["check"]] {
        let ended = unitgate(folder.path(), arguments, env);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.is_empty(), "{}", ended.stdout);
        said = ended.stderr;
    }
    said
}

fn checked(configuration: &str, env: &[(&str, &str)]) -> String {
    let ended = unitgate(folder(configuration).path(), &["check"], env);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

#[test]
fn a_missing_file_ends_it_with_2_and_is_named() {
    let folder = TempDir::new().unwrap();
    for (arguments, name) in [
        (&[][..], "config.toml"),
        (&["--config", "elsewhere.toml"], "elsewhere.toml"),
        (&["check", "--config", "x/y.toml"], "x/y.toml"),
    ] {
        let ended = unitgate(folder.path(), arguments, &[]);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
}

#[test]
fn a_file_without_any_key_is_refused() {
    for empty in ["", "\n\n", "# only words\n", "[cache]\n", "[listen]\n[cache]\n# ttl = \"1s\"\n"]
    {
        let said = refused(empty, &[]);
        assert!(said.contains("no key stands in it"), "{empty:?}: {said}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
    let said = refused("[cache]\nttl = \"10s\"\ntlt = \"1s\"\n", &[]);
    assert!(said.contains("config.toml:3: cache.tlt: "), "{said}");
    assert!(said.contains("ttl"), "{said}");
    assert!(refused("[cashe]\nttl = \"1s\"\n", &[]).contains("cashe"));
    assert!(refused("ttl = \"1s\"\n", &[]).contains("config.toml:1: "));
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place_and_remedy() {
    let said = refused(
        "[cache]\nttl = 10\njitter = \"90%\"\n[listen]\naddress = \"nowhere\"\nconections = 5\n[limits]\ncaller = { per_second = 0, burst = 1 }\n\
         [upstreams.converflow]\nurl = \"https://user:pass-word@example.com\"\n[[routes]]\nname = \"a\"\npath = \"/a\"\nupstream = \"nobody\"\n",
        &[("UNITGATE__CACHE__NEGATIV_TTL", "1s")],
    );
    for place in [
        "config.toml:2: cache.ttl: ",
        "config.toml:3: cache.jitter: ",
        "config.toml:5: listen.address: ",
        "config.toml:6: listen.conections: ",
        "config.toml:8: limits.caller.per_second: ",
        "config.toml:10: upstreams.converflow.url: ",
        "config.toml:14: ",
        "environment: UNITGATE__CACHE__NEGATIV_TTL: ",
    ] {
        assert!(said.contains(place), "{place} is missing in {said}");
    }
    assert!(
        said.lines().filter(|line| line.starts_with("    ")).count() >= 8,
        "a remedy each: {said}"
    );
    assert!(!said.contains("pass-word"), "{said}");
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    assert!(refused("[cache]\nttl = = 1\n", &[]).contains("config.toml:2: "));
    assert!(refused("[cache]\nttl = \"1s\"\nttl = \"2s\"\n", &[]).contains("config.toml:3: "));
}

#[tokio::test]
async fn a_taken_port_ends_it_and_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (public, admin) in [(address.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", address.as_str())] {
        let folder =
            folder(&format!("listen.address = \"{public}\"\nadmin.address = \"{admin}\"\n"));
        let ended = unitgate(folder.path(), &[], &[]);
        assert!(ended.code.is_some_and(|code| code != 0), "{:?}", ended.code);
        assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    }
}

#[test]
fn check_prints_the_effective_configuration_and_what_follows() {
    let said = checked("[cache]\nttl = \"60s\"\n", &[]);
    assert!(
        said.contains(
            "a revoked token is answered for at most 90 s, 390 s while the upstream is down"
        ),
        "{said}"
    );
    assert!(said.contains("https://converflow.api.prod.toolzz.media"), "{said}");
    // What it prints is a configuration, and the same one.
    assert_eq!(checked(&said, &[]), said);
    let shorter = checked(
        "[cache]\nttl = \"10s\"\nstale_while_revalidate = \"0s\"\nstale_if_error = \"0s\"\n",
        &[],
    );
    assert!(
        shorter.contains("a revoked token is answered for at most 10 s, 10 s while"),
        "{shorter}"
    );
}

#[test]
fn the_shipped_file_is_accepted_and_says_what_is_in_force_without_one() {
    let shipped =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml")).unwrap();
    assert_eq!(checked(&shipped, &[]), checked("[cache]\nttl = \"60s\"\n", &[]));
}

#[tokio::test]
async fn a_start_says_what_follows_too() {
    let upstream = Upstream::start().await;
    let mut gate = Process::start(upstream.address(), "", &[]).await;
    gate.logged("a revoked token is answered for at most 90 s, 390 s while the upstream is down")
        .await;
}

#[test]
fn the_environment_wins_over_the_file() {
    let env = [
        ("UNITGATE__CACHE__TTL", "17s"),
        ("UNITGATE__LIMITS__PEER", "{ per_second = 3, burst = 9 }"),
        ("UNITGATE__LIMITS__CALLER", "off"),
        ("UNITGATE__SECRETS__NAMES", "apiKey,other"),
        ("UNITGATE__UPSTREAMS__CONVERFLOW__URL", "https://other.test"),
    ];
    let said = checked("[cache]\nttl = \"60s\"\n", &env);
    for line in ["ttl = \"17s\"", "https://other.test", "\"other\"", "caller = \"off\""] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    assert!(said.contains("a revoked token is answered for at most 47 s"), "{said}");
}

#[test]
fn a_variable_that_sets_nothing_is_a_mistake() {
    for variable in [
        "UNITGATE__CACHE__TLT",
        "UNITGATE__CASHE__TTL",
        "UNITGATE__TTL",
        "UNITGATE__",
        "UNITGATE__CACHE",
    ] {
        let said = refused("[cache]\nttl = \"60s\"\n", &[(variable, "1s")]);
        assert!(said.contains(variable), "{variable}: {said}");
    }
    let said = refused("[cache]\nttl = \"60s\"\n", &[("UNITGATE__CACHE__TTL", "soon-and-secret")]);
    assert!(said.contains("UNITGATE__CACHE__TTL"), "{said}");
}

#[test]
fn what_kubernetes_injects_is_ignored() {
    let plain = checked("[cache]\nttl = \"60s\"\n", &[]);
    let env = [
        ("UNITGATE_PORT", "tcp://10.0.0.1:80"),
        ("UNITGATE_SERVICE_HOST", "10.0.0.1"),
        ("UNITGATE_SERVICE_PORT", "80"),
        ("UNITGATE_SERVICE_PORT_HTTP", "80"),
        ("UNITGATE_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("UNITGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("UNITGATE_PORT_80_TCP_PROTO", "tcp"),
    ];
    assert_eq!(checked("[cache]\nttl = \"60s\"\n", &env), plain);
}

#[test]
fn the_version_is_told() {
    let ended = unitgate(TempDir::new().unwrap().path(), &["--version"], &[]);
    assert_eq!(
        (ended.code, ended.stdout.trim()),
        (Some(0), concat!("unitgate ", env!("CARGO_PKG_VERSION")))
    );
}

// ── The effect of each key ──────────────────────────────────────────────────────────────────────────

/// A gate with these keys, written dotted, and routes behind them.
fn gate(upstream: &Upstream, keys: &str) -> Gate {
    opened(&configuration(upstream.address(), keys))
}

fn opened(text: &str) -> Gate {
    let parsed = Config::parse(text, Vec::new());
    let (config, _warnings) = parsed.unwrap_or_else(|errors| panic!("{errors}"));
    Gate::open(&config)
}

/// The unit list as a route, with these keys more.
fn unit_route(keys: &str) -> String {
    let path = "/api/v1/calcom/integration/unit/{unitId}";
    format!(
        "[[routes]]\nname = \"unit-list\"\npath = \"{path}\"\nupstream = \"converflow\"\n{keys}\n"
    )
}

/// A cached route that nobody needs a token for, with these keys of its cache policy.
fn open_route(policy: &str) -> String {
    let head = "[[routes]]\nname = \"open\"\npath = \"/open/{*rest}\"\nupstream = \"converflow\"\n";
    format!("{head}caller = \"open\"\nforward = \"all\"\n[routes.cache]\nttl = \"0s\"\n{policy}\n")
}

/// Whether the second of two requests was answered from memory, with `answer` for both.
async fn is_kept(keys: &str, target: &str, answer: Answer) -> bool {
    let upstream = Upstream::start().await;
    let gate = gate(&upstream, keys);
    upstream.answer(answer);
    // With a token an answer is nobody else's, so on an open route none is sent (RFC 9111 §3.5).
    let client = if target.starts_with("/open/") { gate.stranger() } else { gate.client("alice") };
    client.get(target).await;
    client.get(target).await.is_hit()
}

#[tokio::test]
async fn the_ports_are_where_they_are_configured() {
    let upstream = Upstream::start().await;
    let gate = Process::start(upstream.address(), "", &[]).await;
    assert!(gate.address().ip().is_loopback() && gate.address() != gate.admin());
    assert_eq!(fetch(gate.address(), "/healthz", &[]).await.status, 404);
    assert_eq!(fetch(gate.admin(), "/healthz", &[]).await.status, 200);
    let two = format!(
        "listen.address = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\nadmin.address = \"off\"\nupstreams.converflow.url = \"http://{}\"\n",
        upstream.address()
    );
    let mut gate = Process::run(&two, &[]);
    gate.logged("the operators' port is off").await;
    let listening = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let log = gate.log();
    let lines = log.lines().map(listening).filter(|line| line["message"] == "listening");
    let addresses: Vec<SocketAddr> =
        lines.map(|line| line["address"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_eq!(fetch(address, "/nowhere", &[]).await.status, 404, "{address}");
    }
}

#[tokio::test]
async fn a_head_may_be_as_large_as_configured() {
    for (size, status) in [("8KiB", 431), ("64KiB", 200)] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream, &format!("listen.head_size = \"{size}\""));
        let ask = Ask::get(UNIT).field("X-Large", &"a".repeat(20 << 10));
        assert_eq!(gate.client("alice").send(ask).await.status, status, "{size}");
    }
}

/// The caller of the first access line.
async fn fingerprint(upstream: &Upstream, keys: &str) -> String {
    let mut gate = Process::start(upstream.address(), keys, &[]).await;
    let bearer = format!("Bearer {}", token("alice"));
    fetch(gate.address(), UNIT, &[("Authorization", &bearer)]).await;
    gate.logged("\"caller\":\"").await;
    let log = gate.log();
    log.split("\"caller\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn with_a_key_file_fingerprints_outlive_restarts() {
    let upstream = Upstream::start().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, format!("{}\n", "k3y".repeat(16))).unwrap();
    let keys = format!("caller.key_file = \"{}\"", file.display());
    let with = [fingerprint(&upstream, &keys).await, fingerprint(&upstream, &keys).await];
    assert_eq!(with[0], with[1]);
    let without = [fingerprint(&upstream, "").await, fingerprint(&upstream, "").await];
    assert_ne!(without[0], without[1]);
    assert_ne!(without[0], with[0]);
}

#[tokio::test]
async fn without_room_nothing_is_cached_and_masking_stays_on() {
    let answer = || Answer::json(200, list(&key("a1"), "Be kind."));
    assert!(is_kept("cache.max_bytes = \"1MiB\"", UNIT, answer()).await);
    assert!(!is_kept("cache.max_bytes = 0", UNIT, answer()).await);
    let upstream = Upstream::start().await;
    upstream.answer(answer());
    let gate = gate(&upstream, "cache.max_bytes = 0");
    assert_eq!(gate.client("alice").get(UNIT).await.text(), list(MASK, "Be kind."));
}

#[tokio::test]
async fn an_answer_lives_as_long_as_configured_and_a_route_may_depart() {
    let windows =
        "cache.stale_while_revalidate = \"0s\"\ncache.stale_if_error = \"0s\"\ncache.ttl = \"20s\"";
    let departing = format!("{windows}\n{}[routes.cache]\nttl = \"40s\"", unit_route(""));
    for (keys, lives) in [(windows.to_owned(), 20), (departing, 40)] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream, &keys);
        let alice = gate.client("alice");
        let expected = format!("private, max-age={lives}");
        assert_eq!(alice.get(UNIT).await.field("cache-control"), Some(expected.as_str()));
        gate.advance(secs(lives - 1));
        assert!(alice.get(UNIT).await.is_hit());
        gate.advance(secs(2));
        assert!(!alice.get(UNIT).await.is_hit());
    }
}

#[tokio::test]
async fn a_404_is_repeated_only_where_configured() {
    let missing = || Answer::json(404, "{}");
    assert!(!is_kept("", UNIT, missing()).await);
    assert!(is_kept("cache.negative_ttl = \"20s\"", UNIT, missing()).await);
}

#[tokio::test]
async fn jitter_shortens_lifetimes_and_never_lengthens_them() {
    let upstream = Upstream::start().await;
    let text = configuration(upstream.address(), "").replace("\"0%\"", "\"50%\"");
    let gate = opened(&text);
    let mut lives = BTreeSet::new();
    for unit in 0..30 {
        let reply = gate.client("alice").get(&format!("{OTHER_UNIT}-{unit}")).await;
        let life = reply.field("cache-control").unwrap().strip_prefix("private, max-age=").unwrap();
        lives.insert(life.parse::<u32>().unwrap());
    }
    assert!(lives.len() > 5, "{lives:?}");
    assert!(lives.iter().all(|life| (29..=60).contains(life)), "{lives:?}");
}

#[tokio::test]
async fn a_granted_lifetime_is_capped() {
    let upstream = Upstream::start().await;
    upstream.answer(Answer::json(200, "{}").field("cache-control", "max-age=86400"));
    for (keys, life) in [("", 300), ("cache.max_ttl = \"100s\"", 100)] {
        let gate = gate(&upstream, keys);
        let expected = format!("private, max-age={life}");
        assert_eq!(
            gate.client("alice").get(UNIT).await.field("cache-control"),
            Some(expected.as_str())
        );
    }
}

#[tokio::test]
async fn the_stale_windows_are_as_long_as_configured() {
    let upstream = Upstream::start().await;
    let keys = "cache.ttl = \"10s\"\ncache.stale_while_revalidate = \"20s\"\ncache.stale_if_error = \"40s\"";
    for (age, while_revalidate, if_error) in
        [(29, true, true), (31, false, true), (69, false, true), (71, false, false)]
    {
        let gate = gate(&upstream, keys);
        let alice = gate.client("alice");
        upstream.answer(Answer::json(200, "{}"));
        alice.get(UNIT).await;
        upstream.answer(Answer::json(503, "{}"));
        gate.advance(secs(age));
        let reply = alice.get(UNIT).await;
        assert_eq!(reply.is_hit(), while_revalidate, "at {age}");
        assert_eq!(reply.status == 200, if_error, "at {age}");
    }
}

#[tokio::test]
async fn an_answer_with_a_validator_is_kept_to_be_asked_about_as_long_as_configured() {
    let windows =
        "cache.ttl = \"10s\"\ncache.stale_while_revalidate = \"0s\"\ncache.stale_if_error = \"0s\"";
    for (keep, age, asked_about) in [("20s", 29, true), ("20s", 31, false), ("0s", 11, false)] {
        let upstream = Upstream::start().await;
        upstream.answer(Answer::json(200, "{}").field("etag", "\"1\""));
        let gate = gate(&upstream, &format!("{windows}\ncache.keep = \"{keep}\""));
        gate.client("alice").get(UNIT).await;
        gate.advance(secs(age));
        gate.client("alice").get(UNIT).await;
        assert_eq!(
            upstream.last().field("if-none-match").is_some(),
            asked_about,
            "keep {keep} at {age}"
        );
    }
}

#[tokio::test]
async fn no_store_is_departed_from_by_name_only() {
    let answer = || Answer::json(200, "{}").field("cache-control", "no-store");
    assert!(!is_kept("", UNIT, answer()).await);
    assert!(is_kept("cache.store_no_store = true", UNIT, answer()).await);
}

#[tokio::test]
async fn directives_of_requests_count_only_where_configured() {
    for (keys, is_hit) in [("", true), ("cache.request_directives = true", false)] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream, keys);
        let alice = gate.client("alice");
        alice.get(UNIT).await;
        let reply = alice.send(Ask::get(UNIT).field("Cache-Control", "no-cache")).await;
        assert_eq!(reply.is_hit(), is_hit, "{keys}");
    }
}

#[tokio::test]
async fn a_lifetime_is_guessed_only_where_configured() {
    let answer = || {
        Answer::json(200, "{}")
            .field("last-modified", "Fri, 01 Jan 2027 08:00:00 GMT")
            .field("date", "Fri, 15 Jan 2027 08:00:00 GMT")
    };
    assert!(!is_kept(&open_route(""), "/open/x", answer()).await);
    assert!(is_kept(&open_route("heuristic = true"), "/open/x", answer()).await);
}

#[tokio::test]
async fn targeted_fields_count_only_where_configured() {
    let answer = || {
        Answer::json(200, "{}")
            .field("cache-control", "no-store")
            .field("cdn-cache-control", "max-age=100")
    };
    assert!(!is_kept(&open_route(""), "/open/x", answer()).await);
    assert!(is_kept(&open_route("targeted = [\"CDN-Cache-Control\"]"), "/open/x", answer()).await);
}

#[tokio::test]
async fn answers_that_set_cookies_are_stored_only_where_configured() {
    let answer =
        || Answer::json(200, "{}").field("cache-control", "max-age=100").field("set-cookie", "a=b");
    assert!(is_kept(&open_route(""), "/open/x", answer()).await);
    assert!(!is_kept(&open_route("store_set_cookie = false"), "/open/x", answer()).await);
}

#[tokio::test]
async fn which_members_are_secret_is_configuration() {
    let upstream = Upstream::start().await;
    upstream
        .answer(Answer::json(200, r#"{"apiKey":"plain","colour":"red","box":{"a":"b","c":[1]}}"#));
    let gate = gate(&upstream, "secrets.names = [\"colour\"]\nsecrets.objects = [\"box\"]");
    let mask = "****************";
    let expected =
        format!(r#"{{"apiKey":"plain","colour":"{mask}","box":{{"a":"{mask}","c":["{mask}"]}}}}"#);
    assert_eq!(gate.client("alice").get(UNIT).await.text(), expected);
}

#[tokio::test]
async fn each_limit_of_callers_can_be_set_and_switched_off() {
    let one = "{ per_second = 1, burst = 1 }";
    for (limit, status) in [("caller", 429), ("caller_upstream", 429), ("peer", 429)] {
        for (value, expected) in [(one, Some(status)), ("\"off\"", None)] {
            let upstream = Upstream::start().await;
            let gate = gate(&upstream, &format!("limits.{limit} = {value}"));
            let client = if limit == "peer" { gate.stranger() } else { gate.client("alice") };
            let first = client.get(INTEGRATION).await.status;
            let second = client.get(INTEGRATION).await.status;
            assert_ne!(first, 429, "{limit}");
            assert_eq!(second, expected.unwrap_or(first), "{limit} = {value}");
        }
    }
}

#[tokio::test]
async fn the_lane_of_newcomers_can_be_set_and_switched_off() {
    for (value, status) in [("{ in_flight = 1, wait = \"0s\" }", 503), ("\"off\"", 200)] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream, &format!("limits.lane = {value}"));
        let held = upstream.hold();
        let first = gate.client("alice").begin(Ask::get(UNIT));
        held.arrived().await;
        assert_eq!(gate.client("bob").get(UNIT).await.status, status, "{value}");
        held.release();
        assert_eq!(first.reply().await.status, 200);
    }
}

#[tokio::test]
async fn a_limiter_holds_as_many_keys_as_configured() {
    let upstream = Upstream::start().await;
    let gate = gate(&upstream, "limits.keys = 16");
    for caller in 0..100 {
        assert_eq!(gate.client(&format!("caller-{caller}")).get(UNIT).await.status, 200);
    }
    for limiter in ["caller", "upstream", "lane"] {
        let keys = gate.scraped("limiter_keys", &[&format!("limiter=\"{limiter}\"")]).await;
        assert!(keys > 0.0 && keys <= 17.0, "{limiter} holds {keys}");
    }
}

#[tokio::test]
async fn a_request_body_may_be_as_large_as_configured() {
    let upstream = Upstream::start().await;
    let gate = gate(&upstream, "limits.request_body = 10");
    let alice = gate.client("alice");
    assert_eq!(alice.put(INTEGRATION, "\"12345678\"").await.status, 200);
    assert_eq!(alice.put(INTEGRATION, "\"123456789\"").await.status, 413);
}

#[tokio::test]
async fn connecting_may_take_as_long_as_configured_its_handshake_too() {
    // The kernel accepts, and nobody speaks TLS.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let keys = "upstream.connect = \"100ms\"";
    let text = configuration(silent.local_addr().unwrap(), keys).replace("http://", "https://");
    let gate = opened(&text);
    let reply = gate.client("alice").get(UNIT).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "upstream_timeout"));
    assert_eq!(gate.metric("upstream_errors_total", &["kind=\"connect_timeout\""]), 1.0);
}

#[tokio::test]
async fn an_answer_must_begin_and_end_in_the_times_configured() {
    for (keys, kind) in [
        ("upstream.first_byte = \"100ms\"", "first_byte_timeout"),
        ("upstream.first_byte = \"100ms\"\nupstream.total = \"100ms\"", "total_timeout"),
    ] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream, keys);
        upstream.answer(if kind == "total_timeout" {
            Answer::json(200, "{}").stall_after(1)
        } else {
            Answer::silence()
        });
        assert_eq!(gate.client("alice").get(UNIT).await.status, 504);
        assert_eq!(gate.metric("upstream_errors_total", &[kind]), 1.0, "{kind}");
    }
}

#[tokio::test]
async fn an_answer_may_be_as_large_as_configured() {
    for (keys, answer) in [
        ("upstream.max_body = 10", Answer::json(200, "\"123456789\"")),
        (
            "upstream.max_fields = 5",
            (0..5).fold(Answer::json(200, "1"), |answer, n| answer.field(&format!("x-{n}"), "1")),
        ),
    ] {
        let upstream = Upstream::start().await;
        upstream.answer(answer);
        assert_eq!(gate(&upstream, keys).client("alice").get(UNIT).await.code(), "upstream_broken");
        assert_eq!(gate(&upstream, "").client("alice").get(UNIT).await.status, 200);
    }
}

#[tokio::test]
async fn a_pooled_connection_is_used_for_as_long_as_configured() {
    for (keys, wait, connections) in
        [("", 3_000, 1), ("upstream.idle = \"2s\"", 3_000, 2), ("upstream.age = \"3s\"", 3_000, 2)]
    {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream, keys);
        let alice = gate.client("alice");
        alice.get(INTEGRATION).await;
        // Nobody waits for anything here, so that no deadline can be met by this.
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(wait)).await;
        tokio::time::resume();
        alice.get(INTEGRATION).await;
        assert_eq!(upstream.connections(), connections, "{keys}");
    }
}

#[test]
fn a_token_crosses_the_network_in_the_clear_only_by_name() {
    let plain = "[upstreams.converflow]\nurl = \"http://api.example.com\"\n";
    assert!(refused(plain, &[]).contains("upstreams.converflow.url"));
    let allowed = checked(&format!("{plain}[upstream]\nallow_plain = [\"converflow\"]\n"), &[]);
    assert!(allowed.contains("in the clear"), "{allowed}");
}

/// An upstream behind TLS with a certificate of this authority's; it answers everything with `{}`.
async fn behind_tls(authority: &CertifiedIssuer<'static, KeyPair>) -> (SocketAddr, JoinSet<()>) {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, authority)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            // The request is one small record.
            if stream.read(&mut [0; 4096]).await.is_err() {
                continue;
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                .await
                .ok();
            stream.shutdown().await.ok();
        }
    });
    (address, serving)
}

#[tokio::test]
async fn an_authority_is_trusted_by_its_file() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, authority.pem()).unwrap();
    let (address, _serving) = behind_tls(&authority).await;
    let plain = configuration(address, "").replace("http://", "https://");
    let distrusted = opened(&plain);
    assert_eq!(distrusted.client("alice").get(UNIT).await.code(), "upstream_unreachable");
    assert_eq!(distrusted.metric("upstream_errors_total", &["kind=\"tls\""]), 1.0);
    let trusted = opened(&format!("upstream.ca_file = \"{}\"\n{plain}", file.display()));
    assert_eq!(trusted.client("alice").get(UNIT).await.text(), "{}");
}

#[tokio::test]
async fn each_route_goes_to_its_own_upstream() {
    let (reads, writes) = (Upstream::start().await, Upstream::start().await);
    let text = configuration(reads.address(), "");
    let text = text.replace(
        &format!("chat.url = \"http://{}\"", reads.address()),
        &format!("chat.url = \"http://{}\"", writes.address()),
    );
    let gate = opened(&text);
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    alice.send(Ask::post(INTEGRATIONS, "{}")).await;
    assert_eq!((reads.count(), writes.count()), (2, 0));
    alice.put(INTEGRATION, "{}").await;
    assert_eq!((reads.count(), writes.count()), (2, 1));
}

#[tokio::test]
async fn diagnostics_are_told_from_the_level_configured_up() {
    for (level, told) in [("warn", true), ("error", false)] {
        let upstream = Upstream::start().await;
        upstream.answer(Answer::json(200, "{}").field("cache-control", "no-store"));
        let gate = gate(&upstream, &format!("log.level = \"{level}\""));
        gate.client("alice").get(UNIT).await;
        assert_eq!(gate.log().contains("\"log\":\"diagnostics\""), told, "{}", gate.log());
        assert!(gate.log().contains("\"log\":\"access\""));
    }
}

#[tokio::test]
async fn the_log_has_the_format_and_the_output_configured() {
    let upstream = Upstream::start().await;
    let standard = Process::start(upstream.address(), "", &[]).await;
    assert_eq!(standard.errors(), "");
    let other = Process::start(upstream.address(), "log.output = \"stderr\"", &[]).await;
    assert!(other.errors().contains("listening"), "{}", other.log());
    let text = Process::start(upstream.address(), "log.format = \"text\"", &[]).await;
    assert!(text.log().starts_with("time="), "{}", text.log());
    assert!(standard.log().starts_with("{\"time\":"), "{}", standard.log());
}

#[tokio::test]
async fn which_lines_and_targets_are_logged_is_configuration() {
    for (keys, lines, target) in [
        ("", 2, true),
        ("log.access = \"errors\"", 1, true),
        ("log.access = \"off\"", 0, false),
        ("log.target = \"off\"", 2, false),
        ("log.target = \"digest\"", 2, false),
    ] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream, keys);
        gate.client("alice").get(UNIT).await;
        gate.stranger().get(UNIT).await;
        let log = gate.log();
        assert_eq!(log.matches("\"log\":\"access\"").count(), lines, "{keys}: {log}");
        assert_eq!(log.contains(UNIT_ID), target, "{keys}: {log}");
    }
}

#[tokio::test]
async fn a_route_has_the_name_path_and_methods_configured() {
    let upstream = Upstream::start().await;
    let route = "[[routes]]\nname = \"things\"\npath = \"/things/{id}\"\nmethods = [\"GET\", \"DELETE\"]\nupstream = \"converflow\"\n";
    let gate = gate(&upstream, route);
    let alice = gate.client("alice");
    assert_eq!(alice.get("/things/1").await.status, 200);
    assert_eq!(alice.send(Ask::new("DELETE", "/things/1")).await.status, 200);
    let refused = alice.head("/things/1").await;
    assert_eq!((refused.status, refused.field("allow")), (405, Some("DELETE, GET")));
    assert_eq!(alice.get(UNIT).await.status, 404, "one route replaces the whole table");
    assert_eq!(gate.metric("requests_total", &["route=\"things\"", "status=\"2xx\""]), 2.0);
}

#[tokio::test]
async fn a_route_asks_for_a_token_and_forwards_what_is_configured() {
    let upstream = Upstream::start().await;
    let open = |forward: &str| {
        format!(
            "[[routes]]\nname = \"open\"\npath = \"/open/{{*rest}}\"\nupstream = \"converflow\"\ncaller = \"open\"\nforward = \"{forward}\"\n"
        )
    };
    for (forward, crosses) in [("all", true), ("key", false)] {
        let gate = gate(&upstream, &open(forward));
        assert_eq!(
            gate.stranger().send(Ask::get("/open/x").field("X-Mine", "1")).await.status,
            200
        );
        assert_eq!(upstream.last().field("x-mine").is_some(), crosses, "{forward}");
    }
    let asking = gate(&upstream, &unit_route("caller = \"token\""));
    assert_eq!(asking.stranger().get(UNIT).await.status, 401);
}

#[tokio::test]
async fn a_route_accepts_the_parameters_configured() {
    let upstream = Upstream::start().await;
    let gate = gate(&upstream, &unit_route("query = [\"page\", \"limit\"]"));
    let alice = gate.client("alice");
    for (query, status) in [
        ("", 200),
        ("?page=1", 200),
        ("?limit=2&page=1", 200),
        ("?pages=1", 400),
        ("?page=1&x", 400),
        ("?%70age=1", 400),
    ] {
        assert_eq!(alice.get(&format!("{UNIT}{query}")).await.status, status, "{query}");
    }
}

#[tokio::test]
async fn a_route_is_cached_only_where_configured() {
    let answer = || Answer::json(200, "{}");
    assert!(is_kept(&unit_route("cache = true"), UNIT, answer()).await);
    assert!(!is_kept(&unit_route("cache = false"), UNIT, answer()).await);
    assert!(!is_kept(&unit_route(""), UNIT, answer()).await);
}

#[tokio::test]
async fn a_write_drops_what_is_configured() {
    let write = "[[routes]]\nname = \"write\"\npath = \"/write\"\nmethods = [\"POST\"]\nupstream = \"converflow\"\n";
    for (family, invalidates, is_hit) in [
        ("calcom", "{ member = \"unitId\", family = \"calcom\" }", false),
        ("calcom", "{ member = \"otherId\", family = \"calcom\" }", true),
        ("calcom", "\"off\"", true),
    ] {
        let upstream = Upstream::start().await;
        // For another member name the path's parameter has that name too.
        let read = unit_route(&format!("cache = true\nfamily = \"{family}\"")).replace(
            "{unitId}",
            if invalidates.contains("otherId") { "{otherId}" } else { "{unitId}" },
        );
        let gate = gate(&upstream, &format!("{read}{write}invalidates = {invalidates}"));
        let (alice, bob) = (gate.client("alice"), gate.client("bob"));
        alice.get(UNIT).await;
        upstream
            .next(Answer::json(200, format!(r#"{{"unitId":"{UNIT_ID}","otherId":"another"}}"#)));
        assert_eq!(bob.send(Ask::post("/write", "{}")).await.status, 200);
        assert_eq!(alice.get(UNIT).await.is_hit(), is_hit, "{invalidates}");
    }
}

#[tokio::test]
async fn a_route_opts_out_of_masking_by_name_only() {
    for (secrets, passes) in [("mask", false), ("verbatim", true)] {
        let upstream = Upstream::start().await;
        upstream.answer(Answer::json(200, list(&key("a1"), "")));
        let route = open_route("")
            .replace("[routes.cache]", &format!("secrets = \"{secrets}\"\n[routes.cache]"));
        let gate = gate(&upstream, &route);
        assert_eq!(
            gate.stranger().get("/open/x").await.text().contains(&key("a1")),
            passes,
            "{secrets}"
        );
    }
}

#[tokio::test]
async fn a_masked_secret_may_be_written_only_where_configured() {
    let masked = format!(r#"{{"apiKey":"{MASK}"}}"#);
    for (refuse, status) in [("true", 422), ("false", 200)] {
        let upstream = Upstream::start().await;
        let route = unit_route(&format!("methods = [\"PUT\"]\nrefuse_masked_write = {refuse}"));
        assert_eq!(gate(&upstream, &route).client("alice").put(UNIT, &masked).await.status, status);
        assert_eq!(upstream.count(), usize::from(status == 200));
    }
}

#[tokio::test]
async fn a_route_has_the_rate_configured() {
    let upstream = Upstream::start().await;
    let other = "[[routes]]\nname = \"other\"\npath = \"/other\"\nupstream = \"converflow\"\n";
    let gate =
        gate(&upstream, &format!("{}{other}", unit_route("rate = { per_second = 1, burst = 1 }")));
    let alice = gate.client("alice");
    assert_eq!(alice.get(UNIT).await.field("ratelimit-policy"), Some("\"caller\";q=1;w=1"));
    assert_eq!(alice.get(UNIT).await.status, 429);
    for _ in 0..3 {
        assert_eq!(alice.get("/other").await.status, 200);
    }
}

/// Each key of the shipped file, and the test that sees its effect from outside.
const SEEN: [(&str, &str); 86] = [
    ("listen.address", "the_ports_are_where_they_are_configured"),
    ("listen.reuse_port", "two_processes_share_a_port_only_where_configured"),
    ("listen.handover", "a_new_process_takes_over_without_a_failed_request"),
    ("listen.via", "via_grows_by_the_instance_and_keeps_what_was_there"),
    ("listen.connections", "it_answers_while_the_public_port_has_no_free_connection"),
    ("listen.tls_certificate_file", "over_tls_each_client_gets_the_protocol_that_it_agrees_on"),
    ("listen.tls_key_file", "a_changed_certificate_serves_new_connections_and_old_ones_go_on"),
    ("listen.tls_client_ca_file", "where_clients_need_a_certificate_none_is_served_without"),
    ("listen.http2", "without_tls_http2_is_spoken_only_where_it_is_configured"),
    ("listen.trusted", "x_forwarded_for_is_believed_from_the_trusted_alone"),
    ("listen.proxy_protocol", "a_trusted_balancer_tells_the_client_by_its_proxy_header"),
    (
        "listen.connections_per_peer",
        "an_address_with_too_many_connections_is_told_so_and_others_are_served",
    ),
    (
        "listen.requests",
        "requests_above_those_that_may_wait_are_told_to_come_back_and_hits_are_served",
    ),
    ("listen.connection_requests", "a_connection_above_its_number_of_requests_ends_in_order"),
    ("listen.connection_age", "a_connection_that_is_too_old_ends_in_order_with_its_next_answer"),
    ("listen.streams", "streams_above_the_most_are_refused_and_told"),
    ("listen.control_frames", "floods_of_frames_that_bring_nothing_end_the_connection"),
    ("listen.target_size", "a_head_of_http2_is_held_to_the_sizes_of_http1"),
    ("listen.fields", "a_head_of_http2_is_held_to_the_sizes_of_http1"),
    ("listen.head_size", "a_head_may_be_as_large_as_configured"),
    ("listen.head", "a_connection_that_does_not_end_in_order_is_told_by_its_reason"),
    ("listen.idle", "a_connection_that_does_not_end_in_order_is_told_by_its_reason"),
    ("listen.body", "every_refusal_is_a_problem_with_a_code_of_its_own"),
    ("listen.write", "a_client_that_does_not_read_is_told_as_stalled"),
    ("admin.address", "the_ports_are_where_they_are_configured"),
    ("admin.token_file", "who_has_not_the_token_of_the_file_is_401_and_changes_nothing"),
    ("admin.hosts", "a_purge_may_be_asked_for_by_address_by_localhost_and_by_the_hosts_configured"),
    ("caller.key_file", "with_a_key_file_fingerprints_outlive_restarts"),
    ("cache.max_bytes", "without_room_nothing_is_cached_and_masking_stays_on"),
    ("cache.ttl", "an_answer_lives_as_long_as_configured_and_a_route_may_depart"),
    ("cache.negative_ttl", "a_404_is_repeated_only_where_configured"),
    ("cache.jitter", "jitter_shortens_lifetimes_and_never_lengthens_them"),
    ("cache.max_ttl", "a_granted_lifetime_is_capped"),
    ("cache.stale_while_revalidate", "the_stale_windows_are_as_long_as_configured"),
    ("cache.stale_if_error", "the_stale_windows_are_as_long_as_configured"),
    ("cache.keep", "an_answer_with_a_validator_is_kept_to_be_asked_about_as_long_as_configured"),
    ("cache.store_no_store", "no_store_is_departed_from_by_name_only"),
    ("cache.request_directives", "directives_of_requests_count_only_where_configured"),
    ("cache.heuristic", "a_lifetime_is_guessed_only_where_configured"),
    ("cache.targeted", "targeted_fields_count_only_where_configured"),
    ("cache.store_set_cookie", "answers_that_set_cookies_are_stored_only_where_configured"),
    ("secrets.names", "which_members_are_secret_is_configuration"),
    ("secrets.objects", "which_members_are_secret_is_configuration"),
    ("limits.caller", "each_limit_of_callers_can_be_set_and_switched_off"),
    ("limits.caller_upstream", "each_limit_of_callers_can_be_set_and_switched_off"),
    ("limits.peer", "each_limit_of_callers_can_be_set_and_switched_off"),
    ("limits.lane", "the_lane_of_newcomers_can_be_set_and_switched_off"),
    ("limits.keys", "a_limiter_holds_as_many_keys_as_configured"),
    ("limits.request_body", "a_request_body_may_be_as_large_as_configured"),
    ("upstream.connect", "connecting_may_take_as_long_as_configured_its_handshake_too"),
    ("upstream.first_byte", "an_answer_must_begin_and_end_in_the_times_configured"),
    ("upstream.total", "an_answer_must_begin_and_end_in_the_times_configured"),
    ("upstream.max_body", "an_answer_may_be_as_large_as_configured"),
    ("upstream.max_fields", "an_answer_may_be_as_large_as_configured"),
    ("upstream.idle", "a_pooled_connection_is_used_for_as_long_as_configured"),
    ("upstream.age", "a_pooled_connection_is_used_for_as_long_as_configured"),
    ("upstream.breaker", "a_breaker_that_is_off_or_set_higher_lets_everyone_through"),
    ("upstream.hold_back", "a_429s_wait_is_a_date_too_a_second_unsaid_and_capped"),
    ("upstream.concurrency", "misses_above_what_the_upstream_bears_wait_and_hits_do_not"),
    (
        "upstream.queue",
        "who_finds_no_place_in_time_is_told_when_to_come_back_or_gets_the_stale_answer",
    ),
    ("upstream.retries", "a_retry_beyond_its_budget_is_not_made"),
    ("upstream.max_buffered", "a_body_without_memory_for_it_is_503_and_the_memory_comes_back"),
    ("upstream.allow_plain", "a_token_crosses_the_network_in_the_clear_only_by_name"),
    ("upstream.ca_file", "an_authority_is_trusted_by_its_file"),
    ("upstreams.converflow.url", "each_route_goes_to_its_own_upstream"),
    ("upstreams.chat.url", "each_route_goes_to_its_own_upstream"),
    ("log.level", "diagnostics_are_told_from_the_level_configured_up"),
    ("log.format", "the_log_has_the_format_and_the_output_configured"),
    ("log.output", "the_log_has_the_format_and_the_output_configured"),
    ("log.access", "which_lines_and_targets_are_logged_is_configuration"),
    ("log.target", "which_lines_and_targets_are_logged_is_configuration"),
    ("shutdown.delay", "during_the_delay_it_still_accepts_and_is_not_ready"),
    ("shutdown.deadline", "it_is_gone_by_its_deadline_whatever_is_under_way"),
    ("routes.name", "a_route_has_the_name_path_and_methods_configured"),
    ("routes.path", "a_route_has_the_name_path_and_methods_configured"),
    ("routes.methods", "a_route_has_the_name_path_and_methods_configured"),
    ("routes.upstream", "each_route_goes_to_its_own_upstream"),
    ("routes.caller", "a_route_asks_for_a_token_and_forwards_what_is_configured"),
    ("routes.forward", "a_route_asks_for_a_token_and_forwards_what_is_configured"),
    ("routes.query", "a_route_accepts_the_parameters_configured"),
    ("routes.cache", "a_route_is_cached_only_where_configured"),
    ("routes.family", "a_write_drops_what_is_configured"),
    ("routes.invalidates", "a_write_drops_what_is_configured"),
    ("routes.secrets", "a_route_opts_out_of_masking_by_name_only"),
    ("routes.refuse_masked_write", "a_masked_secret_may_be_written_only_where_configured"),
    ("routes.rate", "a_route_has_the_rate_configured"),
];

#[test]
fn each_key_of_the_shipped_file_has_a_test_that_sees_its_effect() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = fs::read_to_string(root.join("config.toml")).unwrap();
    let (mut section, mut keys) = ("", BTreeSet::new());
    for line in shipped.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys.insert(format!("{section}.{key}"));
        }
    }
    let seen: BTreeSet<String> = SEEN.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(seen, keys);
    let tests: String = fs::read_dir(root.join("tests/gateway"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default())
        .collect();
    for (key, test) in SEEN {
        assert!(tests.contains(&format!("fn {test}()")), "{key} has no test {test}");
    }
}
