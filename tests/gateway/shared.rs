//! Open routes: one cache for everyone, in front of any upstream.
//!
//! *Claims*
//! 1. The client's own conditions and range never shape what a flight brings (RFC 9111 §4.3.1).
//! 2. Fields that are meant for who asked reach nobody else (RFC 9111 §5.2.2.4, §5.2.2.7).
//! 3. A failure is shared among those who wait for it; what may be private is not.
//! 4. On a route that masks, no part of a body goes out that was cut upstream.

use unitgate::config::{CachePolicy, CallerMode, Config, ForwardMode, Route, SecretsMode};

use crate::support::{Answer, Ask, Gate, MASK, Upstream, key, list, secs};

const TARGET: &str = "/open/thing";

fn open(config: &mut Config, secrets: SecretsMode, cached: bool) {
    let mut route = Route::new("open", "/open/{*rest}", "converflow");
    route.caller = CallerMode::Open;
    route.forward = ForwardMode::All;
    route.secrets = secrets;
    route.refuse_masked_write = false;
    route.cache = cached.then(|| CachePolicy { ttl: secs(0), ..config.cache.policy.clone() });
    config.routes.push(route);
}

fn gate(upstream: &Upstream) -> Gate {
    Gate::start(upstream, |config| open(config, SecretsMode::Verbatim, true))
}

fn public() -> Answer {
    Answer::json(200, r#"{"n":1}"#)
        .field("cache-control", "public, max-age=60")
        .field("etag", "\"up\"")
}

#[tokio::test]
async fn a_condition_or_range_of_the_client_is_answered_here_and_does_not_go_upstream() {
    for (name, value, status) in [
        ("if-none-match", "\"up\"", 304),
        ("if-none-match", "\"q\"", 200),
        ("range", "bytes=2-3", 206),
    ] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream);
        upstream.answer(public());
        let reply = gate.stranger().send(Ask::get(TARGET).field(name, value)).await;
        assert_eq!(reply.status, status, "{name}: {value}");
        assert_eq!(upstream.last().field(name), None);
        assert!(gate.stranger().get(TARGET).await.is_hit());
    }
}

#[tokio::test]
async fn a_joiner_is_not_harmed_by_its_leaders_condition() {
    let upstream = Upstream::start().await;
    let gate = gate(&upstream);
    let held = upstream.hold();
    let leader = gate.stranger().enter(Ask::get(TARGET).field("if-none-match", "\"up\"")).await;
    held.arrived().await;
    let joiner = gate.stranger().enter(Ask::get(TARGET)).await;
    held.release_with(public());
    assert_eq!((leader.reply().await.status, joiner.reply().await.status), (304, 200));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn fields_that_are_for_who_asked_are_replayed_to_nobody_else() {
    let upstream = Upstream::start().await;
    let gate = gate(&upstream);
    let control = "max-age=60, no-cache=\"set-cookie\", private=\"x-user\"";
    let answer = || {
        let answer = Answer::json(200, "{}").field("cache-control", control);
        answer.field("set-cookie", "session=alice").field("x-user", "alice")
    };
    let held = upstream.hold();
    let first = gate.stranger().enter(Ask::get(TARGET)).await;
    held.arrived().await;
    let joiner = gate.stranger().enter(Ask::get(TARGET)).await;
    held.release_with(answer());
    assert_eq!(first.reply().await.field("set-cookie"), Some("session=alice"));
    for other in [joiner.reply().await, gate.stranger().get(TARGET).await] {
        assert_eq!(
            (other.field("set-cookie"), other.field("x-user")),
            (None, None),
            "{}",
            other.cache()
        );
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_failure_is_shared_and_what_may_be_private_is_not() {
    for (answer, asked) in [
        (Answer::json(500, "{}"), 1),
        (Answer::json(404, "{}"), 1),
        (Answer::json(200, "{}").field("cache-control", "private"), 4),
        (Answer::json(200, "{}").field("cache-control", "no-store"), 4),
    ] {
        let upstream = Upstream::start().await;
        let gate = gate(&upstream);
        upstream.answer(answer);
        let held = upstream.hold();
        let mut pending = vec![gate.stranger().enter(Ask::get(TARGET)).await];
        held.arrived().await;
        for _ in 0..3 {
            pending.push(gate.stranger().enter(Ask::get(TARGET)).await);
        }
        held.release();
        for pending in pending {
            pending.reply().await;
        }
        assert_eq!(upstream.count(), asked);
    }
}

#[tokio::test]
async fn a_route_that_masks_asks_for_no_part_of_a_body() {
    for cached in [false, true] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |config| open(config, SecretsMode::Mask, cached));
        let secret = key("d4");
        upstream.answers({
            let secret = secret.clone();
            move |seen| match seen.field("range") {
                Some(_) => Answer::json(206, format!("\"{secret}\"")),
                None => Answer::json(200, list(&secret, "Be kind.")),
            }
        });
        let reply = gate.stranger().send(Ask::get(TARGET).field("range", "bytes=19-34")).await;
        // A range there is, but of the masked bytes.
        assert_eq!(reply.status, 206);
        assert!(list(MASK, "Be kind.").contains(reply.text()), "{}", reply.text());
        assert_eq!(upstream.last().field("range"), None);
    }
}
