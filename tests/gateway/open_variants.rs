//! Content negotiation on an open route: which stored answer suits a request (RFC 9111 §4.1).
//!
//! *Claims*
//! 1. Each field that any line of `Vary` names must be the same over all its lines; others don't matter.
//! 2. `Vary: *`, or one that can't be read, suits no other request.
//! 3. White space around commas means nothing, nor do order and case in the lists of RFC 9110 §12.5 that are
//!    weighted sets of names; a field that is empty is not one that is absent.
//! 4. Of several that suit, the most recent by `Date` is used; each is validated by itself.

use crate::support::{Answer, Ask, Seen, secs, shared};

const TARGET: &str = "/thing";

/// An answer that lives an hour and depends on this.
fn varying(body: &str, lines: &[&str]) -> Answer {
    let answer = Answer::new(200, body).field("cache-control", "max-age=3600");
    lines.iter().fold(answer, |answer, line| answer.field("vary", line))
}

fn ask(fields: &[(&str, &str)]) -> Ask {
    fields.iter().fold(Ask::get(TARGET), |ask, (name, value)| ask.field(name, value))
}

/// What a request has of a field, all lines of it.
fn said(seen: &Seen, name: &str) -> String {
    format!("{:?}", seen.fields.get_all(name).iter().collect::<Vec<_>>())
}

/// Whether what the first request was answered serves the second.
async fn serves(vary: &[&str], first: &[(&str, &str)], second: &[(&str, &str)]) -> bool {
    let (upstream, _gate, client) = shared().await;
    upstream.next(varying("first", vary));
    upstream.next(varying("second", vary));
    assert_eq!(client.send(ask(first)).await.text(), "first");
    let reply = client.send(ask(second)).await;
    assert_eq!(reply.is_hit(), reply.text() == "first", "{}", reply.cache());
    assert_eq!(upstream.count(), if reply.is_hit() { 1 } else { 2 });
    if !reply.is_hit() {
        assert!(reply.cache().contains("fwd=vary-miss"), "{}", reply.cache());
    }
    let lines: Vec<_> = reply.fields.get_all("vary").iter().collect();
    assert_eq!(lines, vary, "as it was sent");
    reply.is_hit()
}

#[tokio::test]
async fn every_field_that_any_line_names_must_be_the_same_and_no_other() {
    let first = [("x-a", "1"), ("x-b", "2"), ("x-c", "3")];
    for vary in [&["x-a, X-B"][..], &["X-A", "x-b"], &["x-b,,x-a ,", "X-a"]] {
        for (second, same) in [
            (&[("x-b", "2"), ("x-a", "1")][..], true),
            (&[("x-a", "1"), ("x-b", "2"), ("x-c", "4"), ("x-d", "5")], true),
            (&[("X-A", "1"), ("X-B", "2")], true),
            (&[("x-a", "2"), ("x-b", "1")], false),
            (&[("x-a", "1"), ("x-b", "3")], false),
            (&[("x-a", "9"), ("x-b", "2")], false),
            (&[("x-a", "1")], false),
            (&[], false),
        ] {
            assert_eq!(serves(vary, &first, second).await, same, "{vary:?} {second:?}");
        }
    }
    assert!(serves(&["x-a"], &[], &[]).await, "absent from both is the same");
    assert!(!serves(&["x-a"], &[], &[("x-a", "1")]).await);
}

#[tokio::test]
async fn all_lines_of_a_field_count_as_one_list() {
    for (first, second, same) in [
        (&["1, 2"][..], &["1", "2"][..], true),
        (&["1,2"], &[" 1 ,\t2 "], true),
        (&["1", "2"], &["2", "1"], false),
        (&["1", "2"], &["1"], false),
        (&["1"], &["1", "2"], false),
        (&["1"], &["1", "1"], false),
        (&["a b"], &["ab"], false),
        (&["a"], &["A"], false),
        (&["\"1, 2\""], &["\"1,2\""], false),
    ] {
        let lines = |values: &[&'static str]| -> Vec<_> {
            values.iter().map(|value| ("x-list", *value)).collect()
        };
        let found = serves(&["X-List"], &lines(first), &lines(second)).await;
        assert_eq!(found, same, "{first:?} {second:?}");
    }
}

