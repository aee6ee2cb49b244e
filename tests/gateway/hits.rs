//! What is stored, for how long, and what a client is told of it.
//!
//! *Claims*
//! 1. Equal requests cost one upstream request while the answer lives; `Age`, `Cache-Control` and
//!    `Cache-Status` tell its life truly.
//! 2. Validators are ours: `If-None-Match` is answered here, HEAD from what GET stored.
//! 3. The upstream's directives shorten a life, never lengthen it past the cap; `no-store` is obeyed
//!    unless a route departs by name; 401, 403, 429 and 5xx are never stored.
//! 4. With the cache off everything is fetched and still masked.

use std::collections::BTreeSet;

use crate::support::{
    Answer, Ask, Gate, INTEGRATION, MASK, OTHER_UNIT, START, UNIT, Upstream, key, list, secs,
};

fn plain() -> Answer {
    Answer::json(200, list(MASK, "Be kind."))
}

#[tokio::test]
async fn a_hundred_requests_cost_one_upstream_request() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let first = alice.get(UNIT).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.text(), list(MASK, "Be kind."));
    assert_eq!(first.cache(), "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60");
    for _ in 0..99 {
        let hit = alice.get(UNIT).await;
        assert_eq!((hit.status, &hit.body), (200, &first.body));
        assert_eq!(hit.cache(), "unitgate; hit; ttl=60");
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(gate.metric("requests_total", &["outcome=\"hit\""]), 99.0);
    assert_eq!(gate.metric("upstream_requests_total", &["cause=\"miss\""]), 1.0);
    assert_eq!(gate.metric("upstream_requests_total", &[]), 1.0);
}

#[tokio::test]
async fn age_grows_beside_an_unchanging_lifetime() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let miss = alice.get(UNIT).await;
    assert_eq!(miss.field("age"), None);
    assert_eq!(miss.field("cache-control"), Some("private, max-age=60"));
    for age in [0, 7, 59] {
        gate.advance(START.saturating_add(secs(age)).saturating_sub(gate.clock().now().wall));
        let hit = alice.get(UNIT).await;
        assert_eq!(hit.field("age"), Some(age.to_string().as_str()));
        assert_eq!(hit.field("cache-control"), Some("private, max-age=60"));
        assert_eq!(hit.cache(), format!("unitgate; hit; ttl={}", 60 - age));
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_answer_ends_with_its_ttl() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| {
            policy.stale_while_revalidate = secs(0);
            policy.stale_if_error = secs(0);
        });
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.advance(secs(59));
    assert!(alice.get(UNIT).await.is_hit());
    gate.advance(secs(1));
    upstream.answer(Answer::json(200, list(MASK, "Changed.")));
    let renewed = alice.get(UNIT).await;
    assert_eq!(renewed.text(), list(MASK, "Changed."));
    assert!(!renewed.is_hit(), "{}", renewed.cache());
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn if_none_match_is_answered_here_with_304() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let etag = alice.get(UNIT).await.field("etag").unwrap().to_owned();
    assert!(etag.starts_with('"'), "a strong validator of ours: {etag}");
    let weak = format!("W/{etag}");
    let among = format!("\"other\", {weak}");
    for condition in [etag.as_str(), &weak, &among, "*"] {
        let reply = alice.send(Ask::get(UNIT).field("if-none-match", condition)).await;
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{condition}");
        assert_eq!(reply.field("etag"), Some(etag.as_str()));
        assert_eq!(reply.field("cache-control"), Some("private, max-age=60"));
        assert_eq!(reply.field("vary"), Some("authorization"));
        assert!(reply.field("date").is_some());
        assert_eq!(reply.field("content-type"), None);
        assert!(reply.is_hit());
    }
    for condition in ["\"other\"", "other"] {
        let reply = alice.send(Ask::get(UNIT).field("if-none-match", condition)).await;
        assert_eq!(reply.status, 200, "{condition}");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_condition_is_judged_on_a_miss_too_and_never_goes_upstream() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let etag = gate.client("alice").get(UNIT).await.field("etag").unwrap().to_owned();
    let reply = gate.client("bob").send(Ask::get(UNIT).field("if-none-match", &etag)).await;
    assert_eq!((reply.status, reply.body.len()), (304, 0));
    assert_eq!(upstream.last().field("if-none-match"), None);
    let dated = Ask::get(UNIT).field("if-modified-since", "Fri, 15 Jan 2038 08:00:00 GMT");
    assert_eq!(gate.client("bob").send(dated).await.status, 200, "no date of ours was ever shown");
}

