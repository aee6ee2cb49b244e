//! Conditions and ranges of clients on an open route, answered here (RFC 9110 §13 and §14, RFC 9111 §4.3.2).
//!
//! *Claims*
//! 1. `If-None-Match` compares weakly over all members and lines, `*` is anything; where it stands,
//!    `If-Modified-Since` does not count.
//! 2. A 304 carries what guides a cache and nothing that describes content.
//! 3. A condition is judged on a complete 200 to GET or HEAD, stored or just landed, and on nothing else.
//! 4. One range of a complete 200 is cut here; several, or what can't be read, get the whole; `If-Range`
//!    compares strongly.
//! 5. A part is never taken for the whole: none is asked for or stored.

use crate::support::{Answer, Ask, Client, Gate, Reply, Upstream, secs};

const TARGET: &str = "/thing";
const BODY: &str = "0123456789";

const MODIFIED: &str = "Fri, 15 Jan 2027 07:00:00 GMT";
const BEFORE: &str = "Fri, 15 Jan 2027 06:59:59 GMT";
const AFTER: &str = "Fri, 15 Jan 2027 07:00:01 GMT";

fn with(answer: Answer, fields: &[(&str, &str)]) -> Answer {
    fields.iter().fold(answer, |answer, (name, value)| answer.field(name, value))
}

fn whole(fields: &[(&str, &str)]) -> Answer {
    with(Answer::new(200, BODY).field("cache-control", "max-age=60"), fields)
}

/// A gate with this answer stored.
async fn stored(answer: Answer) -> (Upstream, Gate, Client) {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| {});
    let client = gate.stranger();
    upstream.answer(answer);
    client.get(TARGET).await;
    (upstream, gate, client)
}

fn asking(method: &str, fields: &[(&str, &str)]) -> Ask {
    fields.iter().fold(Ask::new(method, TARGET), |ask, (name, value)| ask.field(name, value))
}

async fn get(client: &Client, fields: &[(&str, &str)]) -> Reply {
    client.send(asking("GET", fields)).await
}

#[tokio::test]
async fn if_none_match_compares_weakly_over_all_members_and_lines() {
    for etag in ["\"a\"", "W/\"a\""] {
        let (upstream, _gate, client) = stored(whole(&[("etag", etag)])).await;
        for (lines, status) in [
            (&["\"a\""][..], 304),
            (&["W/\"a\""], 304),
            (&["\"x\", W/\"a\" , \"y\""], 304),
            (&["\"x\",\"a\""], 304),
            (&["\"x\"", "\"y\", \"a\""], 304),
            (&["\"a, b\", \"a\""], 304),
            (&["*"], 304),
            (&["\"b\""], 200),
            (&["\"A\""], 200),
            (&["\"a, b\""], 200),
            (&["a"], 200),
            (&["w/\"a\""], 200),
            (&["\"a"], 200),
            (&["\"*\""], 200),
            (&[""], 200),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("if-none-match", *line)).collect();
            let reply = get(&client, &fields).await;
            assert_eq!((reply.status, reply.is_hit()), (status, true), "{etag}: {lines:?}");
            let head = client.send(asking("HEAD", &fields)).await;
            assert_eq!((head.status, head.body.len()), (status, 0), "HEAD {etag}: {lines:?}");
        }
        assert_eq!(upstream.count(), 1);
    }
    let (_upstream, _gate, client) = stored(whole(&[])).await;
    assert_eq!(get(&client, &[("if-none-match", "*")]).await.status, 304);
    assert_eq!(get(&client, &[("if-none-match", "\"a\"")]).await.status, 200);
}

