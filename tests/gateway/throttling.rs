//! Who asks too often is told when to come back, and nothing of it reaches the upstream.
//!
//! *Claims*
//! 1. Over a limit: 429, `Retry-After`, the `RateLimit` fields of the limit that refused; who waits that
//!    long is admitted.
//! 2. Hits are cheap: the stricter budget is for what goes upstream, and a flight's leader pays it.
//! 3. Callers that the upstream has not accepted share a lane; those it has are never in it.
//! 4. The peer limit counts failures only, and is asked first.
//! 5. Each limiter can be off.

use std::collections::BTreeMap;
use std::time::Duration;

use unitgate::config::{Lane, Rate};

use crate::support::{
    Answer, Ask, Gate, Held, INTEGRATION, MASK, OTHER_UNIT, Reply, UNIT, Upstream, list, secs,
};

const fn rate(per_second: u32, burst: u32) -> Rate {
    Rate { per_second, burst }
}

fn retry_after(reply: &Reply) -> u64 {
    let value = reply.field("retry-after").expect("Retry-After").parse().expect("whole seconds");
    assert!(value >= 1);
    value
}

#[tokio::test]
async fn over_the_callers_rate_nothing_goes_upstream() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller = Some(rate(1, 3)));
    let alice = gate.client("alice");
    for _ in 0..3 {
        assert_eq!(alice.get(UNIT).await.status, 200);
    }
    let asked = upstream.count();
    let refused = alice.get(OTHER_UNIT).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "caller_limited"));
    assert_eq!(retry_after(&refused), 1);
    assert_eq!(refused.field("ratelimit-policy"), Some("\"caller\";q=3;w=3"));
    assert_eq!(refused.field("ratelimit"), Some("\"caller\";r=0;t=1"));
    assert_eq!(refused.field("cache-control"), Some("no-store"));
    let problem = refused.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["violated-policies"], serde_json::json!(["caller"]));
    assert_eq!(problem["status"], 429);
    assert_eq!(upstream.count(), asked);
    assert_eq!(gate.client("bob").get(UNIT).await.status, 200, "bob pays for himself");
    assert_eq!(gate.metric("requests_total", &["outcome=\"limited\""]), 1.0);
}

#[tokio::test]
async fn a_hit_over_the_rate_is_refused_too() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller = Some(rate(1, 1)));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    assert_eq!(alice.get(UNIT).await.status, 429);
}

#[tokio::test]
async fn who_waits_as_told_is_admitted() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller = Some(rate(1, 2)));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    alice.get(UNIT).await;
    let refused = alice.get(UNIT).await;
    gate.advance(secs(retry_after(&refused)));
    assert_eq!(alice.get(UNIT).await.status, 200);
    assert_eq!(alice.get(UNIT).await.status, 429);
}

#[tokio::test]
async fn every_reply_to_an_identified_caller_tells_what_is_left() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller = Some(rate(2, 10)));
    let alice = gate.client("alice");
    upstream.answer(Answer::json(200, list(MASK, "")).field("ratelimit", "\"theirs\";r=999;t=9"));
    for left in [9, 8, 7] {
        let reply = alice.get(UNIT).await;
        assert_eq!(reply.field("ratelimit-policy"), Some("\"caller\";q=10;w=5"));
        let limit = reply.field("ratelimit").unwrap();
        assert!(limit.starts_with(&format!("\"caller\";r={left};t=")), "stored or wrong: {limit}");
        assert_eq!(reply.field("retry-after"), None);
    }
    let unchanged = Ask::get(UNIT).field("if-none-match", "*");
    assert!(alice.send(unchanged).await.field("ratelimit").unwrap().contains("r=6"));
    assert_eq!(upstream.count(), 1);
    assert_eq!(gate.stranger().get(UNIT).await.field("ratelimit"), None);
}

/// The one item of a `RateLimit` field: its name and its parameters, which are all integers.
fn quota(reply: &Reply, field: &str) -> (String, BTreeMap<String, i64>) {
    let lines: Vec<_> = reply.fields.get_all(field).iter().collect();
    assert_eq!(lines.len(), 1, "{field}: {lines:?}");
    let list: sfv::List = sfv::Parser::new(lines[0].as_bytes()).parse().unwrap();
    let [sfv::ListEntry::Item(item)] = &list[..] else { panic!("not one item: {lines:?}") };
    let name = item.bare_item.as_string().expect("a policy's name is a string").as_str();
    let number = |value: &sfv::BareItem| value.as_integer().expect("an integer").into();
    let parameters = item.params.iter().map(|(name, value)| (name.to_string(), number(value)));
    (name.to_owned(), parameters.collect())
}

