//! How long an open route's answers live, how old they are, and who may have them when (RFC 9111 §4.2, §5).
//!
//! *Claims*
//! 1. `s-maxage` counts before `max-age`, that before `Expires`, that before a guess of a tenth, a day at
//!    most; what cannot be read is stale, and what is too large is 2^31 seconds.
//! 2. An age is what `Date` and `Age` say, the exchange and the time in store added; each reply from memory
//!    tells it. `Date` and `Expires` stay as they were.
//! 3. What the upstream forbids to be served stale is not: neither on errors nor to who would take it.
//! 4. The directives of requests are honoured; `only-if-cached` never goes upstream.

use std::time::{Duration, UNIX_EPOCH};

use crate::support::{
    Answer, Ask, Client, Gate, Reply, START, Upstream, secs, shared, shared_with,
};

const TARGET: &str = "/thing";

fn old(fields: &[(&str, &str)]) -> Answer {
    let answer = Answer::new(200, "Old.");
    fields.iter().fold(answer, |answer, (name, value)| answer.field(name, value))
}

fn controlled(control: &str) -> Answer {
    old(&[("cache-control", control)])
}

/// A date so many seconds from the start of the gate's clock.
fn date(offset: i64) -> String {
    let at = START.as_secs().saturating_add_signed(offset);
    httpdate::fmt_http_date(UNIX_EPOCH + secs(at))
}

/// The time to live of a hit.
fn ttl(reply: &Reply) -> Option<i64> {
    reply.cache().strip_prefix("unitgate; hit; ttl=").map(|ttl| ttl.parse().unwrap())
}

/// The time to live of the second of two GETs, if that is a hit.
async fn life(upstream: &Upstream, client: &Client, target: &str, answer: Answer) -> Option<i64> {
    let before = upstream.count();
    upstream.answer(answer);
    assert!(!client.get(target).await.is_hit());
    let life = ttl(&client.get(target).await);
    assert_eq!(upstream.count() - before, if life.is_some() { 1 } else { 2 }, "{target}");
    life
}

