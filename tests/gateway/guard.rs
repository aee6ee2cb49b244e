//! What keeps an upstream that is ill, busy or angry from being asked, and the gateway from waiting for it.
//!
//! *Claims*
//! 1. The circuit breaker opens when half of at least twenty failed, and never by what one caller or one
//!    unit meets, by a 500, a 4xx or a body that is refused. Service is back within 5 s of the upstream.
//! 2. An upstream's 429 holds back its caller's misses; everyone's only when three callers got one.
//! 3. Misses above what the upstream bears wait for a bounded time, callers by turns, and no longer than until it
//!    is known that they will be refused; hits never wait.
//! 4. Where a stale answer is allowed, it stands in for each of these refusals.
//! 5. Retries and memory have their budgets; bodies of requests at most half of the memory.
//! 6. A failing refresh never evicts a good entry.

use std::time::Duration;

use unitgate::config::{Concurrency, Config, Rate};

use crate::support::{
    Answer, Ask, Client, Gate, Held, INTEGRATION, MASK, OTHER_UNIT, Pending, Reply, UNIT, Upstream,
    list, secs,
};

fn unit(n: usize) -> String {
    format!("/api/v1/calcom/integration/unit/u{n}")
}

fn places(least: usize, most: usize) -> impl FnOnce(&mut Config) {
    move |config| config.upstream.concurrency = Some(Concurrency { least, most })
}

/// Asks for so many units, one after the other.
async fn ask_for(client: &Client, units: std::ops::Range<usize>) -> Vec<Reply> {
    let mut replies = Vec::new();
    for n in units {
        replies.push(client.get(&unit(n)).await);
    }
    replies
}

/// A gate whose upstream said 503 until the breaker opened, and says 200 from now on.
async fn open(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Gate {
    let gate = Gate::start(upstream, change);
    fall_ill(upstream, &gate).await;
    gate
}

async fn fall_ill(upstream: &Upstream, gate: &Gate) {
    upstream.answer(Answer::json(503, "{}"));
    let replies = ask_for(&gate.client("bob"), 0..20).await;
    assert!(replies.iter().all(|reply| reply.status == 503));
    upstream.answer(Answer::json(200, list(MASK, "Be kind.")));
}

fn assert_refused(reply: &Reply, status: u16, code: &str) -> u64 {
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{reply:?}");
    let wait = reply.field("retry-after").expect("a refusal says when to come back");
    let wait = wait.parse().unwrap();
    assert!(wait >= 1);
    wait
}

#[tokio::test]
async fn an_upstream_that_fails_half_of_twenty_is_left_alone_and_back_when_it_answers() {
    let upstream = Upstream::start().await;
    let gate = open(&upstream, |_| ()).await;
    let alice = gate.client("alice");
    let refused = alice.get(&unit(99)).await;
    assert_refused(&refused, 503, "upstream_open");
    assert_eq!(upstream.count(), 20, "an open breaker lets nobody through");
    assert_eq!(gate.scraped("upstream_breaker_state", &["converflow"]).await, 2.0);
    assert_eq!(gate.metric("upstream_refused_total", &["converflow", "\"open\""]), 1.0);
    let ready = gate.operator().get("/readyz").await;
    assert_eq!(ready.status, 200, "an upstream never makes it unready");
    assert!(ready.text().contains("breaker open"), "{}", ready.text());
    gate.advance(secs(1));
    assert_eq!(gate.scraped("upstream_breaker_state", &["converflow"]).await, 1.0);
    assert_eq!(alice.get(&unit(99)).await.status, 200);
    assert_eq!(gate.scraped("upstream_breaker_state", &["converflow"]).await, 0.0);
    assert_eq!(alice.get(&unit(98)).await.status, 200);
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_asked_again_within_five_seconds_of_its_return() {
    let mut upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    upstream.stop().await;
    let replies = ask_for(&alice, 0..20).await;
    assert!(replies.iter().all(|reply| reply.code() == "upstream_unreachable"));
    // Each probe fails, and the breaker opens for longer, up to the longest.
    for _ in 0..6 {
        assert_refused(&alice.get(&unit(99)).await, 503, "upstream_open");
        gate.advance(secs(5));
        assert_eq!(alice.get(&unit(99)).await.code(), "upstream_unreachable");
    }
    upstream.restart().await;
    let wait = assert_refused(&alice.get(&unit(99)).await, 503, "upstream_open");
    assert!(wait <= 5, "{wait}");
    gate.advance(secs(wait));
    assert_eq!(alice.get(&unit(99)).await.status, 200);
}

#[tokio::test]
async fn a_noisy_caller_with_one_unit_closes_the_door_for_nobody() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let noisy = gate.client("noisy");
    upstream.answer(Answer::json(503, "{}"));
    for n in 0..60 {
        assert_eq!(noisy.get(&format!("{UNIT}?page={n}")).await.status, 503);
    }
    upstream.answer(Answer::json(200, list(MASK, "")));
    assert_eq!(gate.client("alice").get(OTHER_UNIT).await.status, 200);
}

#[tokio::test]
async fn one_caller_and_one_unit_alone_open_nothing_while_others_are_answered() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    upstream.answers(|seen| {
        let bad = seen.target == UNIT || seen.field("authorization").unwrap().contains("noisy");
        if bad { Answer::json(503, "{}") } else { Answer::json(200, list(MASK, "")) }
    });
    assert_eq!(gate.client("alice").get(OTHER_UNIT).await.status, 200);
    ask_for(&gate.client("noisy"), 0..40).await;
    assert_eq!(gate.client("alice").get(&unit(1)).await.status, 200);
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    upstream.answers(|seen| Answer::json(if seen.target == UNIT { 503 } else { 200 }, "[]"));
    assert_eq!(gate.client("alice").get(OTHER_UNIT).await.status, 200);
    for n in 0..40 {
        assert_eq!(gate.client(&format!("c{n}")).get(UNIT).await.status, 503);
    }
    assert_eq!(gate.client("alice").get(&unit(1)).await.status, 200);
}

