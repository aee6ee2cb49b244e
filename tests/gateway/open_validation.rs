//! Validation on an open route: what is asked of the upstream, and what its word does (RFC 9111 §4.3).
//!
//! *Claims*
//! 1. A stale answer is asked about with its own validators.
//! 2. A 304 about it renews it with all its fields but those that describe the bytes; the rest stays.
//! 3. A 304 without a validator, or about something else, renews nothing: the target is fetched without
//!    conditions, and no client that did not ask for one gets a 304.
//! 4. HEAD is answered from what GET stored; one that goes upstream renews what agrees with it and makes
//!    stale what does not.

use http::HeaderMap;
use unitgate::mask::Tag;

use crate::support::{Answer, Ask, Client, Gate, Reply, Upstream, secs};

const TARGET: &str = "/thing";

const MODIFIED: &str = "Fri, 15 Jan 2027 07:00:00 GMT";
const MODIFIED_LATER: &str = "Fri, 15 Jan 2027 07:30:00 GMT";

fn with(answer: Answer, fields: &[(&str, &str)]) -> Answer {
    fields.iter().fold(answer, |answer, (name, value)| answer.field(name, value))
}

fn old(fields: &[(&str, &str)]) -> Answer {
    with(Answer::new(200, "Old.").field("cache-control", "max-age=60, must-revalidate"), fields)
}

fn new(fields: &[(&str, &str)]) -> Answer {
    with(Answer::new(200, "New.").field("cache-control", "max-age=60, must-revalidate"), fields)
}

fn not_modified(fields: &[(&str, &str)]) -> Answer {
    with(Answer::not_modified(), fields)
}

/// A gate with an answer stored that is stale by now.
async fn stale(answer: Answer) -> (Upstream, Gate, Client) {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| {});
    let client = gate.stranger();
    upstream.answer(answer);
    client.get(TARGET).await;
    assert!(client.get(TARGET).await.is_hit());
    gate.advance(secs(61));
    (upstream, gate, client)
}