#[tokio::test]
async fn what_varies_on_everything_or_cannot_be_read_suits_no_other_request() {
    for vary in [&["*"][..], &["x-a, *"], &["*, x-a"], &["x-a", "*"], &["x a"], &["x-a, (b)"]] {
        let (upstream, _gate, client) = shared().await;
        upstream.answer(varying("for this one", vary).field("etag", "\"a\""));
        let held = upstream.hold();
        let mut pending = vec![client.enter(ask(&[("x-a", "1")])).await];
        held.arrived().await;
        // Not even of those who wait for it.
        pending.push(client.enter(ask(&[("x-a", "1")])).await);
        held.release();
        for pending in pending {
            assert!(!pending.reply().await.cache().contains("stored"), "{vary:?}");
        }
        assert!(!client.send(ask(&[("x-a", "1")])).await.is_hit(), "{vary:?}");
        assert_eq!(upstream.count(), 3, "{vary:?}");
    }
}

#[tokio::test]
async fn weighted_sets_of_names_are_compared_without_order_and_case() {
    for name in ["accept-encoding", "accept-language", "accept-charset"] {
        for (first, second, same) in [
            ("gzip, br", "br, gzip", true),
            ("gzip,br", "GZIP ,Br", true),
            ("gzip;q=0.5, br", "br, gzip; Q=0.5", true),
            ("gzip, br", ", gzip,, br ,", true),
            ("gzip, br", "gzip", false),
            ("gzip", "gzip;q=0.5", false),
            ("gzip", "br", false),
            ("en-US", "en", false),
        ] {
            let found = serves(&[name], &[(name, first)], &[(name, second)]).await;
            assert_eq!(found, same, "{name}: {first} | {second}");
        }
        let lines = [(name, "br"), (name, "gzip")];
        assert!(serves(&[name], &[(name, "gzip, br")], &lines).await, "{name}");
    }
    // Where parameters and order may mean something they are kept.
    for (name, first, second) in
        [("accept", "a/b, c/d", "c/d, a/b"), ("accept", "a/b;x=Y", "a/b;x=y"), ("x-a", "a", "A")]
    {
        assert!(!serves(&[name], &[(name, first)], &[(name, second)]).await, "{name}");
    }
}

#[tokio::test]
async fn a_field_that_is_empty_is_not_one_that_is_absent() {
    // `Accept-Encoding:` wants no coding, its absence takes any (RFC 9110 §12.5.3).
    for name in ["x-a", "accept-encoding", "accept-language", "cookie"] {
        for empty in ["", " "] {
            assert!(!serves(&[name], &[], &[(name, empty)]).await, "{name}");
            assert!(!serves(&[name], &[(name, empty)], &[]).await, "{name}");
            assert!(serves(&[name], &[(name, "")], &[(name, empty)]).await, "{name}");
        }
    }
}

