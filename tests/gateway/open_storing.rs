//! What an open route stores, and that it comes back as it was sent (RFC 9111 §3, §5.2).
//!
//! *Claims*
//! 1. Directives are read as RFC 9111 §5.2 lets them be written.
//! 2. `no-store`, `private` and `must-understand` are obeyed; `no-store` is departed from by name only.
//! 3. Every final status with explicit freshness is stored, but those whose definition forbids it and those
//!    that answer a condition or a range; an error without it is not.
//! 4. Only the final answer to a plain GET is stored, and none to a request that says `no-store`.
//! 5. What is stored comes back byte for byte, repeated fields in order, Set-Cookie among them.

use unitgate::config::Config;

use crate::support::{Answer, Ask, Client, Gate, Upstream, secs, shared, shared_with};

const TARGET: &str = "/thing";

/// An hour before the gate's clock starts, and half a day after.
const MODIFIED: &str = "Fri, 15 Jan 2027 07:00:00 GMT";
const EXPIRES: &str = "Fri, 15 Jan 2027 20:00:00 GMT";

fn controlled(status: u16, lines: &[&str]) -> Answer {
    let body = if matches!(status, 204 | 205 | 304) { "" } else { "What was asked for." };
    let answer = Answer::new(status, body);
    lines.iter().fold(answer, |answer, line| answer.field("cache-control", line))
}

/// Whether the second of two GETs is answered from memory, and with what time to live.
async fn ttl(upstream: &Upstream, client: &Client, target: &str, answer: Answer) -> Option<i64> {
    let before = upstream.count();
    upstream.answer(answer);
    let first = client.get(target).await;
    let second = client.get(target).await;
    let asked = if second.is_hit() { 1 } else { 2 };
    assert!(!first.is_hit(), "{target}: {}", first.cache());
    assert_eq!(upstream.count() - before, asked, "{target}: {}", second.cache());
    assert_eq!((second.status, &second.body), (first.status, &first.body), "{target}");
    second.cache().strip_prefix("unitgate; hit; ttl=").map(|ttl| ttl.parse().unwrap())
}

async fn is_kept(upstream: &Upstream, client: &Client, target: &str, answer: Answer) -> bool {
    ttl(upstream, client, target, answer).await.is_some()
}

