//! No secret of an answer gets through, and nothing else of it is changed.
//!
//! *Claims*
//! 1. Each answer of any route, status, wrapper and content coding is masked before it is stored or sent.
//! 2. What can't be proven masked is 502 and not stored; a 4xx or 5xx keeps its status and loses its body.
//! 3. Every byte that is no secret is kept; masked bodies pass unchanged.
//! 4. Secrets in response fields, in targets and in what is logged are masked likewise.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use unitgate::config::{CallerMode, ForwardMode, Route, SecretsMode};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{
    Answer, Ask, Gate, INTEGRATION, INTEGRATIONS, MASK, Reply, UNIT, Upstream, key, list, secs,
};

/// A server that answers everything so.
async fn canned(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

fn json(status: u16, body: impl Into<Vec<u8>>) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw(body, "application/json")
}

/// What alice gets where the upstream answers so.
async fn shown(target: &str, answer: ResponseTemplate) -> Reply {
    let server = canned(answer).await;
    let gate = Gate::before(*server.address(), |_| {});
    gate.client("alice").get(target).await
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// RFC 9110's `deflate`: in the zlib format.
fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// What some servers call `deflate`.
fn bare_deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A brotli stream of one uncompressed meta-block (RFC 7932 §9.2).
fn brotli(body: &[u8]) -> Vec<u8> {
    let head = (u32::try_from(body.len()).unwrap() - 1) << 4 | 1 << 20;
    [&head.to_le_bytes()[..3], body, &[0b11]].concat()
}

/// A zstd frame of one raw block, its content size given in four bytes (RFC 8878 §3.1.1).
fn zstd(body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap();
    let block = (size << 3 | 1).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000], &size.to_le_bytes()[..], &block[..3], body].concat()
}