#[tokio::test]
async fn the_etag_follows_the_masked_bytes_alone() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(Answer::json(200, list(&key("a1"), "Be kind.")).field("etag", "\"theirs-1\""));
    let alice = gate.client("alice").get(UNIT).await;
    upstream.answer(Answer::json(200, list(&key("b2"), "Be kind.")).field("etag", "\"theirs-2\""));
    let bob = gate.client("bob").get(UNIT).await;
    assert_eq!(alice.field("etag"), bob.field("etag"));
    assert!(!alice.everything().contains("theirs"));
    upstream.answer(Answer::json(200, list(MASK, "Be stern.")));
    assert_ne!(gate.client("carol").get(UNIT).await.field("etag"), bob.field("etag"));
}

#[tokio::test]
async fn head_is_served_from_what_get_stored() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let got = alice.get(UNIT).await;
    let head = alice.head(UNIT).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for same in ["content-type", "content-length", "etag", "cache-control", "date", "vary"] {
        assert!(head.field(same).is_some(), "{same}");
        assert_eq!(head.field(same), got.field(same), "{same}");
    }
    assert!(head.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_head_miss_is_fetched_as_get_and_stored() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let head = alice.head(UNIT).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(upstream.last().method, "GET");
    let got = alice.get(UNIT).await;
    assert!(got.is_hit());
    assert_eq!(head.field("content-length"), got.field("content-length"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn no_store_is_obeyed_in_any_spelling() {
    for spelling in ["no-store", "No-Store", "max-age=60, NO-STORE", "private,no-store"] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        upstream.answer(plain().field("cache-control", spelling));
        let alice = gate.client("alice");
        for asked in 1..=2 {
            let reply = alice.get(UNIT).await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.field("cache-control"), Some("private, no-store"));
            assert_eq!(reply.cache(), "unitgate; fwd=uri-miss; fwd-status=200");
            assert_eq!(upstream.count(), asked, "{spelling}");
        }
        assert_eq!(gate.metric("cache_not_stored_total", &["reason=\"no_store\""]), 2.0);
    }
}

#[tokio::test]
async fn a_route_departs_from_no_store_by_name() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::route(config, "unit-list").cache.as_mut().unwrap().store_no_store = true;
    });
    upstream.answer(plain().field("cache-control", "no-store"));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn what_the_upstream_forbids_to_store_is_said_once_per_route_and_reason() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let warnings = |reason: &str| {
        let log = gate.log();
        let of_reason = |line: &&str| {
            line.contains("\"warn\"") && line.contains("unit-list") && line.contains(reason)
        };
        log.lines().filter(of_reason).count()
    };
    upstream.answer(plain().field("cache-control", "no-store"));
    for name in ["alice", "bob", "alice"] {
        gate.client(name).get(UNIT).await;
    }
    assert_eq!((warnings("\"no_store\""), warnings("\"vary_star\"")), (1, 0), "{}", gate.log());
    upstream.answer(plain().field("vary", "*"));
    for name in ["alice", "bob"] {
        gate.client(name).get(UNIT).await;
    }
    assert_eq!((warnings("\"no_store\""), warnings("\"vary_star\"")), (1, 1));
    assert_eq!(upstream.count(), 5);
}

#[tokio::test]
async fn explicit_freshness_is_honoured() {
    for (field, value, lifetime) in [
        ("cache-control", "max-age=10", 10),
        ("cache-control", "MAX-AGE=\"10\"", 10),
        ("cache-control", "public, max-age=10", 10),
        ("cache-control", "private, max-age=10", 10),
        ("cache-control", "max-age=10, s-maxage=100", 10),
        ("cache-control", "s-maxage=10", 10),
        ("cache-control", "s-maxage=1000", 60),
        ("expires", "Fri, 15 Jan 2027 08:00:10 GMT", 10),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |config| {
            Gate::policy(config, |policy| policy.stale_while_revalidate = secs(0));
        });
        upstream.answer(plain().field(field, value));
        let alice = gate.client("alice");
        let miss = alice.get(UNIT).await;
        let stated = miss.field("cache-control").unwrap();
        assert!(stated.starts_with(&format!("private, max-age={lifetime}")), "{value}: {stated}");
        gate.advance(secs(lifetime - 1));
        assert!(alice.get(UNIT).await.is_hit(), "{value}");
        gate.advance(secs(1));
        assert!(!alice.get(UNIT).await.is_hit(), "{value}");
        assert_eq!(upstream.count(), 2, "{value}");
    }
}

