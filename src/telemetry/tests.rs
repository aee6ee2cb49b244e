use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::cache::Status;
use crate::config::Methods;
use crate::config::{AccessLog, Level, LogFormat, LogOutput, LogTarget};
use crate::error::Side;

/// An output that remembers what was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn log(access: AccessLog, format: LogFormat) -> config::Log {
    config::Log {
        level: Level::Info,
        format,
        output: LogOutput::Stdout,
        access,
        target: LogTarget::Full,
    }
}

fn routes() -> Vec<RouteLabels> {
    let route = |name: &str, upstream: &str, methods: &[Method], cached| RouteLabels {
        name: name.to_owned(),
        upstream: upstream.to_owned(),
        methods: Methods::Listed(methods.to_vec()),
        cached,
    };
    vec![
        route("list", "reads", &[Method::GET, Method::HEAD], true),
        route("write", "writes", &[Method::POST], false),
    ]
}

fn vocabulary() -> Vocabulary {
    Vocabulary {
        errors: vec!["no_route", "caller_limited"],
        upstream_errors: vec!["connect", "timeout"],
        upstream_refused: vec!["open"],
        not_stored: vec!["no_store", "status"],
        invalidations: vec!["write"],
        mask_failures: vec!["not_json"],
        connections_ended: vec!["idle"],
    }
}

/// A telemetry with two routes, its output and its clock.
fn telemetry(access: AccessLog, format: LogFormat) -> (Telemetry, Written, Clock) {
    let (written, clock) = (Written::default(), Clock::steered(Duration::from_millis(1_500)));
    let setup = Setup {
        clock: clock.clone(),
        dice: Dice::seeded(1),
        log: &log(access, format),
        routes: &routes(),
        vocabulary: vocabulary(),
        target: Some(TargetView::new(|target| Cow::Owned(target.replace("secret", "****")))),
        lines: Lines::to(written.clone()).unwrap(),
    };
    (Telemetry::new(setup).unwrap(), written, clock)
}

fn quiet() -> Telemetry {
    telemetry(AccessLog::Off, LogFormat::Json).0
}

fn arrival(clock: &Clock) -> Arrival<'static> {
    Arrival {
        started: clock.now(),
        id: b"r-1",
        peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        method: &Method::GET,
        target: "/units/1",
    }
}

fn reply(status: u16, outcome: Outcome) -> Reply {
    Reply {
        status: StatusCode::from_u16(status).unwrap(),
        bytes: 12,
        outcome,
        age: None,
        error: None,
    }
}

/// Every series of a scrape with its value.
fn series(telemetry: &Telemetry) -> BTreeMap<String, f64> {
    let scrape = telemetry.scrape();
    let samples = scrape.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    samples.map(parse).collect()
}

/// What the series grew by that changed, our own only.
fn moved(telemetry: &Telemetry, act: impl FnOnce(&Metrics)) -> Vec<(String, f64)> {
    let before = series(telemetry);
    act(&telemetry.metrics);
    let after = series(telemetry).into_iter();
    let ours = after.filter(|(name, _)| name.starts_with("unitgate_"));
    let grown = ours.map(|(name, value)| {
        let old = before.get(&name).unwrap_or_else(|| panic!("{name} was not there at the start"));
        (name, value - old)
    });
    grown.filter(|(_, by)| *by != 0.0).collect()
}

fn sum(series: &BTreeMap<String, f64>, prefix: &str) -> f64 {
    series.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
}

#[test]
fn the_help_of_each_metric_is_the_doc_comment_of_its_field() {
    let scrape = quiet().scrape();
    let (_, fields) = include_str!("metrics.rs").split_once("pub struct Metrics {").unwrap();
    let (fields, _) = fields.split_once("\n}").unwrap();
    let lines: Vec<&str> = fields.lines().map(str::trim).collect();
    let mut documented = 0;
    for pair in lines.windows(2) {
        let Some((field, _)) = pair[1].strip_prefix("pub ").and_then(|l| l.split_once(": ")) else {
            continue;
        };
        let doc = pair[0].strip_prefix("/// ").unwrap_or_else(|| panic!("{field} has no doc"));
        let help = format!("# HELP unitgate_{field} {doc}\n");
        assert!(scrape.contains(&help), "{help}");
        documented += 1;
    }
    let helps = scrape.lines().filter(|line| line.starts_with("# HELP unitgate_")).count();
    assert_eq!(helps, documented);
    assert!(documented > 25);
}

