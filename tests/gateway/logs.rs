//! What the gateway writes down.
//!
//! *Claims*
//! 1. Each exchange leaves one line that tells what happened; which, and how much of the target, is
//!    configuration.
//! 2. A request id of the client's is taken over only if it is a plain one, and goes everywhere or nowhere.
//! 3. A line is one line, whatever a request holds.
//! 4. No token, no key and no body stands in the log of the real binary, at any level.

use std::collections::BTreeSet;

use serde_json::Value;
use unitgate::config::{AccessLog, Config, Level, LogFormat, LogTarget};

use crate::support::{
    Answer, Ask, Gate, INTEGRATION, MASK, Process, UNIT, Upstream, Wire, fetch, key, list, token,
};

/// The access lines so far.
fn lines(gate: &Gate) -> Vec<Value> {
    let log = gate.log();
    let parsed =
        log.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    parsed.filter(|line| line["log"] == "access").collect()
}

fn last(gate: &Gate) -> Value {
    lines(gate).pop().expect("an exchange has ended")
}

fn names(line: &Value) -> BTreeSet<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

const ALWAYS: [&str; 12] = [
    "time",
    "level",
    "log",
    "request_id",
    "peer",
    "method",
    "target",
    "status",
    "bytes",
    "outcome",
    "duration_ms",
    "route",
];

#[tokio::test]
async fn a_method_that_is_a_clients_own_word_is_not_logged() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    for (method, shown) in
        [(key("a1").as_str(), "other"), ("get", "other"), ("M-SEARCH", "M-SEARCH")]
    {
        gate.client("alice").send(Ask::new(method, UNIT)).await;
        assert_eq!(last(&gate)["method"], shown);
    }
}

#[tokio::test]
async fn a_line_tells_everything_about_its_exchange() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    upstream.next(Answer::json(200, list(&key("a1"), "Be kind.")));
    let reply = alice.get(&format!("{UNIT}?page=1")).await;
    let miss = last(&gate);
    let expected: BTreeSet<&str> = ALWAYS
        .into_iter()
        .chain(["caller", "upstream_cause", "upstream_tries", "upstream_ms", "masked"])
        .collect();
    assert_eq!(names(&miss), expected);
    assert_eq!(miss["time"], "2027-01-15T08:00:00.000Z");
    assert_eq!(miss["request_id"].as_str(), reply.field("x-request-id"));
    assert_eq!(miss["peer"], "127.0.0.1");
    assert_eq!((&miss["method"], &miss["route"]), (&"GET".into(), &"unit-list".into()));
    assert_eq!(miss["target"], format!("{UNIT}?page=1"));
    assert_eq!((&miss["status"], &miss["bytes"]), (&200.into(), &reply.body.len().into()));
    assert_eq!((&miss["outcome"], &miss["upstream_cause"]), (&"miss".into(), &"miss".into()));
    assert_eq!((&miss["upstream_tries"], &miss["masked"]), (&1.into(), &1.into()));
    let caller = miss["caller"].as_str().unwrap();
    assert!(caller.len() == 12 && caller.bytes().all(|byte| byte.is_ascii_hexdigit()), "{caller}");

    gate.advance(crate::support::secs(30));
    alice.get(&format!("{UNIT}?page=1")).await;
    let hit = last(&gate);
    assert_eq!(
        (&hit["outcome"], &hit["age_s"], &hit["caller"]),
        (&"hit".into(), &30.into(), &miss["caller"])
    );
    assert!(hit.get("upstream_cause").is_none());

    gate.client("bob").get(UNIT).await;
    assert_ne!(last(&gate)["caller"], miss["caller"]);
}

#[tokio::test]
async fn a_refusal_tells_its_code_and_whose_fault_it_is() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    gate.stranger().get(UNIT).await;
    let refused = last(&gate);
    let expected: BTreeSet<&str> = ALWAYS.into_iter().chain(["error", "side"]).collect();
    assert_eq!(names(&refused), expected);
    assert_eq!((&refused["error"], &refused["side"]), (&"token_missing".into(), &"client".into()));
    assert_eq!((&refused["status"], &refused["outcome"]), (&401.into(), &"refused".into()));
    gate.client("alice").get("/nowhere").await;
    assert!(last(&gate).get("route").is_none());
    upstream.next(Answer::reset());
    gate.client("alice").get(UNIT).await;
    let failed = last(&gate);
    assert_eq!(
        (&failed["error"], &failed["side"]),
        (&"upstream_broken".into(), &"upstream".into())
    );
    assert_eq!((&failed["upstream_cause"], &failed["upstream_tries"]), (&"miss".into(), &1.into()));
}