#[tokio::test]
async fn explicit_freshness_is_capped() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.stale_while_revalidate = secs(0));
    });
    upstream.answer(plain().field("cache-control", "max-age=99999999999999999999"));
    let alice = gate.client("alice");
    assert_eq!(alice.get(UNIT).await.field("cache-control"), Some("private, max-age=300"));
    gate.advance(secs(299));
    assert!(alice.get(UNIT).await.is_hit());
    gate.advance(secs(1));
    assert!(!alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn explicit_freshness_counts_from_the_age_it_came_with() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.stale_while_revalidate = secs(0));
    });
    upstream.answer(plain().field("cache-control", "max-age=100").field("age", "40, 5"));
    let alice = gate.client("alice");
    let miss = alice.get(UNIT).await;
    assert_eq!(
        (miss.field("age"), miss.field("cache-control")),
        (Some("40"), Some("private, max-age=100"))
    );
    gate.advance(secs(59));
    let hit = alice.get(UNIT).await;
    assert_eq!((hit.cache(), hit.field("age")), ("unitgate; hit; ttl=1", Some("99")));
    gate.advance(secs(1));
    assert!(!alice.get(UNIT).await.is_hit());
}

#[tokio::test]
async fn a_vary_that_can_be_read_always_matches_since_we_made_the_request() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(plain().field("vary", "Accept-Language, Cookie, Origin"));
    let alice = gate.client("alice");
    alice.send(Ask::get(UNIT).field("accept-language", "pt")).await;
    assert!(alice.send(Ask::get(UNIT).field("accept-language", "en")).await.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn cache_status_is_a_list_whose_last_member_is_ours_with_one_of_hit_and_fwd() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.caller_upstream = Some(unitgate::config::Rate { per_second: 1, burst: 9 });
    });
    let alice = gate.client("alice");
    let mut replies = vec![alice.get(UNIT).await, alice.get(UNIT).await, alice.head(UNIT).await];
    replies.push(alice.get(INTEGRATION).await);
    replies.push(alice.put(INTEGRATION, "{}").await);
    for answer in [
        Answer::json(404, "{}"),
        Answer::json(200, "nonsense"),
        Answer::reset(),
        Answer::new(500, ""),
    ] {
        upstream.next(answer);
        replies.push(alice.get(OTHER_UNIT).await);
    }
    gate.advance(secs(70));
    replies.push(alice.get(UNIT).await);
    upstream.answer(Answer::json(503, "{}"));
    gate.advance(secs(30));
    replies.push(alice.get(UNIT).await);
    for page in 0..20 {
        replies.push(alice.get(&format!("{OTHER_UNIT}?page={page}")).await);
    }
    assert!(replies.iter().any(|reply| reply.status == 429));
    for reply in replies {
        let list: sfv::List = sfv::Parser::new(reply.cache()).parse().unwrap();
        let Some(sfv::ListEntry::Item(ours)) = list.last() else { panic!("{:?}", reply.cache()) };
        assert_eq!(ours.bare_item.as_token().map(sfv::TokenRef::as_str), Some("unitgate"));
        let has = |name: &str| ours.params.iter().any(|(key, _)| key.as_str() == name);
        assert!(has("hit") != has("fwd"), "{}", reply.cache());
        for only_forwarded in ["fwd-status", "stored", "collapsed"] {
            assert!(has("fwd") || !has(only_forwarded), "{}", reply.cache());
        }
    }
}

#[tokio::test]
async fn what_is_refused_before_the_lookup_has_no_cache_status() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    for reply in [gate.stranger().get(UNIT).await, gate.client("alice").get("/nowhere").await] {
        assert_eq!(reply.field("cache-status"), None);
        assert_eq!(reply.field("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn what_is_never_fresh_is_asked_for_each_time() {
    for value in ["no-cache", "max-age=0", "max-age=-1", "max-age=soon", "max-age=60, no-cache"] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        upstream.answer(plain().field("cache-control", value));
        let alice = gate.client("alice");
        for asked in 1..=3 {
            let reply = alice.get(UNIT).await;
            assert_eq!((reply.status, upstream.count()), (200, asked), "{value}");
            assert!(!reply.is_hit(), "{value}: {}", reply.cache());
        }
    }
}

#[tokio::test]
async fn a_404_is_not_stored_by_default_whatever_it_says() {
    for control in ["max-age=60", "public, max-age=60"] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| {});
        upstream.answer(Answer::json(404, "{}").field("cache-control", control));
        let alice = gate.client("alice");
        for asked in 1..=2 {
            let reply = alice.get(UNIT).await;
            assert_eq!((reply.status, upstream.count()), (404, asked));
            assert_eq!(reply.field("cache-control"), Some("private, no-store"));
        }
    }
}