#[tokio::test]
async fn an_unmasked_key_is_masked_in_every_wrapper() {
    let secret = key("a1");
    let one = |secret: &str| format!(r#"{{"id":"x","apiKey":"{secret}","isActive":true}}"#);
    for target in [UNIT, INTEGRATION] {
        for (open, close) in [
            ("{\"data\":[", "]}"),
            ("{\"items\":[", "]}"),
            ("", ""),
            ("[", "]"),
            ("[[[{\"a\":", "}]]]"),
        ] {
            let reply = shown(target, json(200, format!("{open}{}{close}", one(&secret)))).await;
            assert_eq!(reply.text(), format!("{open}{}{close}", one(MASK)), "{target}");
            let length = reply.body.len().to_string();
            assert_eq!(reply.field("content-length"), Some(length.as_str()));
        }
    }
}

#[tokio::test]
async fn an_error_body_is_masked_and_keeps_its_status() {
    let secret = key("b2");
    for status in [400, 401, 403, 404, 409, 422, 429, 500, 503] {
        let body =
            |secret: &str| format!(r#"{{"message":"bad key {secret}","apiKey":"{secret}"}}"#);
        for target in [UNIT, INTEGRATION] {
            let reply = shown(target, json(status, body(&secret))).await;
            assert_eq!((reply.status, reply.text()), (status, body(MASK).as_str()));
        }
    }
}

#[tokio::test]
async fn every_known_coding_is_undone_before_masking() {
    let (plain, masked) = (list(&key("c3"), "Be kind."), list(MASK, "Be kind."));
    let (first, second) = plain.as_bytes().split_at(100);
    for (coding, coded) in [
        ("gzip", gzip(plain.as_bytes())),
        ("x-gzip", gzip(plain.as_bytes())),
        ("GZIP", gzip(plain.as_bytes())),
        ("gzip", [gzip(first), gzip(second)].concat()),
        ("deflate", zlib(plain.as_bytes())),
        ("deflate", bare_deflate(plain.as_bytes())),
        ("br", brotli(plain.as_bytes())),
        ("zstd", zstd(plain.as_bytes())),
        ("identity", plain.clone().into_bytes()),
    ] {
        let reply = shown(UNIT, json(200, coded).insert_header("content-encoding", coding)).await;
        assert_eq!((reply.status, reply.text()), (200, masked.as_str()), "{coding}");
        assert_eq!(reply.field("content-encoding"), None, "identity both ways");
        let length = masked.len().to_string();
        assert_eq!(reply.field("content-length"), Some(length.as_str()));
    }
}

#[tokio::test]
async fn what_cannot_be_proven_is_refused_and_not_stored() {
    let secret = key("d4");
    let plain = list(&secret, "Be kind.");
    let coded =
        |coding: &str, body: Vec<u8>| Answer::json(200, body).field("content-encoding", coding);
    let typed = |kind: &str| Answer::new(200, plain.clone()).field("content-type", kind);
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 9].to_vec();
    let mut unprovable = vec![
        Answer::json(200, format!("<p>{secret}</p>")),
        Answer::json(200, ""),
        Answer::json(200, " "),
        Answer::json(200, plain.strip_suffix('}').unwrap()),
        Answer::json(200, format!("{plain} {secret}")),
        Answer::json(200, format!("{plain}{plain}")),
        Answer::json(200, format!("\u{feff}{plain}")),
        Answer::json(200, [b"{\"a\":\"\xff\"}", plain.as_bytes()].concat()),
        Answer::json(200, [b"{\"a\":\"\xff\"}".to_vec()].concat()),
        Answer::json(200, format!("{{\"a\":'{secret}'}}")),
        typed("application/json; charset=utf-16"),
        typed("application/json; charset=\"iso-8859-1\""),
        coded("gzip", plain.clone().into_bytes()),
        coded("gzip", cut(gzip(plain.as_bytes()))),
        coded("gzip", [gzip(plain.as_bytes()), b"more".to_vec()].concat()),
        coded("br", cut(brotli(plain.as_bytes()))),
        coded("zstd", cut(zstd(plain.as_bytes()))),
        coded("deflate", cut(zlib(plain.as_bytes()))),
        coded("compress", plain.clone().into_bytes()),
        coded("gzip, br", brotli(&gzip(plain.as_bytes()))),
        coded("gzip", gzip(plain.as_bytes())).field("content-encoding", "gzip"),
        coded("gzip", gzip(&vec![b' '; 9 << 20])),
        coded("identity", gzip(plain.as_bytes())),
    ];
    // Two names that become one by masking could be told apart by nobody.
    let (one, other) = (key("e5"), key("f6"));
    unprovable.push(Answer::json(200, format!(r#"{{"{one}":1,"{other}":2}}"#)));
    for answer in unprovable {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        let alice = gate.client("alice");
        upstream.answer(answer.clone());
        for (asked, target) in [(1, UNIT), (2, UNIT), (3, INTEGRATION)] {
            let reply = alice.get(target).await;
            assert_eq!(reply.status, 502, "{answer:?}");
            let code = reply.code();
            assert!(
                ["unmaskable_answer", "undecodable_answer", "answer_not_utf8"]
                    .contains(&code.as_str()),
                "{code}"
            );
            assert!(!reply.everything().contains(&secret), "{}", reply.text());
            assert_eq!(upstream.count(), asked);
        }
        assert!(!gate.log().contains(&secret));
        assert_eq!(gate.metric("mask_failures_total", &[]), 3.0, "{answer:?}");
        upstream.answer(Answer::json(200, plain.clone()));
        assert_eq!(alice.get(UNIT).await.text(), list(MASK, "Be kind."), "the next is tried anew");
    }
}

#[tokio::test]
async fn an_error_that_cannot_be_proven_keeps_its_status_alone() {
    let secret = key("a7");
    for status in [400, 401, 403, 404, 418, 429, 500, 502, 503] {
        for body in [format!("<html>{secret}</html>"), format!("{{\"apiKey\":\"{secret}")] {
            let answer = ResponseTemplate::new(status).set_body_raw(body, "text/html");
            let reply = shown(UNIT, answer.insert_header("retry-after", "9")).await;
            assert_eq!((reply.status, reply.code().as_str()), (status, "unmaskable_error_answer"));
            assert_eq!(reply.json()["status"], status);
            assert_eq!(reply.field("retry-after"), Some("9"));
            assert!(!reply.everything().contains(&secret));
        }
        let empty = shown(UNIT, ResponseTemplate::new(status)).await;
        assert_eq!(
            (empty.status, empty.body.len()),
            (status, 0),
            "an empty error has nothing to prove"
        );
    }
}

#[tokio::test]
async fn what_has_no_body_needs_no_proof() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    upstream.answer(Answer::new(204, ""));
    assert_eq!(alice.get(INTEGRATION).await.status, 204);
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 204);
    upstream.answer(Answer::json(200, list(&key("a1"), "")));
    let head = alice.head(INTEGRATION).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(upstream.last().method, "HEAD", "a route without a cache forwards it as it is");
}

#[tokio::test]
async fn masked_bodies_pass_unchanged_to_the_byte() {
    let bodies = [
        list(MASK, "Be kind."),
        list("cal_live_***", ""),
        list("****************", ""),
        "\n { \"data\" : [ { \"apiKey\" :\t\"cal_****************\" } ] } \r\n".to_owned(),
        r#"{"a":1.0,"b":1e2,"c":-0,"d":9223372036854775808,"e":1E+400,"f":0.10}"#.to_owned(),
        r#"{"z":1,"a":2,"z":3,"caf\u00e9":"\/\u002f\ud83d\ude00","é":"ação"}"#.to_owned(),
        r#"{"apiKey":null,"virtualKey":"","secretId":false,"googleToken":true}"#.to_owned(),
        r#"{"prompt":"local_development_environment cal_short cal_****************"}"#.to_owned(),
        r#"{"token":"not among the secret names"}"#.to_owned(),
        r#""a bare string""#.to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        format!("{}{}", "[".repeat(50_000), "]".repeat(50_000)),
    ];
    for body in bodies {
        let reply = shown(UNIT, json(200, body.clone())).await;
        assert_eq!((reply.status, reply.text()), (200, body.as_str()));
    }
}

#[tokio::test]
async fn a_secret_is_known_by_its_name_however_that_is_written() {
    let secret = "s3cret-without-a-shape";
    for name in [
        "apiKey",
        r"\u0061piKey",
        "api_key",
        "APIKEY",
        "api-key",
        "virtualKey",
        "secretId",
        "credentialId",
        "googleToken",
    ] {
        let body = |value: &str| format!(r#"{{"a":[{{"{name}":"{value}"}}],"{name}":"{value}"}}"#);
        let reply = shown(UNIT, json(200, body(secret))).await;
        assert_eq!(reply.text(), body("****************"), "{name}");
    }
    let reply =
        shown(UNIT, json(200, r#"{"apiKey":12345,"secretId":{"a":1},"virtualKey":[1,2]}"#)).await;
    let mask = "****************";
    assert_eq!(
        reply.text(),
        format!(r#"{{"apiKey":"{mask}","secretId":"{mask}","virtualKey":"{mask}"}}"#)
    );
    let kept = r#"{"infisicalReference":{"environment":"prod","n":7,"on":true}}"#;
    let reply = shown(UNIT, json(200, kept)).await;
    assert_eq!(
        reply.text(),
        format!(r#"{{"infisicalReference":{{"environment":"{mask}","n":"{mask}","on":true}}}}"#)
    );
}

#[tokio::test]
async fn the_names_are_configuration() {
    let server = canned(json(200, r#"{"pin":"1234","apiKey":"kept","box":{"a":"b"}}"#)).await;
    let gate = Gate::before(*server.address(), |config| {
        config.secrets.names = vec!["PIN".to_owned()];
        config.secrets.objects = vec!["box".to_owned()];
    });
    let mask = "****************";
    let expected = format!(r#"{{"pin":"{mask}","apiKey":"kept","box":{{"a":"{mask}"}}}}"#);
    assert_eq!(gate.client("alice").get(UNIT).await.text(), expected);
}

#[tokio::test]
async fn a_key_pasted_into_the_prompt_is_masked() {
    for prefix in ["cal_", "cal_live_", "cal_test_"] {
        let pasted = format!("{prefix}{}", "Ab1".repeat(8));
        let reply = shown(UNIT, json(200, list(MASK, &format!("Use {pasted}, please.")))).await;
        assert_eq!(reply.status, 200);
        assert!(!reply.text().contains("Ab1Ab1"), "{}", reply.text());
        assert!(reply.text().contains("Use cal_****************, please."), "{}", reply.text());
        let escaped = pasted.replace('_', "\\u005f");
        let reply = shown(UNIT, json(200, list(MASK, &escaped))).await;
        assert!(!reply.text().contains("Ab1Ab1"), "{}", reply.text());
    }
}

#[tokio::test]
async fn is_token_masked_becomes_true_beside_what_we_masked_and_is_never_believed() {
    let secret = key("c3");
    for (before, after) in [
        (
            format!(r#"{{"isTokenMasked":false,"apiKey":"{secret}"}}"#),
            format!(r#"{{"isTokenMasked":true,"apiKey":"{MASK}"}}"#),
        ),
        (
            format!(r#"{{"apiKey":"{secret}","isTokenMasked":false}}"#),
            format!(r#"{{"apiKey":"{MASK}","isTokenMasked":true}}"#),
        ),
        (
            format!(r#"{{"isTokenMasked":true,"apiKey":"{secret}"}}"#),
            format!(r#"{{"isTokenMasked":true,"apiKey":"{MASK}"}}"#),
        ),
        (format!(r#"{{"apiKey":"{secret}"}}"#), format!(r#"{{"apiKey":"{MASK}"}}"#)),
        (
            format!(r#"{{"isTokenMasked":false,"apiKey":"{MASK}"}}"#),
            format!(r#"{{"isTokenMasked":false,"apiKey":"{MASK}"}}"#),
        ),
    ] {
        assert_eq!(shown(UNIT, json(200, before)).await.text(), after);
    }
}

#[tokio::test]
async fn secrets_in_response_fields_are_masked() {
    let secret = key("d4");
    let challenge = format!("Bearer error_description=\"{secret} is revoked\"");
    let answer = json(401, "{}").insert_header("www-authenticate", challenge.as_str());
    let reply = shown(UNIT, answer).await;
    assert_eq!(
        reply.field("www-authenticate"),
        Some("Bearer error_description=\"cal_**************** is revoked\"")
    );
    let answer = json(200, "{}").insert_header("content-language", secret.as_str());
    assert!(!shown(UNIT, answer).await.everything().contains(&secret));
    let server = canned(
        json(201, "{}")
            .insert_header("location", format!("/where?key={secret}").as_str())
            .insert_header("x-anything", format!("a {secret} b").as_str()),
    )
    .await;
    let gate =
        Gate::before(*server.address(), |config| config.routes.push(open(SecretsMode::Mask)));
    let reply = gate.stranger().get("/open/x").await;
    assert_eq!(reply.field("location"), Some("/where?key=cal_****************"));
    assert_eq!(reply.field("x-anything"), Some("a cal_**************** b"));
}

/// A route without a caller that forwards everything.
fn open(secrets: SecretsMode) -> Route {
    Route {
        caller: CallerMode::Open,
        forward: ForwardMode::All,
        secrets,
        ..Route::new("open", "/open/{*rest}", "converflow")
    }
}

#[tokio::test]
async fn an_open_route_is_masked_unless_it_opts_out_by_name() {
    let secret = key("e5");
    for (secrets, status, text) in [
        (SecretsMode::Mask, 502, None),
        (SecretsMode::Verbatim, 200, Some(format!("plain text with {secret}"))),
    ] {
        let body = format!("plain text with {secret}");
        let server = canned(ResponseTemplate::new(200).set_body_raw(body, "text/plain")).await;
        let gate = Gate::before(*server.address(), |config| config.routes.push(open(secrets)));
        let reply = gate.stranger().get("/open/x").await;
        assert_eq!(reply.status, status);
        match text {
            Some(text) => assert_eq!(reply.text(), text),
            None => assert!(!reply.everything().contains(&secret)),
        }
    }
}

#[tokio::test]
async fn what_is_stored_is_masked_already() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let secret = key("f6");
    upstream.answer(Answer::json(200, list(&secret, "")).field("etag", "\"one\""));
    let alice = gate.client("alice");
    let held = upstream.hold();
    let (leader, joiner) = (alice.enter(Ask::get(UNIT)).await, alice.enter(Ask::get(UNIT)).await);
    held.arrived().await;
    held.release();
    let mut replies = vec![leader.reply().await, joiner.reply().await, alice.get(UNIT).await];
    gate.advance(secs(61));
    replies.push(alice.get(UNIT).await);
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(90));
    replies.push(alice.get(UNIT).await);
    upstream.answer(Answer::not_modified().field("etag", "\"one\""));
    replies.push(alice.get(UNIT).await);
    for reply in replies {
        assert_eq!(
            (reply.status, reply.text()),
            (200, list(MASK, "").as_str()),
            "{}",
            reply.cache()
        );
    }
}

#[tokio::test]
async fn a_key_in_a_target_or_a_field_is_not_logged() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let secret = key("a8");
    let alice = gate.client("alice");
    for target in
        [format!("{UNIT}?key={secret}"), format!("/{secret}"), format!("{INTEGRATIONS}/{secret}")]
    {
        alice.send(Ask::get(&target).field("user-agent", &secret).field("via", &secret)).await;
        alice.send(Ask::get(&target).field("x-request-id", &format!("id {secret}"))).await;
    }
    let log = gate.log();
    assert!(log.contains(UNIT), "{log}");
    assert!(!log.contains(&secret), "{log}");
}

#[tokio::test]
async fn a_key_as_a_request_id_is_not_logged() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let secret = key("b9");
    gate.client("alice").send(Ask::get(UNIT).field("x-request-id", &secret)).await;
    assert!(!gate.log().contains(&secret));
}

#[tokio::test]
async fn what_the_masker_does_is_counted() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let (one, other) = (key("a1"), key("b2"));
    alice.get(UNIT).await;
    assert_eq!(gate.metric("unmasked_answers_total", &[]), 0.0);
    upstream.answer(Answer::json(200, list(&one, &format!("Use {other}."))));
    gate.client("bob").get(UNIT).await;
    gate.client("bob").get(UNIT).await;
    assert_eq!(gate.metric("unmasked_answers_total", &[]), 1.0);
    assert_eq!(gate.metric("masked_fields_total", &[]), 2.0);
    let line = gate.log().lines().find(|line| line.contains("\"masked\"")).map(str::to_owned);
    assert!(line.expect("an access line that tells it").contains("\"masked\":2"));
    for (answer, reason) in [
        (Answer::json(200, "{}").field("content-encoding", "odd"), "unknown_coding"),
        (Answer::json(200, "{}").field("content-encoding", "gzip"), "coding_broken"),
        (Answer::new(200, "{}").field("content-type", "a/b;charset=latin1"), "charset"),
    ] {
        upstream.answer(answer);
        gate.client("carol").get(UNIT).await;
        let label = format!("reason=\"{reason}\"");
        assert_eq!(gate.metric("mask_failures_total", &[&label]), 1.0, "{reason}");
    }
}
