//! Targeted fields (RFC 9213): what is meant for caches like this one rules here instead of what is meant
//! for all.
//!
//! *Claims*
//! 1. On an open route the first valid and not empty field of the configured list stands in for
//!    `Cache-Control` and `Expires`, in all that they rule; one that can't be read is as if it were not there.
//! 2. `Unitgate-Cache-Control`, where it is ours, goes no further, and rules as long as what it came with is
//!    stored. The other fields go on.
//! 3. On token routes none of them is looked at.

use http::HeaderName;
use unitgate::config::CachePolicy;

use crate::support::{Answer, Ask, Gate, MASK, Reply, UNIT, Upstream, list, secs};

const TARGET: &str = "/thing";
const OURS: &str = "unitgate-cache-control";
const CDN: &str = "cdn-cache-control";
const ALL: &str = "cache-control";
/// An hour after the start of the clock.
const EXPIRES: (&str, &str) = ("expires", "Fri, 15 Jan 2027 09:00:00 GMT");

fn thing(fields: &[(&str, &str)]) -> Answer {
    fields.iter().fold(Answer::new(200, "thing"), |answer, (name, value)| answer.field(name, value))
}

/// For how many seconds an answer with these fields is stored; `None` if it is not.
async fn life(fields: &[(&str, &str)]) -> Option<u64> {
    let upstream = Upstream::start().await;
    upstream.answer(thing(fields));
    let gate = Gate::shared(&upstream, |_| ());
    let client = gate.stranger();
    let first = client.get(TARGET).await;
    let told = first.cache().split("stored; ttl=").nth(1).map(|ttl| ttl.parse().unwrap());
    let life = told.filter(|life| *life > 0);
    if let Some(life) = life {
        gate.advance(secs(life - 1));
        assert!(client.get(TARGET).await.is_hit(), "{fields:?} does not live as long as is told");
        gate.advance(secs(1));
    }
    assert!(!client.get(TARGET).await.is_hit(), "{fields:?} lives longer than is told");
    assert_eq!(upstream.count(), 2, "{fields:?}");
    life
}

#[tokio::test]
async fn the_first_field_of_the_list_rules() {
    for (fields, lives) in [
        (&[(OURS, "max-age=100"), (CDN, "max-age=50"), (ALL, "max-age=10")][..], Some(100)),
        (&[(ALL, "max-age=10"), (CDN, "max-age=50"), (OURS, "max-age=100")], Some(100)),
        (&[(CDN, "max-age=50"), (ALL, "max-age=10")], Some(50)),
        (&[(ALL, "max-age=10")], Some(10)),
        (&[(CDN, "max-age=50"), (ALL, "no-store")], Some(50)),
        (&[(CDN, "max-age=50"), (ALL, "private, no-cache, must-revalidate")], Some(50)),
        (&[(CDN, "max-age=50"), ("pragma", "no-cache")], Some(50)),
        (&[(CDN, "no-store"), (ALL, "max-age=10")], None),
        (&[(CDN, "private"), (ALL, "public, max-age=10")], None),
        (&[(CDN, "no-cache"), (ALL, "max-age=10")], None),
        (&[(OURS, "no-store"), (CDN, "max-age=50"), (ALL, "max-age=10")], None),
        (&[(CDN, "max-age=5, s-maxage=30")], Some(30)),
        (&[(OURS, "max-age=0"), (ALL, "max-age=10")], None),
        // Not on the list, not for us.
        (&[("other-cdn-cache-control", "no-store"), (ALL, "max-age=10")], Some(10)),
    ] {
        assert_eq!(life(fields).await, lives, "{fields:?}");
    }
}