#[tokio::test]
async fn a_500_a_4xx_a_broken_and_a_refused_body_never_open_it() {
    for answer in [
        Answer::json(500, "{}"),
        Answer::json(403, "{}"),
        Answer::json(404, "{}"),
        Answer::json(200, "half of a [\"va"),
        Answer::json(200, list(MASK, "")).cut(20),
        Answer::reset(),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| ());
        upstream.answer(answer);
        ask_for(&gate.client("alice"), 0..40).await;
        assert_eq!(upstream.count(), 40);
    }
}

#[tokio::test]
async fn a_few_probes_go_at_once_and_the_next_after_a_second() {
    let upstream = Upstream::start().await;
    let gate = open(&upstream, |_| ()).await;
    gate.advance(secs(1));
    let alice = gate.client("alice");
    let mut probes = Vec::new();
    for n in 30..33 {
        let held = upstream.hold();
        probes.push((alice.begin(Ask::get(&unit(n))), held));
        probes.last().unwrap().1.arrived().await;
    }
    assert_refused(&alice.get(&unit(33)).await, 503, "upstream_open");
    gate.advance(secs(1));
    // The others hang; this one is answered, and that closes it.
    assert_eq!(alice.get(&unit(33)).await.status, 200);
    assert_eq!(alice.get(&unit(34)).await.status, 200);
    for (probe, held) in probes {
        held.release_with(Answer::json(503, "{}"));
        assert_eq!(probe.reply().await.status, 503);
    }
    assert_eq!(alice.get(&unit(35)).await.status, 200, "what began before says nothing new");
}

#[tokio::test]
async fn a_stale_answer_stands_in_while_the_breaker_is_open() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    assert_eq!(alice.get(UNIT).await.status, 200);
    gate.advance(secs(100));
    fall_ill(&upstream, &gate).await;
    let stale = alice.get(UNIT).await;
    assert_eq!((stale.status, stale.text()), (200, list(MASK, "Be kind.").as_str()));
    assert!(stale.cache().contains("stale-if-error"), "{}", stale.cache());
    assert_eq!(upstream.count(), 21);
    gate.advance(secs(300));
    upstream.answer(Answer::json(503, "{}"));
    assert_eq!(alice.get(UNIT).await.status, 503, "past its window");
}

