//! The servers that the gateway is compared with, as processes of their own.
//!
//! `cargo bench --bench servers -- bare|yardstick|upstream [ADDRESS] [DELAY_MS] [KIB] [CACHE_MIB]` serves until it is killed, on
//! one thread; it tells its address. `benches/peers/run` starts them; see there for what is compared.
//!
//! * `bare`: hyper that answers everything with the same bytes, with no work at all; and all who ask at once
//!   together, `DELAY_MS` after the first.
//! * `yardstick`: the gateway's libraries, doing nothing else (see `support/yardstick.rs`).
//! * `upstream`: like `bare`, and it may take its time; every answer is of one kind, whatever is asked, and of
//!   KIB at least.
//!
//! `-- volley ADDRESS CLIENTS REQUEST` is no server but so many clients, who send a request at once over connections
//! opened before; it tells, in nanoseconds, when that began by the monotonic clock, and how long each answer took.
//!
//! `-- load ADDRESS CONNECTIONS THREADS MILLISECONDS KEYS REQUEST` sends requests as fast as they are answered, one at
//! a time over each connection; the number of a key, up to KEYS in turn, takes the place of `#` in REQUEST.

use std::io::Write;
use std::time::Duration;

use tokio::net::TcpListener;

mod support;
// By themselves: other benches have nothing of them, and not all that share `support` know rustix.
#[path = "support/load.rs"]
mod load;
#[path = "support/volley.rs"]
mod volley;

fn main() {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let at = |index: usize| arguments.get(index).map(String::as_str);
    match at(0) {
        Some("volley") => return fire(&arguments),
        Some("load") => return put_on(&arguments),
        _ => {}
    }
    let Some(role @ ("bare" | "yardstick" | "upstream")) = at(0) else {
        writeln!(
            std::io::stderr(),
            "usage: servers bare|yardstick|upstream [ADDRESS] [DELAY_MS] [KIB] [CACHE_MIB], volley ADDRESS CLIENTS REQUEST, or load ADDRESS CONNECTIONS THREADS MILLISECONDS KEYS REQUEST"
        )
        .ok();
        return;
    };
    let delay =
        at(2).and_then(|delay| delay.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    runtime().block_on(async {
        let listener =
            TcpListener::bind(at(1).unwrap_or("127.0.0.1:0")).await.expect("the address is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        writeln!(std::io::stdout(), "{address}").ok();
        let kib = at(3).and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let body = support::answer_of(kib << 10);
        let cache = at(4).and_then(|mib| mib.parse().ok()).unwrap_or(64);
        match role {
            "yardstick" => support::yardstick::serve(listener, body, cache << 20).await,
            _ => support::serve_bare(listener, body, delay).await,
        }
    });
}

fn fire(arguments: &[String]) {
    let [_, address, clients, request] = arguments else { return };
    let (address, clients) = (address.parse(), clients.parse());
    let (Ok(address), Ok(clients)) = (address, clients) else { return };
    let volley = volley::fire(address, clients, request.as_bytes());
    let times: Vec<String> = volley.times.iter().map(|time| time.as_nanos().to_string()).collect();
    let (began, times) = (volley.began.as_nanos(), times.join(","));
    writeln!(std::io::stdout(), r#"{{"began":{began},"times":[{times}]}}"#).ok();
}

fn put_on(arguments: &[String]) {
    let [_, address, numbers @ .., request] = arguments else { return };
    let numbers: Vec<u64> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
    let [connections, threads, milliseconds, keys] = *numbers else { return };
    let (Ok(to), Some((before, after))) = (address.parse(), request.split_once('#')) else {
        return;
    };
    let count = |number| usize::try_from(number).expect("it is a small number");
    let outcome = load::Load {
        to,
        connections: count(connections),
        threads: count(threads),
        time: Duration::from_millis(milliseconds),
        request: (before.into(), after.into()),
        keys,
    }
    .put_on();
    let (requests, bytes, microseconds) =
        (outcome.requests, outcome.bytes, outcome.time.as_micros());
    writeln!(
        std::io::stdout(),
        r#"{{"requests":{requests},"bytes":{bytes},"microseconds":{microseconds}}}"#
    )
    .ok();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the machine runs threads")
}