#[tokio::test]
async fn expires_counts_only_beside_cache_control() {
    for (fields, lives) in [
        (&[EXPIRES][..], Some(3600)),
        (&[EXPIRES, (ALL, "public")], Some(3600)),
        (&[EXPIRES, (CDN, "max-age=50")], Some(50)),
        // RFC 9213 §2.2: nothing of Cache-Control and Expires is used beside it.
        (&[EXPIRES, (CDN, "public")], None),
        (&[EXPIRES, (CDN, "must-revalidate"), (ALL, "max-age=10")], None),
        (&[("expires", "0"), (CDN, "max-age=50")], Some(50)),
    ] {
        assert_eq!(life(fields).await, lives, "{fields:?}");
    }
}

#[tokio::test]
async fn a_field_that_is_empty_or_no_dictionary_is_passed_over() {
    for unreadable in [
        "",
        "max-age=100,",
        "=100",
        "max-age=",
        "max-age=100;",
        "max-age 100",
        "max-age=\"100",
        "Max-Age=100",
        "max-age=100, NO-STORE",
        "max-age=00000000000000100",
        "max-age=100, caf\u{e9}",
        "no-store, \u{1f4a9}",
        "no-store;;",
    ] {
        let fields = [(OURS, unreadable), (CDN, "max-age=50"), (ALL, "max-age=10")];
        assert_eq!(life(&fields).await, Some(50), "{unreadable:?}");
        let fields = [(OURS, unreadable), (CDN, unreadable), (ALL, "max-age=10")];
        assert_eq!(life(&fields).await, Some(10), "{unreadable:?}");
    }
}

#[tokio::test]
async fn types_and_parameters_are_read_as_the_dictionary_has_them() {
    for (value, lives) in [
        ("max-age=100;x=5", Some(100)),
        ("max-age=100;max-age=5, public;no-store", Some(100)),
        ("max-age=100, unheard-of=(a b), another=:AAAA:", Some(100)),
        // RFC 9651 §4.2.2: of two with one name the last counts.
        ("max-age=100, max-age=20", Some(20)),
        // A directive with a value of another type is as if it were not there (RFC 9213 §2.1).
        ("max-age=\"100\"", None),
        ("max-age=100.0", None),
        ("max-age=hundred", None),
        ("max-age", None),
        ("max-age=?1", None),
        ("max-age=(100)", None),
        ("s-maxage=\"5\", max-age=100", Some(100)),
        ("max-age=-100", None),
        ("max-age=999999999999999, stale-if-error=x", Some(31_536_000)),
    ] {
        assert_eq!(life(&[(CDN, value), (ALL, "max-age=10")]).await, lives, "{value}");
    }
    let lines = [(CDN, "max-age=100"), (ALL, "max-age=10"), (CDN, "public, max-age=30")];
    assert_eq!(life(&lines).await, Some(30));
    let lines = [(CDN, "max-age=100"), (ALL, "max-age=10"), (CDN, "no-store")];
    assert_eq!(life(&lines).await, None);
}

#[tokio::test]
async fn it_rules_the_stale_windows_too() {
    for (fields, at_once, on_error) in [
        (&[(CDN, "max-age=10, stale-while-revalidate=50"), (ALL, "max-age=10")][..], true, true),
        (&[(CDN, "max-age=10"), (ALL, "max-age=10, stale-while-revalidate=50")], false, true),
        (&[(CDN, "max-age=10, must-revalidate"), (ALL, "max-age=10")], false, false),
        (&[(CDN, "max-age=10"), (ALL, "max-age=10, must-revalidate")], false, true),
        (&[(CDN, "max-age=10, stale-if-error=0"), (ALL, "stale-if-error=100")], false, false),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| ());
        upstream.answer(thing(fields));
        gate.stranger().get(TARGET).await;
        upstream.answer(Answer::new(503, "failing"));
        gate.advance(secs(20));
        let reply = gate.stranger().get(TARGET).await;
        assert_eq!((reply.is_hit(), reply.status == 200), (at_once, on_error), "{fields:?}");
        upstream.arrived(2).await;
    }
}