#[tokio::test]
async fn a_breaker_that_is_off_or_set_higher_lets_everyone_through() {
    let upstream = Upstream::start().await;
    let gate = open(&upstream, |config| config.upstream.breaker = None).await;
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
    let gate = open(&upstream, |config| {
        config.upstream.breaker.as_mut().unwrap().of = 21;
    })
    .await;
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn flapping_is_ridden_out_each_time() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    for _ in 0..5 {
        fall_ill(&upstream, &gate).await;
        assert_refused(&alice.get(&unit(99)).await, 503, "upstream_open");
        gate.advance(secs(5));
        assert_eq!(alice.get(&unit(98)).await.status, 200);
        gate.advance(secs(100));
    }
}

fn busy(retry_after: &str) -> Answer {
    Answer::json(429, "{}").field("retry-after", retry_after)
}

#[tokio::test]
async fn a_429_holds_back_its_callers_misses_and_nobody_elses() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let (alice, bob) = (gate.client("alice"), gate.client("bob"));
    assert_eq!(alice.get(UNIT).await.status, 200);
    upstream.next(busy("7"));
    let said = alice.get(&unit(1)).await;
    assert_eq!((said.status, said.field("retry-after")), (429, Some("7")));
    gate.advance(secs(3));
    assert_eq!(assert_refused(&alice.get(&unit(2)).await, 429, "upstream_throttled"), 4);
    assert_refused(&alice.get(INTEGRATION).await, 429, "upstream_throttled");
    assert_eq!(upstream.count(), 2);
    assert_eq!(gate.metric("upstream_refused_total", &["converflow", "held_back"]), 2.0);
    assert!(alice.get(UNIT).await.is_hit(), "hits are not held back");
    assert_eq!(bob.get(&unit(2)).await.status, 200);
    gate.advance(secs(4));
    assert_eq!(alice.get(&unit(2)).await.status, 200);
}

#[tokio::test]
async fn whom_the_guard_refuses_pays_nothing_for_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.limits.caller_upstream = Some(Rate { per_second: 1, burst: 2 });
    });
    let alice = gate.client("alice");
    upstream.next(busy("7"));
    alice.get(UNIT).await;
    for _ in 0..5 {
        assert_refused(&alice.get(UNIT).await, 429, "upstream_throttled");
    }
}

#[tokio::test]
async fn a_429s_wait_is_a_date_too_a_second_unsaid_and_capped() {
    let date = |seconds: u64| {
        let when = std::time::UNIX_EPOCH + crate::support::START + secs(seconds);
        Answer::json(429, "{}").field("retry-after", &httpdate::fmt_http_date(when))
    };
    let day = busy("86400");
    for (answer, wait) in [(date(9), 9), (Answer::json(429, "{}"), 1), (day, 60), (date(900), 60)] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, |_| ());
        let alice = gate.client("alice");
        upstream.next(answer);
        alice.get(UNIT).await;
        assert_eq!(assert_refused(&alice.get(UNIT).await, 429, "upstream_throttled"), wait);
    }
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.upstream.hold_back = Duration::ZERO);
    upstream.next(busy("60"));
    gate.client("alice").get(UNIT).await;
    assert_eq!(gate.client("alice").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn three_callers_with_a_429_hold_back_everyone() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    for (n, wait) in ["20", "9", "30"].into_iter().enumerate() {
        let dora = gate.client("dora").get(&unit(n)).await;
        assert_eq!(dora.status, 200, "after {n} callers");
        upstream.next(busy(wait));
        assert_eq!(gate.client(&format!("c{n}")).get(UNIT).await.status, 429);
    }
    let wait = assert_refused(&gate.client("dora").get(UNIT).await, 429, "upstream_throttled");
    assert_eq!(wait, 9, "until the first of them may come back");
    gate.advance(secs(9));
    assert_eq!(gate.client("dora").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn a_stale_answer_stands_in_while_a_caller_is_held_back() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.advance(secs(100));
    upstream.next(busy("30"));
    for _ in 0..3 {
        let reply = alice.get(UNIT).await;
        assert_eq!(reply.status, 200);
        assert!(reply.cache().contains("stale-if-error"), "{}", reply.cache());
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn misses_above_what_the_upstream_bears_wait_and_hits_do_not() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, places(1, 1));
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    let held = upstream.hold();
    let first = alice.begin(Ask::get(&unit(1)));
    held.arrived().await;
    let second = alice.enter(Ask::get(&unit(2))).await;
    assert!(alice.get(UNIT).await.is_hit());
    assert_eq!(upstream.count(), 2, "the second waits");
    assert_eq!(gate.scraped("upstream_in_flight", &["converflow"]).await, 1.0);
    assert_eq!(gate.metric("upstream_queued", &["converflow"]), 1.0);
    assert_eq!(gate.metric("upstream_limit", &["converflow"]), 1.0);
    held.release();
    assert_eq!(first.reply().await.status, 200);
    assert_eq!(second.reply().await.status, 200);
    assert_eq!(gate.scraped("upstream_in_flight", &["converflow"]).await, 0.0);
    assert_eq!(gate.metric("upstream_queued", &["converflow"]), 0.0);
}

#[tokio::test]
async fn a_noisy_caller_does_not_starve_the_others_in_the_queue() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, places(1, 1));
    let (noisy, quiet) = (gate.client("noisy"), gate.client("quiet"));
    let held = upstream.hold();
    let mut waiting = vec![noisy.begin(Ask::get(&unit(0)))];
    held.arrived().await;
    for n in 1..=50 {
        waiting.push(noisy.enter(Ask::get(&unit(n))).await);
    }
    waiting.push(quiet.enter(Ask::get(UNIT)).await);
    held.release();
    for pending in waiting {
        assert_eq!(pending.reply().await.status, 200);
    }
    let at = upstream.seen().iter().position(|seen| seen.target == UNIT).unwrap();
    assert!(at <= 2, "the quiet caller was served as number {at}");
}

