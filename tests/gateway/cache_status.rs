//! `Cache-Status` (RFC 9211): what every response that was looked up says of it.
//!
//! *Claims*
//! 1. Every response made after the lookup has one member `unitgate`, the last of a valid structured list,
//!    with exactly one of `hit` and `fwd` and nothing but parameters of the RFC.
//! 2. The reason is the true one, `fwd-status` is what the upstream said, `ttl` is what is left, below zero
//!    when stale; `stored` is said only of what was, `collapsed` only by who joined.
//! 3. What the caches before us said stands before it, on a hit too; what is no list is dropped.
//!
//! On token routes, where nothing of an upstream's passes: `hits`.

use sfv::{BareItem, List, ListEntry, Parser};

use crate::support::{Answer, Ask, Gate, Reply, Upstream, secs};

const TARGET: &str = "/thing";

fn thing() -> Answer {
    Answer::new(200, "thing").field("cache-control", "max-age=60").field("etag", "\"1\"")
}

async fn shared() -> (Upstream, Gate) {
    let upstream = Upstream::start().await;
    upstream.answer(thing());
    let gate = Gate::shared(&upstream, |_| ());
    (upstream, gate)
}

/// The lines of the field.
fn lines(reply: &Reply) -> Vec<&str> {
    reply.fields.get_all("cache-status").iter().map(|line| line.to_str().unwrap()).collect()
}

/// The last line, which is ours; checks what holds for each.
fn ours(reply: &Reply) -> &str {
    let whole = lines(reply).join(", ");
    let list: List = Parser::new(&whole).parse().unwrap_or_else(|error| panic!("{error}: {whole}"));
    let Some(ListEntry::Item(member)) = list.last() else { panic!("no member: {reply:?}") };
    assert_eq!(member.bare_item.as_token().map(sfv::TokenRef::as_str), Some("unitgate"), "{whole}");
    let names: Vec<&str> = member.params.iter().map(|(name, _)| name.as_str()).collect();
    let has = |name: &str| names.contains(&name);
    assert!(has("hit") != has("fwd"), "{whole}");
    for (name, value) in &member.params {
        let fits = match name.as_str() {
            "hit" | "stored" | "collapsed" => *value == BareItem::Boolean(true),
            "fwd" | "detail" => value.as_token().is_some(),
            "fwd-status" | "ttl" => value.as_integer().is_some(),
            _ => false,
        };
        assert!(fits, "{name} in {whole}");
    }
    // RFC 9211 §2.3, §2.5 and §2.6: these tell of a request that went forward.
    for forwarded in ["fwd-status", "stored", "collapsed"] {
        assert!(has("fwd") || !has(forwarded), "{whole}");
    }
    lines(reply).last().unwrap()
}