#[tokio::test]
async fn if_modified_since_counts_where_there_is_no_if_none_match() {
    let (upstream, _gate, client) =
        stored(whole(&[("etag", "\"a\""), ("last-modified", MODIFIED)])).await;
    let since = |date| ("if-modified-since", date);
    for (fields, status) in [
        (&[since(MODIFIED)][..], 304),
        (&[since(AFTER)], 304),
        (&[since("Friday, 15-Jan-27 07:00:00 GMT")], 304),
        (&[since("Fri Jan 15 07:00:00 2027")], 304),
        (&[since(BEFORE)], 200),
        (&[since("yesterday")], 200),
        (&[since("0")], 200),
        (&[since(AFTER), since(AFTER)], 200),
        // RFC 9110 §13.1.3: ignored beside If-None-Match, whichever way that goes.
        (&[since(AFTER), ("if-none-match", "\"b\"")], 200),
        (&[since(BEFORE), ("if-none-match", "\"a\"")], 304),
        (&[since(AFTER), ("if-none-match", "junk")], 200),
    ] {
        assert_eq!(get(&client, fields).await.status, status, "{fields:?}");
        assert_eq!(client.send(asking("HEAD", fields)).await.status, status, "HEAD {fields:?}");
    }
    assert_eq!(upstream.count(), 1);
    // What has no Last-Modified is as old as its Date says (RFC 9111 §4.3.2).
    for (fields, dated) in [(&[("date", MODIFIED)][..], true), (&[("last-modified", "0")], false)] {
        let fresh = Answer::new(200, BODY).field("cache-control", "max-age=9999");
        let (_upstream, _gate, client) = stored(with(fresh, fields)).await;
        for (date, status) in [(MODIFIED, 304), (BEFORE, 200)] {
            let expected = if dated { status } else { 200 };
            assert_eq!(get(&client, &[since(date)]).await.status, expected, "{fields:?}");
        }
    }
}

#[tokio::test]
async fn a_304_carries_what_guides_a_cache_and_nothing_about_content() {
    let kept = [
        ("etag", "W/\"a\""),
        ("date", "Fri, 15 Jan 2027 07:59:50 GMT"),
        ("cache-control", "MAX-age=60,public"),
        ("expires", "Fri, 15 Jan 2027 09:00:00 GMT"),
        ("vary", "Accept, X-Kind"),
        ("content-location", "/thing.en"),
    ];
    let left = [
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
        ("content-language", "en"),
        ("last-modified", MODIFIED),
    ];
    let answer = with(Answer::new(200, BODY), &[&kept[..], &left].concat());
    let (upstream, _gate, client) = stored(answer).await;
    for method in ["GET", "HEAD"] {
        for condition in [("if-none-match", "\"a\""), ("if-modified-since", MODIFIED)] {
            let reply = client.send(asking(method, &[condition])).await;
            assert_eq!((reply.status, reply.body.len(), reply.is_hit()), (304, 0, true));
            for (name, value) in kept {
                assert_eq!(reply.field(name), Some(value), "{method} {condition:?}");
            }
            assert_eq!(reply.field("age"), Some("10"));
            for (name, _) in left.into_iter().chain([("content-length", "")]) {
                assert_eq!(reply.field(name), None, "{method} {condition:?}: {name}");
            }
        }
    }
    assert_eq!(upstream.count(), 1);
    // Without an ETag it is Last-Modified that a cache goes by (RFC 9110 §15.4.5).
    let (_upstream, _gate, client) = stored(whole(&[("last-modified", MODIFIED)])).await;
    let reply = get(&client, &[("if-modified-since", MODIFIED)]).await;
    assert_eq!((reply.status, reply.field("last-modified")), (304, Some(MODIFIED)));
}