#[tokio::test]
async fn fields_it_names_are_for_who_asked_alone() {
    // RFC 9111 §5.2.2.4 and §5.2.2.7, said in a targeted field.
    for name in [OURS, CDN] {
        for directive in ["private=\"x-user\"", "no-cache=\"x-user, x-more\""] {
            let upstream = Upstream::start().await;
            let gate = Gate::shared(&upstream, |_| ());
            let control = format!("max-age=60, {directive}");
            let fields = [(name, control.as_str()), (ALL, "no-store"), ("etag", "\"1\"")];
            upstream.answer(thing(&fields).field("x-user", "alice").field("x-all", "all"));
            let held = upstream.hold();
            let first = gate.stranger().enter(Ask::get(TARGET)).await;
            held.arrived().await;
            let joiner = gate.stranger().enter(Ask::get(TARGET)).await;
            held.release();
            assert_eq!(first.reply().await.field("x-user"), Some("alice"));
            let hit = gate.stranger().get(TARGET).await;
            gate.advance(secs(60));
            upstream.next(Answer::not_modified().field("etag", "\"1\"").field("x-user", "bob"));
            assert_eq!(gate.stranger().get(TARGET).await.field("x-user"), Some("bob"));
            let renewed = gate.stranger().get(TARGET).await;
            assert!(hit.is_hit() && renewed.is_hit(), "{name}: {directive}");
            for other in [joiner.reply().await, hit, renewed] {
                let shown = (other.field("x-user"), other.field("x-all"));
                assert_eq!(shown, (None, Some("all")), "{name}: {directive}: {}", other.cache());
            }
            assert_eq!(upstream.count(), 2);
        }
    }
}

/// Whether ours is kept back and the others go on.
fn passes_on(reply: &Reply) -> bool {
    let shown = [CDN, ALL, EXPIRES.0, OURS].map(|name| reply.field(name));
    shown == [Some("max-age=7"), Some("no-store"), Some(EXPIRES.1), None]
}

#[tokio::test]
async fn ours_goes_no_further_and_still_rules_after_a_304() {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| ());
    let client = gate.stranger();
    let fields = [(OURS, "max-age=100"), (CDN, "max-age=7"), (ALL, "no-store"), EXPIRES];
    let etag = ("etag", "\"1\"");
    upstream.answer(thing(&fields).field(etag.0, etag.1));
    assert!(passes_on(&client.get(TARGET).await));
    for round in 1..=3 {
        gate.advance(secs(99));
        for ask in [
            Ask::get(TARGET),
            Ask::new("HEAD", TARGET),
            Ask::get(TARGET).field("if-none-match", "\"1\""),
            Ask::get(TARGET).field("range", "bytes=0-1"),
        ] {
            let hit = client.send(ask).await;
            assert_eq!(hit.cache(), "unitgate; hit; ttl=1");
            assert!(passes_on(&hit), "{hit:?}");
        }
        gate.advance(secs(1));
        // A 304 that says nothing of it leaves it in force (RFC 9111 §3.2).
        upstream.next(Answer::not_modified().field(etag.0, etag.1));
        let renewed = client.get(TARGET).await;
        assert_eq!(renewed.cache(), "unitgate; fwd=stale; fwd-status=304; stored; ttl=100");
        assert!(passes_on(&renewed), "{renewed:?}");
        assert_eq!(upstream.count(), 1 + round);
    }
    // One that says something else of it replaces it, and that goes no further either.
    gate.advance(secs(100));
    upstream.next(Answer::not_modified().field(etag.0, etag.1).field(OURS, "max-age=30"));
    let renewed = client.get(TARGET).await;
    assert_eq!(renewed.cache(), "unitgate; fwd=stale; fwd-status=304; stored; ttl=30");
    assert!(passes_on(&renewed) && passes_on(&client.get(TARGET).await));
    // No upstream is asked with it, nor is it kept back where there is nothing to store.
    for ask in [Ask::post(TARGET, "{}"), Ask::new("HEAD", "/other"), Ask::new("BREW", TARGET)] {
        assert!(passes_on(&client.send(ask).await));
    }
    upstream.answer(Answer::new(500, "failing").field(OURS, "no-store"));
    assert_eq!(client.get("/other").await.field(OURS), None);
}