#[tokio::test]
async fn a_miss_says_why_and_a_hit_what_is_left_of_its_life() {
    let (upstream, gate) = shared().await;
    let client = gate.stranger();
    let miss = client.get(TARGET).await;
    assert_eq!(ours(&miss), "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60");
    gate.advance(secs(59));
    for ask in [
        Ask::get(TARGET),
        Ask::new("HEAD", TARGET),
        Ask::get(TARGET).field("if-none-match", "\"1\""),
        Ask::get(TARGET).field("range", "bytes=0-1"),
        Ask::get(TARGET).field("range", "bytes=9-"),
    ] {
        let hit = client.send(ask).await;
        assert_eq!(ours(&hit), "unitgate; hit; ttl=1", "{}", hit.status);
    }
    assert_eq!(upstream.count(), 1);
    gate.advance(secs(1));
    upstream.answer(Answer::not_modified().field("etag", "\"1\""));
    let stale = client.get(TARGET).await;
    assert_eq!(ours(&stale), "unitgate; fwd=stale; fwd-status=304; stored; ttl=60");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn another_variant_is_a_vary_miss() {
    let (upstream, gate) = shared().await;
    upstream.answer(thing().field("vary", "accept-language"));
    let client = gate.stranger();
    let by = |language| Ask::get(TARGET).field("accept-language", language);
    for (language, told) in [
        ("de", "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60"),
        ("en", "unitgate; fwd=vary-miss; fwd-status=200; stored; ttl=60"),
        ("de", "unitgate; hit; ttl=60"),
        ("en", "unitgate; hit; ttl=60"),
    ] {
        assert_eq!(ours(&client.send(by(language)).await), told, "{language}");
    }
    assert_eq!(
        ours(&client.get("/else").await),
        "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60"
    );
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn what_is_fresh_and_not_wanted_is_asked_for_by_the_requests_own_word() {
    // RFC 9211 §2.2: a fresh response was selected, but the request's directives did not allow its use.
    for control in ["no-cache", "max-age=0", "max-age=5", "min-fresh=55"] {
        let (upstream, gate) = shared().await;
        let client = gate.stranger();
        client.get(TARGET).await;
        gate.advance(secs(10));
        let ask = || Ask::get(TARGET).field("cache-control", control);
        upstream.next(Answer::not_modified().field("etag", "\"1\""));
        let renewed = client.send(ask()).await;
        assert_eq!(ours(&renewed), "unitgate; fwd=request; fwd-status=304; stored; ttl=60");
        assert_eq!(upstream.last().field("if-none-match"), Some("\"1\""));
        gate.advance(secs(10));
        let replaced = client.send(ask()).await;
        assert_eq!(ours(&replaced), "unitgate; fwd=request; fwd-status=200; stored; ttl=60");
        gate.advance(secs(10));
        upstream.next(Answer::new(503, "failing"));
        let excused = client.send(ask()).await;
        assert_eq!((excused.status, excused.text()), (200, "thing"));
        let told = "unitgate; fwd=request; fwd-status=503; ttl=50; detail=stale-if-error";
        assert_eq!(ours(&excused), told, "{control}");
        gate.advance(secs(60));
        // Stale is stale, whatever the request says beside.
        let stale = client.send(ask()).await;
        assert_eq!(ours(&stale), "unitgate; fwd=stale; fwd-status=200; stored; ttl=60");
        assert_eq!(upstream.count(), 5, "{control}");
    }
}

#[tokio::test]
async fn who_wants_only_what_is_cached_is_told_that_nothing_is() {
    let (upstream, gate) = shared().await;
    let ask = Ask::get(TARGET).field("cache-control", "only-if-cached");
    let refused = gate.stranger().send(ask).await;
    assert_eq!((refused.status, upstream.count()), (504, 0));
    assert_eq!(ours(&refused), "unitgate; fwd=request; detail=only_if_cached");
}

#[tokio::test]
async fn methods_and_contents_that_no_cache_answers_go_by() {
    let (upstream, gate) = shared().await;
    let client = gate.stranger();
    client.get(TARGET).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "PROPFIND"] {
        let reply = client.send(Ask::new(method, "/other")).await;
        assert_eq!(ours(&reply), "unitgate; fwd=method; fwd-status=200", "{method}");
        assert_eq!(upstream.last().method, method);
    }
    // A GET with content means something to its upstream alone (RFC 9110 §9.3.1).
    let reply = client.send(Ask::get(TARGET).body("why?")).await;
    assert_eq!(ours(&reply), "unitgate; fwd=bypass; fwd-status=200");
    assert_eq!(&upstream.last().body[..], b"why?");
    assert_eq!(upstream.count(), 9);
}

#[tokio::test]
async fn what_is_not_stored_is_not_said_to_be() {
    for (answer, status) in [
        (Answer::new(200, "x").field("cache-control", "no-store"), 200),
        (Answer::new(200, "x").field("cache-control", "private, max-age=9"), 200),
        (Answer::new(200, "x").field("cache-control", "max-age=9").field("vary", "*"), 200),
        (Answer::new(200, "x"), 200),
        (Answer::new(404, "x"), 404),
        (Answer::new(429, "x").field("cache-control", "max-age=9"), 429),
        (Answer::new(500, "x"), 500),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| ());
        upstream.answer(answer.clone());
        for asked in 1..=2 {
            let reply = gate.stranger().get(TARGET).await;
            assert_eq!((reply.status, upstream.count()), (status, asked), "{answer:?}");
            let told = format!("unitgate; fwd=uri-miss; fwd-status={status}");
            assert_eq!(ours(&reply), told, "{answer:?}");
        }
    }
    // HEAD alone stores nothing either.
    let (_upstream, gate) = shared().await;
    let head = gate.stranger().head(TARGET).await;
    assert_eq!(ours(&head), "unitgate; fwd=uri-miss; fwd-status=200");
}