#[tokio::test]
async fn the_first_that_is_there_counts_of_s_maxage_max_age_expires_and_a_guess() {
    let in_30 = date(30);
    let (before, long_ago, later) = (date(-1_000), date(-8_640_000), date(1_000));
    let expires = ("expires", in_30.as_str());
    let modified = ("last-modified", before.as_str());
    let all = [("cache-control", "max-age=20, s-maxage=10"), expires, modified];
    let table = [
        (&all[..], Some(10)),
        (&[("cache-control", "s-maxage=10"), expires, modified], Some(10)),
        (&[("cache-control", "max-age=20"), expires, modified], Some(20)),
        (&[expires, modified], Some(30)),
        (&[("cache-control", "public"), expires], Some(30)),
        // Counted from Date, where there is one; 100 s of it have passed.
        (&[("date", &date(-100)), expires], Some(30)),
        (&[("date", &date(-100)), modified], None),
        (&[modified], Some(100)),
        (&[("date", &date(0)), ("last-modified", &long_ago)], Some(86_400)),
        (&[("last-modified", &later)], None),
        (&[("last-modified", "yesterday")], None),
        (&[modified, modified], None),
    ];
    for (number, (fields, expected)) in table.into_iter().enumerate() {
        let (upstream, gate, client) = shared().await;
        let target = format!("/order/{number}");
        let found = life(&upstream, &client, &target, old(fields)).await;
        assert_eq!(found, expected, "{fields:?}");
        let Some(left) = found else { continue };
        // To its last second, and not a second longer.
        gate.advance(secs(left.unsigned_abs() - 1));
        assert_eq!(ttl(&client.get(&target).await), Some(1), "{fields:?}");
        gate.advance(secs(1));
        assert!(client.get(&target).await.cache().contains("fwd=stale"), "{fields:?}");
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn a_lifetime_is_guessed_only_of_statuses_that_allow_it_or_what_is_public_and_of_no_error() {
    let (upstream, _gate, client) = shared().await;
    let modified = date(-1_000);
    for status in [200, 203, 204, 300, 301, 302, 307, 308, 403, 404, 405, 410, 414, 500, 501, 503] {
        for control in ["x", "public"] {
            let body = if status == 204 { "" } else { "Old." };
            let answer = Answer::new(status, body).field("cache-control", control);
            let target = format!("/guess/{status}/{control}");
            let answer = answer.field("last-modified", &modified);
            let found = life(&upstream, &client, &target, answer).await;
            // RFC 9110 §15.1; RFC 9111 §4.2.2. No error is kept by a guess.
            let guessed = status < 400
                && (control == "public" || matches!(status, 200 | 203 | 204 | 300 | 301 | 308));
            assert_eq!(found, guessed.then_some(100), "{status} {control}");
        }
    }
}

#[tokio::test]
async fn all_three_forms_of_a_date_are_read_and_what_is_none_is_stale() {
    let modified = date(-1_000);
    for (expires, life_of_it) in [
        ("Fri, 15 Jan 2027 08:01:00 GMT", Some(60)),
        ("Friday, 15-Jan-27 08:01:00 GMT", Some(60)),
        ("Fri Jan 15 08:01:00 2027", Some(60)),
        ("FRI, 15 jan 2027 08:01:00 gmt", Some(60)),
        ("Fri, 15 Jan 2027 08:00:00 GMT", None),
        ("Fri, 15 Jan 2027 07:59:59 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("0", None),
        ("-1", None),
        ("", None),
        ("never", None),
        ("Fri, 15 Jan 2027 08:01:00 UTC", None),
        ("Fri, 15 Jan 2027 08:01:00 +0000", None),
        ("Fri, 15 Jan 2027 08:01:00", None),
        ("Fri, 15 Jan 2027 08:61:00 GMT", None),
        ("Sun, 31 Feb 2027 08:00:00 GMT", None),
        ("Friday, 15-Jan-2027 08:01:00 GMT", None),
        ("Fri, 15 Jan 2027 08:01:00 GMT, Fri, 15 Jan 2027 08:01:00 GMT", None),
    ] {
        // Not as if there were none: nothing is guessed beside it.
        let (upstream, _gate, client) = shared().await;
        let answer = old(&[("expires", expires), ("last-modified", &modified)]);
        assert_eq!(life(&upstream, &client, TARGET, answer).await, life_of_it, "{expires}");
    }
}

#[tokio::test]
async fn a_date_counts_in_all_three_forms_and_what_is_none_is_the_time_of_receipt() {
    let (upstream, _gate, client) = shared().await;
    for (number, (dated, left)) in [
        ("Fri, 15 Jan 2027 07:59:00 GMT", 60),
        ("Friday, 15-Jan-27 07:59:00 GMT", 60),
        ("Fri Jan 15 07:59:00 2027", 60),
        ("fri, 15 JAN 2027 07:59:00 Gmt", 60),
        ("Fri, 15 Jan 2027 07:59:00 EST", 120),
        ("Fri, 15 Jan 2027 07:59:00", 120),
        ("now", 120),
        ("0", 120),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = old(&[("date", dated), ("cache-control", "max-age=120")]);
        let target = format!("/date/{number}");
        assert_eq!(life(&upstream, &client, &target, answer).await, Some(left), "{dated}");
        assert_eq!(client.get(&target).await.field("date"), Some(dated));
    }
}

#[tokio::test]
async fn an_expires_that_is_said_twice_is_stale() {
    let (upstream, _gate, client) = shared().await;
    let (near, far, before) = (date(60), date(600), date(-1_000));
    for (number, two) in
        [[&near, &near], [&near, &far], [&far, &near], [&before, &far]].into_iter().enumerate()
    {
        let answer = old(&[("expires", two[0]), ("expires", two[1]), ("last-modified", &before)]);
        let target = format!("/twice/{number}");
        assert_eq!(life(&upstream, &client, &target, answer).await, None, "{two:?}");
    }
}

#[tokio::test]
async fn a_time_that_cannot_be_read_is_zero() {
    let (upstream, _gate, client) = shared().await;
    let (expires, modified) = (date(60), date(-1_000));
    for (number, said) in [
        "max-age=-1",
        "max-age=+60",
        "max-age=",
        "max-age",
        "max-age=1e3",
        "max-age=60.5",
        "max-age=60s",
        "max-age='60'",
        "max-age = 60",
        "max-age= 60",
        "max-age=0x3c",
        "max-age=\"60",
        "max-age=0",
        "s-maxage=-1, max-age=60",
        "s-maxage=x, max-age=60",
    ]
    .into_iter()
    .enumerate()
    {
        // Not as if it were not there (RFC 9111 §4.2.1): neither Expires nor a guess takes its place.
        let fields = [("cache-control", said), ("expires", &expires), ("last-modified", &modified)];
        let target = format!("/junk/{number}");
        assert_eq!(life(&upstream, &client, &target, old(&fields)).await, None, "{said}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_2_to_the_31_seconds() {
    const MOST: i64 = 1 << 31;
    for said in ["2147483648", "2147483649", "4294967297", "99999999999999999999999999"] {
        let (upstream, gate, client) = shared_with(|config| {
            Gate::policy(config, |policy| policy.max_ttl = Duration::from_hours(1 << 20));
        })
        .await;
        let control = format!("max-age={said}");
        assert_eq!(life(&upstream, &client, TARGET, controlled(&control)).await, Some(MOST));
        gate.advance(secs(MOST.unsigned_abs() - 1));
        let last = client.get(TARGET).await;
        assert_eq!((ttl(&last), last.field("age")), (Some(1), Some("2147483647")), "{said}");
        gate.advance(secs(1));
        assert!(!client.get(TARGET).await.is_hit(), "{said}");
        // An age as large is older than any life.
        let aged = old(&[("cache-control", &control), ("age", said)]);
        assert_eq!(life(&upstream, &client, "/aged", aged).await, None, "{said}");
    }
    let (upstream, _gate, client) = shared().await;
    let found = life(&upstream, &client, TARGET, controlled("max-age=99999999999")).await;
    assert_eq!(found, Some(31_536_000), "no longer than the route allows");
}

#[tokio::test]
async fn an_age_is_the_larger_of_what_date_and_age_say() {
    let table: [(&[(&str, &str)], i64); 16] = [
        (&[], 0),
        (&[("age", "10")], 10),
        (&[("age", " 10 ")], 10),
        (&[("age", "0")], 0),
        // Of several the first counts; what is no number is ignored (RFC 9111 §5.1).
        (&[("age", "10, 99")], 10),
        (&[("age", "10"), ("age", "99")], 10),
        (&[("age", "-10")], 0),
        (&[("age", "ten")], 0),
        (&[("age", "10.5")], 0),
        (&[("age", "ten, 10")], 0),
        (&[("age", ", 10")], 10),
        (&[("age", "")], 0),
        (&[("date", "DATE")], 100),
        (&[("date", "DATE"), ("age", "10")], 100),
        (&[("date", "DATE"), ("age", "200")], 200),
        (&[("date", "Fri, 15 Jan 2027 08:30:00 GMT")], 0),
    ];
    let dated = date(-100);
    for (number, (fields, age)) in table.into_iter().enumerate() {
        let (upstream, gate, client) = shared().await;
        let mut answer = controlled("max-age=1000");
        for (name, value) in fields {
            answer = answer.field(name, &value.replace("DATE", &dated));
        }
        let target = format!("/age/{number}");
        let found = life(&upstream, &client, &target, answer).await;
        assert_eq!(found, Some(1_000 - age), "{fields:?}");
        for by in [0, 7, 500] {
            gate.advance(secs(by));
        }
        let hit = client.get(&target).await;
        let grown = (age + 507).to_string();
        assert_eq!((hit.field("age"), ttl(&hit)), (Some(&*grown), Some(493 - age)), "{fields:?}");
        assert_eq!(hit.fields.get_all("age").iter().count(), 1);
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn the_time_that_an_exchange_took_is_part_of_the_age() {
    let start = date(0);
    let earlier = date(-2);
    for (fields, age) in [
        (&[("age", "10")][..], "15"),
        (&[], "5"),
        // By its Date it is 5 s old as well, and that is not added twice.
        (&[("date", &*start)], "5"),
        (&[("date", &*earlier), ("age", "1")], "7"),
    ] {
        let (upstream, gate, client) = shared().await;
        let held = upstream.hold();
        let pending = client.enter(Ask::get(TARGET)).await;
        held.arrived().await;
        gate.advance(secs(5));
        let answer = controlled("max-age=60");
        held.release_with(fields.iter().fold(answer, |it, (name, value)| it.field(name, value)));
        pending.reply().await;
        assert_eq!(client.get(TARGET).await.field("age"), Some(age), "{fields:?}");
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn every_reply_from_memory_has_its_age_and_the_date_and_expires_it_came_with() {
    let (dated, expires) = (date(-30), date(600));
    let (upstream, gate, client) = shared().await;
    let fields = [("date", &*dated), ("expires", &*expires), ("etag", "\"a\""), ("age", "31")];
    upstream.answer(old(&fields));
    let first = client.get(TARGET).await;
    assert_eq!(first.field("expires"), Some(&*expires));
    gate.advance(secs(9));
    for (ask, status) in [
        (Ask::get(TARGET), 200),
        (Ask::new("HEAD", TARGET), 200),
        (Ask::get(TARGET).field("if-none-match", "\"a\""), 304),
        (Ask::get(TARGET).field("range", "bytes=0-1"), 206),
    ] {
        let reply = client.send(ask).await;
        assert_eq!((reply.status, reply.is_hit()), (status, true));
        assert_eq!(reply.field("age"), Some("40"), "{status}");
        assert_eq!(reply.field("date"), Some(&*dated), "{status}");
        assert_eq!(reply.field("expires"), Some(&*expires), "{status}");
    }
    assert_eq!(upstream.count(), 1);
    upstream.answer(Answer::new(500, "failing"));
    gate.advance(secs(595));
    let stale = client.get(TARGET).await;
    assert_eq!((stale.status, stale.field("age")), (200, Some("635")));
    assert_eq!(stale.field("date"), Some(&*dated));
}

/// Ways of an upstream to fail, and what a client is told.
fn failures() -> [(Answer, u16); 5] {
    let answered = [500, 502, 503, 504].map(|status| (Answer::new(status, "failing"), status));
    let [a, b, c, d] = answered;
    [a, b, c, d, (Answer::reset(), 502)]
}

#[tokio::test]
async fn what_may_not_be_stale_is_not_on_errors_nor_for_a_client_that_would_take_it() {
    let plain = "max-age=10, stale-if-error=1000";
    let strict = [
        "max-age=10, stale-if-error=1000, must-revalidate",
        "max-age=10, stale-if-error=1000, Proxy-Revalidate",
        "s-maxage=10, stale-if-error=1000",
        "max-age=10, stale-if-error=1000, no-cache",
        "max-age=10, stale-while-revalidate=1000, must-revalidate",
    ];
    for (control, forbidden) in strict.map(|it| (it, true)).into_iter().chain([(plain, false)]) {
        for taken in ["max-age=1000", "max-stale", "max-stale=1000, max-age=1000"] {
            let (upstream, gate, client) = shared().await;
            upstream.answer(controlled(control).field("etag", "\"a\""));
            client.get(TARGET).await;
            gate.advance(secs(11));
            let ask = Ask::get(TARGET).field("cache-control", taken);
            for (before, (failure, status)) in (1..).zip(failures()) {
                upstream.answer(failure);
                let reply = client.send(ask.clone()).await;
                let shown = if forbidden { status } else { 200 };
                assert_eq!(reply.status, shown, "{control} | {taken}");
                if forbidden {
                    assert!(upstream.count() > before, "{control} | {taken}");
                    assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
                }
            }
            if forbidden {
                let only = Ask::get(TARGET).field("cache-control", "max-stale, only-if-cached");
                let before = upstream.count();
                assert_eq!(client.send(only).await.status, 504, "{control}");
                assert_eq!(upstream.count(), before);
                upstream.answer(Answer::new(200, "New."));
                assert_eq!(client.send(ask).await.text(), "New.", "{control} | {taken}");
            }
        }
    }
}

#[tokio::test]
async fn only_if_cached_is_answered_from_memory_or_with_504_and_never_goes_upstream() {
    let (upstream, mut gate, client) = shared().await;
    let only = |method: &str, more: &str| {
        Ask::new(method, TARGET).field("cache-control", &format!("Only-If-Cached{more}"))
    };
    for method in ["GET", "HEAD"] {
        let missed = client.send(only(method, "")).await;
        assert_eq!(missed.status, 504);
        assert_eq!(missed.field("cache-control"), Some("no-store"));
    }
    assert_eq!(client.send(only("GET", "")).await.code(), "only_if_cached");
    assert_eq!(upstream.count(), 0);
    upstream.answer(controlled("max-age=60").field("vary", "x-kind"));
    client.get(TARGET).await;
    for (ask, status) in [
        (only("GET", ""), 200),
        (only("HEAD", ""), 200),
        (only("GET", ", max-age=30"), 200),
        (only("GET", ", min-fresh=61"), 504),
        (only("GET", ", no-cache"), 504),
        (only("GET", ", max-age=0"), 504),
        // Another variant is none.
        (only("GET", "").field("x-kind", "b"), 504),
    ] {
        let reply = client.send(ask.clone()).await;
        assert_eq!((reply.status, reply.is_hit()), (status, status == 200), "{ask:?}");
    }
    gate.advance(secs(61));
    assert_eq!(client.send(only("GET", "")).await.status, 504);
    assert_eq!(client.send(only("GET", ", max-stale=0")).await.status, 504);
    // Taken stale it is not refreshed either, nor within the window that the upstream grants for that.
    assert_eq!(client.send(only("GET", ", max-stale=1")).await.text(), "Old.");
    assert!(gate.leave().await);
    assert_eq!(upstream.count(), 1);
    let (upstream, mut gate, client) = shared().await;
    upstream.answer(controlled("max-age=60, stale-while-revalidate=60"));
    client.get(TARGET).await;
    gate.advance(secs(61));
    assert_eq!(client.send(only("GET", "")).await.text(), "Old.");
    assert!(gate.leave().await);
    assert_eq!(upstream.count(), 1);
}

/// Asks for answers that live 60 s at this age, each with other directives: which are taken from memory?
async fn at_age(age: u64, asks: &[(&str, &str)]) -> Vec<bool> {
    let (upstream, gate, client) = shared().await;
    upstream.answer(controlled("max-age=60"));
    let target = |number: usize| format!("/directives/{number}");
    for number in 0..asks.len() {
        client.get(&target(number)).await;
    }
    gate.advance(secs(age));
    upstream.answer(Answer::new(200, "New.").field("cache-control", "max-age=60"));
    let mut found = Vec::new();
    for (number, (name, value)) in asks.iter().enumerate() {
        let reply = client.send(Ask::get(&target(number)).field(name, value)).await;
        assert_eq!(reply.is_hit(), reply.text() == "Old.", "{name}: {value}: {}", reply.cache());
        found.push(reply.is_hit());
    }
    let asked = found.iter().filter(|is_hit| !**is_hit).count();
    if age < 60 {
        assert_eq!(upstream.count(), asks.len() + asked);
    } else {
        // What is served stale is refreshed behind it.
        upstream.arrived(2 * asks.len()).await;
    }
    found
}

#[tokio::test]
async fn a_client_may_want_something_younger_than_what_is_fresh() {
    let table = [
        ("cache-control", "max-age=40", true),
        ("cache-control", "max-age=39", false),
        ("cache-control", "MAX-AGE=39", false),
        ("cache-control", "max-age=0", false),
        ("cache-control", "max-age=x", false),
        ("cache-control", "max-age=39, max-stale", false),
        ("cache-control", "min-fresh=20", true),
        ("cache-control", "min-fresh=21", false),
        ("cache-control", "max-age=40, min-fresh=21", false),
        ("cache-control", "no-cache", false),
        ("cache-control", "No-Cache", false),
        ("cache-control", "max-stale", true),
        ("cache-control", "no-transform, unheard-of=1", true),
        ("cache-control", "x=\"no-cache\"", true),
        // RFC 9111 §5.4: it counts where there is no Cache-Control.
        ("pragma", "no-cache", false),
        ("pragma", "x, No-Cache", false),
        ("pragma", "x", true),
    ];
    let asks = table.map(|(name, value, _)| (name, value));
    let found = at_age(40, &asks).await;
    for ((name, value, is_hit), found) in table.into_iter().zip(found) {
        assert_eq!(found, is_hit, "{name}: {value}");
    }
}

#[tokio::test]
async fn a_client_may_take_something_stale_within_its_limits() {
    let table = [
        ("max-stale", true),
        ("Max-Stale=10", true),
        ("max-stale=9", false),
        ("max-stale=x", false),
        ("max-stale=5, max-stale=50", false),
        ("max-stale, max-age=70", true),
        ("max-stale, max-age=69", false),
        ("max-age=100", false),
        ("max-stale, min-fresh=1", false),
        ("max-stale, no-cache", false),
        ("no-transform", false),
    ];
    let asks = table.map(|(value, _)| ("cache-control", value));
    let found = at_age(70, &asks).await;
    for ((value, is_hit), found) in table.into_iter().zip(found) {
        assert_eq!(found, is_hit, "{value}");
    }
}

#[tokio::test]
async fn pragma_does_not_count_beside_cache_control_and_directives_over_all_lines_do() {
    let (upstream, _gate, client) = shared().await;
    upstream.answer(controlled("max-age=60"));
    client.get(TARGET).await;
    let ask = Ask::get(TARGET).field("pragma", "no-cache").field("cache-control", "max-age=9");
    assert!(client.send(ask).await.is_hit());
    assert_eq!(upstream.count(), 1);
    let ask = Ask::get(TARGET).field("cache-control", "max-age=9");
    assert!(!client.send(ask.field("cache-control", "no-cache")).await.is_hit());
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_reload_asks_with_our_validator_and_what_it_brings_serves_the_next() {
    let (upstream, gate, client) = shared().await;
    upstream.answer(controlled("max-age=60").field("etag", "\"a\""));
    client.get(TARGET).await;
    gate.advance(secs(50));
    upstream.answer(Answer::not_modified().field("etag", "\"a\""));
    for (name, value) in [("cache-control", "no-cache"), ("pragma", "no-cache")] {
        let reply = client.send(Ask::get(TARGET).field(name, value)).await;
        assert_eq!((reply.status, reply.text(), reply.is_hit()), (200, "Old.", false));
        assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
        assert_eq!(ttl(&client.get(TARGET).await), Some(60));
        gate.advance(secs(50));
    }
    upstream.answer(Answer::new(200, "New.").field("cache-control", "max-age=60"));
    let reply = client.send(Ask::get(TARGET).field("cache-control", "max-age=0")).await;
    assert_eq!(reply.text(), "New.");
    assert_eq!(client.get(TARGET).await.text(), "New.");
    assert_eq!(upstream.count(), 4);
}