#[tokio::test]
async fn the_connection_serves_the_next_request_after_a_304_and_a_206() {
    let (upstream, _gate, client) = stored(whole(&[("etag", "\"a\"")])).await;
    let mut wire = client.connect().await;
    for (name, value, status) in [
        ("if-none-match", "\"a\"", 304),
        ("range", "bytes=2-3", 206),
        ("range", "bytes=99-", 416),
        ("x-none", "", 200),
    ] {
        wire.get(TARGET, &[(name, value)]).await;
        let reply = wire.read(false).await.unwrap();
        assert_eq!(reply.status, status);
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_condition_is_judged_on_what_landed_too() {
    let etag = ("etag", "\"a\"");
    let matching = [("if-none-match", "\"a\"")];
    // A miss, a renewal and a replacement.
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| {});
    let client = gate.stranger();
    upstream.answer(whole(&[etag]));
    assert_eq!(get(&client, &matching).await.status, 304);
    gate.advance(secs(61));
    upstream.answer(with(Answer::not_modified(), &[etag]));
    assert_eq!(get(&client, &matching).await.status, 304);
    gate.advance(secs(61));
    let other = get(&client, &[("if-none-match", "\"b\"")]).await;
    assert_eq!((other.status, other.text()), (200, BODY));
    gate.advance(secs(61));
    upstream.answer(whole(&[("etag", "\"b\"")]));
    let changed = get(&client, &matching).await;
    assert_eq!((changed.status, changed.text()), (200, BODY));
    assert_eq!(upstream.count(), 4);
    // A HEAD that goes alone, and what may not be stored, are judged all the same.
    gate.advance(secs(61));
    upstream.answer(whole(&[etag]));
    assert_eq!(client.send(asking("HEAD", &matching)).await.status, 304);
    upstream.answer(whole(&[etag]).field("cache-control", "no-store"));
    gate.advance(secs(61));
    assert_eq!(get(&client, &matching).await.status, 304);
}

#[tokio::test]
async fn a_condition_or_range_on_anything_but_a_200_is_not_evaluated() {
    let fields = [("if-none-match", "*"), ("if-modified-since", AFTER), ("range", "bytes=0-1")];
    for status in [203, 301, 404, 410, 500] {
        let answer = Answer::new(status, BODY).field("cache-control", "max-age=60");
        let answer = answer.field("etag", "\"a\"").field("last-modified", MODIFIED);
        let (upstream, _gate, client) = stored(answer).await;
        let reply = get(&client, &fields).await;
        assert_eq!((reply.status, reply.text(), reply.is_hit()), (status, BODY, true));
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn the_conditions_of_other_methods_go_upstream() {
    let fields = [("if-none-match", "*"), ("if-match", "\"x\""), ("if-unmodified-since", AFTER)];
    let (upstream, _gate, client) = stored(whole(&[("etag", "\"a\"")])).await;
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        upstream.answer(Answer::new(412, "no"));
        assert_eq!(client.send(asking(method, &fields)).await.status, 412);
        for (name, value) in fields {
            assert_eq!(upstream.last().field(name), Some(value), "{method}");
        }
    }
    assert!(client.get(TARGET).await.is_hit());
    assert_eq!(upstream.count(), 5);
}

#[tokio::test]
async fn one_range_is_cut_out_of_what_is_stored() {
    let kept = [("etag", "\"a\""), ("vary", "x-kind"), ("content-location", "/t"), ("x-a", "b")];
    let (upstream, _gate, client) = stored(whole(&kept).field("content-type", "a/b")).await;
    for (range, part, content_range) in [
        ("bytes=0-1", "01", "bytes 0-1/10"),
        ("Bytes=9-9", "9", "bytes 9-9/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=0-", BODY, "bytes 0-9/10"),
        ("bytes=8-99999999999999999999", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", BODY, "bytes 0-9/10"),
    ] {
        let reply = get(&client, &[("range", range)]).await;
        assert_eq!((reply.status, reply.text(), reply.is_hit()), (206, part, true), "{range}");
        assert_eq!(reply.field("content-range"), Some(content_range));
        assert_eq!(reply.field("content-length"), Some(&*part.len().to_string()));
        // RFC 9110 §15.3.7.
        for (name, value) in
            kept.into_iter().chain([("cache-control", "max-age=60"), ("content-type", "a/b")])
        {
            assert_eq!(reply.field(name), Some(value), "{range}");
        }
        assert!(reply.field("date").is_some() && reply.field("age").is_some());
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-"] {
        let reply = get(&client, &[("range", range)]).await;
        assert_eq!((reply.status, reply.body.len()), (416, 0), "{range}");
        assert_eq!(reply.field("content-range"), Some("bytes */10"));
    }
    for range in
        ["bytes=0-1,3-4", "bytes=0-1, -1", "bytes=3-2", "bytes=", "items=0-1", "0-1", "bytes=a-b"]
    {
        let reply = get(&client, &[("range", range)]).await;
        assert_eq!((reply.status, reply.text()), (200, BODY), "{range}");
        assert_eq!(reply.field("content-range"), None);
    }
    let twice = get(&client, &[("range", "bytes=0-1"), ("range", "bytes=3-4")]).await;
    assert_eq!((twice.status, twice.text()), (200, BODY));
    // RFC 9110 §14.2: of GET alone.
    let head = client.send(asking("HEAD", &[("range", "bytes=0-1")])).await;
    assert_eq!((head.status, head.field("content-length")), (200, Some("10")));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn if_range_compares_strongly_by_tag_and_by_date() {
    let tagged = [("etag", "\"a\""), ("last-modified", MODIFIED)];
    let dated = |at| [("last-modified", MODIFIED), ("date", at)];
    let strong = dated("Fri, 15 Jan 2027 08:00:00 GMT");
    // Changed in the second that it was sent in: a second change could hide there (§8.8.2.2).
    let weak = dated(MODIFIED);
    for (fields, if_range, holds) in [
        (&tagged, "\"a\"", true),
        (&tagged, "\"b\"", false),
        (&tagged, "W/\"a\"", false),
        (&tagged, "\"a\", \"b\"", false),
        (&[("etag", "W/\"a\""), ("x-a", "b")], "W/\"a\"", false),
        (&[("etag", "W/\"a\""), ("x-a", "b")], "\"a\"", false),
        (&strong, MODIFIED, true),
        (&strong, AFTER, false),
        (&strong, BEFORE, false),
        (&strong, "Friday, 15-Jan-27 07:00:00 GMT", false),
        (&weak, MODIFIED, false),
        (&[("x-a", "b"), ("x-b", "c")], MODIFIED, false),
        (&strong, "junk", false),
        (&strong, "", false),
    ] {
        let fresh = Answer::new(200, BODY).field("cache-control", "max-age=9999");
        let (upstream, _gate, client) = stored(with(fresh, fields)).await;
        let reply = get(&client, &[("range", "bytes=0-1"), ("if-range", if_range)]).await;
        let expected = if holds { (206, "01") } else { (200, BODY) };
        assert_eq!((reply.status, reply.text()), expected, "{fields:?} {if_range}");
        // A range that lies outside does not matter where the condition fails.
        let outside = get(&client, &[("range", "bytes=99-"), ("if-range", if_range)]).await;
        assert_eq!(outside.status, if holds { 416 } else { 200 }, "{fields:?} {if_range}");
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn a_condition_is_judged_before_a_range() {
    let (_upstream, _gate, client) = stored(whole(&[("etag", "\"a\"")])).await;
    let range = ("range", "bytes=0-1");
    for (tag, status) in [("\"a\"", 304), ("\"b\"", 206)] {
        assert_eq!(get(&client, &[range, ("if-none-match", tag)]).await.status, status);
    }
    assert_eq!(
        get(&client, &[("range", "bytes=99-"), ("if-none-match", "\"a\"")]).await.status,
        304
    );
}

#[tokio::test]
async fn a_range_on_a_miss_or_a_stale_answer_fetches_the_whole_and_stores_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, |_| {});
    let client = gate.stranger();
    upstream.answers(|seen| match seen.field("range") {
        Some(_) => Answer::new(206, "01").field("content-range", "bytes 0-1/10"),
        None => whole(&[]),
    });
    for asked in 1..3 {
        let part = get(&client, &[("range", "bytes=2-4")]).await;
        assert_eq!((part.status, part.text()), (206, "234"));
        let all = client.get(TARGET).await;
        assert_eq!((all.is_hit(), all.text()), (true, BODY));
        assert_eq!(upstream.count(), asked);
        gate.advance(secs(61));
    }
}

#[tokio::test]
async fn a_part_that_nobody_asked_for_is_neither_passed_on_nor_stored() {
    for asked in
        [&[][..], &[("range", "bytes=0-1")], &[("range", "bytes=0-1"), ("if-range", "\"a\"")]]
    {
        let upstream = Upstream::start().await;
        let gate = Gate::shared(&upstream, |_| {});
        let client = gate.stranger();
        let part = Answer::new(206, "01").field("content-range", "bytes 0-1/10");
        upstream.answer(part.field("cache-control", "max-age=60").field("etag", "\"a\""));
        assert_eq!(get(&client, asked).await.status, 502, "{asked:?}");
        upstream.answer(whole(&[]));
        let reply = client.get(TARGET).await;
        assert_eq!((reply.is_hit(), reply.text()), (false, BODY));
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn a_refused_range_tells_no_cache_after_us_to_keep_it() {
    let fields = [
        ("etag", "\"a\""),
        ("expires", "Fri, 15 Jan 2027 09:00:00 GMT"),
        ("surrogate-cache-control", "max-age=60"),
        ("access-control-allow-origin", "*"),
    ];
    let (_upstream, _gate, client) = stored(whole(&fields)).await;
    let reply = get(&client, &[("range", "bytes=99-")]).await;
    assert_eq!((reply.status, reply.field("content-range")), (416, Some("bytes */10")));
    // It answers the range alone, and would be taken for the target's answer.
    assert_eq!(reply.field("cache-control"), Some("no-store"));
    for name in ["expires", "etag", "surrogate-cache-control"] {
        assert_eq!(reply.field(name), None);
    }
    assert_eq!(reply.field("access-control-allow-origin"), Some("*"));
    assert!(reply.field("date").is_some());
}