#[tokio::test]
async fn directives_are_read_however_they_may_be_written() {
    let (upstream, _gate, client) = shared().await;
    let table: [(&[&str], Option<i64>); 25] = [
        (&["max-age=60"], Some(60)),
        (&["Max-Age=60"], Some(60)),
        (&["MAX-AGE=60"], Some(60)),
        (&["S-MaxAge=60"], Some(60)),
        (&[r#"max-age="60""#], Some(60)),
        (&[r#"max-age="6\0""#], Some(60)),
        (&["max-age=060"], Some(60)),
        (&["public", "max-age=60"], Some(60)),
        (&[", ,max-age=60,\t, public ,"], Some(60)),
        (&["max-age=60, unheard-of, other=1, third=\"x\""], Some(60)),
        (&["max-age=60, max-age=60"], Some(60)),
        // Two that disagree may be taken for stale (§4.2.1).
        (&["max-age=60, max-age=30"], None),
        (&["max-age=60", "max-age=30"], None),
        // A quoted string holds no directives, whatever commas and escaped quotes it has.
        (&[r#"x="no-store, private", max-age=60"#], Some(60)),
        (&[r#"x="a\", no-store", max-age=60"#], Some(60)),
        (&[r#"x="max-age=5", max-age=60"#], Some(60)),
        (&[r#"max-age=60, x="a", no-store"#], None),
        // One that is never closed hides nothing, on its own line or the next.
        (&[r#"max-age=60, x="open, no-store"#], None),
        (&[r#"max-age=60, x="open"#, "no-store"], None),
        (&["max-age=60", "no-store"], None),
        (&["no-store", "max-age=60"], None),
        (&["max-age=60, No-Store"], None),
        (&["max-age=60, NO-STORE=x"], None),
        (&["max-age=60, Private"], None),
        // No directive at all, but something that looks like one.
        (&["xmax-age=60, s-max-age=60"], None),
    ];
    for (number, (lines, expected)) in table.into_iter().enumerate() {
        let answer = controlled(200, lines);
        let found = ttl(&upstream, &client, &format!("/read/{number}"), answer).await;
        assert_eq!(found, expected, "{lines:?}");
    }
}

#[tokio::test]
async fn what_says_no_store_is_stored_only_where_the_route_departs_from_it_by_name() {
    let said: [&[&str]; 5] = [
        &["no-store, max-age=60"],
        &["public, max-age=60, s-maxage=60", "NO-store"],
        &["no-store=\"x\", max-age=60"],
        &["max-age=60, no-store, no-store"],
        &["public, no-store"],
    ];
    for departs in [false, true] {
        let (upstream, _gate, client) = shared_with(|config| {
            Gate::policy(config, |policy| policy.store_no_store = departs);
        })
        .await;
        for (number, lines) in said.iter().enumerate() {
            let answer = controlled(200, lines).field("expires", EXPIRES);
            let kept = is_kept(&upstream, &client, &format!("/no-store/{number}"), answer).await;
            assert_eq!(kept, departs, "{lines:?}");
        }
    }
}

#[tokio::test]
async fn what_is_private_is_not_stored_and_a_private_field_alone_is_kept_out() {
    let (upstream, _gate, client) = shared().await;
    // What names no readable field means the whole response (§5.2.2.7).
    for (number, said) in
        ["private", "PRIVATE", "private=\"\"", "private=\"a b\"", "private, private=\"x-user\""]
            .iter()
            .enumerate()
    {
        let answer = controlled(200, &[&format!("max-age=60, {said}")]);
        let target = format!("/private/{number}");
        assert!(!is_kept(&upstream, &client, &target, answer).await, "{said}");
    }
    for directive in ["private", "no-cache"] {
        for named in ["\"x-user, X-More\"", "\"X-User\", max-age=60, DIRECTIVE=\"x-more\""] {
            let said = format!("max-age=60, {directive}={}", named.replace("DIRECTIVE", directive));
            let answer = controlled(200, &[&said]).field("x-user", "a").field("x-user", "b");
            upstream.answer(answer.field("x-more", "c").field("x-all", "d"));
            let target = format!("/{directive}/{}", named.len());
            let (miss, hit) = (client.get(&target).await, client.get(&target).await);
            assert!(!miss.is_hit() && hit.is_hit(), "{said}: {}", hit.cache());
            let fields = |name| (miss.field(name).is_some(), hit.field(name).is_some());
            assert_eq!(fields("x-user"), (true, false), "{said}");
            assert_eq!(fields("x-more"), (true, false), "{said}");
            assert_eq!(fields("x-all"), (true, true), "{said}");
            assert_eq!(hit.field("cache-control"), Some(said.as_str()));
        }
    }
}

#[tokio::test]
async fn a_targeted_field_that_rules_instead_says_what_is_kept_out() {
    // RFC 9213 §2.2: what Cache-Control says does not count beside it.
    let (ours, theirs) = ("private=\"x-user, set-cookie\"", "private=\"x-more\"");
    for (number, target) in ["unitgate-cache-control", "cdn-cache-control"].into_iter().enumerate()
    {
        let (upstream, _gate, client) = shared_with(|config| {
            Gate::policy(config, |policy| policy.store_set_cookie = false);
        })
        .await;
        let answer = controlled(200, &[&format!("max-age=60, {theirs}")]);
        let answer = answer.field(target, &format!("max-age=30, {ours}"));
        let answer = answer.field("x-user", "a").field("x-more", "b").field("set-cookie", "c=1");
        let target = format!("/targeted/{number}");
        assert_eq!(ttl(&upstream, &client, &target, answer).await, Some(30));
        let hit = client.get(&target).await;
        let shown = ["x-user", "x-more", "set-cookie"].map(|name| hit.field(name));
        assert_eq!(shown, [None, Some("b"), None], "{target}");
    }
}

#[tokio::test]
async fn must_understand_is_stored_where_the_status_is_understood_and_no_store_beside_it_ignored() {
    let (upstream, _gate, client) = shared().await;
    // RFC 9111 §5.2.2.3.
    let table = [
        (200, "must-understand, max-age=60", true),
        (200, "must-understand, no-store, max-age=60", true),
        (200, "no-store, max-age=60, Must-Understand", true),
        (404, "must-understand, no-store, max-age=60", true),
        (200, "must-understand, private, max-age=60", false),
        (200, "no-store, max-age=60", false),
        (299, "max-age=60", true),
        (299, "must-understand, max-age=60", false),
        (299, "must-understand, no-store, max-age=60", false),
        (499, "must-understand, max-age=60", false),
        (599, "must-understand, max-age=60", false),
        (429, "must-understand, no-store, max-age=60", false),
    ];
    for (number, (status, said, stored)) in table.into_iter().enumerate() {
        let target = format!("/must-understand/{number}");
        let kept = is_kept(&upstream, &client, &target, controlled(status, &[said])).await;
        assert_eq!(kept, stored, "{status} {said}");
    }
}

#[tokio::test]
async fn every_final_status_with_explicit_freshness_is_stored_but_those_that_forbid_it() {
    let (upstream, _gate, client) = shared().await;
    // Nobody asked for a part, or under a condition: a 206 or 304 is no answer at all, and told elsewhere.
    for status in (200..=599).filter(|status| !matches!(status, 206 | 304)) {
        let target = format!("/status/{status}");
        let answer = controlled(status, &["max-age=60"]);
        let kept = is_kept(&upstream, &client, &target, answer).await;
        // RFC 6585 forbids it; a 412 or 416 answers a condition or a range, not the target alone.
        let forbidden = matches!(status, 412 | 416 | 428 | 429 | 431 | 511);
        assert_eq!(kept, !forbidden, "{status}");
        assert_eq!(client.get(&target).await.status, status);
    }
}

#[tokio::test]
async fn the_four_statuses_of_rfc_6585_are_not_stored_whatever_they_say() {
    let departs = |config: &mut Config| {
        Gate::policy(config, |policy| {
            policy.store_no_store = true;
            policy.ttl = secs(60);
            policy.negative_ttl = secs(60);
        });
    };
    for (number, said) in
        ["public, max-age=60, s-maxage=60, immutable", "must-understand, max-age=60", "public"]
            .into_iter()
            .enumerate()
    {
        let (upstream, _gate, client) = shared_with(departs).await;
        for status in [428, 429, 431, 511] {
            let answer = controlled(status, &[said]).field("expires", EXPIRES);
            let answer = answer.field("etag", "\"a\"").field("last-modified", MODIFIED);
            let target = format!("/6585/{status}/{number}");
            assert!(!is_kept(&upstream, &client, &target, answer).await, "{status} {said}");
            assert_eq!(upstream.last().field("if-none-match"), None, "{status} {said}");
        }
    }
}

#[tokio::test]
async fn without_freshness_only_a_validator_is_of_use_and_an_error_is_not_stored_at_all() {
    let (upstream, _gate, client) = shared().await;
    for status in (200..=599).filter(|status| !matches!(status, 206 | 304)) {
        let target = format!("/bare/{status}");
        assert!(!is_kept(&upstream, &client, &target, controlled(status, &[])).await, "{status}");
        let target = format!("/tagged/{status}");
        let answer = controlled(status, &[]).field("etag", "\"a\"");
        assert!(!is_kept(&upstream, &client, &target, answer).await, "{status}");
        // What may be stored without explicit freshness (RFC 9110 §15.1) is asked about.
        let asked = matches!(status, 200 | 203 | 204 | 300 | 301 | 308).then_some("\"a\"");
        assert_eq!(upstream.last().field("if-none-match"), asked, "{status}");
    }
}

#[tokio::test]
async fn a_404_without_freshness_lives_by_a_ttl_of_its_own_where_that_is_set() {
    let (upstream, gate, client) = shared_with(|config| {
        Gate::policy(config, |policy| {
            policy.negative_ttl = secs(30);
            policy.jitter = 0.0;
        });
    })
    .await;
    assert_eq!(ttl(&upstream, &client, TARGET, controlled(404, &[])).await, Some(30));
    gate.advance(secs(30));
    assert!(!client.get(TARGET).await.is_hit());
    assert!(!is_kept(&upstream, &client, "/410", controlled(410, &[])).await);
    assert!(!is_kept(&upstream, &client, "/500", controlled(500, &[])).await);
}

#[tokio::test]
async fn only_an_answer_to_a_get_without_content_is_stored() {
    let (upstream, _gate, client) = shared().await;
    upstream.answer(controlled(200, &["public, max-age=60"]).field("content-location", TARGET));
    let asks = [
        Ask::post(TARGET, "{}"),
        Ask::put(TARGET, "{}"),
        Ask::new("OPTIONS", TARGET),
        Ask::new("PROPFIND", TARGET),
        Ask::new("FROB", TARGET),
        Ask::new("HEAD", TARGET),
        // Its content means something to its upstream alone (RFC 9110 §9.3.1).
        Ask::get(TARGET).body("{}"),
    ];
    for (before, ask) in asks.into_iter().enumerate() {
        let reply = client.send(ask.clone()).await;
        assert!(reply.status == 200 && !reply.is_hit(), "{ask:?}: {}", reply.cache());
        assert_eq!(upstream.count(), before + 1, "{ask:?}");
    }
    assert!(client.get(TARGET).await.cache().contains("fwd=uri-miss"));
    // Nor is such a request answered from what is stored.
    for ask in [Ask::new("OPTIONS", TARGET), Ask::get(TARGET).body("{}")] {
        assert!(!client.send(ask).await.is_hit());
    }
    assert!(client.get(TARGET).await.is_hit());
    assert_eq!(upstream.count(), 10);
}

#[tokio::test]
async fn what_comes_ahead_of_an_answer_is_neither_stored_nor_part_of_it() {
    let (upstream, _gate, client) = shared().await;
    let held = upstream.hold();
    let mut wire = client.connect().await;
    wire.get(TARGET, &[]).await;
    held.arrived().await;
    held.interim(103, &[("cache-control", "max-age=600"), ("link", "</ahead>"), ("x-ahead", "1")]);
    assert_eq!(wire.read_any(false).await.unwrap().status, 103);
    held.release_with(controlled(200, &["max-age=60"]).field("link", "</final>"));
    let final_one = wire.read(false).await.unwrap();
    wire.get(TARGET, &[]).await;
    let hit = wire.read_any(false).await.unwrap();
    assert_eq!(hit.cache(), "unitgate; hit; ttl=60");
    for reply in [final_one, hit] {
        assert_eq!((reply.status, reply.field("x-ahead")), (200, None));
        assert_eq!(reply.field("link"), Some("</final>"));
        assert_eq!(reply.field("cache-control"), Some("max-age=60"));
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn what_a_request_with_no_store_brings_is_not_stored_and_what_is_stored_may_answer_it() {
    let (upstream, _gate, client) = shared().await;
    upstream.answer(controlled(200, &["max-age=60"]));
    let secret = |said| Ask::get(TARGET).field("cache-control", said);
    for (asked, said) in ["no-store", "No-Store", "max-age=60, no-store"].into_iter().enumerate() {
        let reply = client.send(secret(said)).await;
        assert!(!reply.is_hit() && !reply.cache().contains("stored"), "{}", reply.cache());
        assert_eq!(upstream.count(), asked + 1, "{said}");
    }
    assert!(client.get(TARGET).await.cache().contains("; stored"));
    assert!(client.send(secret("no-store")).await.is_hit());
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_new_answer_that_may_not_be_stored_ends_the_one_before() {
    for said in ["no-store", "private", "max-age=0, no-store"] {
        let (upstream, gate, client) = shared().await;
        upstream.answer(controlled(200, &["max-age=60, stale-if-error=600"]));
        client.get(TARGET).await;
        gate.advance(secs(61));
        upstream.answer(Answer::new(200, "For who asked.").field("cache-control", said));
        assert_eq!(client.get(TARGET).await.text(), "For who asked.");
        upstream.answer(Answer::new(503, "failing"));
        assert_eq!(client.get(TARGET).await.status, 503, "{said}");
        assert_eq!(upstream.count(), 3);
    }
}

/// The lines of a reply's head as they came, names in lower case; their bytes may be any.
async fn lines(client: &Client, target: &str) -> Vec<Vec<u8>> {
    let mut wire = client.connect().await;
    wire.get(target, &[("connection", "close")]).await;
    let reply = wire.rest().await;
    let end = reply.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = reply[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let lower = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or_default();
        [line[..colon].to_ascii_lowercase(), line[colon..].to_vec()].concat()
    };
    head.map(lower).collect()
}

#[tokio::test]
async fn fields_reach_the_client_byte_for_byte_on_a_miss_and_on_a_hit() {
    let (upstream, gate, client) = shared().await;
    let sent: [&[u8]; 17] = [
        b"cache-control: MAX-age=0060 ,Public",
        b"cache-control: x=\"a, b\",  unheard-of=1",
        b"expires: Saturday, 16-Jan-27 08:00:00 GMT",
        b"last-modified: Thu Jan 14 08:00:00 2027",
        b"date: fri, 15 jan 2027 08:00:00 gmt",
        b"etag: W/\"a\\b\"",
        b"vary: X-Odd ,, Accept",
        b"content-type: text/plain;Charset=\"x\" ; y",
        b"content-location: ../odd?a=%7e#x",
        b"link: </a>; rel=preload",
        b"link: </b>, </c>",
        b"set-cookie: a=1; Path=/",
        b"set-cookie: b=2; Expires=Fri, 15 Jan 2027 09:00:00 GMT",
        b"x-list: b",
        b"x-list: a",
        b"x-empty: ",
        b"x-unknown: caf\xe9 \xff  two  blanks,\ttab",
    ];
    let mut raw = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".to_vec();
    for line in sent {
        raw.extend_from_slice(line);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"\r\n{}");
    upstream.answer(Answer::raw(raw));
    for (by, added) in [(0, "fwd=uri-miss"), (7, "hit; ttl=53")] {
        gate.advance(secs(by));
        let got = lines(&client, TARGET).await;
        assert!(got.iter().any(|line| String::from_utf8_lossy(line).contains(added)), "{got:?}");
        // Lines of one name in their order; the order of names means nothing (RFC 9110 §5.3).
        for line in sent {
            let name = &line[..=line.iter().position(|byte| *byte == b':').unwrap()];
            let of_name = |line: &&[u8]| line.starts_with(name);
            let ours: Vec<_> = got.iter().map(Vec::as_slice).filter(of_name).collect();
            let theirs: Vec<_> = sent.into_iter().filter(of_name).collect();
            let theirs: Vec<_> = theirs.iter().map(|line| line.trim_ascii_end()).collect();
            assert_eq!(ours, theirs, "{added}");
        }
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_answer_that_sets_cookies_is_stored_with_them_unless_the_route_refuses_it() {
    let answer = |said: &str| {
        let answer = controlled(200, &[said]).field("set-cookie", "a=1");
        answer.field("set-cookie", "b=2").field("set-cookie", "a=3")
    };
    let (upstream, _gate, client) = shared().await;
    upstream.answer(answer("max-age=60"));
    for is_hit in [false, true] {
        let reply = client.get(TARGET).await;
        let cookies: Vec<_> = reply.fields.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2", "a=3"]);
        assert_eq!(reply.is_hit(), is_hit);
    }
    assert_eq!(upstream.count(), 1);
    let (upstream, _gate, client) = shared_with(|config| {
        Gate::policy(config, |policy| policy.store_set_cookie = false);
    })
    .await;
    assert!(!is_kept(&upstream, &client, "/refused", answer("public, max-age=60")).await);
    assert!(is_kept(&upstream, &client, "/none", controlled(200, &["max-age=60"])).await);
    // Without its cookies it is like any other.
    let without = answer("max-age=60, no-cache=\"Set-Cookie\"");
    assert!(is_kept(&upstream, &client, "/without", without).await);
    assert_eq!(client.get("/without").await.field("set-cookie"), None);
}

#[tokio::test]
async fn a_cookie_is_covered_by_a_lifetime_that_the_upstream_grants_and_by_none_of_ours() {
    for (control, kept) in [("max-age=60", true), ("public", false), ("x", false)] {
        let (upstream, _gate, client) = shared_with(|config| {
            Gate::policy(config, |policy| policy.ttl = secs(60));
        })
        .await;
        upstream.answer(controlled(200, &[control]).field("set-cookie", "session=alice"));
        client.get(TARGET).await;
        assert_eq!(client.get(TARGET).await.is_hit(), kept, "{control}");
    }
}