#[tokio::test]
async fn of_a_long_target_a_kibibyte_is_shown_and_the_cut_is_marked() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.listen.target_size = 16 << 10);
    let shown = async |length: usize| {
        let target = format!("{UNIT}?page=");
        let target = format!("{target}{}", "1".repeat(length - target.len()));
        gate.client("alice").get(&target).await;
        (last(&gate)["target"].as_str().unwrap().to_owned(), target)
    };
    let (short, target) = shown(1024).await;
    assert_eq!(short, target);
    let (long, target) = shown(9000).await;
    assert_eq!(long, format!("{}...", target.get(..1024).unwrap()));
}

#[tokio::test]
async fn a_client_that_left_has_a_line_without_a_status() {
    let upstream = Upstream::start().await;
    let mut gate = Gate::start(&upstream, |_| ());
    let held = upstream.hold();
    let pending = gate.client("alice").begin(Ask::get(UNIT));
    held.arrived().await;
    pending.hang_up().await;
    gate.logged("client_gone").await;
    let gone = last(&gate);
    assert!(gone.get("status").is_none() && gone.get("bytes").is_none(), "{gone}");
    held.release();
    assert!(gate.leave().await);
    assert_eq!(lines(&gate).len(), 1);
}

#[tokio::test]
async fn a_request_id_is_taken_over_only_if_it_is_a_plain_one() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    let longest = "x".repeat(64);
    for id in ["a", "A-1._z", "0123456789", &longest] {
        let reply = alice.send(Ask::get(INTEGRATION).field("X-Request-Id", id)).await;
        assert_eq!(reply.field("x-request-id"), Some(id));
        assert_eq!(upstream.last().field("x-request-id"), Some(id));
        assert_eq!(last(&gate)["request_id"], id);
    }
    let mut made = BTreeSet::new();
    let too_long = "x".repeat(65);
    for id in ["", "a b", "a/b", "a;b", "<script>", "a,b", "\u{e9}", &too_long] {
        let reply = alice.send(Ask::get(INTEGRATION).field("X-Request-Id", id)).await;
        let ours = reply.field("x-request-id").unwrap().to_owned();
        assert_ne!(ours, id);
        assert!(!ours.is_empty() && ours.len() <= 64, "{ours}");
        assert_eq!(upstream.last().field("x-request-id"), Some(ours.as_str()));
        assert_eq!(last(&gate)["request_id"], ours.as_str());
        assert!(made.insert(ours), "two requests got one id");
    }
    let twice = Ask::get(INTEGRATION).field("X-Request-Id", "a").field("X-Request-Id", "b");
    let ours = alice.send(twice).await.field("x-request-id").unwrap().to_owned();
    assert!(ours != "a" && ours != "b", "{ours}");
}

#[tokio::test]
async fn a_trace_is_passed_on_and_its_baggage_is_not() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let parent = format!("00-{}-{}-01", "4b".repeat(16), "00f0".repeat(4));
    let ask = Ask::get(UNIT)
        .field("traceparent", &parent)
        .field("baggage", "user=1")
        .field("tracestate", "a=b");
    gate.client("alice").send(ask).await;
    let seen = upstream.last();
    assert_eq!(seen.field("traceparent"), Some(parent.as_str()));
    assert_eq!(seen.field("baggage"), None);
    gate.client("bob").send(Ask::get(UNIT).field("traceparent", "nonsense")).await;
    assert_eq!(upstream.last().field("traceparent"), None);
}

async fn targets(target: LogTarget) -> Vec<Value> {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.log.target = target);
    let secret = format!("{UNIT}?key={}", key("a1"));
    for path in [UNIT, UNIT, &secret, "/nowhere"] {
        gate.client("alice").get(path).await;
    }
    assert!(!gate.log().contains(&key("a1")), "{}", gate.log());
    lines(&gate)
}

#[tokio::test]
async fn a_target_is_shown_masked_as_a_digest_or_not_at_all() {
    let full = targets(LogTarget::Full).await;
    assert_eq!((&full[0]["target"], &full[3]["target"]), (&UNIT.into(), &"/nowhere".into()));
    assert_eq!(full[2]["target"], format!("{UNIT}?key={MASK}"));

    let digest = targets(LogTarget::Digest).await;
    let shown: Vec<&str> = digest.iter().map(|line| line["target"].as_str().unwrap()).collect();
    assert!(shown[0] == shown[1] && shown[0] != shown[2] && shown[0] != shown[3], "{shown:?}");
    assert!(shown.iter().all(|target| !target.contains('/')), "{shown:?}");

    let off = targets(LogTarget::Off).await;
    assert!(off.iter().all(|line| line.get("target").is_none()), "{off:?}");
    assert_eq!(off.len(), 4);
}