#[tokio::test]
async fn ours_goes_no_further_ahead_of_an_answer_either() {
    let upstream = Upstream::start().await;
    upstream.answer(thing(&[(ALL, "max-age=10")]));
    let gate = Gate::shared(&upstream, |_| ());
    let held = upstream.hold();
    let client = gate.stranger();
    let mut wire = client.connect().await;
    wire.write(&client.bytes(Ask::get(TARGET))).await;
    held.arrived().await;
    held.interim(103, &[("link", "</style.css>"), (OURS, "max-age=5"), (CDN, "max-age=7")]);
    let hint = wire.read_any(false).await.expect("a hint");
    assert_eq!((hint.status, hint.field("link")), (103, Some("</style.css>")));
    assert_eq!((hint.field(OURS), hint.field(CDN)), (None, Some("max-age=7")));
    held.release();
    assert_eq!(wire.read_any(false).await.expect("the answer").text(), "thing");
}

#[tokio::test]
async fn a_304_brings_a_targeted_field_where_there_was_none() {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| ());
    upstream.answer(thing(&[(ALL, "max-age=10"), ("etag", "\"1\"")]));
    gate.stranger().get(TARGET).await;
    gate.advance(secs(10));
    let renewal = Answer::not_modified().field("etag", "\"1\"");
    upstream.next(renewal.field(OURS, "max-age=90").field(CDN, "max-age=7"));
    let renewed = gate.stranger().get(TARGET).await;
    assert_eq!(renewed.cache(), "unitgate; fwd=stale; fwd-status=304; stored; ttl=90");
    let shown = [OURS, CDN, ALL].map(|name| renewed.field(name));
    assert_eq!(shown, [None, Some("max-age=7"), Some("max-age=10")]);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn the_list_is_configuration_and_only_what_is_on_it_is_ours() {
    let fields = [(OURS, "max-age=100"), (CDN, "max-age=50"), (ALL, "max-age=10")];
    for (targets, lives, shown) in [
        (&[OURS, CDN][..], 100, None),
        (&[CDN, OURS], 50, None),
        (&[CDN], 50, Some("max-age=100")),
        (&[], 10, Some("max-age=100")),
    ] {
        let upstream = Upstream::start().await;
        upstream.answer(thing(&fields));
        let gate = Gate::shared(&upstream, |config| {
            Gate::policy(config, |policy| policy.targeted = names(targets));
        });
        for _ in 0..2 {
            let reply = gate.stranger().get(TARGET).await;
            assert!(reply.cache().ends_with(&format!("; ttl={lives}")), "{}", reply.cache());
            assert_eq!(reply.field(OURS), shown, "{targets:?}");
        }
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn on_a_token_route_targeted_fields_are_not_looked_at() {
    for (targeted, control, lives) in [
        ("max-age=100", "max-age=10", Some("private, max-age=10")),
        ("no-store", "max-age=10", Some("private, max-age=10")),
        ("max-age=100", "no-store", None),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |config| {
            let targeted = |policy: &mut CachePolicy| policy.targeted = names(&[OURS, CDN]);
            Gate::policy(config, targeted);
        });
        let answer = Answer::json(200, list(MASK, "Be kind.")).field(ALL, control);
        upstream.answer(answer.field(OURS, targeted).field(CDN, targeted));
        let alice = gate.client("alice");
        let first = alice.get(UNIT).await;
        assert_eq!(first.field(ALL), lives.or(Some("private, no-store")), "{targeted}");
        let second = alice.get(UNIT).await;
        assert_eq!(second.is_hit(), lives.is_some(), "{targeted}, {control}");
        for reply in [first, second] {
            assert_eq!((reply.field(OURS), reply.field(CDN)), (None, None));
        }
    }
}

fn names(targets: &[&'static str]) -> Vec<HeaderName> {
    targets.iter().map(|name| HeaderName::from_static(name)).collect()
}
