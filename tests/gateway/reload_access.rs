//! Who may reload over the operators' port, and what no web page can make it do.
//!
//! *Claims*
//! 1. `POST /reload` with the operators' token reads the file again: 200 with the names of the keys, or 422
//!    with every mistake.
//! 2. Without a token in the configuration the port only shows, whatever address it has.
//! 3. The token is read again too: the new one opens, the old one no longer.
//! 4. A page can drive nothing: neither with what browsers send without asking, nor by asking first, nor by a
//!    name that was pointed at this port.
//! 5. What only shows answers by whatever name, since scrapers use those of services.

use serde_json::json;
use std::fs;
use tempfile::TempDir;

use crate::purge::{EVERYTHING, TOKEN, file};
use crate::support::{Ask, Gate, UNIT, Upstream, secs};

/// A gateway whose file has changed since, and that may be told so with [`TOKEN`].
async fn desk() -> (Upstream, Gate, TempDir) {
    let upstream = Upstream::start().await;
    let files = TempDir::new().unwrap();
    let gate = Gate::start(&upstream, |config| {
        config.admin.token_file = Some(file(&files, "token", TOKEN));
        config.admin.hosts = vec!["gate.internal".to_owned()];
    });
    gate.write(|config| Gate::policy(config, |policy| policy.ttl = secs(7)));
    (upstream, gate, files)
}

fn ask(token: &str) -> Ask {
    Ask::new("POST", "/reload").field("Authorization", &format!("Bearer {token}"))
}

/// Whether the file that [`desk`] wrote is in force; asks for something new each time.
async fn is_in_force(gate: &Gate, number: usize) -> bool {
    gate.client("alice").get(&format!("{UNIT}?{number}")).await.cache().ends_with("; ttl=7")
}

#[tokio::test]
async fn a_reload_says_which_keys_changed_and_which_take_a_restart() {
    let (_upstream, gate, _files) = desk().await;
    gate.write(|config| {
        Gate::policy(config, |policy| policy.ttl = secs(7));
        config.listen.connections = 5;
    });
    let reply = gate.operator().send(ask(TOKEN)).await;
    assert_eq!((reply.status, reply.field("content-type")), (200, Some("application/json")));
    let told = json!({
        "changed": ["cache.ttl"], "needs_restart": ["listen.connections"], "warnings": [],
    });
    assert_eq!(reply.json(), told);
    assert!(is_in_force(&gate, 0).await);
}

#[tokio::test]
async fn a_bad_file_is_422_with_every_mistake() {
    let (_upstream, gate, _files) = desk().await;
    gate.write_text("cache.ttl = 5\nlisten.adress = 1\n");
    let reply = gate.operator().send(ask(TOKEN)).await;
    assert_eq!((reply.status, reply.code().as_str()), (422, "config_invalid"));
    let mistakes = reply.json()["mistakes"].as_array().unwrap().clone();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(
        mistakes[0].as_str().unwrap().starts_with("config.toml:1: cache.ttl: "),
        "{mistakes:?}"
    );
    assert_eq!(gate.metric("config_last_load_successful", &[]), 0.0);
    gate.write(|_| ());
    assert_eq!(gate.operator().send(ask(TOKEN)).await.status, 200);
    assert_eq!(gate.metric("config_last_load_successful", &[]), 1.0);
}