#[tokio::test]
async fn who_finds_no_place_in_time_is_told_when_to_come_back_or_gets_the_stale_answer() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        places(1, 1)(config);
        config.upstream.queue = Duration::ZERO;
    });
    let alice = gate.client("alice");
    alice.get(UNIT).await;
    gate.advance(secs(100));
    let held = upstream.hold();
    let first = alice.begin(Ask::get(&unit(1)));
    held.arrived().await;
    assert_refused(&alice.get(&unit(2)).await, 503, "upstream_busy");
    let stale = alice.get(UNIT).await;
    assert!(stale.status == 200 && stale.cache().contains("stale-if-error"), "{stale:?}");
    assert_eq!(gate.metric("upstream_refused_total", &["converflow", "busy"]), 2.0);
    held.release();
    assert_eq!(first.reply().await.status, 200);
    assert_eq!(alice.get(&unit(2)).await.status, 200, "a place that is given back is free");
}

/// A gate with one place toward its upstream and so many exchanges there, each another caller's: what comes
/// now waits, whoever of them ends.
async fn crowded(upstream: &Upstream, many: usize) -> (Gate, Vec<(Pending, Held)>) {
    let gate = Gate::start(upstream, |config| {
        config.upstream.breaker.as_mut().unwrap().of = 1;
        // Longer than a test waits for anything.
        config.upstream.queue = secs(60);
        config.upstream.first_byte = secs(60);
        config.upstream.total = secs(60);
    });
    gate.client("stale").get(UNIT).await;
    gate.advance(secs(100));
    let mut there = Vec::new();
    for n in 0..many {
        let held = upstream.hold();
        let pending = gate.client(&format!("c{n}")).begin(Ask::get(&unit(1)));
        held.arrived().await;
        there.push((pending, held));
    }
    gate.reload(places(1, 1));
    (gate, there)
}

