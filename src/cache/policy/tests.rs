//! What is stored, how long it lives and when it is used again: the rules of RFC 9111 §3, §4 and §5
//! as claims, on both partitions.

use std::{
    ops::RangeInclusive,
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::*;

/// The wall time of receipt in these tests: 2026-11-23, in the middle of a second.
const NOW: Duration = Duration::from_millis(1_795_392_000_400);

const MINUTE: Duration = Duration::from_mins(1);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An HTTP date so many seconds from now.
fn date(offset: i64) -> String {
    let seconds = NOW.as_secs().saturating_add_signed(offset);
    httpdate::fmt_http_date(UNIX_EPOCH + secs(seconds))
}

fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, line) in lines {
        fields.append(*name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    fields
}

/// A token route: a minute from receipt, all windows on.
fn token_route() -> Rules {
    Rules {
        partition: Partition::Private,
        default_ttl: Some(MINUTE),
        negative_ttl: None,
        max_ttl: secs(300),
        stale_while_revalidate: secs(30),
        stale_if_error: secs(300),
        stale_directives: true,
        keep: secs(600),
        heuristic: None,
        store_no_store: false,
        request_directives: false,
        targets: Vec::new(),
        store_set_cookie: false,
    }
}

/// An open route that is a whole RFC 9111 shared cache.
fn open_route() -> Rules {
    Rules {
        partition: Partition::Shared,
        default_ttl: None,
        max_ttl: Duration::from_hours(1_000_000),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: MINUTE,
        heuristic: Some(Heuristic { fraction: 0.1, cap: Duration::from_hours(24) }),
        request_directives: true,
        targets: vec![HeaderName::from_static("cdn-cache-control")],
        store_set_cookie: true,
        ..token_route()
    }
}

fn judged(
    rules: &Rules,
    status: u16,
    response: &[(&'static str, &str)],
) -> Result<Life, NotStored> {
    exchanged(rules, status, &[], response, Duration::ZERO)
}

fn exchanged(
    rules: &Rules,
    status: u16,
    request: &[(&'static str, &str)],
    response: &[(&'static str, &str)],
    delay: Duration,
) -> Result<Life, NotStored> {
    let times = Times { requested_at: NOW.saturating_sub(delay), received_at: NOW, delay };
    let status = StatusCode::from_u16(status).unwrap();
    judge(rules, &Method::GET, &fields(request), status, &fields(response), &times)
}

/// The lifetime in seconds, or why there is none.
fn lifetime(rules: &Rules, response: &[(&'static str, &str)]) -> Result<u64, NotStored> {
    judged(rules, 200, response).map(|life| life.lifetime.as_secs())
}

fn cached(rules: &Rules, line: &str) -> Result<u64, NotStored> {
    lifetime(rules, &[("cache-control", line)])
}

mod lifetimes {
    use super::*;

    #[test]
    fn a_shared_cache_prefers_s_maxage_then_max_age_then_expires_then_a_heuristic() {
        let (expires, modified) = (date(30), date(-1000));
        let all = [
            ("cache-control", "max-age=20, s-maxage=10"),
            ("expires", expires.as_str()),
            ("last-modified", modified.as_str()),
        ];
        assert_eq!(lifetime(&open_route(), &all), Ok(10));
        assert_eq!(
            lifetime(&open_route(), &[("cache-control", "max-age=20"), all[1], all[2]]),
            Ok(20)
        );
        assert_eq!(lifetime(&open_route(), &[("cache-control", "public"), all[1], all[2]]), Ok(30));
        assert_eq!(lifetime(&open_route(), &[("cache-control", "public"), all[2]]), Ok(100));
        assert_eq!(cached(&open_route(), "s-maxage=3600, max-age=1"), Ok(3600));
    }

    #[test]
    fn expires_counts_from_date_and_from_receipt_where_there_is_none() {
        let (early, late, future) = (date(-10), date(10), date(60));
        let lives = |lines: &[_]| lifetime(&open_route(), lines);
        assert_eq!(lives(&[("expires", &future), ("date", &early)]), Ok(70));
        assert_eq!(lives(&[("expires", &future), ("date", &late)]), Ok(50));
        assert_eq!(lives(&[("expires", &future), ("date", "foo")]), Ok(60));
        assert_eq!(lives(&[("expires", &future)]), Ok(60));
    }

    #[test]
    fn an_expires_that_is_past_invalid_or_repeated_is_stale() {
        let (now, past, future) = (date(0), date(-60), date(60));
        for lines in [
            &[("expires", now.as_str())][..],
            &[("expires", &past)],
            &[("expires", "0")],
            &[("expires", "")],
            &[("expires", &future), ("expires", &future)],
            &[("expires", &future), ("cache-control", "max-age=0")],
            &[("expires", &future), ("cache-control", "max-age=-1")],
        ] {
            let mut lines = lines.to_vec();
            lines.push(("date", &now));
            let life = judged(&open_route(), 200, &lines).unwrap();
            assert_eq!(life.lifetime, Duration::ZERO, "{lines:?}");
            assert!(life.explicit);
            assert_ne!(life.freshness(life.initial_age), Freshness::Fresh);
        }
    }

    #[test]
    fn a_route_s_own_ttl_serves_only_where_the_upstream_says_nothing() {
        assert_eq!(lifetime(&token_route(), &[]), Ok(60));
        assert_eq!(cached(&token_route(), "private"), Ok(60));
        assert_eq!(cached(&token_route(), "public, must-revalidate"), Ok(60));
        assert_eq!(cached(&token_route(), "max-age=5"), Ok(5));
        assert_eq!(cached(&token_route(), "max-age=120"), Ok(120));
        assert_eq!(lifetime(&token_route(), &[("expires", &date(5)), ("date", &date(0))]), Ok(5));
        assert_eq!(lifetime(&token_route(), &[("expires", "0")]), Ok(0));
    }

    #[test]
    fn s_maxage_never_lengthens_a_private_life() {
        assert_eq!(cached(&token_route(), "s-maxage=3600"), Ok(60));
        assert_eq!(cached(&token_route(), "s-maxage=10"), Ok(10));
        assert_eq!(cached(&token_route(), "s-maxage=3600, max-age=20"), Ok(20));
        assert_eq!(cached(&token_route(), "s-maxage=10, max-age=20"), Ok(10));
        let rules = Rules { default_ttl: None, ..token_route() };
        assert_eq!(cached(&rules, "s-maxage=3600"), Err(NotStored::NoFreshness));
    }

    #[test]
    fn explicit_freshness_is_capped_and_the_age_it_came_with_is_not_ours() {
        assert_eq!(cached(&token_route(), "max-age=3600"), Ok(300));
        let aged = [("cache-control", "max-age=3600"), ("age", "1000")];
        let life = exchanged(&token_route(), 200, &[], &aged, secs(2)).unwrap();
        assert_eq!((life.lifetime, life.initial_age), (secs(1300), secs(1002)));
        let slow = exchanged(&token_route(), 200, &[], &aged[..1], secs(2)).unwrap();
        assert_eq!((slow.lifetime, slow.initial_age), (secs(300), secs(2)));
    }

    #[test]
    fn a_heuristic_takes_a_fraction_up_to_its_cap_for_statuses_that_allow_it() {
        let (modified, long_ago) = (date(-1000), date(-100_000_000));
        let lines = [("last-modified", modified.as_str())];
        for status in [200, 203, 204, 300, 301, 308] {
            assert_eq!(
                judged(&open_route(), status, &lines).unwrap().lifetime,
                secs(100),
                "{status}"
            );
        }
        for status in [201, 202, 302, 403, 404, 405, 410, 414, 500, 501, 503, 599] {
            let judged = |lines: &[_]| judged(&open_route(), status, lines).map(|it| it.lifetime);
            assert_eq!(judged(&lines), Err(NotStored::NoFreshness), "{status}");
            let guessed = if status < 400 { Ok(secs(100)) } else { Err(NotStored::NoFreshness) };
            let public = [lines[0], ("cache-control", "public")];
            assert_eq!(judged(&public), guessed, "{status}");
        }
        assert_eq!(lifetime(&open_route(), &[("last-modified", &long_ago)]), Ok(86_400));
        for fraction in [f64::NAN, f64::INFINITY, -1.0, f64::MAX] {
            let heuristic = Some(Heuristic { fraction, cap: secs(1) });
            let rules = Rules { heuristic, ..open_route() };
            assert!(lifetime(&rules, &lines).unwrap() <= 1, "{fraction}");
        }
    }

    #[test]
    fn a_targeted_field_replaces_expires_too() {
        let (past, future) = (date(-60), date(60));
        let lives = |target: &str, lines: &[_]| {
            lifetime(&open_route(), &[&[("cdn-cache-control", target)], lines].concat())
        };
        assert_eq!(lives("max-age=9", &[("cache-control", "no-store"), ("expires", &past)]), Ok(9));
        assert_eq!(lives("max-age=0", &[("expires", &future), ("etag", "\"a\"")]), Ok(0));
        assert_eq!(lives("private", &[("cache-control", "max-age=9")]), Err(NotStored::Private));
        assert_eq!(lives("no-store", &[("cache-control", "max-age=9")]), Err(NotStored::NoStore));
        assert_eq!(lives("foo", &[("expires", &future)]), Err(NotStored::NoFreshness));
        assert_eq!(
            lives("max-age=9, &", &[("cache-control", "no-store")]),
            Err(NotStored::NoStore)
        );
    }
}

mod ages {
    use super::*;

    fn initial_age(rules: &Rules, response: &[(&'static str, &str)], delay: u64) -> Duration {
        let lines = [&[("cache-control", "max-age=100000")], response].concat();
        exchanged(rules, 200, &[], &lines, secs(delay)).unwrap().initial_age
    }

    #[test]
    fn the_age_at_receipt_is_the_larger_of_what_date_and_age_say() {
        for (date_offset, age, delay, initial) in [
            (0, "0", 0, 0),
            (-10, "0", 0, 10),
            (-10, "25", 0, 25),
            (-10, "5", 0, 10),
            (10, "15", 0, 15),
            (10, "0", 0, 0),
            (-10, "25", 3, 28),
            (-10, "8", 3, 11),
            (-10, "5", 3, 10),
            (0, "", 3, 3),
        ] {
            let date = date(date_offset);
            let lines = [("date", date.as_str()), ("age", age)];
            assert_eq!(
                initial_age(&open_route(), &lines, delay),
                secs(initial),
                "{lines:?} {delay}"
            );
        }
        assert_eq!(initial_age(&open_route(), &[], 0), Duration::ZERO);
    }

    #[test]
    fn the_first_member_of_age_counts_and_junk_is_none() {
        for (lines, age) in [
            (&[("age", "7200,0")][..], 7200),
            (&[("age", "0, 7200")], 0),
            (&[("age", "7200"), ("age", "0")], 7200),
            (&[("age", "abc")], 0),
            (&[("age", "-7200")], 0),
            (&[("age", "7200.0")], 0),
            (&[("age", "99999999999999999999999999999")], 1 << 31),
        ] {
            let lines = [&[("cache-control", "max-age=3600"), ("etag", "\"a\"")], lines].concat();
            let rules = Rules { keep: Duration::MAX, ..open_route() };
            assert_eq!(judged(&rules, 200, &lines).unwrap().initial_age, secs(age), "{lines:?}");
        }
    }

    #[test]
    fn what_is_older_than_its_life_is_stale_from_the_start() {
        let life =
            judged(&open_route(), 200, &[("cache-control", "max-age=10"), ("age", "15")]).unwrap();
        assert_eq!(life.freshness(life.initial_age), Freshness::StaleIfError);
        assert_eq!(life.ttl(life.initial_age), -5);
        let old = [("cache-control", "max-age=10"), ("age", "70")];
        assert_eq!(judged(&open_route(), 200, &old), Err(NotStored::NoFreshness));
    }

    #[test]
    fn a_private_route_s_own_ttl_counts_from_receipt() {
        let old = date(-10);
        let aged = [("date", old.as_str()), ("age", "20")];
        let life = exchanged(&token_route(), 200, &[], &aged, secs(5)).unwrap();
        assert_eq!((life.lifetime, life.initial_age), (MINUTE, Duration::ZERO));
        assert_eq!(initial_age(&token_route(), &aged, 5), secs(25));
    }

    #[test]
    fn a_shared_route_s_own_ttl_counts_from_receipt_under_a_true_age() {
        let rules = Rules { default_ttl: Some(MINUTE), ..open_route() };
        let life = judged(&rules, 200, &[("age", "20")]).unwrap();
        assert_eq!((life.lifetime, life.initial_age), (secs(80), secs(20)));
    }

    #[test]
    fn a_clock_that_jumps_back_during_the_exchange_makes_nothing_younger() {
        let times = Times { requested_at: NOW + secs(50), received_at: NOW, delay: secs(3) };
        let response = fields(&[("cache-control", "max-age=100")]);
        let life = judge(
            &open_route(),
            &Method::GET,
            &HeaderMap::new(),
            StatusCode::OK,
            &response,
            &times,
        );
        assert_eq!(life.unwrap().initial_age, secs(3));
    }
}

mod storing {
    use super::*;

    #[test]
    fn only_an_answer_to_get_is_stored() {
        let times = Times { requested_at: NOW, received_at: NOW, delay: Duration::ZERO };
        let response = fields(&[("cache-control", "max-age=60")]);
        for method in [Method::HEAD, Method::POST, Method::PUT, Method::OPTIONS] {
            let found =
                judge(&open_route(), &method, &HeaderMap::new(), StatusCode::OK, &response, &times);
            assert_eq!(found, Err(NotStored::Method));
        }
    }

    #[test]
    fn a_shared_route_stores_any_final_status_with_explicit_freshness_but_those_that_forbid_it() {
        for status in 100..=599_u16 {
            let found = judged(&open_route(), status, &[("cache-control", "max-age=60, public")]);
            let expected = match status {
                206 => Err(NotStored::Partial),
                100..=199 | 304 | 412 | 416 | 428 | 429 | 431 | 511 => Err(NotStored::Status),
                _ => Ok(MINUTE),
            };
            assert_eq!(found.map(|life| life.lifetime), expected, "{status}");
        }
    }

    #[test]
    fn a_token_route_stores_200_and_with_a_ttl_of_its_own_404() {
        let rules = Rules { negative_ttl: Some(secs(5)), ..token_route() };
        for status in 100..=599_u16 {
            let explicit = [("cache-control", "max-age=9")];
            for (lines, ttl, negative) in [(&[][..], 60, 5), (&explicit, 9, 9)] {
                let expected = match status {
                    200 => Ok(ttl),
                    206 => Err(NotStored::Partial),
                    404 => Ok(negative),
                    _ => Err(NotStored::Status),
                };
                let found = judged(&rules, status, lines).map(|life| life.lifetime.as_secs());
                assert_eq!(found, expected, "{status}");
            }
        }
        assert_eq!(
            judged(&token_route(), 404, &[("cache-control", "max-age=9")]),
            Err(NotStored::Status)
        );
    }

    #[test]
    fn an_error_without_freshness_is_not_stored_even_with_a_validator() {
        for status in [400, 404, 410, 500, 503] {
            assert_eq!(
                judged(&open_route(), status, &[("etag", "\"a\"")]),
                Err(NotStored::NoFreshness)
            );
        }
        let rules = Rules { negative_ttl: Some(secs(5)), ..open_route() };
        assert_eq!(judged(&rules, 404, &[]).unwrap().lifetime, secs(5));
        assert_eq!(judged(&rules, 410, &[]), Err(NotStored::NoFreshness));
    }

    #[test]
    fn no_store_is_obeyed_unless_the_route_departs_by_name() {
        for rules in [token_route(), open_route()] {
            assert_eq!(cached(&rules, "max-age=60, No-Store"), Err(NotStored::NoStore));
            let departs = Rules { store_no_store: true, ..rules };
            assert_eq!(cached(&departs, "max-age=60, no-store"), Ok(60));
        }
        let departs = Rules { store_no_store: true, ..token_route() };
        assert_eq!(cached(&departs, "no-store"), Ok(60));
    }

    #[test]
    fn must_understand_overrides_no_store_only_where_the_status_is_understood() {
        let lines = [("cache-control", "max-age=60, no-store, must-understand")];
        assert_eq!(lifetime(&open_route(), &lines), Ok(60));
        assert_eq!(judged(&open_route(), 299, &lines), Err(NotStored::MustUnderstand));
        let alone = [("cache-control", "max-age=60, must-understand")];
        assert_eq!(judged(&open_route(), 599, &alone), Err(NotStored::MustUnderstand));
    }

    #[test]
    fn private_bars_a_shared_route_only() {
        assert_eq!(cached(&open_route(), "max-age=60, private"), Err(NotStored::Private));
        assert_eq!(cached(&token_route(), "max-age=60, private"), Ok(60));
        assert_eq!(cached(&open_route(), r#"max-age=60, private="x""#), Ok(60));
    }

    #[test]
    fn an_authorised_answer_is_shared_only_if_the_upstream_allows_it() {
        let found = |rules: &Rules, line: &str| {
            let authorised = [("authorization", "Bearer x")];
            exchanged(rules, 200, &authorised, &[("cache-control", line)], Duration::ZERO).map(drop)
        };
        assert_eq!(found(&open_route(), "max-age=60"), Err(NotStored::Authorization));
        assert_eq!(
            found(&open_route(), "max-age=60, proxy-revalidate"),
            Err(NotStored::Authorization)
        );
        for line in ["max-age=60, public", "max-age=60, must-revalidate", "s-maxage=60"] {
            assert_eq!(found(&open_route(), line), Ok(()), "{line}");
        }
        assert_eq!(found(&token_route(), "max-age=60"), Ok(()));
    }

    #[test]
    fn vary_with_an_asterisk_bars_both_partitions() {
        for rules in [token_route(), open_route()] {
            let lines = [("cache-control", "max-age=60"), ("vary", "accept, *")];
            assert_eq!(lifetime(&rules, &lines), Err(NotStored::VaryStar));
            assert_eq!(lifetime(&rules, &[lines[0], ("vary", "accept")]), Ok(60));
        }
        let unreadable = [("cache-control", "max-age=60"), ("vary", "a b")];
        assert_eq!(lifetime(&open_route(), &unreadable), Err(NotStored::VaryStar));
        assert_eq!(lifetime(&token_route(), &unreadable), Ok(60));
    }

    #[test]
    fn a_cookie_bars_a_shared_route_that_does_not_store_them() {
        let lines = [("cache-control", "max-age=60"), ("set-cookie", "a=b")];
        let refuses = Rules { store_set_cookie: false, ..open_route() };
        assert_eq!(lifetime(&refuses, &lines), Err(NotStored::SetCookie));
        assert_eq!(lifetime(&open_route(), &lines), Ok(60));
        assert_eq!(lifetime(&token_route(), &lines), Ok(60));
        let withheld = [("cache-control", r#"max-age=60, no-cache="set-cookie""#), lines[1]];
        assert_eq!(lifetime(&refuses, &withheld), Ok(60));
    }

    #[test]
    fn a_request_s_no_store_counts_where_request_directives_do() {
        let found = |rules: &Rules| {
            let request = [("cache-control", "no-store")];
            exchanged(rules, 200, &request, &[("cache-control", "max-age=60")], Duration::ZERO)
                .map(drop)
        };
        assert_eq!(found(&open_route()), Err(NotStored::RequestNoStore));
        assert_eq!(found(&token_route()), Ok(()));
    }

    #[test]
    fn what_is_never_fresh_is_kept_only_to_be_revalidated() {
        for rules in [token_route(), open_route()] {
            for line in ["no-cache", "no-cache, max-age=60", "max-age=0, must-revalidate"] {
                assert_eq!(cached(&rules, line), Err(NotStored::NoFreshness), "{line}");
                let life =
                    judged(&rules, 200, &[("cache-control", line), ("etag", "\"a\"")]).unwrap();
                assert_eq!(life.freshness(Duration::ZERO), Freshness::Expired, "{line}");
                assert_eq!(life.last_use(), rules.keep);
            }
        }
        assert_eq!(lifetime(&open_route(), &[]), Err(NotStored::NoFreshness));
        assert_eq!(lifetime(&open_route(), &[("etag", "\"a\"")]), Ok(0));
        assert_eq!(lifetime(&open_route(), &[("etag", "a")]), Err(NotStored::NoFreshness));
    }

    #[test]
    fn fields_that_are_not_for_later_requests_are_not_stored() {
        let response = fields(&[
            ("cache-control", r#"no-cache="a", private="B", max-age=5"#),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("c", "4"),
            ("connection", "D, close"),
            ("d", "5"),
            ("keep-alive", "timeout=1"),
            ("transfer-encoding", "chunked"),
            ("proxy-authenticate", "x"),
            ("proxy-authentication-info", "x"),
        ]);
        let names = |rules: &Rules| {
            let stored = fields_to_store(rules, &response, &response);
            let mut names: Vec<_> = stored.iter().map(|(name, _)| name.to_string()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&open_route()), ["c", "c", "cache-control"]);
        assert_eq!(names(&token_route()), ["b", "c", "c", "cache-control"]);
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let mut names: Vec<_> = NotStored::ALL.iter().map(|reason| reason.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NotStored::ALL.len());
    }
}

mod staleness {
    use super::*;

    fn windows(rules: &Rules, directives: &str) -> (u64, u64) {
        let life = judged(rules, 200, &[("cache-control", directives)]).unwrap();
        (life.stale_while_revalidate.as_secs(), life.stale_if_error.as_secs())
    }

    #[test]
    fn a_response_passes_through_its_windows_in_order() {
        let life = judged(&token_route(), 200, &[("etag", "\"a\"")]).unwrap();
        for (age, freshness, ttl) in [
            (0, Freshness::Fresh, 60),
            (59, Freshness::Fresh, 1),
            (60, Freshness::StaleWhileRevalidate, 0),
            (89, Freshness::StaleWhileRevalidate, -29),
            (90, Freshness::StaleIfError, -30),
            (359, Freshness::StaleIfError, -299),
            (360, Freshness::Expired, -300),
        ] {
            assert_eq!((life.freshness(secs(age)), life.ttl(secs(age))), (freshness, ttl), "{age}");
        }
        assert_eq!(life.last_use(), secs(960));
        assert!(life.stale_if_error_allows(secs(75)) && !life.stale_if_error_allows(secs(360)));
    }

    #[test]
    fn the_time_left_is_rounded_down() {
        let life = judged(&token_route(), 200, &[]).unwrap();
        assert_eq!(life.ttl(Duration::from_millis(59_500)), 0);
        assert_eq!(life.ttl(Duration::from_millis(60_500)), -1);
        assert_eq!(life.ttl(Duration::MAX), i64::MIN);
    }

    #[test]
    fn an_upstream_that_forbids_stale_leaves_no_window() {
        for line in ["must-revalidate", "proxy-revalidate", "s-maxage=60"] {
            for rules in [token_route(), open_route()] {
                let line =
                    format!("max-age=60, stale-while-revalidate=9, stale-if-error=9, {line}");
                assert_eq!(windows(&rules, &line), (0, 0), "{line}");
            }
        }
    }

    #[test]
    fn the_upstream_s_windows_replace_those_of_a_shared_route_and_shorten_those_of_a_private_one() {
        let line = "max-age=60, stale-while-revalidate=40, stale-if-error=50";
        assert_eq!(windows(&open_route(), line), (40, 50));
        assert_eq!(windows(&token_route(), line), (30, 50));
        assert_eq!(windows(&token_route(), "max-age=60, stale-if-error=x"), (30, 0));
        let ignores = Rules { stale_directives: false, ..open_route() };
        assert_eq!(windows(&ignores, line), (0, 60));
    }

    #[test]
    fn what_was_never_fresh_is_not_served_stale_unasked() {
        assert_eq!(windows(&token_route(), "max-age=0"), (0, 300));
        assert_eq!(windows(&open_route(), "max-age=0, stale-while-revalidate=7"), (7, 60));
        let implicit = judged(&open_route(), 200, &[("etag", "\"a\"")]).unwrap();
        assert_eq!(implicit.freshness(Duration::ZERO), Freshness::Expired);
    }
}

mod reusing {
    use super::*;

    const ALLOWED: Reuse = Reuse::Allowed;
    const REVALIDATE: Reuse = Reuse::Revalidate;
    const GATEWAY_TIMEOUT: Reuse = Reuse::OnlyIfCachedUnsatisfied;

    fn reused(rules: &Rules, wish: &str, ages: RangeInclusive<u64>) -> Vec<Reuse> {
        let life = judged(rules, 200, &[("cache-control", "max-age=60")]).unwrap();
        let request = fields(&[("cache-control", wish)]);
        ages.step_by(60).map(|age| reuse(rules, &life, secs(age), &request)).collect()
    }

    #[test]
    fn the_request_s_directives_are_honoured_where_the_route_does() {
        for (line, fresh, stale) in [
            ("", ALLOWED, REVALIDATE),
            ("no-cache", REVALIDATE, REVALIDATE),
            ("max-age=0", REVALIDATE, REVALIDATE),
            ("max-age=29", REVALIDATE, REVALIDATE),
            ("max-age=30", ALLOWED, REVALIDATE),
            ("min-fresh=30", ALLOWED, REVALIDATE),
            ("min-fresh=31", REVALIDATE, REVALIDATE),
            ("max-stale", ALLOWED, ALLOWED),
            ("max-stale=30", ALLOWED, ALLOWED),
            ("max-stale=29", ALLOWED, REVALIDATE),
            ("max-stale, max-age=60", ALLOWED, REVALIDATE),
            ("max-stale, max-age=90", ALLOWED, ALLOWED),
            ("no-store", ALLOWED, REVALIDATE),
            ("only-if-cached", ALLOWED, GATEWAY_TIMEOUT),
            ("only-if-cached, no-cache", GATEWAY_TIMEOUT, GATEWAY_TIMEOUT),
            ("only-if-cached, max-stale", ALLOWED, ALLOWED),
        ] {
            assert_eq!(reused(&open_route(), line, 30..=90), [fresh, stale], "{line}");
        }
    }

    #[test]
    fn a_reload_within_the_first_instant_is_a_reload() {
        assert_eq!(reused(&open_route(), "max-age=0", 0..=0), [REVALIDATE]);
    }

    #[test]
    fn elsewhere_they_change_nothing() {
        for line in ["no-cache", "max-age=0", "min-fresh=99", "only-if-cached", "max-stale"] {
            assert_eq!(
                reused(&token_route(), line, 0..=120),
                [ALLOWED, ALLOWED, REVALIDATE],
                "{line}"
            );
            assert!(!only_if_cached(&token_route(), &fields(&[("cache-control", line)])));
        }
        assert!(only_if_cached(&open_route(), &fields(&[("cache-control", "only-if-cached")])));
    }

    #[test]
    fn a_client_takes_nothing_stale_that_the_upstream_forbids() {
        let rules = open_route();
        let life =
            judged(&rules, 200, &[("cache-control", "s-maxage=60"), ("etag", "\"a\"")]).unwrap();
        let request = fields(&[("cache-control", "max-stale")]);
        assert_eq!(reuse(&rules, &life, secs(61), &request), REVALIDATE);
    }

    #[test]
    fn a_limit_on_age_refuses_the_stale_while_revalidate_window() {
        let rules = Rules { stale_while_revalidate: MINUTE, ..open_route() };
        assert_eq!(reused(&rules, "", 90..=90), [ALLOWED]);
        assert_eq!(reused(&rules, "max-age=600", 90..=90), [REVALIDATE]);
    }

    #[test]
    fn pragma_alone_means_no_cache() {
        let life = judged(&open_route(), 200, &[("cache-control", "max-age=60")]).unwrap();
        let request = fields(&[("pragma", "no-cache")]);
        assert_eq!(reuse(&open_route(), &life, secs(1), &request), REVALIDATE);
    }
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..2000_u64).prop_map(Duration::from_millis),
        any::<u64>().prop_map(Duration::from_secs),
        Just(Duration::MAX),
    ]
}

prop_compose! {
    fn any_life()(
        (lifetime, initial_age, keep) in (any_duration(), any_duration(), any_duration()),
        (stale_while_revalidate, stale_if_error) in (any_duration(), any_duration()),
        (explicit, stale_forbidden) in (any::<bool>(), any::<bool>()),
    ) -> Life {
        Life {
            lifetime, initial_age, stale_while_revalidate, stale_if_error, keep, explicit, stale_forbidden,
        }
    }
}

proptest! {
    #[test]
    fn freshness_only_moves_forward_with_age(life in any_life(), one in any_duration(), other in any_duration()) {
        let (young, old) = (one.min(other), one.max(other));
        prop_assert!(life.freshness(young) <= life.freshness(old));
        prop_assert!(life.ttl(young) >= life.ttl(old));
        prop_assert!(life.stale_if_error_allows(young) || !life.stale_if_error_allows(old));
        prop_assert_eq!(life.freshness(old) == Freshness::Fresh, old < life.lifetime);
        prop_assert!(old < life.last_use() || life.freshness(old) == Freshness::Expired);
    }

    #[test]
    fn any_exchange_is_judged_without_overflow(
        lines in proptest::collection::vec((0..8_usize, "[ -~]{0,30}|max-age=[0-9]{0,25}|[0-9]{0,25}"), 0..6),
        (requested_at, received_at, delay) in (any_duration(), any_duration(), any_duration()),
        (status, private, honours) in (100..600_u16, any::<bool>(), any::<bool>()),
        (max_ttl, default_ttl, window) in (any_duration(), any_duration(), any_duration()),
    ) {
        let names = ["cache-control", "cdn-cache-control", "expires", "age", "date", "vary", "etag", "last-modified"];
        let mut response = HeaderMap::new();
        for (name, line) in lines {
            response.append(names[name], HeaderValue::try_from(line).unwrap());
        }
        let rules = Rules {
            partition: if private { Partition::Private } else { Partition::Shared },
            default_ttl: Some(default_ttl),
            max_ttl,
            stale_while_revalidate: window,
            keep: window,
            request_directives: honours,
            ..open_route()
        };
        let times = Times { requested_at, received_at, delay };
        let status = StatusCode::from_u16(status).unwrap();
        if let Ok(life) = judge(&rules, &Method::GET, &response, status, &response, &times) {
            prop_assert!(life.initial_age < life.last_use());
            prop_assert!(!life.stale_forbidden || life.freshness(life.lifetime) == Freshness::Expired);
            let _ = reuse(&rules, &life, delay, &response);
        }
        let _ = fields_to_store(&rules, &response, &response);
    }
}