#[tokio::test]
async fn the_ratelimit_fields_keep_the_drafts_grammar_and_name_one_policy() {
    // draft-ietf-httpapi-ratelimit-headers-10, §3 and §4.
    for (per_second, burst, window) in [(1, 3, 3), (2, 10, 5), (3, 10, 4), (50, 2, 1), (1, 1, 1)] {
        for upstreams in [false, true] {
            let upstream = Upstream::start().await;
            let gate = Gate::start(&upstream, |config| {
                let limit = Some(rate(per_second, burst));
                let (caller, rest) = if upstreams { (None, limit) } else { (limit, None) };
                (config.limits.caller, config.limits.caller_upstream) = (caller, rest);
            });
            let name = if upstreams { "upstream" } else { "caller" };
            let alice = gate.client("alice");
            for asked in 1..=burst + 2 {
                let reply = alice.get(INTEGRATION).await;
                let refused = asked > burst;
                assert_eq!(reply.status, if refused { 429 } else { 200 }, "{name}, {asked}");
                if upstreams && !refused {
                    // What is left of that budget is told to nobody before it is used up.
                    assert_eq!(reply.field("ratelimit"), None);
                    continue;
                }
                let (policy, parameters) = quota(&reply, "ratelimit-policy");
                let expected = [("q", i64::from(burst)), ("w", window)];
                assert_eq!((policy.as_str(), parameters), (name, expected.map(owned).into()));
                let (limit, live) = quota(&reply, "ratelimit");
                assert_eq!(limit, name, "the same name in both");
                assert_eq!(live.keys().collect::<Vec<_>>(), ["r", "t"]);
                assert_eq!(live["r"], i64::from(burst.saturating_sub(asked)));
                assert!(live["t"] >= i64::from(refused) && live["t"] <= window, "{live:?}");
                if refused {
                    // RFC 9110 §10.2.3; the draft asks that it be not before `t`.
                    let wait = i64::try_from(retry_after(&reply)).unwrap();
                    assert!(wait >= live["t"], "{wait} s, {live:?}");
                }
                for old in ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
                    assert_eq!(reply.field(old), None);
                }
            }
        }
    }
}

fn owned((name, value): (&str, i64)) -> (String, i64) {
    (name.to_owned(), value)
}

#[tokio::test]
async fn what_an_upstream_says_of_its_own_limits_is_not_stored_with_a_200() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller = Some(rate(2, 10)));
    let answer = Answer::json(200, list(MASK, ""));
    let answer = answer.field("retry-after", "9").field("ratelimit", "\"theirs\";r=1;t=9");
    upstream.answer(answer.field("ratelimit-policy", "\"theirs\";q=1;w=9"));
    let alice = gate.client("alice");
    for left in [9, 8] {
        let reply = alice.get(UNIT).await;
        assert_eq!(reply.field("retry-after"), None);
        assert_eq!(quota(&reply, "ratelimit-policy").0, "caller");
        assert_eq!(quota(&reply, "ratelimit").1["r"], left);
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn each_route_counts_for_itself_and_may_have_its_own_rate() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.caller = Some(rate(1, 1));
        Gate::route(config, "integration").rate = Some(rate(1, 4));
    });
    let alice = gate.client("alice");
    assert_eq!(alice.get(UNIT).await.status, 200);
    assert_eq!(alice.get(UNIT).await.status, 429);
    for _ in 0..4 {
        let reply = alice.get(INTEGRATION).await;
        assert_eq!(
            (reply.status, reply.field("ratelimit-policy")),
            (200, Some("\"caller\";q=4;w=4"))
        );
    }
    assert_eq!(alice.get(INTEGRATION).await.status, 429);
}

#[tokio::test]
async fn hits_are_cheap_and_misses_are_limited() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller_upstream = Some(rate(1, 1)));
    let alice = gate.client("alice");
    for _ in 0..50 {
        assert_eq!(alice.get(UNIT).await.status, 200);
    }
    let refused = alice.get(OTHER_UNIT).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "upstream_limited"));
    assert_eq!(retry_after(&refused), 1);
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["upstream"]));
    let (policy, limit) =
        (refused.field("ratelimit-policy").unwrap(), refused.field("ratelimit").unwrap());
    assert_eq!((policy, limit), ("\"upstream\";q=1;w=1", "\"upstream\";r=0;t=1"));
    assert_eq!(upstream.count(), 1);
    assert!(alice.get(UNIT).await.is_hit());
    gate.advance(secs(1));
    assert_eq!(alice.get(OTHER_UNIT).await.status, 200);
}