#[test]
fn every_series_reads_0_from_the_start_and_build_info_1() {
    for (name, value) in series(&quiet()) {
        let expected = if name.starts_with("unitgate_build_info") { 1.0 } else { 0.0 };
        assert!(
            !name.starts_with("unitgate_") || value.to_bits() == f64::to_bits(expected),
            "{name}"
        );
    }
}

#[test]
fn every_combination_of_labels_that_can_occur_is_there() {
    let series = series(&quiet());
    let there = |name: &str| assert!(series.contains_key(name), "{name}");
    for outcome in Outcome::ALL {
        there(&format!(
            r#"unitgate_request_duration_seconds_count{{outcome="{}"}}"#,
            outcome.as_str()
        ));
        for class in outcome.classes() {
            for method in ["GET", "HEAD"] {
                there(&format!(
                    r#"unitgate_requests_total{{method="{method}",outcome="{}",route="list",status="{}"}}"#,
                    outcome.as_str(),
                    class.as_str()
                ));
            }
        }
    }
    there(
        r#"unitgate_requests_total{method="POST",outcome="forwarded",route="write",status="2xx"}"#,
    );
    there(r#"unitgate_requests_total{method="other",outcome="refused",route="none",status="4xx"}"#);
    there(r#"unitgate_upstream_requests_total{cause="refresh",route="list"}"#);
    there(r#"unitgate_upstream_requests_total{cause="retry",route="write"}"#);
    there(r#"unitgate_upstream_errors_total{kind="timeout",upstream="writes"}"#);
    there(r#"unitgate_limiter_decisions_total{decision="throttled",limiter="lane"}"#);
    for code in vocabulary().errors {
        there(&format!(r#"unitgate_errors_total{{code="{code}"}}"#));
    }
}

#[test]
fn what_can_not_occur_has_no_series() {
    let series = series(&quiet());
    let absent = |name: &str| assert!(!series.contains_key(name), "{name}");
    absent(r#"unitgate_requests_total{method="POST",outcome="hit",route="write",status="2xx"}"#);
    absent(
        r#"unitgate_requests_total{method="GET",outcome="client_gone",route="list",status="2xx"}"#,
    );
    absent(r#"unitgate_upstream_requests_total{cause="miss",route="write"}"#);
    absent(r#"unitgate_upstream_requests_total{cause="write",route="list"}"#);
}

/// Asserts that `act` moves this series by one, and no other.
fn moves(series: &str, act: impl FnOnce(&Metrics)) {
    let telemetry = quiet();
    assert_eq!(moved(&telemetry, act), [(format!("unitgate_{series}"), 1.0)]);
}

#[test]
fn requests_connections_and_readiness_move_their_own_series_and_no_other() {
    moves(r#"requests_total{method="GET",outcome="hit",route="list",status="2xx"}"#, |m| {
        m.requests_total.inc(Some(0), &Method::GET, Class::Success, Outcome::Cache(Status::Hit));
    });
    moves("requests_in_flight", |m| m.requests_in_flight.inc());
    moves(r#"errors_total{code="no_route"}"#, |m| {
        m.errors_total.inc("no_route");
    });
    moves("connections", |m| m.connections.inc());
    moves(r#"connections_ended_total{reason="idle"}"#, |m| {
        m.connections_ended_total.inc("idle");
    });
    moves("http2_requests_refused_total", |m| m.http2_requests_refused_total.inc());
    moves("tls_certificate_last_load_successful", |m| {
        m.tls_certificate_last_load_successful.set(1);
    });
    moves("ready", |m| m.ready.set(1));
}

#[test]
fn upstream_requests_errors_and_skew_move_their_own_series_and_no_other() {
    for cause in [Cause::Miss, Cause::Revalidate, Cause::Refresh, Cause::Forward, Cause::Retry] {
        let label = cause.as_str();
        moves(&format!(r#"upstream_requests_total{{cause="{label}",route="list"}}"#), |m| {
            m.upstream_requests_total.inc(0, cause);
        });
    }
    moves(r#"upstream_requests_total{cause="write",route="write"}"#, |m| {
        m.upstream_requests_total.inc(1, Cause::Write);
    });
    moves(r#"upstream_errors_total{kind="connect",upstream="reads"}"#, |m| {
        m.upstream_errors_total.inc(0, "connect");
    });
    moves(r#"upstream_clock_skew_seconds{upstream="writes"}"#, |m| {
        m.upstream_clock_skew_seconds.set(1, 1.0);
    });
}

#[test]
fn cache_and_masking_move_their_own_series_and_no_other() {
    moves(r#"cache_invalidations_total{source="write"}"#, |m| {
        m.cache_invalidations_total.inc("write");
    });
    moves(r#"cache_not_stored_total{reason="status"}"#, |m| {
        m.cache_not_stored_total.inc("status");
    });
    moves("cache_insertions_total", |m| m.count_insertions(1));
    for cause in Eviction::ALL {
        moves(&format!(r#"cache_evictions_total{{cause="{}"}}"#, cause.as_str()), |m| {
            m.cache_evictions_total.catch_up(*cause, 1);
        });
    }
    moves("masked_fields_total", |m| m.masked_fields_total.inc());
    moves("unmasked_answers_total", |m| m.unmasked_answers_total.inc());
    moves(r#"mask_failures_total{reason="not_json"}"#, |m| {
        m.mask_failures_total.inc("not_json");
    });
}

#[test]
fn each_limiter_moves_its_own_series_and_no_other() {
    for limiter in Limiter::ALL {
        let label = limiter.as_str();
        moves(&format!(r#"limiter_keys{{limiter="{label}"}}"#), |m| {
            m.limiter_keys.set(*limiter, 1);
        });
        for decision in Decision::ALL {
            let name = decision.as_str();
            let series =
                format!(r#"limiter_decisions_total{{decision="{name}",limiter="{label}"}}"#);
            moves(&series, |m| {
                m.limiter_decisions_total.inc(*limiter, *decision);
            });
        }
    }
}

#[test]
fn a_load_of_the_configuration_tells_its_result_and_a_failure_keeps_the_time_of_the_last_success() {
    let telemetry = quiet();
    telemetry.metrics.config_loaded(true, Duration::from_secs(9));
    telemetry.metrics.config_loaded(false, Duration::from_secs(10));
    let series = series(&telemetry);
    assert_eq!(sum(&series, "unitgate_config_last_load_successful"), 0.0);
    assert_eq!(sum(&series, "unitgate_config_last_load_success_timestamp_seconds"), 9.0);
}

#[test]
fn a_total_counted_elsewhere_is_taken_over_and_never_goes_back() {
    let telemetry = quiet();
    for total in [3, 5, 4] {
        telemetry.metrics.count_insertions(total);
    }
    assert_eq!(telemetry.metrics.cache_insertions_total.get(), 5);
}

#[test]
fn upstream_durations_are_observed_by_upstream() {
    let telemetry = quiet();
    telemetry.metrics.upstream_request_duration_seconds.observe(1, 0.2);
    let name = r#"unitgate_upstream_request_duration_seconds_count{upstream="writes"}"#;
    assert_eq!(series(&telemetry)[name], 1.0);
}

#[test]
fn every_request_ends_in_exactly_one_class_whatever_its_route_method_and_status() {
    let (telemetry, _, clock) = telemetry(AccessLog::Off, LogFormat::Json);
    let strange = Method::from_bytes(b"BREW").unwrap();
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::DELETE, strange];
    let mut begun = 0.0;
    for route in [None, Some(0), Some(1), Some(99)] {
        for method in &methods {
            for outcome in Outcome::ALL {
                for status in [100, 200, 304, 404, 503, 999] {
                    let mut exchange = telemetry.begin(Arrival { method, ..arrival(&clock) });
                    if let Some(route) = route {
                        exchange.route(route);
                    }
                    exchange.answered(reply(status, outcome));
                    begun += 1.0;
                }
            }
        }
    }
    let series = series(&telemetry);
    assert_eq!(sum(&series, "unitgate_requests_total{"), begun);
    assert_eq!(sum(&series, "unitgate_request_duration_seconds_count{"), begun);
    assert_eq!(sum(&series, "unitgate_requests_in_flight"), 0.0);
}

#[test]
fn every_upstream_request_has_exactly_one_cause() {
    let telemetry = quiet();
    let mut sent = 0.0;
    for route in 0..2 {
        for cause in Cause::ALL {
            telemetry.metrics.upstream_requests_total.inc(route, *cause);
            sent += 1.0;
        }
    }
    assert_eq!(sum(&series(&telemetry), "unitgate_upstream_requests_total{"), sent);
}

#[test]
fn a_method_no_route_serves_is_counted_where_no_route_is_and_makes_no_label() {
    let (telemetry, _, clock) = telemetry(AccessLog::Off, LogFormat::Json);
    let strange = Method::from_bytes(b"BREW").unwrap();
    let mut exchange = telemetry.begin(Arrival { method: &strange, ..arrival(&clock) });
    exchange.route(0);
    exchange.answered(reply(405, Outcome::Refused));
    drop(exchange);
    let name =
        r#"unitgate_requests_total{method="other",outcome="refused",route="none",status="4xx"}"#;
    assert_eq!(series(&telemetry)[name], 1.0);
    assert!(!telemetry.scrape().contains("BREW"));
}

#[test]
fn an_exchange_dropped_without_an_end_is_client_gone_exactly_once() {
    let (telemetry, written, clock) = telemetry(AccessLog::All, LogFormat::Json);
    let mut exchange = telemetry.begin(arrival(&clock));
    exchange.route(0);
    drop(exchange);
    assert!(telemetry.flush(Duration::from_secs(10)));
    let line: Value = serde_json::from_str(&written.text()).unwrap();
    assert_eq!(line["outcome"], "client_gone");
    assert_eq!(line.get("status"), None);
    let series = series(&telemetry);
    assert_eq!(sum(&series, "unitgate_requests_total{"), 1.0);
    assert_eq!(
        series[r#"unitgate_requests_total{method="GET",outcome="client_gone",route="list",status="none"}"#],
        1.0
    );
    assert_eq!(sum(&series, "unitgate_requests_in_flight"), 0.0);
}

#[test]
fn an_exchange_that_a_panic_dropped_is_not_put_down_to_the_client() {
    let (telemetry, _, clock) = telemetry(AccessLog::Off, LogFormat::Json);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _exchange = telemetry.begin(arrival(&clock));
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    let name = r#"unitgate_requests_total{method="GET",outcome="gateway_failed",route="none",status="none"}"#;
    let series = series(&telemetry);
    assert_eq!(series[name], 1.0);
    assert_eq!(sum(&series, "unitgate_requests_total{"), 1.0);
    assert_eq!(sum(&series, "unitgate_requests_in_flight"), 0.0);
}

#[test]
fn an_exchange_that_ended_is_told_once() {
    let (telemetry, written, clock) = telemetry(AccessLog::All, LogFormat::Json);
    telemetry.begin(arrival(&clock)).answered(reply(200, Outcome::Cache(Status::Hit)));
    assert!(telemetry.flush(Duration::from_secs(10)));
    assert_eq!(written.text().lines().count(), 1);
    assert_eq!(sum(&series(&telemetry), "unitgate_requests_total{"), 1.0);
}

#[test]
fn the_outcome_also_counts_stale_coalesced_age_and_error() {
    let (telemetry, _, clock) = telemetry(AccessLog::Off, LogFormat::Json);
    let end = |reply| telemetry.begin(arrival(&clock)).answered(reply);
    end(reply(200, Outcome::Cache(Status::StaleWhileRevalidate)));
    end(Reply {
        age: Some(Duration::from_secs(7)),
        ..reply(200, Outcome::Cache(Status::StaleIfError))
    });
    end(reply(200, Outcome::Cache(Status::Coalesced)));
    end(Reply { error: Some(("no_route", Side::Client)), ..reply(404, Outcome::Refused) });
    let series = series(&telemetry);
    assert_eq!(series[r#"unitgate_cache_stale_served_total{window="while_revalidate"}"#], 1.0);
    assert_eq!(series[r#"unitgate_cache_stale_served_total{window="if_error"}"#], 1.0);
    assert_eq!(series["unitgate_cache_coalesced_total"], 1.0);
    assert_eq!(series["unitgate_cache_served_age_seconds_sum"], 7.0);
    assert_eq!(series[r#"unitgate_errors_total{code="no_route"}"#], 1.0);
}

#[test]
fn an_access_line_tells_everything_that_is_known() {
    let (telemetry, written, clock) = telemetry(AccessLog::All, LogFormat::Json);
    let mut exchange = telemetry.begin(Arrival { target: "/units/1?k=secret", ..arrival(&clock) });
    exchange.route(0);
    exchange.caller(*b"0123456789ab");
    exchange.upstream(Cause::Revalidate, 2, Duration::from_micros(1_234));
    exchange.masked(3);
    clock.advance(Duration::from_micros(2_005));
    exchange.answered(Reply {
        age: Some(Duration::from_secs(61)),
        error: Some(("caller_limited", Side::Client)),
        ..reply(429, Outcome::Limited)
    });
    drop(exchange);
    assert!(telemetry.flush(Duration::from_secs(10)));
    assert_eq!(
        written.text(),
        concat!(
            r#"{"time":"1970-01-01T00:00:01.502Z","level":"info","log":"access","request_id":"r-1","#,
            r#""peer":"192.0.2.7","method":"GET","route":"list","target":"/units/1?k=****","#,
            r#""caller":"0123456789ab","status":429,"bytes":12,"outcome":"limited","#,
            r#""duration_ms":2.005,"age_s":61,"upstream_cause":"revalidate","upstream_tries":2,"#,
            r#""upstream_ms":1.234,"masked":3,"error":"caller_limited","side":"client"}"#,
            "\n"
        )
    );
}

#[test]
fn nothing_in_a_target_can_break_out_of_its_line() {
    let nasty = "/a\"b\\c\n\r\t\u{0}\u{1b}[31m\u{7f}\u{9b}é =";
    let (telemetry_json, written, clock) = telemetry(AccessLog::All, LogFormat::Json);
    let line = |telemetry: &Telemetry, written: &Written| {
        let arrival = Arrival { target: nasty, ..arrival(&clock) };
        telemetry.begin(arrival).answered(reply(200, Outcome::Cache(Status::Hit)));
        assert!(telemetry.flush(Duration::from_secs(10)));
        let text = written.text();
        let line = text.strip_suffix('\n').unwrap().to_owned();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        line
    };
    let json: Value = serde_json::from_str(&line(&telemetry_json, &written)).unwrap();
    assert_eq!(json["target"], nasty);

    let (telemetry_text, written, _) = telemetry(AccessLog::All, LogFormat::Text);
    let text = line(&telemetry_text, &written);
    assert!(text.is_ascii());
    let target = r#" target="/a\"b\\c\n\r\t\u{0}\u{1b}[31m\u{7f}\u{9b}\u{e9} =" status=200 "#;
    assert!(text.contains(target), "{text}");
}

#[test]
fn errors_are_never_sampled_away_and_the_others_are() {
    let lines = |access| {
        let (telemetry, written, clock) = telemetry(access, LogFormat::Text);
        for _ in 0..1_000 {
            telemetry.begin(arrival(&clock)).answered(reply(200, Outcome::Cache(Status::Hit)));
        }
        telemetry.begin(arrival(&clock)).answered(reply(502, Outcome::Cache(Status::Forwarded)));
        telemetry.begin(arrival(&clock)).answered(Reply {
            error: Some(("no_route", Side::Client)),
            ..reply(404, Outcome::Refused)
        });
        assert!(telemetry.flush(Duration::from_secs(10)));
        let text = written.text();
        let failed = text.lines().filter(|line| line.contains("502") || line.contains("no_route"));
        (text.lines().count(), failed.count())
    };
    assert_eq!(lines(AccessLog::Off), (0, 0));
    assert_eq!(lines(AccessLog::All), (1_002, 2));
    assert_eq!(lines(AccessLog::Errors), (2, 2));
    let (sampled, failed) = lines(AccessLog::OneIn(10));
    assert_eq!(failed, 2);
    assert!((50..200).contains(&sampled), "{sampled}");
}

#[test]
fn lines_that_found_no_room_are_in_the_scrape() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let clock = Clock::steered(Duration::ZERO);
    let telemetry = Telemetry::new(Setup {
        clock: clock.clone(),
        dice: Dice::seeded(1),
        log: &log(AccessLog::All, LogFormat::Json),
        routes: &routes(),
        vocabulary: vocabulary(),
        target: None,
        lines: Lines::to(Broken).unwrap(),
    })
    .unwrap();
    telemetry.begin(arrival(&clock)).answered(reply(200, Outcome::Cache(Status::Hit)));
    assert!(telemetry.flush(Duration::from_secs(10)));
    assert_eq!(series(&telemetry)[r#"unitgate_log_lines_dropped_total{log="access"}"#], 1.0);
}

#[test]
fn two_gateways_in_one_process_do_not_share_counts() {
    let (one, other) = (quiet(), quiet());
    let before = series(&other);
    let clock = Clock::steered(Duration::ZERO);
    let hit =
        Reply { age: Some(Duration::from_secs(7)), ..reply(200, Outcome::Cache(Status::Hit)) };
    one.begin(arrival(&clock)).answered(hit);
    one.metrics.limiter_decisions_total.inc(Limiter::Caller, Decision::Admitted);
    let _under_way = one.begin(arrival(&clock));
    let ours = |series: BTreeMap<String, f64>| -> Vec<_> {
        series.into_iter().filter(|(name, _)| name.starts_with("unitgate_")).collect()
    };
    assert_eq!(ours(series(&other)), ours(before));
    assert_eq!(one.metrics.requests_in_flight.get(), 1);
}

#[test]
fn a_request_that_ends_on_another_thread_is_counted_once_and_is_not_in_flight() {
    let telemetry = quiet();
    let clock = Clock::steered(Duration::ZERO);
    let mut exchange = telemetry.begin(arrival(&clock));
    let elsewhere = move || exchange.answered(reply(200, Outcome::Cache(Status::Hit)));
    std::thread::scope(|scope| scope.spawn(elsewhere).join()).unwrap();
    let series = series(&telemetry);
    assert_eq!(sum(&series, "unitgate_requests_in_flight"), 0.0);
    assert_eq!(sum(&series, "unitgate_requests_total{"), 1.0);
    assert_eq!(sum(&series, "unitgate_request_duration_seconds_count{"), 1.0);
}

#[test]
fn requests_under_an_old_and_a_new_route_table_are_counted_in_the_same_series() {
    let old = quiet();
    let log = log(AccessLog::Off, LogFormat::Json);
    let mut routes = routes();
    routes.reverse();
    let new = old.under(&log, &routes, None);
    let hit = Outcome::Cache(Status::Hit);
    old.metrics.requests_total.inc(Some(0), &Method::GET, Class::Success, hit);
    new.metrics.requests_total.inc(Some(1), &Method::GET, Class::Success, hit);
    let gone = new.under(&log, &[], None);
    old.metrics.requests_total.inc(Some(0), &Method::GET, Class::Success, hit);
    let name = r#"unitgate_requests_total{method="GET",outcome="hit",route="list",status="2xx"}"#;
    for telemetry in [&old, &new, &gone] {
        assert_eq!(series(telemetry)[name], 3.0);
    }
    let foreseen = |telemetry: &Telemetry| telemetry.metrics.requests_total.foreseen();
    assert_eq!((foreseen(&old), foreseen(&new), foreseen(&gone)), (3, 3, 0));
}

#[test]
fn a_combination_that_nobody_foresaw_gets_its_series_when_it_occurs() {
    let telemetry = quiet();
    let name = r#"unitgate_requests_total{method="POST",outcome="hit",route="write",status="2xx"}"#;
    assert_eq!(series(&telemetry).get(name), None);
    let hit = Outcome::Cache(Status::Hit);
    telemetry.metrics.requests_total.inc(Some(1), &Method::POST, Class::Success, hit);
    assert_eq!(series(&telemetry)[name], 1.0);
    assert_eq!(telemetry.metrics.requests_total.foreseen(), 0);
}