#[tokio::test]
async fn who_waits_while_the_breaker_opens_is_refused_at_once_or_gets_the_stale_answer() {
    let upstream = Upstream::start().await;
    let (gate, mut there) = crowded(&upstream, 2).await;
    let waits = gate.client("bob").enter(Ask::get(&unit(2))).await;
    let stale = gate.client("stale").enter(Ask::get(UNIT)).await;
    assert_eq!(gate.scraped("upstream_queued", &["converflow"]).await, 2.0);
    let (ends, held) = there.remove(0);
    held.release_with(Answer::json(503, "{}"));
    assert_eq!(ends.reply().await.status, 503);
    assert_refused(&waits.reply().await, 503, "upstream_open");
    let stale = stale.reply().await;
    assert!(stale.status == 200 && stale.cache().contains("stale-if-error"), "{stale:?}");
    assert_eq!(gate.scraped("upstream_queued", &["converflow"]).await, 0.0);
    assert_eq!(gate.metric("upstream_refused_total", &["converflow", "\"open\""]), 2.0);
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn who_waits_is_refused_at_once_when_a_429_holds_back_its_caller_or_everyone() {
    let upstream = Upstream::start().await;
    let (gate, mut there) = crowded(&upstream, 4).await;
    let same = gate.client("c0").enter(Ask::get(&unit(2))).await;
    let other = gate.client("bob").enter(Ask::get(&unit(2))).await;
    let mut refuse = async || {
        let (ends, held) = there.remove(0);
        held.release_with(busy("7"));
        assert_eq!(ends.reply().await.status, 429);
    };
    refuse().await;
    assert_eq!(assert_refused(&same.reply().await, 429, "upstream_throttled"), 7);
    refuse().await;
    assert_eq!(gate.scraped("upstream_queued", &["converflow"]).await, 1.0);
    refuse().await;
    assert_refused(&other.reply().await, 429, "upstream_throttled");
    assert_eq!(upstream.count(), 5);
}

#[tokio::test]
async fn by_default_and_without_a_limit_a_crowd_is_with_the_upstream_at_once() {
    let defaults: fn(&mut Config) = |_| ();
    let off: fn(&mut Config) = |config| config.upstream.concurrency = None;
    for change in [defaults, off] {
        let upstream = Upstream::start().await;
        let gate = Gate::start(&upstream, change);
        let alice = gate.client("alice");
        let held: Vec<_> = (0..60).map(|_| upstream.hold()).collect();
        let mut pending = Vec::new();
        for n in 0..60 {
            pending.push(alice.enter(Ask::get(&unit(n))).await);
        }
        upstream.arrived(60).await;
        held.into_iter().for_each(Held::release);
        for pending in pending {
            assert_eq!(pending.reply().await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_retry_beyond_its_budget_is_not_made() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.upstream.retries = 0.0);
    let alice = gate.client("alice");
    alice.get(INTEGRATION).await;
    upstream.next(Answer::reset());
    assert_eq!(alice.get(INTEGRATION).await.code(), "upstream_broken");
    assert_eq!(upstream.count(), 2);
    assert_eq!(gate.metric("upstream_refused_total", &["converflow", "retry_budget"]), 1.0);
    // Ten are always allowed.
    let gate = Gate::start(&upstream, |_| ());
    let alice = gate.client("alice");
    for n in 0..12 {
        assert_eq!(alice.get(INTEGRATION).await.status, 200);
        upstream.next(Answer::reset());
        let status = alice.get(INTEGRATION).await.status;
        assert_eq!(status, if n < 10 { 200 } else { 502 }, "{n}");
    }
}

#[tokio::test]
async fn a_body_without_memory_for_it_is_503_and_the_memory_comes_back() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.upstream.max_body = 4096;
        config.upstream.max_buffered = 6144;
        config.upstream.queue = Duration::ZERO;
        config.upstream.total = secs(1);
    });
    upstream.answer(Answer::json(200, "1".repeat(4096)).stall_after(10));
    let alice = gate.client("alice");
    let both = [alice.begin(Ask::get(&unit(1))), alice.begin(Ask::get(&unit(2)))];
    let mut codes = Vec::new();
    for pending in both {
        let reply = pending.reply().await;
        if reply.status == 503 {
            assert_refused(&reply, 503, "buffers_full");
        }
        codes.push(reply.code());
    }
    codes.sort();
    assert_eq!(codes, ["buffers_full", "upstream_timeout"]);
    assert_eq!(gate.scraped("upstream_buffered_bytes", &[]).await, 0.0);
    upstream.answer(Answer::json(200, "1".repeat(4096)));
    assert_eq!(alice.get(&unit(3)).await.status, 200);
    assert_eq!(gate.scraped("upstream_buffered_bytes", &[]).await, 0.0);
}

