//! Who may purge over the operators' port, and with which words.
//!
//! *Claims*
//! 1. Without a token in the configuration nobody; with one, whoever sends that token with POST.
//! 2. No web page, neither one of another origin nor one whose name was pointed at this port.
//! 3. What is unclear, too large or broken off purges nothing.

use serde_json::json;
use tempfile::TempDir;

use crate::purge::{Desk, EVERYTHING, TOKEN, ask, bare, digits, file};
use crate::support::{Ask, Gate, UNIT, UNIT_ID, Upstream, token};

#[tokio::test]
async fn without_a_token_file_nothing_can_be_purged() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    for ask in [ask(EVERYTHING), bare(EVERYTHING), Ask::get("/purge"), Ask::new("BREW", "/purge")] {
        let reply = gate.operator().send(ask).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "changes_off"));
        assert!(reply.json()["detail"].as_str().unwrap().contains("admin.token_file"));
    }
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(gate.metric("cache_invalidations_total", &[]), 0.0);
}

#[tokio::test]
async fn only_post_purges() {
    let desk = Desk::start().await;
    desk.get(UNIT).await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "PURGE", "OPTIONS"] {
        let ask = Ask::new(method, "/purge").field("Authorization", &format!("Bearer {TOKEN}"));
        let reply = desk.gate.operator().send(ask).await;
        assert_eq!((reply.status, reply.field("allow")), (405, Some("POST")), "{method}");
    }
    assert!(desk.get(UNIT).await.is_hit());
    assert_eq!(desk.purges(), 0.0);
}

#[tokio::test]
async fn who_has_not_the_token_of_the_file_is_401_and_changes_nothing() {
    let desk = Desk::start().await;
    desk.get(UNIT).await;
    let right = format!("Bearer {TOKEN}");
    let cases: &[&[&str]] = &[
        &[],
        &["Bearer the-operators-other-token"],
        &["Bearer the-operators-own-toke"],
        &["Bearer the-operators-own-token!"],
        &["Bearer The-Operators-Own-Token"],
        &["Bearer"],
        &["Bearer "],
        &[TOKEN],
        &["Basic the-operators-own-token"],
        &["Bearer a the-operators-own-token"],
        &[&right, &right],
        &[&right, "Bearer another"],
    ];
    for fields in cases {
        let asked = fields.iter().fold(bare(EVERYTHING), |ask, it| ask.field("Authorization", it));
        let reply = desk.gate.operator().send(asked).await;
        let code = reply.code();
        assert_eq!((reply.status, code.as_str()), (401, "admin_token_wrong"), "{fields:?}");
        assert!(reply.field("www-authenticate").unwrap().starts_with("Bearer "), "{fields:?}");
        assert_eq!(reply.field("cache-control"), Some("no-store"));
        assert!(!reply.everything().contains(TOKEN));
    }
    // The token of a caller opens nothing here.
    let callers = bare(EVERYTHING).field("Authorization", &format!("Bearer {}", token("alice")));
    assert_eq!(desk.gate.operator().send(callers).await.status, 401);
    assert!(desk.get(UNIT).await.is_hit());
    assert_eq!(desk.purges(), 0.0);
    let spelled = bare(EVERYTHING).field("authorization", &format!("bEARER {TOKEN}"));
    assert_eq!(desk.gate.operator().send(spelled).await.status, 200);
    assert!(!desk.get(UNIT).await.is_hit());
}

/// Asks a gateway that knows itself by two names for a purge with each of these fields; `code` is that of
/// the refusal, where one is expected.
async fn asked_with(cases: &[Vec<(&str, &str)>], code: Option<&str>) {
    let upstream = Upstream::start().await;
    let files = TempDir::new().unwrap();
    let gate = Gate::start(&upstream, |config| {
        config.admin.token_file = Some(file(&files, "token", TOKEN));
        config.admin.hosts = vec!["gate.internal".to_owned(), "gate-2".to_owned()];
    });
    let alice = gate.client("alice");
    for fields in cases {
        alice.get(UNIT).await;
        let asked =
            fields.iter().fold(ask(EVERYTHING), |ask, (name, value)| ask.field(name, value));
        let reply = gate.operator().send(asked).await;
        match code {
            None => assert_eq!(reply.status, 200, "{fields:?}"),
            Some(code) => {
                let status = if code == "bad_host" { 400 } else { 403 };
                assert_eq!((reply.status, reply.code().as_str()), (status, code), "{fields:?}");
            }
        }
        assert_eq!(alice.get(UNIT).await.is_hit(), code.is_some(), "{fields:?}");
    }
}

