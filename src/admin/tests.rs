use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use http_body_util::BodyExt;
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};

use super::*;
use crate::cache;
use crate::cache::generation::Strength;
use crate::cache::purge::{Purge, Purged, Several};
use crate::clock::{Clock, Dice};
use crate::config::{AccessLog, Level, Log, LogFormat, LogOutput, LogTarget};
use crate::telemetry::{Label, Limiter, Lines, Setup, TargetView, Vocabulary};

fn admin(readiness: Arc<Mutex<Readiness>>) -> Admin {
    let changes = Changes {
        access: Arc::default(),
        purge: Arc::new(|_purge, _strength| Ok(Purged::default())),
        reload: Arc::new(|| Ok(Reloaded::default())),
    };
    changing(readiness, changes)
}

fn changing(readiness: Arc<Mutex<Readiness>>, changes: Changes) -> Admin {
    let log = Log {
        level: Level::Info,
        format: LogFormat::Json,
        output: LogOutput::Stderr,
        access: AccessLog::Off,
        target: LogTarget::Full,
    };
    let setup = Setup {
        clock: Clock::real(),
        dice: Dice::seeded(1),
        log: &log,
        routes: &[],
        vocabulary: Vocabulary::default(),
        target: Some(TargetView::new(|target| Cow::Borrowed(target))),
        lines: Lines::to(std::io::sink()).unwrap(),
    };
    let sizes = cache::Sizes {
        entries: 3,
        bytes: 4_096,
        capacity: 8_192,
        insertions: 9,
        evicted_size: 1,
        evicted_expired: 2,
        evicted_replaced: 3,
        evicted_ended: 4,
        ..cache::Sizes::default()
    };
    let probes = Probes {
        readiness: Box::new(move || readiness.lock().clone()),
        upstreams: Box::new(|| ()),
        cache: Box::new(move || sizes),
        limiter_keys: Box::new(|limiter| 10 + limiter.index()),
    };
    Admin::new(Arc::new(Telemetry::new(setup).unwrap()), probes, changes)
}

fn ready() -> Readiness {
    Readiness { listening: true, draining: false, masking: true, details: Vec::new() }
}

fn fixed(readiness: Readiness) -> Admin {
    admin(Arc::new(Mutex::new(readiness)))
}

async fn body(response: Response<Full<Bytes>>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Sends one request on a connection of its own and reads all that comes.
fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

#[tokio::test]
async fn readiness_ends_only_before_listening_while_draining_or_with_a_broken_masker() {
    let unready = [
        Readiness { listening: false, ..ready() },
        Readiness { draining: true, ..ready() },
        Readiness { masking: false, ..ready() },
    ];
    for readiness in unready {
        let answer = fixed(readiness).answer(&Method::GET, "/readyz");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body: Value = serde_json::from_str(&body(answer).await).unwrap();
        assert_eq!(body["ready"], false);
    }
    let down = vec![("upstream \"a\"".to_owned(), "down\n".to_owned())];
    let answer = fixed(Readiness { details: down, ..ready() }).answer(&Method::GET, "/readyz");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[CONTENT_TYPE], JSON);
    let body: Value = serde_json::from_str(&body(answer).await).unwrap();
    let expected = json!({
        "ready": true, "listening": true, "draining": false, "masking": true,
        "details": { "upstream \"a\"": "down\n" },
    });
    assert_eq!(body, expected);
}