/// The outcomes logged of a hundred hits, a miss, a refusal, a failure and a 500 of the upstream's.
async fn logged_under(access: AccessLog) -> Vec<Value> {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.log.access = access);
    let alice = gate.client("alice");
    for _ in 0..101 {
        alice.get(UNIT).await;
    }
    alice.get("/nowhere").await;
    upstream.next(Answer::reset());
    upstream.next(Answer::reset());
    alice.get(INTEGRATION).await;
    upstream.next(Answer::json(500, "{}"));
    alice.get(INTEGRATION).await;
    lines(&gate)
}

#[tokio::test]
async fn which_exchanges_get_a_line_is_configuration() {
    let failures = |lines: &[Value]| -> Vec<i64> {
        let status = |line: &Value| line["status"].as_i64().unwrap();
        lines.iter().map(status).filter(|status| *status != 200).collect()
    };
    let all = logged_under(AccessLog::All).await;
    assert_eq!((all.len(), failures(&all)), (104, vec![404, 502, 500]));
    let errors = logged_under(AccessLog::Errors).await;
    assert_eq!((errors.len(), failures(&errors)), (3, vec![404, 502, 500]));
    let some = logged_under(AccessLog::OneIn(10)).await;
    assert_eq!(failures(&some), vec![404, 502, 500]);
    let others = some.len() - 3;
    assert!((1..50).contains(&others), "{others} of 101 at one in ten");
    assert!(logged_under(AccessLog::Off).await.is_empty());
}

#[tokio::test]
async fn text_is_one_printable_line_for_each_exchange_whatever_a_request_holds() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.log.format = LogFormat::Text;
        config.log.level = Level::Info;
    });
    let alice = gate.client("alice");
    let targets = [
        "/a\"b",
        "/a=b c",
        "/\u{e9}\u{202e}",
        "/a%0d%0aforged=1",
        "/a\u{7f}b",
        "/a\u{9b}31mb",
        "/a\\nb",
        "/{}|^`<>",
    ];
    for target in targets {
        let mut wire = alice.connect().await;
        wire.write(
            format!("GET {target} HTTP/1.1\r\nHost: g\r\nX-Request-Id: a\u{1b}[31m\r\n\r\n")
                .as_bytes(),
        )
        .await;
        drop(wire.read(false).await);
    }
    alice.get(UNIT).await;
    let log = gate.log();
    assert!(log.bytes().all(|byte| byte == b'\n' || matches!(byte, b' '..=b'~')), "{log:?}");
    assert!(log.lines().all(|line| line.starts_with("time=")), "{log}");
    assert!(!log.contains(" forged=1"), "{log}");
    let counted = gate.metric("requests_total", &[]);
    assert_eq!(f64::from(u32::try_from(log.matches("log=access").count()).unwrap()), counted);
    assert!(log.contains("outcome=miss") && log.contains(&format!("target={UNIT}")), "{log}");
}

#[tokio::test]
async fn json_is_one_valid_object_for_each_exchange_whatever_a_request_holds() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    for target in ["/a\"b", "/\u{e9}", "/a\\", "/%22%7d"] {
        let mut wire = gate.stranger().connect().await;
        wire.write(format!("GET {target} HTTP/1.1\r\nHost: g\r\n\r\n").as_bytes()).await;
        drop(wire.read(false).await);
    }
    let shown = lines(&gate);
    assert!(!shown.is_empty());
    assert!(gate.log().is_ascii() || shown.iter().all(Value::is_object));
}

#[tokio::test]
async fn an_upstream_that_forbids_storing_is_warned_of_once_for_each_route_and_reason() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    upstream.answer(Answer::json(200, "{}").field("cache-control", "no-store"));
    for name in ["alice", "bob", "carol"] {
        gate.client(name).get(UNIT).await;
    }
    let log = gate.log();
    assert_eq!(log.matches("\"level\":\"warn\"").count(), 1, "{log}");
    assert!(log.contains("\"route\":\"unit-list\"") && log.contains("no_store"), "{log}");
}

/// What stands in bodies and must stand nowhere else.
const PROSE: &str = "prose-of-a-body";