#[tokio::test]
async fn variants_stand_side_by_side() {
    let (upstream, _gate, client) = shared().await;
    upstream.answers(|seen| varying(&said(seen, "accept-language"), &["Accept-Language"]));
    let kinds = [&[("accept-language", "de")][..], &[("accept-language", "en")], &[]];
    for is_hit in [false, true, true] {
        for kind in kinds {
            let reply = client.send(ask(kind)).await;
            let own = format!("{:?}", kind.iter().map(|(_, value)| value).collect::<Vec<_>>());
            assert_eq!((reply.is_hit(), reply.text()), (is_hit, &*own));
        }
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn each_variant_is_validated_by_itself() {
    let (upstream, gate, client) = shared().await;
    upstream.answers(|seen| {
        let tag = seen.field("x-kind").map_or_else(String::new, |kind| format!("\"{kind}\""));
        match seen.field("if-none-match") {
            Some(asked) if asked == tag => Answer::not_modified(),
            _ => varying(&said(seen, "x-kind"), &["x-kind"]),
        }
        .field("etag", &tag)
    });
    for kind in ["a", "b"] {
        client.send(ask(&[("x-kind", kind)])).await;
    }
    gate.advance(secs(3_601));
    let renewed = client.send(ask(&[("x-kind", "a")])).await;
    assert_eq!((renewed.status, renewed.text()), (200, "[\"a\"]"));
    assert_eq!(upstream.last().field("if-none-match"), Some("\"a\""));
    assert!(client.send(ask(&[("x-kind", "a")])).await.is_hit());
    assert_eq!(upstream.count(), 3);
    // The other one is as stale as before.
    let renewed = client.send(ask(&[("x-kind", "b")])).await;
    assert_eq!((renewed.is_hit(), renewed.text()), (false, "[\"b\"]"));
    assert_eq!(upstream.last().field("if-none-match"), Some("\"b\""));
    // A third has nothing to be asked about.
    client.send(ask(&[("x-kind", "c")])).await;
    assert_eq!(upstream.last().field("if-none-match"), None);
    assert_eq!(upstream.count(), 5);
}

#[tokio::test]
async fn of_several_that_suit_the_most_recent_by_its_date_is_used() {
    let (early, late) = ("Fri, 15 Jan 2027 07:58:00 GMT", "Fri, 15 Jan 2027 07:59:00 GMT");
    for (first, second, shown) in
        [(early, late, "second"), (late, early, "first"), (late, late, "second")]
    {
        let (upstream, _gate, client) = shared().await;
        upstream.next(varying("first", &["x-kind"]).field("date", first));
        upstream.next(varying("second", &[]).field("date", second));
        client.send(ask(&[("x-kind", "a")])).await;
        client.send(ask(&[("x-kind", "b")])).await;
        // The first is for this kind, the second for any.
        let reply = client.send(ask(&[("x-kind", "a")])).await;
        assert_eq!((reply.is_hit(), reply.text()), (true, shown), "{first} {second}");
        assert_eq!(client.send(ask(&[("x-kind", "c")])).await.text(), "second");
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn who_asks_again_is_answered_by_what_he_brought_though_it_is_older() {
    let (early, late) = ("Fri, 15 Jan 2027 07:58:00 GMT", "Fri, 15 Jan 2027 07:59:00 GMT");
    let (upstream, _gate, client) = shared().await;
    upstream.next(varying("first", &["x-kind"]).field("date", late));
    upstream.next(varying("second", &[]).field("date", early));
    client.send(ask(&[("x-kind", "a")])).await;
    let reload = ask(&[("x-kind", "a")]).field("cache-control", "no-cache");
    assert_eq!(client.send(reload).await.text(), "second");
    let reply = client.send(ask(&[("x-kind", "a")])).await;
    assert_eq!((reply.is_hit(), reply.text()), (true, "second"));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_new_answer_for_the_same_variant_takes_the_place_of_the_old_one() {
    let (upstream, _gate, client) = shared().await;
    let kind = [("x-kind", "a")];
    upstream.answer(varying("first", &["x-kind"]));
    client.send(ask(&kind)).await;
    upstream.answer(varying("second", &["X-Kind"]));
    let reload = ask(&kind).field("cache-control", "no-cache");
    assert_eq!(client.send(reload).await.text(), "second");
    let reply = client.send(ask(&kind)).await;
    assert_eq!((reply.is_hit(), reply.text()), (true, "second"));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn who_waits_for_another_variant_asks_for_its_own() {
    let (upstream, _gate, client) = shared().await;
    upstream.answers(|seen| varying(&said(seen, "x-kind"), &["x-kind"]));
    let held = upstream.hold();
    let mut pending = Vec::new();
    for kind in ["a", "b", "a"] {
        pending.push((kind, client.enter(ask(&[("x-kind", kind)])).await));
        if pending.len() == 1 {
            held.arrived().await;
        }
    }
    held.release();
    for (kind, pending) in pending {
        assert_eq!(pending.reply().await.text(), format!("[\"{kind}\"]"));
    }
    for kind in ["a", "b"] {
        assert!(client.send(ask(&[("x-kind", kind)])).await.is_hit());
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn what_is_answered_to_one_variant_alone_ends_no_other() {
    for (status, control) in [(200, "private"), (403, "x"), (404, "x")] {
        let (upstream, _gate, client) = shared().await;
        upstream.answers(move |seen| match seen.field("cookie") {
            Some(_) => Answer::new(status, "mine").field("cache-control", control),
            None => varying("anybody's", &["cookie"]),
        });
        client.get(TARGET).await;
        assert_eq!(client.send(ask(&[("cookie", "session=alice")])).await.text(), "mine");
        assert!(client.get(TARGET).await.is_hit(), "{status}");
    }
}