#[tokio::test]
async fn a_404_is_stored_for_its_own_ttl_where_that_is_set() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| {
            policy.negative_ttl = secs(5);
            policy.stale_while_revalidate = secs(0);
        });
    });
    upstream.answer(Answer::json(404, r#"{"message":"no such unit"}"#));
    let alice = gate.client("alice");
    let miss = alice.get(UNIT).await;
    assert_eq!((miss.status, miss.field("cache-control")), (404, Some("private, max-age=5")));
    gate.advance(secs(4));
    let hit = alice.get(UNIT).await;
    assert_eq!((hit.status, hit.text()), (404, r#"{"message":"no such unit"}"#));
    assert!(hit.is_hit());
    gate.advance(secs(1));
    upstream.answer(plain());
    assert_eq!(alice.get(UNIT).await.status, 200);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn refusals_and_failures_are_never_stored() {
    for status in [400, 401, 403, 410, 428, 429, 431, 451, 500, 501, 502, 503, 504, 511] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |config| {
            Gate::policy(config, |policy| policy.negative_ttl = secs(60));
            config.upstream.hold_back = secs(0);
        });
        let refusal = Answer::json(status, r#"{"message":"no"}"#);
        upstream.answer(refusal.field("cache-control", "public, max-age=300"));
        let alice = gate.client("alice");
        for asked in 1..=2 {
            let reply = alice.get(UNIT).await;
            assert_eq!((reply.status, upstream.count()), (status, asked));
            assert_eq!(reply.field("cache-control"), Some("private, no-store"), "{status}");
            assert!(!reply.cache().contains("stored"), "{status}: {}", reply.cache());
        }
    }
}

#[tokio::test]
async fn jitter_shortens_and_never_lengthens() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| Gate::policy(config, |policy| policy.jitter = 0.5));
    let mut lifetimes = BTreeSet::new();
    for caller in 0..40 {
        let reply = gate.client(&format!("caller-{caller}")).get(UNIT).await;
        let control = reply.field("cache-control").unwrap();
        let lifetime: u64 = control.strip_prefix("private, max-age=").unwrap().parse().unwrap();
        lifetimes.insert(lifetime);
    }
    assert!(lifetimes.iter().all(|lifetime| (30..=60).contains(lifetime)), "{lifetimes:?}");
    assert!(lifetimes.len() > 10, "what was stored together would expire together: {lifetimes:?}");
}

#[tokio::test]
async fn jitter_leaves_explicit_freshness_alone() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| Gate::policy(config, |policy| policy.jitter = 0.5));
    upstream.answer(plain().field("cache-control", "max-age=40"));
    for caller in 0..5 {
        let reply = gate.client(&format!("caller-{caller}")).get(UNIT).await;
        assert_eq!(reply.field("cache-control"), Some("private, max-age=40"));
    }
}

#[tokio::test]
async fn with_the_cache_off_everything_is_fetched_and_masked() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.cache.max_bytes = 0);
    let secret = key("c3");
    upstream.answer(Answer::json(200, list(&secret, "Be kind.")));
    let alice = gate.client("alice");
    for asked in 1..=3 {
        let reply = alice.get(UNIT).await;
        assert_eq!(reply.text(), list(MASK, "Be kind."));
        assert_eq!(reply.field("cache-control"), Some("private, no-store"));
        assert_eq!(upstream.count(), asked);
    }
    assert_eq!(gate.metric("cache_not_stored_total", &["reason=\"switched_off\""]), 3.0);
}

#[tokio::test]
async fn with_the_cache_off_concurrent_misses_still_cost_one() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.cache.max_bytes = 0);
    let alice = gate.client("alice");
    let held = upstream.hold();
    let leader = alice.enter(Ask::get(UNIT)).await;
    let joiner = alice.enter(Ask::get(UNIT)).await;
    held.arrived().await;
    held.release();
    assert_eq!((leader.reply().await.status, joiner.reply().await.status), (200, 200));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_date_is_kept_on_hits_and_made_where_there_was_none() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.next(plain().field("date", "Fri, 15 Jan 2027 07:59:58 GMT"));
    let alice = gate.client("alice");
    for target in [UNIT, OTHER_UNIT] {
        let first = alice.get(target).await.field("date").unwrap().to_owned();
        gate.advance(secs(3));
        assert_eq!(alice.get(target).await.field("date"), Some(first.as_str()));
        let expected = if target == UNIT { "07:59:58" } else { "08:00:03" };
        assert!(first.contains(expected), "{first}");
    }
}