/// Answers with secrets wherever an answer can have them.
fn leaking() -> Vec<Answer> {
    let leaks = |text: &str| format!("{text} {} {PROSE}", key("a1"));
    let list = || Answer::json(200, list(&key("a1"), &leaks("see")));
    let with_status = |status: u16| {
        let answer = Answer::json(status, leaks("\"see") + "\"");
        answer.field("location", &format!("/{}", key("b2"))).field("x-secret", &key("b2"))
    };
    vec![
        list(),
        with_status(200),
        with_status(302),
        with_status(400),
        with_status(500),
        with_status(401).field("www-authenticate", &format!("Bearer realm=\"{}\"", key("b2"))),
        Answer::json(200, leaks("garbage")),
        Answer::json(500, leaks("<html>")),
        list().cut(300),
        list().reset_after(300),
        list().stall_after(300),
        Answer::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{PROSE}", key("a1"))),
        Answer::raw(leaks("nonsense")),
        Answer::json(200, leaks("x")).field("content-encoding", &key("b2")),
    ]
}

/// Asks for each of them, and sends secrets wherever a request can have them; how many exchanges it took.
async fn exchange_secrets(gate: &Process, upstream: &Upstream) -> usize {
    let bearer = format!("Bearer {}", token("alice"));
    let signed = ("Authorization", bearer.as_str());
    let answers = leaking();
    let many = answers.len();
    for answer in answers {
        upstream.next(answer);
        let told = fetch(gate.address(), INTEGRATION, &[signed]).await.everything();
        assert!(!told.contains(&key("a1")) && !told.contains(&key("b2")), "{told}");
    }
    let body = format!(r#"{{"apiKey":"{}","prompt":"{PROSE}"}}"#, key("a1"));
    let head = format!("PUT {INTEGRATION}?k={} HTTP/1.1\r\nHost: g", key("b2"));
    let fields = format!("Authorization: {bearer}\r\nContent-Length: {}", body.len());
    let mut wire = Wire::to(gate.address()).await;
    wire.write(format!("{head}\r\n{fields}\r\n\r\n{body}").as_bytes()).await;
    assert_eq!(wire.read(false).await.unwrap().status, 200);
    assert_eq!(fetch(gate.address(), UNIT, &[signed, signed]).await.status, 401);
    let malformed = format!("{bearer} {}", key("a1"));
    assert_eq!(fetch(gate.address(), UNIT, &[("Authorization", &malformed)]).await.status, 401);
    let mut broken = Wire::to(gate.address()).await;
    let head = format!("GET {UNIT} HTTP/1.1\r\nAuthorization: {bearer}\r\nX {}", key("a1"));
    broken.write(format!("{head}\r\n\r\n").as_bytes()).await;
    assert_eq!(broken.read(false).await.unwrap().status, 400);
    // What is no request is no exchange.
    many + 3
}

#[tokio::test]
async fn at_any_level_no_token_no_key_and_no_body_is_in_the_log_of_the_real_binary() {
    const FILTER: &str = "trace,hyper=trace,hyper_util=trace,h2=trace,rustls=trace,unitgate=trace";
    for level in ["trace", "info"] {
        let upstream = Upstream::start().await;
        let deadlines = "upstream.total = \"300ms\"\nupstream.first_byte = \"300ms\"";
        let more = format!("log.level = \"{level}\"\n{deadlines}");
        let gate = Process::start(upstream.address(), &more, &[("RUST_LOG", FILTER)]).await;
        let exchanges = exchange_secrets(&gate, &upstream).await;
        gate.signal("TERM");
        gate.ended().await;
        let log = gate.log();
        assert_eq!(log.matches("\"outcome\":").count(), exchanges, "{log}");
        let secrets =
            [token("alice"), key("a1"), key("b2"), PROSE.to_owned(), "Bearer ".to_owned()];
        for secret in secrets {
            let told = log.lines().find(|line| line.contains(&secret));
            assert!(told.is_none(), "at {level}: {told:?}");
        }
    }
}

#[tokio::test]
async fn the_whole_configuration_can_be_logged_at_the_finest_level_without_a_token() {
    // The same in this process, where the test sees the library's own events too.
    let upstream = Upstream::start().await;
    let finest = |config: &mut Config| config.log.level = Level::Trace;
    let mut gate = Gate::start(&upstream, finest);
    let alice = gate.client("alice");
    upstream.next(Answer::json(200, list(&key("a1"), "Be kind.")));
    alice.get(UNIT).await;
    alice.put(INTEGRATION, &format!(r#"{{"apiKey":"{}"}}"#, key("b2"))).await;
    upstream.next(Answer::json(401, "{}"));
    alice.get(INTEGRATION).await;
    assert!(gate.leave().await);
    let log = gate.log();
    for secret in [token("alice"), key("a1"), key("b2"), "Be kind.".to_owned()] {
        assert!(!log.contains(&secret), "{log}");
    }
}
