use std::process::Command;

use serde_json::Value;

use super::*;
use crate::config::AccessLog;
use crate::telemetry::tests::{Written, log};

/// What `act` logs at `info` under this `RUST_LOG`.
fn logged(rust_log: &str, format: LogFormat, act: impl FnOnce()) -> String {
    let written = Written::default();
    let lines = Lines::to(written.clone()).unwrap();
    let clock = Clock::steered(Duration::from_secs(1));
    let log = log(AccessLog::Off, format);
    let (subscriber, _) = subscriber(&log, Some(rust_log), clock, lines.clone());
    tracing::subscriber::with_default(subscriber, act);
    assert!(lines.flush(Duration::from_secs(10)));
    written.text()
}

#[test]
fn a_dependency_is_capped_at_warn_and_those_that_see_fields_are_silent() {
    for rust_log in
        ["", "trace", "trace,hyper=trace,h2=trace,moka=debug", "unitgatefoo=trace", "=,=x,,"]
    {
        let filter = filter(Level::Info, rust_log);
        let hears = |target, level| filter.would_enable(target, &level);
        for target in ["moka", "tokio::task"] {
            assert!(hears(target, tracing::Level::WARN), "{rust_log}");
            assert!(!hears(target, tracing::Level::INFO), "{rust_log}");
        }
        for target in ["hyper::proto", "h2", "h2::codec", "hyper_util::client", "rustls::conn"] {
            assert!(!hears(target, tracing::Level::ERROR), "{rust_log}");
        }
    }
}

#[test]
fn rust_log_refines_what_is_heard_of_us() {
    let hears =
        |rust_log, target, level| filter(Level::Info, rust_log).would_enable(target, &level);
    assert!(hears("", "unitgate::cache", tracing::Level::INFO));
    assert!(!hears("", "unitgate::cache", tracing::Level::DEBUG));
    assert!(hears("unitgate=,", "unitgate::cache", tracing::Level::INFO));
    assert!(hears("debug", "unitgate::cache", tracing::Level::DEBUG));
    assert!(hears("unitgate=trace", "unitgate::cache", tracing::Level::TRACE));
    assert!(hears("unitgate::cache=debug", "unitgate::cache", tracing::Level::DEBUG));
    assert!(!hears("unitgate::cache=debug", "unitgate::mask", tracing::Level::DEBUG));
    assert!(!hears("unitgate=error", "unitgate", tracing::Level::WARN));
}

#[test]
fn an_event_is_a_line_of_the_access_logs_shape() {
    #[derive(Debug, thiserror::Error)]
    #[error("the failure")]
    struct Failure(#[source] std::io::Error);
    let error = Failure(std::io::Error::other("the cause"));
    let act = || {
        tracing::warn!(
            count = 3_u64,
            below = -1_i64,
            on = true,
            level = "mine",
            error = &error as &(dyn Error + 'static),
            "said\nthis"
        );
    };
    let json: Value = serde_json::from_str(&logged("", LogFormat::Json, act)).unwrap();
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:01.000Z",
        "level": "warn",
        "log": "diagnostics",
        "module": "unitgate::telemetry::diagnostics::tests",
        "message": "said\nthis",
        "count": 3,
        "below": -1,
        "on": true,
        "level_": "mine",
        "error": "the failure: the cause",
    });
    assert_eq!(json, expected);
    let text = logged("", LogFormat::Text, act);
    assert!(
        text.starts_with("time=1970-01-01T00:00:01.000Z level=warn log=diagnostics "),
        "{text}"
    );
    assert!(text.contains(r#" message="said\nthis" count=3 below=-1 on=true "#), "{text}");
}

#[test]
fn a_value_that_cannot_be_shown_is_said_to_be_so() {
    struct Broken;
    impl fmt::Debug for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }
    let text = logged("", LogFormat::Text, || tracing::info!(value = ?Broken, "still"));
    assert!(text.contains("value=(unprintable)"), "{text}");
}

#[test]
fn a_repeated_warning_is_said_once_in_a_while_with_what_was_kept_back() {
    let rarely = Rarely::new();
    let due = |seconds| rarely.due(Duration::from_secs(seconds), Duration::from_secs(10));
    assert_eq!(due(0), Some(0));
    assert_eq!(due(1), None);
    assert_eq!(due(9), None);
    assert_eq!(due(10), Some(2));
    assert_eq!(due(11), None);
    assert_eq!(due(30), Some(1));
}

#[test]
fn what_is_heard_and_its_format_follow_a_reload_and_rust_log_still_refines_it() {
    let written = Written::default();
    let lines = Lines::to(written.clone()).unwrap();
    let mut log = log(AccessLog::Off, LogFormat::Json);
    log.level = Level::Warn;
    let rust_log = Some("unitgate::mask=debug");
    let (subscriber, hearing) =
        subscriber(&log, rust_log, Clock::steered(Duration::from_secs(1)), lines.clone());
    tracing::subscriber::with_default(subscriber, || {
        let say = |word: &'static str| {
            tracing::info!(target: "unitgate::x", word);
            tracing::debug!(target: "unitgate::mask", "of the mask, {word}");
        };
        say("one");
        log.level = Level::Info;
        log.format = LogFormat::Text;
        hearing.follow(&log);
        say("two");
        log.level = Level::Error;
        hearing.follow(&log);
        say("three");
    });
    assert!(lines.flush(Duration::from_secs(10)));
    let text = written.text();
    assert!(!text.contains("\"word\":\"one\"") && text.contains("word=two"), "{text}");
    assert!(!text.contains("word=three"), "{text}");
    assert_eq!(text.matches("of the mask").count(), 3, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with('{')).count(), 1, "{text}");
}

/// The hook belongs to the whole process, so this test starts itself again and reads what comes out.
#[test]
fn a_panic_tells_its_place_and_never_its_message() {
    if std::env::var_os(CHILD).is_some() {
        let lines = Lines::start(config::LogOutput::Stderr).unwrap();
        let log = log(AccessLog::Off, LogFormat::Json);
        let (events, _) = subscriber(&log, None, Clock::real(), lines.clone());
        tracing::subscriber::set_global_default(events).unwrap();
        hook_panics(lines.clone());
        let panicked = std::thread::spawn(|| panic!("the {} word", "secret")).join();
        assert!(panicked.is_err() && lines.flush(Duration::from_secs(10)));
        return;
    }
    let name = "telemetry::diagnostics::tests::a_panic_tells_its_place_and_never_its_message";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8([child.stdout, child.stderr].concat()).unwrap();
    assert!(child.status.success(), "{printed}");
    assert!(!printed.contains("secret"), "{printed}");
    let line = printed.lines().find(|line| line.starts_with('{')).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["message"], "panicked");
    assert!(line["place"].as_str().unwrap().contains("diagnostics/tests.rs:"), "{line}");
}

/// Set in the child.
const CHILD: &str = "UNITGATE_TEST_PANICS";
