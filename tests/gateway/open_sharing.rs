//! Who may have what an open route was answered: with credentials, and while others wait (RFC 9111 §3.5, §4).
//!
//! *Claims*
//! 1. An answer to a request with `Authorization` is given to nobody, its sender included, unless the
//!    upstream allows it: `public`, `must-revalidate`, `s-maxage`.
//! 2. What is stored is everybody's, also of those who show something.
//! 3. Who waits for another's fetch gets what was stored and is fresh (§4: collapsed requests), and nothing
//!    else of a leader that shows other credentials; no field that was meant for it, and no cookie that a
//!    failure sets it.

use crate::support::{Answer, Ask, Client, Gate, Pending, Seen, Upstream, secs, shared};

const TARGET: &str = "/thing";

/// An answer that tells who asked.
fn personal(status: u16, control: &'static str) -> impl Fn(&Seen) -> Answer + Send + 'static {
    move |seen| {
        let of = |name| seen.field(name).unwrap_or("nobody").to_owned();
        let body = format!("for {} with {}", of("authorization"), of("cookie"));
        Answer::new(status, body).field("cache-control", control).field("etag", "\"a\"")
    }
}

/// A request that shows this, such as `cookie: a`; nothing, if that is empty.
fn showing(shown: &str) -> Ask {
    match shown.split_once(": ") {
        Some((name, value)) => Ask::get(TARGET).field(name, value),
        None => Ask::get(TARGET),
    }
}

/// The body of an answer that is meant for who shows this.
fn meant_for(shown: &str) -> String {
    let of = |name: &str| {
        let shown = shown.split_once(": ").filter(|(it, _)| *it == name);
        shown.map_or("nobody", |(_, value)| value).to_owned()
    };
    format!("for {} with {}", of("authorization"), of("cookie"))
}

#[tokio::test]
async fn an_authorised_answer_is_reused_only_if_the_upstream_allows_it() {
    for (control, allowed) in [
        ("max-age=60", false),
        ("max-age=60, proxy-revalidate", false),
        ("max-age=60, private", false),
        ("max-age=60, public, private", false),
        ("max-age=60, x=\"public\"", false),
        ("max-age=60, public", true),
        ("max-age=60, Public", true),
        ("max-age=60, must-revalidate", true),
        ("s-maxage=60", true),
        ("max-age=1, s-maxage=60", true),
    ] {
        let (upstream, _gate, client) = shared().await;
        upstream.answers(personal(200, control));
        let shown = [
            "authorization: Bearer alice",
            "authorization: Bearer alice",
            "authorization: Bearer bob",
            "",
        ];
        let mut asked = 0;
        for (number, shown) in shown.into_iter().enumerate() {
            let reply = client.send(showing(shown)).await;
            let reused = allowed && number > 0;
            asked += usize::from(!reused);
            assert_eq!(reply.is_hit(), reused, "{control}: {}", reply.cache());
            assert_eq!(upstream.count(), asked, "{control}");
            let owner = if allowed { "authorization: Bearer alice" } else { shown };
            assert_eq!(reply.text(), meant_for(owner), "{control}");
        }
    }
}

#[tokio::test]
async fn what_anybody_was_answered_serves_who_shows_a_token_or_a_cookie() {
    let (upstream, _gate, client) = shared().await;
    upstream.answers(personal(200, "max-age=60"));
    client.get(TARGET).await;
    for shown in ["authorization: Bearer alice", "authorization: Basic eDp5", "cookie: a", ""] {
        let reply = client.send(showing(shown)).await;
        assert_eq!((reply.is_hit(), reply.text()), (true, &*meant_for("")), "{shown}");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn what_an_authorised_request_brings_renews_or_replaces_nothing_of_everybodys() {
    let alice = "authorization: Bearer alice";
    let (upstream, gate, client) = shared().await;
    upstream.answers(personal(200, "max-age=60"));
    client.get(TARGET).await;
    gate.advance(secs(61));
    assert_eq!(client.send(showing(alice)).await.text(), meant_for(alice));
    assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
    // A 304 to it says that it may have what is stored, not that others may.
    upstream.answer(Answer::not_modified().field("etag", "\"a\""));
    assert_eq!(client.send(showing(alice)).await.text(), meant_for(""));
    assert_eq!(client.get(TARGET).await.text(), meant_for(""));
    assert_eq!(upstream.count(), 4);
    assert!(client.send(showing(alice)).await.is_hit());
    assert_eq!(upstream.count(), 4);
}

/// A leader and two who join it, with `answers` for all.
async fn crowd(
    upstream: &Upstream,
    client: &Client,
    [leader, one, other]: [&str; 3],
    answers: impl Fn(&Seen) -> Answer + Send + 'static,
) -> Vec<String> {
    upstream.answers(answers);
    let held = upstream.hold();
    let mut pending = vec![client.enter(showing(leader)).await];
    held.arrived().await;
    for joiner in [one, other] {
        pending.push(client.enter(showing(joiner)).await);
    }
    held.release();
    let mut bodies = Vec::new();
    for pending in pending {
        bodies.push(Pending::reply(pending).await.text().to_owned());
    }
    bodies
}

#[tokio::test]
async fn what_is_not_fresh_in_store_is_no_answer_to_who_shows_something_else() {
    let shown = [
        ["", "cookie: a", "authorization: Bearer alice"],
        ["cookie: a", "cookie: b", ""],
        ["cookie: a", "authorization: Bearer alice", "cookie: a; b"],
        ["authorization: Bearer alice", "authorization: Bearer bob", ""],
        ["authorization: Bearer alice", "cookie: Bearer alice", ""],
    ];
    for crowds in shown {
        for (status, control) in [
            (200, "x"),
            // Kept, by its validator, but not to be used again unasked.
            (200, "max-age=0"),
            (200, "no-cache"),
            (401, "max-age=0"),
            (200, "no-store"),
            (302, "x"),
            (401, "x"),
            (403, "x"),
            (404, "x"),
            (401, "no-store"),
            (500, "x"),
            (429, "max-age=60"),
        ] {
            let (upstream, _gate, client) = shared().await;
            let bodies = crowd(&upstream, &client, crowds, personal(status, control)).await;
            let theirs = crowds.map(meant_for);
            assert_eq!(bodies, theirs, "{status} {control}: {crowds:?}");
            assert_eq!(upstream.count(), 3, "{status} {control}: {crowds:?}");
        }
    }
}

#[tokio::test]
async fn a_200_that_is_not_fresh_in_store_is_not_even_an_answer_to_who_shows_the_same() {
    for shown in ["", "cookie: a"] {
        for control in ["x", "private", "max-age=60, no-store", "max-age=0", "no-cache"] {
            for tag in [None, Some("\"a\"")] {
                let (upstream, _gate, client) = shared().await;
                let answer = move |_: &Seen| {
                    let answer = Answer::new(200, "").field("cache-control", control);
                    tag.into_iter().fold(answer, |answer, tag| answer.field("etag", tag))
                };
                crowd(&upstream, &client, [shown; 3], answer).await;
                assert_eq!(upstream.count(), 3, "{shown} {control} {tag:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_stored_is_shared_with_whoever_waits() {
    let alice = "authorization: Bearer alice";
    for (crowds, control) in [
        (["", "cookie: a", alice], "max-age=60"),
        (["cookie: a", "cookie: b", ""], "max-age=60"),
        (["cookie: a", alice, ""], "s-maxage=60"),
        ([alice, "", "authorization: Bearer bob"], "public, max-age=60"),
    ] {
        for status in [200, 401, 404] {
            let (upstream, _gate, client) = shared().await;
            let bodies = crowd(&upstream, &client, crowds, personal(status, control)).await;
            assert_eq!(bodies, [(); 3].map(|()| meant_for(crowds[0])), "{status} {crowds:?}");
            assert_eq!(upstream.count(), 1, "{status} {crowds:?}");
        }
    }
    // An authorised answer that nothing allows to be stored is not.
    let (upstream, _gate, client) = shared().await;
    let crowds = [alice, "", ""];
    let bodies = crowd(&upstream, &client, crowds, personal(200, "max-age=60")).await;
    assert_eq!(bodies, crowds.map(meant_for));
}

#[tokio::test]
async fn a_failure_that_sets_a_cookie_is_its_askers_alone() {
    for (status, sets, asked) in [(404, true, 3), (500, true, 3), (404, false, 1), (500, false, 1)]
    {
        let (upstream, _gate, client) = shared().await;
        let answer = move |_: &Seen| {
            let answer = Answer::new(status, "failing");
            if sets { answer.field("set-cookie", "session=1") } else { answer }
        };
        crowd(&upstream, &client, [""; 3], answer).await;
        assert_eq!(upstream.count(), asked, "{status}");
    }
}

#[tokio::test]
async fn a_field_for_who_asked_reaches_nobody_who_waits_though_nothing_can_be_stored() {
    for max_bytes in [0, 2_000, 1 << 20] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |config| config.cache.max_bytes = max_bytes);
        let client = gate.stranger();
        let control = "max-age=60, private=\"x-user\", no-cache=\"set-cookie\"";
        let answer = Answer::new(200, vec![b'x'; 4_000]).field("cache-control", control);
        upstream.answer(answer.field("x-user", "alice").field("set-cookie", "session=alice"));
        let held = upstream.hold();
        let leader = client.enter(Ask::get(TARGET)).await;
        held.arrived().await;
        let joiner = client.enter(Ask::get(TARGET)).await;
        held.release();
        assert_eq!(leader.reply().await.field("x-user"), Some("alice"));
        let joiner = joiner.reply().await;
        let shown = (joiner.field("x-user"), joiner.field("set-cookie"));
        assert_eq!((joiner.status, shown), (200, (None, None)), "{max_bytes}");
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn who_has_to_ask_alone_in_the_end_gets_all_that_is_meant_for_it() {
    let (upstream, _gate, client) = shared().await;
    upstream.answers(|seen| {
        let kind = seen.field("x-kind").unwrap_or("none").to_owned();
        let answer = Answer::new(200, kind.clone()).field("vary", "x-kind");
        let control = "max-age=60, private=\"x-user\"";
        answer.field("cache-control", control).field("x-user", &kind)
    });
    let held = upstream.hold();
    let leader = client.enter(Ask::get(TARGET).field("x-kind", "a")).await;
    held.arrived().await;
    let other = client.enter(Ask::get(TARGET).field("x-kind", "b")).await;
    let same = client.enter(Ask::get(TARGET).field("x-kind", "a")).await;
    held.release();
    for (pending, body, user) in
        [(leader, "a", Some("a")), (other, "b", Some("b")), (same, "a", None)]
    {
        let reply = pending.reply().await;
        assert_eq!((reply.text(), reply.field("x-user")), (body, user));
        let joined = user.is_none();
        assert_eq!(reply.cache().contains("collapsed"), joined, "{}", reply.cache());
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_failure_is_not_shared_with_who_is_known_by_another_field() {
    let (upstream, _gate, client) = shared().await;
    let held = upstream.hold();
    let mut pending = vec![client.enter(Ask::get(TARGET).field("x-api-key", "alice")).await];
    held.arrived().await;
    for who in ["alice", "bob"] {
        let ask = Ask::get(TARGET).field("x-api-key", who).field("user-agent", "another");
        pending.push(client.enter(ask).await);
    }
    upstream.answer(Answer::new(403, "for bob"));
    held.release_with(Answer::new(403, "for alice"));
    let mut said = Vec::new();
    for pending in pending {
        said.push(pending.reply().await.text().to_owned());
    }
    assert_eq!(said, ["for alice", "for alice", "for bob"]);
    assert_eq!(upstream.count(), 2);
}