#[tokio::test]
async fn a_flights_leader_pays_for_its_joiners() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller_upstream = Some(rate(1, 2)));
    let alice = gate.client("alice");
    let held = upstream.hold();
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(alice.enter(Ask::get(UNIT)).await);
    }
    held.arrived().await;
    held.release();
    for pending in crowd {
        assert_eq!(pending.reply().await.status, 200);
    }
    assert_eq!(alice.get(OTHER_UNIT).await.status, 200);
    assert_eq!(alice.get(&format!("{OTHER_UNIT}?page=2")).await.status, 429);
}

#[tokio::test]
async fn writes_and_uncached_reads_pay_the_upstream_budget() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.caller_upstream = Some(rate(1, 2)));
    let alice = gate.client("alice");
    assert_eq!(alice.get(INTEGRATION).await.status, 200);
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 200);
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 429);
    assert_eq!(alice.get(INTEGRATION).await.status, 429);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn callers_not_yet_accepted_share_a_lane_that_the_accepted_never_enter() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.lane = Some(Lane { in_flight: 1, wait: Duration::from_millis(100) });
    });
    let known = gate.client("known");
    assert_eq!(known.get(UNIT).await.status, 200);
    let held = upstream.hold();
    let guess = gate.client("guess-1").begin(Ask::get(UNIT));
    held.arrived().await;
    let refused = gate.client("guess-2").get(UNIT).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "lane_full"));
    assert!(retry_after(&refused) >= 1);
    assert_eq!(upstream.count(), 2);
    assert_eq!(known.get(OTHER_UNIT).await.status, 200, "the known have their own way");
    held.release_with(Answer::json(401, "{}"));
    assert_eq!(guess.reply().await.status, 401);
    assert_eq!(gate.client("guess-2").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn a_place_in_the_lane_is_waited_for() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.lane = Some(Lane { in_flight: 1, wait: secs(30) });
    });
    let held = upstream.hold();
    let first = gate.client("first").begin(Ask::get(UNIT));
    held.arrived().await;
    let mut waiting = Vec::new();
    for name in ["second", "third", "fourth"] {
        waiting.push(gate.client(name).enter(Ask::get(UNIT)).await);
    }
    assert_eq!(upstream.count(), 1);
    held.release();
    assert_eq!(first.reply().await.status, 200);
    for pending in waiting {
        assert_eq!(pending.reply().await.status, 200, "a restart warms up without refusals");
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_caller_that_earns_a_401_is_back_in_the_lane() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.lane = Some(Lane { in_flight: 1, wait: Duration::from_millis(100) });
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    upstream.next(Answer::json(401, "{}"));
    assert_eq!(alice.get(OTHER_UNIT).await.status, 401);
    let held = upstream.hold();
    let other = gate.client("other").begin(Ask::get(UNIT));
    held.arrived().await;
    assert_eq!(alice.get(UNIT).await.code(), "lane_full");
    held.release();
    other.reply().await;
}

#[tokio::test]
async fn without_a_lane_strangers_are_not_held_up() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.lane = None);
    let mut held = Vec::new();
    let mut pending = Vec::new();
    for caller in 0..300 {
        held.push(upstream.hold());
        pending.push(gate.client(&format!("caller-{caller}")).enter(Ask::get(UNIT)).await);
    }
    upstream.arrived(300).await;
    held.into_iter().for_each(Held::release);
    for one in pending {
        assert_eq!(one.reply().await.status, 200);
    }
}

#[tokio::test]
async fn the_peer_limit_counts_failures_only_and_is_asked_first() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.limits.peer = Some(rate(1, 2)));
    let alice = gate.client("alice");
    for page in 0..20 {
        assert_eq!(alice.get(&format!("{UNIT}?page={page}")).await.status, 200);
    }
    upstream.next(Answer::json(401, "{}"));
    assert_eq!(gate.client("guess").get(UNIT).await.status, 401);
    assert_eq!(gate.stranger().get(UNIT).await.status, 401);
    let asked = upstream.count();
    for (client, target) in [(&alice, OTHER_UNIT), (&gate.stranger(), UNIT), (&alice, "/nowhere")] {
        let refused = client.get(target).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "peer_limited"), "{target}");
        assert!(retry_after(&refused) >= 1);
        assert_eq!((refused.field("ratelimit"), refused.field("ratelimit-policy")), (None, None));
    }
    assert_eq!(upstream.count(), asked);
    gate.advance(secs(2));
    assert_eq!(alice.get(OTHER_UNIT).await.status, 200);
}