fn put(bytes: usize) -> Ask {
    let body = format!("{{\"title\":\"{}\"}}", "a".repeat(bytes - 12));
    Ask::put(INTEGRATION, &body)
}

/// Half of the memory, four pieces of 1 kB, is for bodies of requests; nobody waits.
fn narrow(config: &mut Config) {
    config.upstream.max_body = 4 << 10;
    config.upstream.max_buffered = 8 << 10;
    config.upstream.queue = Duration::ZERO;
}

#[tokio::test]
async fn a_request_body_without_memory_for_it_is_503_and_goes_nowhere_while_answers_have_theirs() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, narrow);
    let alice = gate.client("alice");
    let held = upstream.hold();
    let first = alice.begin(put(3 << 10));
    held.arrived().await;
    assert_eq!(gate.scraped("upstream_buffered_bytes", &[]).await, 3072.0);
    let refused = alice.send(put(2 << 10)).await;
    assert_refused(&refused, 503, "buffers_full");
    assert_eq!(refused.field("connection"), Some("close"), "the rest of it is not read");
    assert_eq!(alice.get(UNIT).await.status, 200);
    assert_eq!(alice.put(INTEGRATION, "{}").await.status, 200, "a small one fits");
    assert_eq!(upstream.count(), 3);
    held.release();
    assert_eq!(first.reply().await.status, 200);
    assert_eq!(gate.scraped("upstream_buffered_bytes", &[]).await, 0.0);
    assert_eq!(alice.send(put(2 << 10)).await.status, 200);
}

#[tokio::test]
async fn a_request_body_waits_for_memory_for_a_bounded_time() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        narrow(config);
        config.upstream.queue = secs(20);
    });
    let alice = gate.client("alice");
    let held = upstream.hold();
    let first = alice.begin(put(3 << 10));
    held.arrived().await;
    let second = alice.enter(put(2 << 10)).await;
    assert_eq!(upstream.count(), 1);
    held.release();
    assert_eq!((first.reply().await.status, second.reply().await.status), (200, 200));
}

#[tokio::test]
async fn a_request_body_counts_as_it_comes_and_not_as_it_is_announced() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, narrow);
    let ask = gate.client("mallory").bytes(put(4 << 10).field("expect", "100-continue"));
    let (begin, rest) = ask.split_at(ask.len() - 4_096);
    let mut mallory = gate.client("mallory").connect().await;
    mallory.write(begin).await;
    assert_eq!(mallory.read_any(false).await.unwrap().status, 100, "it is being read");
    let held = upstream.hold();
    let first = gate.client("alice").begin(put(2 << 10));
    held.arrived().await;
    mallory.write(rest).await;
    assert_eq!(mallory.read(false).await.unwrap().code(), "buffers_full");
    held.release();
    assert_eq!(first.reply().await.status, 200);
    assert_eq!(gate.scraped("upstream_buffered_bytes", &[]).await, 0.0);
}

#[tokio::test]
async fn an_answer_that_is_not_stored_counts_until_its_client_has_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    upstream.answer(Answer::json(200, format!("\"{}\"", "a".repeat(1 << 20))));
    let reply = gate.client("a").enter(Ask::get(INTEGRATION)).await.reply().await;
    assert!(gate.scraped("upstream_buffered_bytes", &[]).await >= 1_048_576.0);
    drop(reply);
    assert_eq!(gate.scraped("upstream_buffered_bytes", &[]).await, 0.0);
}