fn lines(fields: &HeaderMap, name: &str) -> Vec<String> {
    fields.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn text(reply: &Reply) -> (u16, bool, &str) {
    (reply.status, reply.is_hit(), reply.text())
}

#[tokio::test]
async fn a_stale_answer_is_asked_about_with_the_validators_it_has() {
    let (tag, weak, modified) =
        (("etag", "\"a\""), ("etag", "W/\"a\""), ("last-modified", MODIFIED));
    let table: [(&[(&str, &str)], _, _); 8] = [
        (&[tag], Some("\"a\""), None),
        (&[weak], Some("W/\"a\""), None),
        (&[modified], None, Some(MODIFIED)),
        (&[tag, modified], Some("\"a\""), Some(MODIFIED)),
        (&[], None, None),
        // What can't be read, or is said twice, is none.
        (&[("etag", "a"), modified], None, Some(MODIFIED)),
        (&[tag, ("etag", "\"b\"")], None, None),
        (&[tag, ("last-modified", "yesterday")], Some("\"a\""), None),
    ];
    for (fields, none_match, since) in table {
        let (upstream, _gate, client) = stale(old(fields)).await;
        upstream.answer(new(&[]));
        let conditions = Ask::get(TARGET)
            .field("if-none-match", "\"mine\"")
            .field("if-modified-since", MODIFIED_LATER)
            .field("if-range", "\"mine\"")
            .field("range", "bytes=0-1");
        client.send(conditions).await;
        let asked = upstream.last();
        assert_eq!(asked.field("if-none-match"), none_match, "{fields:?}");
        assert_eq!(asked.field("if-modified-since"), since, "{fields:?}");
        assert_eq!((asked.field("range"), asked.field("if-range")), (None, None));
        assert_eq!(lines(&asked.fields, "if-none-match").len(), none_match.iter().len());
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn a_304_updates_all_fields_but_those_that_describe_the_bytes() {
    let stored = [
        ("etag", "\"a\""),
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
        ("date", "Fri, 15 Jan 2027 07:59:59 GMT"),
        ("age", "1"),
        ("x-list", "1"),
        ("x-list", "2"),
        ("x-kept", "kept"),
        ("set-cookie", "a=1"),
    ];
    let renewal = [
        ("etag", "\"a\""),
        ("content-type", "text/html"),
        ("content-encoding", "br"),
        ("content-length", "3"),
        ("content-range", "bytes 0-1/2"),
        ("cache-control", "max-age=120"),
        ("expires", "Fri, 15 Jan 2027 09:00:00 GMT"),
        ("date", "Fri, 15 Jan 2027 08:01:01 GMT"),
        ("x-list", "3"),
        ("x-list", "4"),
        ("x-list", "5"),
        ("x-new", "new"),
        ("set-cookie", "b=2"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
    ];
    let (upstream, gate, client) = stale(old(&stored)).await;
    upstream.answer(not_modified(&renewal));
    let renewed = client.get(TARGET).await;
    assert_eq!(renewed.cache(), "unitgate; fwd=stale; fwd-status=304; stored; ttl=120");
    gate.advance(secs(9));
    let hit = client.get(TARGET).await;
    assert_eq!((hit.cache(), hit.field("age")), ("unitgate; hit; ttl=111", Some("9")));
    for reply in [renewed, hit] {
        assert_eq!((reply.status, reply.text()), (200, "Old."));
        for (name, expected) in [
            ("etag", &["\"a\""][..]),
            ("content-type", &["text/html"]),
            ("content-encoding", &["gzip"]),
            ("content-length", &["4"]),
            ("content-range", &[]),
            ("cache-control", &["max-age=120"]),
            ("expires", &["Fri, 15 Jan 2027 09:00:00 GMT"]),
            ("date", &["Fri, 15 Jan 2027 08:01:01 GMT"]),
            ("x-list", &["3", "4", "5"]),
            ("x-kept", &["kept"]),
            ("x-new", &["new"]),
            ("set-cookie", &["b=2"]),
            ("x-hop", &[]),
            ("keep-alive", &[]),
        ] {
            assert_eq!(lines(&reply.fields, name), expected, "{name}: {}", reply.cache());
        }
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_304_without_freshness_of_its_own_renews_by_what_was_stored() {
    let (upstream, gate, client) = stale(old(&[("etag", "\"a\"")])).await;
    for round in 2..5 {
        upstream.answer(not_modified(&[("etag", "\"a\"")]));
        assert_eq!(text(&client.get(TARGET).await), (200, false, "Old."));
        assert_eq!(upstream.count(), round);
        gate.advance(secs(59));
        let hit = client.get(TARGET).await;
        assert_eq!((hit.cache(), hit.field("age")), ("unitgate; hit; ttl=1", Some("59")));
        assert_eq!(hit.field("cache-control"), Some("max-age=60, must-revalidate"));
        gate.advance(secs(1));
    }
}

#[tokio::test]
async fn a_304_that_forbids_storing_ends_what_was_stored() {
    for control in ["no-store", "private", "max-age=60, No-Store"] {
        let (upstream, _gate, client) = stale(old(&[("etag", "\"a\"")])).await;
        upstream.answer(not_modified(&[("etag", "\"a\""), ("cache-control", control)]));
        assert_eq!(client.get(TARGET).await.text(), "Old.");
        upstream.answer(new(&[]));
        assert_eq!(text(&client.get(TARGET).await), (200, false, "New."), "{control}");
        assert_eq!(upstream.last().field("if-none-match"), None, "{control}");
        assert_eq!(upstream.count(), 3);
    }
}

#[tokio::test]
async fn an_upstream_that_tags_as_we_do_keeps_its_tag_and_what_stands_behind_it() {
    let tag = String::from_utf8(Tag::over(b"Old.").text().to_vec()).unwrap();
    let tag = ("etag", tag.as_str());
    for control in ["max-age=60", "private"] {
        let (upstream, _gate, client) = stale(old(&[tag, ("x-behind", "1")])).await;
        upstream.answer(not_modified(&[tag, ("cache-control", control)]));
        let renewed = client.get(TARGET).await;
        assert_eq!(text(&renewed), (200, false, "Old."));
        for (name, value) in [tag, ("x-behind", "1"), ("cache-control", control)] {
            assert_eq!(renewed.field(name), Some(value), "{control}");
        }
    }
}

#[tokio::test]
async fn a_304_renews_only_what_its_validator_is_about() {
    let (tag, weak) = (("etag", "\"a\""), ("etag", "W/\"a\""));
    let (modified, later) = (("last-modified", MODIFIED), ("last-modified", MODIFIED_LATER));
    let table = [
        (&[tag][..], &[tag][..], true),
        (&[tag], &[weak], true),
        (&[weak], &[weak], true),
        (&[tag, modified], &[tag, later], true),
        (&[tag, modified], &[modified], true),
        (&[modified], &[modified], true),
        // A strong validator identifies by strong comparison (§4.3.4).
        (&[weak], &[tag], false),
        (&[tag], &[("etag", "\"b\"")], false),
        (&[tag, modified], &[("etag", "\"b\""), modified], false),
        (&[tag, modified], &[later], false),
        (&[tag, modified], &[("etag", "a"), modified], false),
        (&[tag], &[], false),
        (&[modified], &[], false),
        (&[modified], &[tag, modified], false),
        (&[modified], &[later], false),
    ];
    for (stored, renewal, is_about_it) in table {
        let (upstream, _gate, client) = stale(old(stored)).await;
        let renewal = not_modified(renewal);
        upstream.answers(move |seen| {
            let asked = seen.field("if-none-match").or_else(|| seen.field("if-modified-since"));
            if asked.is_some() { renewal.clone() } else { new(&[("etag", "\"new\"")]) }
        });
        let reply = client.get(TARGET).await;
        let (shown, count) = if is_about_it { ("Old.", 2) } else { ("New.", 3) };
        assert_eq!((reply.status, reply.text()), (200, shown), "{stored:?}");
        assert_eq!(upstream.count(), count);
        assert_eq!(text(&client.get(TARGET).await), (200, true, shown));
        assert_eq!(upstream.count(), count);
    }
}

#[tokio::test]
async fn a_304_that_nobody_asked_for_reaches_no_client() {
    for asked in [&[][..], &[("if-none-match", "\"a\"")], &[("if-modified-since", MODIFIED)]] {
        for method in ["GET", "HEAD"] {
            let ask = || asked.iter().fold(Ask::new(method, TARGET), |ask, (n, v)| ask.field(n, v));
            let upstream = Upstream::start().await;
            let gate = Gate::shared(&upstream, |_| {});
            upstream.answer(not_modified(&[("etag", "\"a\""), ("cache-control", "max-age=60")]));
            let reply = gate.stranger().send(ask()).await;
            assert_eq!(reply.status, 502, "{method} {asked:?}");
            assert_eq!(upstream.count(), 1);
            // Nor one that is about something else each time it is asked.
            let (upstream, _gate, client) = stale(old(&[("etag", "\"a\"")])).await;
            upstream.answer(not_modified(&[("etag", "\"b\"")]));
            assert_eq!(client.send(ask()).await.status, 502, "{method} {asked:?}");
            assert_eq!(upstream.count(), 3);
            upstream.answer(new(&[]));
            assert_eq!(client.get(TARGET).await.text(), "New.", "and it is not kept");
        }
    }
}

#[tokio::test]
async fn a_200_takes_the_place_of_what_was_asked_about_with_its_validators() {
    let (upstream, gate, client) = stale(old(&[("etag", "\"a\""), ("x-old", "1")])).await;
    upstream.answer(new(&[("last-modified", MODIFIED)]));
    assert_eq!(text(&client.get(TARGET).await), (200, false, "New."));
    let hit = client.get(TARGET).await;
    assert_eq!((hit.is_hit(), hit.field("etag"), hit.field("x-old")), (true, None, None));
    gate.advance(secs(61));
    client.get(TARGET).await;
    assert_eq!(upstream.last().field("if-none-match"), None);
    assert_eq!(upstream.last().field("if-modified-since"), Some(MODIFIED));
}

#[tokio::test]
async fn what_is_never_fresh_is_asked_about_each_time() {
    for control in ["no-cache", "max-age=0", "No-Cache, max-age=60", "max-age=0, must-revalidate"] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| {});
        let client = gate.stranger();
        upstream.answer(
            Answer::new(200, "Old.").field("cache-control", control).field("etag", "\"a\""),
        );
        client.get(TARGET).await;
        upstream.answer(not_modified(&[("etag", "\"a\"")]));
        for asked in 2..5 {
            assert_eq!(text(&client.get(TARGET).await), (200, false, "Old."), "{control}");
            assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
            assert_eq!(upstream.count(), asked, "{control}");
        }
    }
}

#[tokio::test]
async fn head_is_answered_from_what_get_stored() {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| {});
    let client = gate.stranger();
    upstream.answer(old(&[
        ("etag", "\"a\""),
        ("content-type", "a/b"),
        ("link", "<x>"),
        ("link", "<y>"),
    ]));
    let missed = client.head(TARGET).await;
    assert_eq!((missed.status, upstream.last().method.as_str()), (200, "HEAD"));
    let got = client.get(TARGET).await;
    assert!(!got.is_hit(), "a HEAD brings no answer to a GET");
    let head = client.head(TARGET).await;
    assert!(head.is_hit() && head.body.is_empty());
    for name in ["etag", "content-type", "content-length", "cache-control", "date", "link"] {
        assert_eq!(lines(&head.fields, name), lines(&got.fields, name), "{name}");
        assert_eq!(lines(&missed.fields, name), lines(&got.fields, name), "{name}");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_head_that_agrees_with_what_is_stored_renews_it() {
    let renewed_by: [(Answer, &str); 4] = [
        (not_modified(&[("etag", "\"a\"")]), "304"),
        (Answer::new(200, "Same").field("etag", "\"a\"").field("last-modified", MODIFIED), "200"),
        (Answer::new(200, "Same"), "200"),
        (Answer::raw("HTTP/1.1 200 OK\r\nx-new: new\r\n\r\n"), "200"),
    ];
    for (number, (answer, status)) in renewed_by.into_iter().enumerate() {
        let stored = old(&[("etag", "\"a\""), ("last-modified", MODIFIED), ("x-kept", "kept")]);
        let (upstream, gate, client) = stale(stored).await;
        let added = number < 3;
        let more = [("x-new", "new"), ("cache-control", "max-age=300")];
        upstream.answer(if added { with(answer, &more) } else { answer });
        let head = client.head(TARGET).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert!(head.cache().contains(&format!("fwd-status={status}; stored")), "{}", head.cache());
        assert_eq!(upstream.last().method, "HEAD");
        assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
        assert_eq!(upstream.last().field("if-modified-since"), Some(MODIFIED));
        gate.advance(secs(50));
        let got = client.get(TARGET).await;
        let left = if added { "unitgate; hit; ttl=250" } else { "unitgate; hit; ttl=10" };
        assert_eq!((got.text(), got.cache()), ("Old.", left), "{number}");
        assert_eq!((got.field("x-new"), got.field("x-kept")), (Some("new"), Some("kept")));
        assert_eq!((got.field("content-length"), got.field("age")), (Some("4"), Some("50")));
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn a_head_that_differs_from_what_is_stored_makes_it_stale() {
    let stored = || old(&[("etag", "\"a\""), ("last-modified", MODIFIED)]);
    for (fields, body) in [
        (&[("etag", "\"b\"")][..], "Same"),
        (&[("etag", "W/\"a\"")], "Same"),
        (&[("last-modified", MODIFIED_LATER)], "Same"),
        (&[("etag", "\"a\""), ("last-modified", MODIFIED_LATER)], "Same"),
        (&[("etag", "\"a\"")], "Longer than that."),
        (&[("etag", "\"b\""), ("last-modified", MODIFIED)], "Same"),
    ] {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| {});
        let client = gate.stranger();
        upstream.answer(stored());
        client.get(TARGET).await;
        // Fresh, but this one wants to know.
        upstream.answer(with(Answer::new(200, body).field("cache-control", "max-age=60"), fields));
        let ask = Ask::new("HEAD", TARGET).field("cache-control", "no-cache");
        let head = client.send(ask).await;
        assert_eq!(head.field("content-length"), Some(&*body.len().to_string()), "{fields:?}");
        for (name, value) in fields {
            assert_eq!(head.field(name), Some(*value));
        }
        // What is stored is asked about, and by its own validators.
        upstream.answer(new(&[("etag", "\"b\"")]));
        assert_eq!(text(&client.get(TARGET).await), (200, false, "New."), "{fields:?}");
        assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
        assert_eq!(text(&client.get(TARGET).await), (200, true, "New."));
        assert_eq!(upstream.count(), 3);
    }
}

#[tokio::test]
async fn a_head_that_finds_something_where_nothing_was_makes_that_stale() {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| {});
    let client = gate.stranger();
    upstream.answer(Answer::new(404, "Gone").field("cache-control", "max-age=60"));
    client.get(TARGET).await;
    upstream.answer(new(&[]));
    let head = client.send(Ask::new("HEAD", TARGET).field("cache-control", "no-cache")).await;
    assert_eq!(head.status, 200);
    assert_eq!(text(&client.get(TARGET).await), (200, false, "New."));
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_head_that_fails_or_says_nothing_of_the_stored_answer_leaves_it_alone() {
    for (answer, status) in [
        (Answer::new(500, "failing"), 500),
        (Answer::new(429, "later"), 429),
        (Answer::new(302, "").field("location", "/login"), 302),
        (Answer::reset(), 502),
    ] {
        let (upstream, _gate, client) = stale(old(&[("etag", "\"a\"")])).await;
        upstream.answer(answer);
        assert_eq!(client.head(TARGET).await.status, status);
        upstream.answer(not_modified(&[("etag", "\"a\"")]));
        assert_eq!(text(&client.get(TARGET).await), (200, false, "Old."), "{status}");
    }
}