#[tokio::test]
async fn the_routes_own_ttl_counts_from_receipt() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    // An upstream whose clock is a day behind, and a cache on its way.
    let answer = plain().field("date", "Thu, 14 Jan 2027 08:00:00 GMT").field("age", "500");
    upstream.answer(answer);
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.advance(secs(59));
    let hit = alice.get(UNIT).await;
    assert!(hit.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn requests_cannot_turn_a_hit_into_a_miss_by_default() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    for control in ["only-if-cached", "no-cache", "max-age=0", "no-store", "min-fresh=600"] {
        let reply = alice.send(Ask::get(UNIT).field("cache-control", control)).await;
        assert_eq!(reply.status, 200, "{control}");
    }
    assert!(alice.send(Ask::get(UNIT).field("pragma", "no-cache")).await.is_hit());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_switch_honours_the_directives_of_requests() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.request_directives = true);
    });
    let alice = gate.client("alice");
    let unwanted = alice.send(Ask::get(UNIT).field("cache-control", "only-if-cached")).await;
    assert_eq!((unwanted.status, upstream.count()), (504, 0));
    alice.get(UNIT).await;
    let kept = alice.send(Ask::get(UNIT).field("cache-control", "only-if-cached")).await;
    assert!(kept.is_hit());
    assert_eq!(upstream.count(), 1);
    upstream.answer(Answer::json(200, list(MASK, "Changed.")));
    let reloaded = alice.send(Ask::get(UNIT).field("cache-control", "no-cache")).await;
    assert_eq!((reloaded.text(), upstream.count()), (list(MASK, "Changed.").as_str(), 2));
    assert_eq!(alice.get(UNIT).await.text(), list(MASK, "Changed."));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn concurrent_reloads_cost_one_upstream_request_where_they_are_honoured() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        Gate::policy(config, |policy| policy.request_directives = true);
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    let held = upstream.hold();
    let mut reloads = Vec::new();
    for _ in 0..20 {
        reloads.push(alice.enter(Ask::get(UNIT).field("cache-control", "no-cache")).await);
    }
    held.arrived().await;
    assert!(alice.get(UNIT).await.is_hit(), "who did not ask for a reload does not wait for one");
    held.release();
    for reload in reloads {
        assert_eq!(reload.reply().await.status, 200);
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn each_spelling_of_a_query_is_an_entry_of_its_own() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    let alice = gate.client("alice");
    let targets = ["", "?", "?a=1&b=2", "?b=2&a=1", "?a=1&b=2&", "?a=%31&b=2"]
        .map(|query| format!("{UNIT}{query}"));
    for (asked, target) in (1..).zip(&targets) {
        assert!(!alice.get(target).await.is_hit());
        assert_eq!((upstream.count(), &upstream.last().target), (asked, target));
    }
    for target in &targets {
        assert!(alice.get(target).await.is_hit());
    }
    assert_eq!(upstream.count(), targets.len());
}

#[tokio::test]
async fn a_flood_of_keys_asked_once_does_not_push_out_the_one_in_use() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.cache.max_bytes = 128 << 10;
        config.limits.caller_upstream = None;
        config.limits.caller = None;
    });
    let alice = gate.client("alice");
    for _ in 0..50 {
        alice.get(UNIT).await;
    }
    for once in 0..600 {
        alice.enter(Ask::get(&format!("{OTHER_UNIT}?once={once}"))).await.reply().await;
        if once % 20 == 0 {
            assert!(
                alice.enter(Ask::get(UNIT)).await.reply().await.is_hit(),
                "pushed out after {once}"
            );
        }
    }
    assert_eq!(upstream.count(), 601);
    let (bytes, capacity) =
        (gate.scraped("cache_bytes", &[]).await, gate.scraped("cache_capacity_bytes", &[]).await);
    assert!(bytes <= capacity, "{bytes} of {capacity}");
    assert!(gate.scraped("cache_evictions_total", &["cause=\"size\""]).await > 0.0);
}

#[tokio::test]
async fn an_empty_list_is_stored_like_any_other() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.answer(Answer::json(200, r#"{"data":[]}"#));
    let alice = gate.client("alice");
    for _ in 0..2 {
        assert_eq!(alice.get(UNIT).await.text(), r#"{"data":[]}"#);
    }
    assert_eq!(upstream.count(), 1);
}
