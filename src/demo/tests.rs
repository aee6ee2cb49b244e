use std::future::{pending, ready};

use super::*;

fn quick() -> Options {
    Options { latency: Duration::from_millis(5), units: 10, once: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_shows_every_step_as_it_should_and_no_key() {
    let mut out = Vec::new();
    let result = run(&quick(), &mut out, pending()).await;
    let page = String::from_utf8(out).unwrap();
    assert!(result.is_ok() && !page.contains("UNEXPECTED"), "{result:?}\n{page}");
    for word in [
        "DEMO",
        "fwd=uri-miss",
        "hit; ttl=",
        "× collapsed",
        "cal_****************\"",
        "304  ",
        "fwd=method",
        "× 429",
        "Retry-After: ",
        "401  ",
        "fwd=stale",
        "unitgate_cache_coalesced_total",
    ] {
        assert!(page.contains(word), "{word} is not on\n{page}");
    }
    assert!(!holds_a_key(&page), "{page}");
    // A field as received is not broken, however long it is.
    let lines = page.lines().filter(|line| !line.contains("Cache-Status: "));
    let widest = lines.map(|line| line.chars().count()).max();
    assert!(
        widest <= Some(100) && page.lines().count() <= 88,
        "{widest:?} {}",
        page.lines().count()
    );
}

#[tokio::test]
async fn who_interrupts_the_tour_ends_the_demo() {
    let mut out = Vec::new();
    run(&quick(), &mut out, ready(())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_went_away_ends_the_demo() {
    // Room for the first lines only.
    let mut room = [0; 200];
    let mut out = &mut room[..];
    let result = run(&quick(), &mut out, pending()).await;
    assert!(matches!(result, Err(DemoError::Print(_))), "{result:?}");
}

#[test]
fn a_demo_reaches_loopback_only() {
    let config = config(SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)));
    let listens = config.listen.address.iter().chain(&config.admin.address);
    assert!(listens.into_iter().all(|address| address.ip().is_loopback()));
    assert!(config.upstreams.values().all(|upstream| upstream.url == "http://127.0.0.1:4711"));
}

#[test]
fn a_latency_needs_its_unit_and_stays_below_the_deadlines() {
    assert_eq!(latency("50ms"), Ok(Duration::from_millis(50)));
    assert_eq!(latency("1s"), Ok(Duration::from_secs(1)));
    for wrong in ["", "50", "ms", "1m", "-1s", "6s", "99999999999999999999ms"] {
        assert!(latency(wrong).is_err(), "{wrong}");
    }
}

/// Whether there is what looks like a key: its prefix, and sixteen letters or digits.
fn holds_a_key(page: &str) -> bool {
    ["cal_", "cal_live_", "cal_test_"].iter().any(|prefix| {
        page.split(prefix)
            .skip(1)
            .any(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).count() >= 16)
    })
}