#[tokio::test]
async fn without_a_token_a_port_that_anybody_reaches_only_shows() {
    let upstream = Upstream::start().await;
    for address in [[127, 0, 0, 1], [0, 0, 0, 0]] {
        let gate =
            Gate::start(&upstream, |config| config.admin.address = Some((address, 0).into()));
        gate.write(|config| Gate::policy(config, |policy| policy.ttl = secs(7)));
        gate.client("alice").get(UNIT).await;
        for change in [
            ask(TOKEN),
            ask(""),
            Ask::post("/reload", "{}"),
            Ask::get("/reload"),
            Ask::post("/purge", EVERYTHING),
            Ask::post("/purge", EVERYTHING).field("Authorization", "Bearer "),
        ] {
            let reply = gate.operator().send(change).await;
            assert_eq!((reply.status, reply.code().as_str()), (404, "changes_off"));
        }
        assert!(gate.client("alice").get(UNIT).await.is_hit());
        assert!(!is_in_force(&gate, 0).await);
        for path in ["/", "/metrics", "/healthz", "/readyz"] {
            assert_eq!(gate.operator().get(path).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn the_operators_token_is_read_again() {
    let (_upstream, gate, files) = desk().await;
    let other = "the-operators-next-token";
    fs::write(files.path().join("token"), other).unwrap();
    assert_eq!(gate.operator().send(ask(other)).await.status, 401);
    let reply = gate.operator().send(ask(TOKEN)).await;
    assert_eq!(reply.json()["changed"], json!(["cache.ttl", "admin.token_file"]));
    assert_eq!(gate.operator().send(ask(TOKEN)).await.status, 401);
    assert_eq!(gate.operator().send(ask(other)).await.status, 200);
    assert!(!gate.log().contains(other), "a token was logged");
    fs::remove_file(files.path().join("token")).unwrap();
    let reply = gate.operator().send(ask(other)).await;
    assert_eq!((reply.status, reply.code().as_str()), (422, "config_invalid"));
    gate.write(|config| config.admin.token_file = None);
    assert_eq!(gate.operator().send(ask(other)).await.status, 200);
    assert_eq!(gate.operator().send(ask(other)).await.code(), "changes_off");
}

#[tokio::test]
async fn the_names_of_the_port_are_those_of_the_file() {
    let (_upstream, gate, _files) = desk().await;
    let by = |host: &str| ask(TOKEN).field("Host", host);
    assert_eq!(gate.operator().send(by("other.internal")).await.code(), "strange_host");
    gate.reload(|config| config.admin.hosts = vec!["other.internal".to_owned()]);
    assert_eq!(gate.operator().send(by("gate.internal")).await.code(), "strange_host");
    assert_eq!(gate.operator().send(by("other.internal")).await.status, 200);
}

#[tokio::test]
async fn no_web_page_can_drive_it() {
    let (_upstream, gate, _files) = desk().await;
    gate.client("alice").get(UNIT).await;
    let with = |fields: &[(&str, &str)], method: &str| {
        let of = |path, body: &str| {
            let ask = Ask::new(method, path).body(body.as_bytes());
            fields.iter().fold(ask, |ask, (name, value)| ask.field(name, value))
        };
        [of("/reload", ""), of("/purge", EVERYTHING)]
    };
    let bearer = ("Authorization", &*format!("Bearer {TOKEN}"));
    let evil = ("Origin", "http://evil.example");
    for (method, fields, status) in [
        // A form, or fetch() with no-cors: what browsers send without asking. They can't add the token.
        ("POST", vec![evil, ("Content-Type", "text/plain")], 403),
        ("POST", vec![evil, ("Content-Type", "application/x-www-form-urlencoded")], 403),
        ("POST", vec![evil, ("Content-Type", "multipart/form-data; boundary=x")], 403),
        ("POST", vec![("Origin", "null"), ("Content-Type", "text/plain")], 403),
        // Without an Origin, as old browsers send forms; with cookies or a password that was typed in once.
        ("POST", vec![("Content-Type", "text/plain"), ("Sec-Fetch-Site", "cross-site")], 401),
        ("POST", vec![("Cookie", "token=x")], 401),
        ("POST", vec![("Authorization", "Basic dXNlcjpwYXNz")], 401),
        // A picture, a link: GET.
        ("GET", vec![], 405),
        ("HEAD", vec![bearer], 405),
        // Asking first (a CORS preflight) is answered with no permission.
        (
            "OPTIONS",
            vec![
                evil,
                ("Access-Control-Request-Method", "POST"),
                ("Access-Control-Request-Headers", "authorization, content-type"),
            ],
            405,
        ),
        // A page whose own name was pointed at this port (DNS rebinding): of one origin with it, for browsers.
        ("POST", vec![("Host", "evil.example"), bearer], 403),
        (
            "POST",
            vec![("Host", "evil.example:9090"), ("Origin", "http://evil.example:9090"), bearer],
            403,
        ),
        ("POST", vec![("Host", "gate.internal"), ("Origin", "http://evil.example"), bearer], 403),
    ] {
        for ask in with(&fields, method) {
            let reply = gate.operator().send(ask).await;
            assert_eq!(reply.status, status, "{method} {fields:?}");
            let permission = reply.fields.keys().any(|name| name.as_str().starts_with("access-"));
            assert!(!permission, "{:?}", reply.fields);
        }
    }
    assert!(gate.client("alice").get(UNIT).await.is_hit());
    assert!(!is_in_force(&gate, 0).await);
    assert_eq!(gate.operator().send(ask(TOKEN)).await.status, 200);
    assert!(is_in_force(&gate, 1).await);
}

#[tokio::test]
async fn what_only_shows_answers_by_whatever_name() {
    let (_upstream, gate, _files) = desk().await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        let ask = Ask::get(path).field("Host", "unitgate.monitoring.svc:9090");
        assert_eq!(gate.operator().send(ask).await.status, 200, "{path}");
    }
}