#[tokio::test]
async fn a_purge_may_be_asked_for_by_address_by_localhost_and_by_the_hosts_configured() {
    let by = |host: &'static str| vec![("Host", host)];
    let known = [
        "127.0.0.1",
        "127.0.0.1:9090",
        "10.1.2.3",
        "[::1]",
        "[::1]:9090",
        "[fe80::1]:80",
        "localhost",
        "LocalHost:9090",
        "gate.internal",
        "Gate.Internal:9090",
        "gate-2",
    ];
    asked_with(&known.map(by), None).await;
    let strange = [
        "evil.example",
        "evil.example:9090",
        "gate.internal.evil.example",
        "a.gate.internal",
        "gate",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "127.1",
        "0x7f000001",
        "user@127.0.0.1",
        "127.0.0.1, evil.example",
        "127.0.0.1/x",
        "",
    ];
    asked_with(&strange.map(by), Some("strange_host")).await;
    let twice = vec![("Host", "127.0.0.1"), ("Host", "127.0.0.1")];
    asked_with(&[twice], Some("bad_host")).await;
}

#[tokio::test]
async fn a_page_of_another_origin_purges_nothing() {
    const HOST: (&str, &str) = ("Host", "gate.internal:9090");
    const OWN: &str = "http://gate.internal:9090";
    let from = |origin: &'static str| vec![HOST, ("Origin", origin)];
    asked_with(&[OWN, "https://Gate.Internal:9090"].map(from), None).await;
    let foreign = [
        "null",
        "",
        "http://evil.example",
        "http://gate.internal",
        "http://gate.internal:80",
        "http://localhost:9090",
        "http://evil.example/gate.internal:9090",
        "http://a.gate.internal:9090",
        "file://gate.internal:9090",
        "gate.internal:9090",
        "http://gate.internal:9090 http://evil.example",
    ];
    asked_with(&foreign.map(from), Some("strange_origin")).await;
    let twice = vec![HOST, ("Origin", OWN), ("Origin", "null")];
    asked_with(&[twice], Some("strange_origin")).await;
}

#[tokio::test]
async fn what_is_unclear_purges_nothing() {
    let desk = Desk::start().await;
    desk.get(UNIT).await;
    let long = json!({ "caller": "a".repeat(65) }).to_string();
    for what in [
        "",
        "all",
        "[]",
        "null",
        "\"all\"",
        "{}",
        r#"{"all":true"#,
        r#"{"all":true} {"all":true}"#,
        r#"{"all":false}"#,
        r#"{"all":1}"#,
        r#"{"all":"true"}"#,
        r#"{"al":true}"#,
        r#"{"All":true}"#,
        r#"{"all":true,"hard":true}"#,
        r#"{"soft":true}"#,
        r#"{"all":true,"soft":"yes"}"#,
        r#"{"all":true,"soft":null}"#,
        &format!(r#"{{"all":true,"unit":"{UNIT_ID}"}}"#),
        &format!(r#"{{"unit":"{UNIT_ID}","url":"{UNIT}"}}"#),
        &format!(r#"{{"unit":["{UNIT_ID}"]}}"#),
        r#"{"unit":""}"#,
        r#"{"unit":5}"#,
        r#"{"caller":""}"#,
        &format!(r#"{{"caller":"{}"}}"#, digits("alice", 11)),
        &format!(r#"{{"caller":"{}x"}}"#, digits("alice", 12)),
        &long,
        r#"{"url":""}"#,
        r#"{"url":"api/v1"}"#,
        r#"{"url":"?a=1"}"#,
        r#"{"url":"*"}"#,
        r#"{"url":"/a b"}"#,
        "{\"all\":true,\"\u{7f}\":1}",
    ] {
        let reply = desk.purge(what).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "purge_unclear"), "{what}");
    }
    let reply = desk.gate.operator().send(ask("").body(*b"{\"all\":true,\"\xff\":1}")).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "purge_unclear"));
    assert!(desk.get(UNIT).await.is_hit());
    assert_eq!(desk.purges(), 0.0);
}

#[tokio::test]
async fn a_body_over_16_kib_or_that_breaks_off_purges_nothing() {
    let desk = Desk::start().await;
    desk.get(UNIT).await;
    let of_length =
        |length: usize| format!("{EVERYTHING}{}", " ".repeat(length - EVERYTHING.len()));
    let large = desk.purge(&of_length((16 << 10) + 1)).await;
    assert_eq!((large.status, large.code().as_str()), (400, "request_broken"));
    assert_eq!(large.field("connection"), Some("close"));
    let operator = desk.gate.operator();
    let mut wire = operator.connect().await;
    let head = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 99\r\n\r\n{EVERYTHING}");
    wire.write(format!("POST /purge HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}").as_bytes()).await;
    wire.finish().await;
    wire.rest().await;
    assert!(desk.get(UNIT).await.is_hit());
    assert_eq!(desk.purges(), 0.0);
    assert_eq!(desk.purge(&of_length(16 << 10)).await.status, 200);
    assert!(!desk.get(UNIT).await.is_hit());
}