#[tokio::test]
async fn a_thousand_requests_of_one_address_can_be_in_flight_by_default() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        // A thousand connections at once take a busy machine longer than the default deadlines.
        config.upstream.connect = secs(60);
        config.upstream.first_byte = secs(60);
        config.upstream.total = secs(60);
        config.limits.caller = None;
        config.limits.caller_upstream = None;
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    let mut held = Vec::new();
    let mut pending = Vec::new();
    for page in 0..1_000 {
        held.push(upstream.hold());
        pending.push(alice.enter(Ask::get(&format!("{UNIT}?page={page}"))).await);
    }
    upstream.arrived(1_001).await;
    held.into_iter().for_each(Held::release);
    for one in pending {
        assert_eq!(one.reply().await.status, 200);
    }
}

#[tokio::test]
async fn the_peer_limit_is_off_by_default() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    for _ in 0..200 {
        assert_eq!(gate.stranger().enter(Ask::get(UNIT)).await.reply().await.status, 401);
    }
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn each_callers_limit_can_be_off() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.caller = None;
        config.limits.caller_upstream = None;
    });
    let alice = gate.client("alice");
    for page in 0..1_500 {
        let reply = alice.enter(Ask::get(&format!("{UNIT}?page={page}"))).await.reply().await;
        assert_eq!((reply.status, reply.field("ratelimit")), (200, None));
    }
    for _ in 0..2_500 {
        assert_eq!(
            alice.enter(Ask::get(&format!("{UNIT}?page=1"))).await.reply().await.status,
            200
        );
    }
    assert_eq!(upstream.count(), 1_500);
}

#[tokio::test]
async fn an_upstreams_429_passes_with_its_retry_after_and_is_not_kept() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| {});
    upstream.next(Answer::json(429, r#"{"message":"slow down"}"#).field("retry-after", "30"));
    let alice = gate.client("alice");
    let limited = alice.get(UNIT).await;
    assert_eq!((limited.status, limited.field("retry-after")), (429, Some("30")));
    assert_eq!(limited.text(), r#"{"message":"slow down"}"#);
    assert!(limited.field("ratelimit").unwrap().starts_with("\"caller\""));
    gate.advance(secs(30));
    assert_eq!(alice.get(UNIT).await.status, 200);
}

#[tokio::test]
async fn every_decision_is_counted() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.caller = Some(rate(1, 2));
        config.limits.caller_upstream = Some(rate(1, 1));
        config.limits.peer = Some(rate(1, 50));
    });
    let alice = gate.client("alice");
    for target in [UNIT, OTHER_UNIT, UNIT] {
        alice.get(target).await;
    }
    let decisions = |limiter: &str, decision: &str| {
        let labels = [format!("limiter=\"{limiter}\""), format!("decision=\"{decision}\"")];
        gate.metric("limiter_decisions_total", &[&labels[0], &labels[1]])
    };
    assert_eq!((decisions("peer", "admitted"), decisions("peer", "throttled")), (3.0, 0.0));
    assert_eq!((decisions("caller", "admitted"), decisions("caller", "throttled")), (2.0, 1.0));
    assert_eq!((decisions("upstream", "admitted"), decisions("upstream", "throttled")), (1.0, 1.0));
    assert_eq!((decisions("lane", "admitted"), decisions("lane", "throttled")), (1.0, 0.0));
    assert_eq!(gate.scraped("limiter_keys", &["limiter=\"caller\""]).await, 1.0);
}

#[tokio::test]
async fn fetches_that_nobody_waits_for_do_not_pile_up_before_the_lane() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.lane = Some(Lane { in_flight: 1, wait: secs(25) });
    });
    let held = upstream.hold();
    let first = gate.client("first").enter(Ask::get(UNIT)).await;
    held.arrived().await;
    let mut waiting = Vec::new();
    for stranger in 0..2_048 {
        waiting.push(gate.client(&format!("stranger-{stranger}")).enter(Ask::get(UNIT)).await);
    }
    let one_more = gate.client("one-more").get(UNIT).await;
    assert_eq!((one_more.status, one_more.code().as_str()), (503, "lane_full"));
    held.release();
    assert_eq!(first.reply().await.status, 200);
    for stranger in waiting {
        assert_eq!(stranger.reply().await.status, 200);
    }
}