#[tokio::test]
async fn a_failing_refresh_never_evicts_a_good_entry() {
    let failures = [
        Answer::json(500, "{}"),
        Answer::json(503, "{}"),
        busy("1"),
        Answer::json(200, "half of a [\"va"),
        Answer::json(200, list(MASK, "")).cut(20),
        Answer::json(200, "1".repeat(5_000)),
        Answer::reset(),
        Answer::raw("SSH-2.0\r\n\r\n"),
    ];
    for failure in failures {
        let upstream = Upstream::start().await;
        let mut gate = Gate::start(&upstream, |config| config.upstream.max_body = 4096);
        let alice = gate.client("alice");
        alice.get(UNIT).await;
        gate.advance(secs(70));
        upstream.next(failure.clone());
        assert!(alice.get(UNIT).await.is_hit(), "stale while it is refreshed");
        let begun = alice.enter(Ask::get(UNIT)).await.reply().await;
        assert!(begun.is_hit(), "{failure:?}: {begun:?}");
        upstream.arrived(2).await;
        assert!(gate.leave().await, "the refresh ends");
        gate.advance(secs(100));
        upstream.answer(Answer::json(503, "{}"));
        let later = alice.enter(Ask::get(UNIT)).await.reply().await;
        assert_eq!((later.status, later.text()), (200, list(MASK, "Be kind.").as_str()));
    }
}

/// A listener whose backlog is full: a further connection gets no answer at all.
#[cfg(target_os = "linux")]
async fn black_hole() -> (socket2::Socket, Vec<tokio::net::TcpStream>) {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut crowd = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address))
            .await
    {
        crowd.push(stream);
        assert!(crowd.len() < 100, "the backlog has no end");
    }
    (socket, crowd)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_black_hole_is_504_within_the_connect_deadline_and_then_left_alone() {
    let (hole, _crowd) = black_hole().await;
    let address = hole.local_addr().unwrap().as_socket().unwrap();
    let gate = Gate::before(address, |config| config.upstream.connect = Duration::from_millis(300));
    let alice = gate.client("alice");
    let begun = tokio::time::Instant::now();
    let mut pending = Vec::new();
    for n in 0..20 {
        pending.push(alice.enter(Ask::get(&unit(n))).await);
    }
    for pending in pending {
        assert_eq!(pending.reply().await.code(), "upstream_timeout");
    }
    assert!(begun.elapsed() < secs(8), "the connect deadline ended them, not a later one");
    assert_eq!(gate.metric("upstream_errors_total", &["connect_timeout"]), 20.0);
    assert_refused(&alice.get(&unit(99)).await, 503, "upstream_open");
}

#[tokio::test]
async fn a_tls_handshake_that_fails_is_502_and_counts_as_a_failure_of_the_upstream() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _peer)) = listener.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"I speak no TLS\r\n").await.ok();
        }
    });
    let gate = Gate::before(address, |config| {
        let url: http::Uri = format!("https://{address}").parse().unwrap();
        config.upstreams.get_mut("converflow").unwrap().url = url;
    });
    let alice = gate.client("alice");
    for reply in ask_for(&alice, 0..20).await {
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_unreachable"));
    }
    assert_eq!(gate.metric("upstream_errors_total", &["\"tls\""]), 20.0);
    assert_refused(&alice.get(&unit(99)).await, 503, "upstream_open");
}

#[tokio::test]
async fn the_limit_follows_the_upstreams_latency_and_comes_back() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, places(2, 20));
    let alice = gate.client("alice");
    let mut round = 0;
    let mut second = async |latency: Duration| {
        round += 1;
        let held: Vec<_> = (0..20).map(|_| upstream.hold()).collect();
        let mut pending = Vec::new();
        for n in 0..20 {
            pending.push(alice.enter(Ask::get(&unit(round * 100 + n))).await);
        }
        let most = gate.scraped("upstream_limit", &["converflow"]).await;
        let at_once = (1..=20).filter(|place| f64::from(*place) <= most).count();
        upstream.arrived((round - 1) * 20 + at_once).await;
        gate.advance(latency);
        held.into_iter().for_each(Held::release);
        for pending in pending {
            assert_eq!(pending.reply().await.status, 200);
        }
        gate.advance(secs(1));
        gate.scraped("upstream_limit", &["converflow"]).await
    };
    for _ in 0..4 {
        assert_eq!(second(Duration::from_millis(10)).await, 20.0);
    }
    let mut lowered = 20.0;
    for _ in 0..4 {
        lowered = second(secs(2)).await;
    }
    assert!(lowered < 20.0, "{lowered}");
    for _ in 0..20 {
        second(Duration::from_millis(10)).await;
    }
    assert_eq!(second(Duration::from_millis(10)).await, 20.0);
}