#[test]
fn liveness_does_not_depend_on_readiness() {
    let answer = fixed(Readiness::default()).answer(&Method::GET, "/healthz");
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_scrape_shows_what_the_probes_say_and_the_process() {
    let admin = fixed(ready());
    for _ in 0..2 {
        let answer = admin.answer(&Method::GET, "/metrics");
        assert_eq!(answer.headers()[CONTENT_TYPE], EXPOSITION);
        let scrape = body(answer).await;
        let has = |line: &str| assert!(scrape.lines().any(|l| l == line), "{line}\n{scrape}");
        has("unitgate_cache_entries 3");
        has("unitgate_cache_bytes 4096");
        has("unitgate_cache_capacity_bytes 8192");
        has("unitgate_cache_insertions_total 9");
        has("unitgate_cache_evictions_total{cause=\"size\"} 1");
        has("unitgate_cache_evictions_total{cause=\"expired\"} 2");
        has("unitgate_cache_evictions_total{cause=\"replaced\"} 3");
        has("unitgate_cache_evictions_total{cause=\"ended\"} 4");
        for limiter in Limiter::ALL {
            let keys = 10 + limiter.index();
            has(&format!("unitgate_limiter_keys{{limiter=\"{}\"}} {keys}", limiter.as_str()));
        }
        has("unitgate_ready 1");
        assert!(scrape.contains("\nprocess_resident_memory_bytes "));
        let ratio = scrape.lines().find_map(|l| l.strip_prefix("unitgate_cache_resident_ratio "));
        let ratio: f64 = ratio.unwrap().parse().unwrap();
        assert!(ratio > 0.0 && ratio < 1.0, "{ratio}");
    }
}

#[tokio::test]
async fn anything_else_is_a_problem_that_says_what_to_do() {
    let admin = fixed(ready());
    for path in ["/units", "/metrics/", "/healthz/..", "*", ""] {
        let answer = admin.answer(&Method::GET, path);
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
        let problem: Value = serde_json::from_str(&body(answer).await).unwrap();
        assert_eq!(problem["status"], 404);
    }
    for method in [Method::POST, Method::DELETE, Method::OPTIONS, Method::CONNECT] {
        for path in PATHS {
            let answer = admin.answer(&method, path);
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
            let problem: Value = serde_json::from_str(&body(answer).await).unwrap();
            assert_eq!(problem["status"], 405);
        }
    }
}

#[test]
fn the_port_answers_over_a_socket_and_head_has_no_body() {
    let readiness = Arc::new(Mutex::new(ready()));
    let running = start(loopback(), None, admin(Arc::clone(&readiness))).unwrap();
    let answer = ask(running.address(), "GET /healthz HTTP/1.1");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let answer = ask(running.address(), "HEAD /healthz HTTP/1.1");
    assert!(answer.ends_with("\r\n\r\n") && answer.contains("content-length: 3\r\n"), "{answer}");
    let answer = ask(running.address(), "GET http://x/readyz?verbose HTTP/1.1");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    readiness.lock().draining = true;
    let answer = ask(running.address(), "GET /readyz HTTP/1.1");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

/// What a port says to a purge, and what it had purged: `several` stand for each fingerprint.
fn purged(several: &[&str], what: &str) -> (String, Vec<(Purge, Strength)>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, several) = (Arc::clone(&asked), several.iter().map(ToString::to_string));
    let several: Vec<String> = several.collect();
    let changes = Changes {
        access: Arc::new(RwLock::new(Access {
            pass: Some(Pass::of(b"a token of operators")),
            hosts: Vec::new(),
        })),
        reload: Arc::new(|| Ok(Reloaded::default())),
        purge: Arc::new(move |purge, strength| {
            seen.lock().push((purge.clone(), strength));
            if several.is_empty() {
                Ok(Purged { entries: 3, fetches: 2 })
            } else {
                Err(Several(several.clone()))
            }
        }),
    };
    let running =
        start(loopback(), None, changing(Arc::new(Mutex::new(ready())), changes)).unwrap();
    let mut stream = TcpStream::connect(running.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let fields =
        "Host: localhost\r\nAuthorization: Bearer a token of operators\r\nConnection: close";
    let length = what.len();
    write!(stream, "POST /purge HTTP/1.1\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{what}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let asked = asked.lock().clone();
    (answer, asked)
}

fn told(answer: &str) -> Value {
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

#[test]
fn a_purge_is_handed_on_as_it_was_asked_for_and_its_outcome_told() {
    let target = |target: &str| Purge::Target(target.parse().unwrap());
    for (what, purge, strength) in [
        (r#"{"all":true}"#, Purge::All, Strength::Hard),
        (r#"{"all":true,"soft":false}"#, Purge::All, Strength::Hard),
        (r#"{"soft":true,"all":true}"#, Purge::All, Strength::Soft),
        (r#" {"unit":"U-1"}"#, Purge::Unit("U-1".to_owned()), Strength::Hard),
        (r#"{"caller":"0123456789AB"}"#, Purge::Caller("0123456789ab".to_owned()), Strength::Hard),
        (r#"{"url":"/a?b=%2F#c"}"#, target("/a?b=%2F"), Strength::Hard),
        (r#"{"url":"https://x:1/a//b?c?d"}"#, target("/a//b?c?d"), Strength::Hard),
        (r#"{"url":"http://x"}"#, target("/"), Strength::Hard),
        (r#"{"url":"//x/y"}"#, target("//x/y"), Strength::Hard),
    ] {
        let (answer, asked) = purged(&[], what);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{what}: {answer}");
        assert_eq!(asked, [(purge, strength)], "{what}");
        let soft = strength == Strength::Soft;
        assert_eq!(told(&answer), json!({ "entries": 3, "fetches": 2, "soft": soft }), "{what}");
    }
}

#[test]
fn a_fingerprint_of_several_callers_is_409_with_the_digests_to_choose_from() {
    let several = ["0123456789ab00", "0123456789abff"];
    let (answer, asked) = purged(&several, r#"{"caller":"0123456789ab"}"#);
    assert!(answer.starts_with("HTTP/1.1 409 Conflict\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
    assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
    let told = told(&answer);
    assert_eq!((&told["status"], &told["code"]), (&json!(409), &json!("several_callers")));
    assert_eq!(told["callers"], json!(several));
    assert_eq!(asked.len(), 1, "it is not tried again by itself");
}

#[test]
fn a_request_without_a_host_or_with_two_is_refused() {
    let changes = || Changes {
        access: Arc::default(),
        purge: Arc::new(|_purge, _strength| Ok(Purged::default())),
        reload: Arc::new(|| Ok(Reloaded::default())),
    };
    let running =
        start(loopback(), None, changing(Arc::new(Mutex::new(ready())), changes())).unwrap();
    for (head, status) in [
        ("HTTP/1.1\r\nConnection: close", "400"),
        ("HTTP/1.1\r\nConnection: close\r\nHost: a\r\nHost: a", "400"),
        ("HTTP/1.1\r\nConnection: close\r\nHost: a", "200"),
        ("HTTP/1.0", "200"),
    ] {
        let mut stream = TcpStream::connect(running.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET /healthz {head}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head}: {answer}");
    }
}

#[test]
fn a_taken_port_is_an_error_at_once() {
    let taken = TcpListener::bind(loopback()).unwrap();
    let error = start(taken.local_addr().unwrap(), None, fixed(ready())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn a_healthcheck_passes_while_draining_and_fails_where_nobody_listens() {
    let running = start(loopback(), None, fixed(Readiness { draining: true, ..ready() })).unwrap();
    assert!(healthcheck(running.address()).is_ok());
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, running.address().port()));
    assert!(healthcheck(everywhere).is_ok());

    let gone = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    assert!(matches!(healthcheck(gone), Err(Unhealthy::Silent { .. })));
}

#[test]
fn a_healthcheck_does_not_take_another_service_for_ours() {
    let other = TcpListener::bind(loopback()).unwrap();
    let address = other.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
        // Held open until the client has read and left, in whatever way.
        drop(stream.read_to_end(&mut Vec::new()));
    });
    assert!(matches!(healthcheck(address), Err(Unhealthy::Refused { .. })));
    server.join().unwrap();
}