#[tokio::test]
async fn a_failure_has_its_reason_and_no_status_that_nobody_sent() {
    let (upstream, gate) = shared().await;
    upstream.next(Answer::new(200, "thing").cut(2));
    let broken = gate.stranger().get(TARGET).await;
    assert_eq!((broken.status, broken.code().as_str()), (502, "upstream_broken"));
    assert_eq!(ours(&broken), "unitgate; fwd=uri-miss; detail=upstream_broken");
    gate.stranger().get(TARGET).await;
    gate.advance(secs(60 + 60));
    upstream.next(Answer::new(200, "thing").cut(2));
    let broken = gate.stranger().get(TARGET).await;
    assert_eq!(ours(&broken), "unitgate; fwd=stale; detail=upstream_broken");
    upstream.next(Answer::new(200, "thing").cut(2));
    let broken = gate.stranger().send(Ask::post(TARGET, "{}")).await;
    assert_eq!(ours(&broken), "unitgate; fwd=method; detail=upstream_broken");
}

#[tokio::test]
async fn who_joins_a_fetch_says_so() {
    let (upstream, gate) = shared().await;
    let held = upstream.hold();
    let leader = gate.stranger().enter(Ask::get(TARGET)).await;
    held.arrived().await;
    let joiner = gate.stranger().enter(Ask::get(TARGET)).await;
    held.release();
    let leader = leader.reply().await;
    assert_eq!(ours(&leader), "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60");
    let told = "unitgate; fwd=uri-miss; fwd-status=200; stored; collapsed; ttl=60";
    assert_eq!(ours(&joiner.reply().await), told);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn what_is_served_past_its_life_has_a_ttl_below_zero() {
    let upstream = Upstream::start().await;
    let control = "max-age=10, stale-while-revalidate=20, stale-if-error=90";
    upstream.answer(Answer::new(200, "thing").field("cache-control", control));
    let gate = Gate::shared(&upstream, |_| ());
    let client = gate.stranger();
    client.get(TARGET).await;
    upstream.answer(Answer::new(503, "failing"));
    let held = upstream.hold();
    gate.advance(secs(29));
    assert_eq!(ours(&client.get(TARGET).await), "unitgate; hit; ttl=-19");
    held.arrived().await;
    drop(held);
    gate.advance(secs(70));
    let told = "unitgate; fwd=stale; fwd-status=503; ttl=-89; detail=stale-if-error";
    assert_eq!(ours(&client.get(TARGET).await), told);
}

#[tokio::test]
async fn what_the_caches_before_us_said_stands_before_it_on_a_hit_too() {
    for theirs in [
        &["cdn; hit"][..],
        &["\"a cache, with; a comma\"; fwd=stale; fwd-status=304, cdn; hit; ttl=3"],
        &["origin; fwd=uri-miss", "cdn; hit; key=\"/x\""],
        &["unitgate; fwd=uri-miss; stored", "(inner list); x=1, 5"],
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| ());
        upstream
            .answer(theirs.iter().fold(thing(), |answer, line| answer.field("cache-status", line)));
        let with = |own: &'static str| [theirs, &[own]].concat();
        let miss = gate.stranger().get(TARGET).await;
        let told = "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60";
        assert_eq!((ours(&miss), lines(&miss)), (told, with(told)));
        gate.advance(secs(1));
        let told = "unitgate; hit; ttl=59";
        for ask in [Ask::get(TARGET), Ask::new("HEAD", TARGET)] {
            let hit = gate.stranger().send(ask).await;
            assert_eq!((ours(&hit), lines(&hit)), (told, with(told)));
        }
        let told = "unitgate; fwd=method; fwd-status=200";
        let write = gate.stranger().send(Ask::post("/other", "{}")).await;
        assert_eq!((ours(&write), lines(&write)), (told, with(told)));
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn what_is_no_list_is_dropped() {
    for theirs in [
        &["\"unclosed"][..],
        &["cdn hit"],
        &["cdn; hit="],
        &["cdn,"],
        &[",cdn"],
        &["cdn; HIT"],
        &["cdn; hit; detail=\"caf\u{e9}\""],
        &["cdn; hit", "no list;"],
        // Nothing said is a list, but not one that ours can be appended to.
        &[""],
        &["", "cdn; hit"],
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| ());
        upstream
            .answer(theirs.iter().fold(thing(), |answer, line| answer.field("cache-status", line)));
        for told in
            ["unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60", "unitgate; hit; ttl=60"]
        {
            let reply = gate.stranger().get(TARGET).await;
            assert_eq!((ours(&reply), lines(&reply)), (told, vec![told]), "{theirs:?}");
        }
        assert_eq!(upstream.count(), 1);
    }
}
