//! The language of these tests: three nouns, [`Upstream`], [`Gate`], [`Client`].
//!
//! A test is a script: arrange the upstream, act, assert on the reply **and** on what the upstream saw.
//!
//! ```ignore
//! let upstream = Upstream::start().await;                 // answers each request with a masked list
//! let gate = Gate::start(&upstream, |config| config.cache.policy.jitter = 0.0);
//! let alice = gate.client("alice");                       // a token of her own
//!
//! let held = upstream.hold();                             // the next request that arrives is parked
//! let first = alice.begin(Ask::get(UNIT));                // over a socket, in the background
//! held.arrived().await;
//! let second = alice.enter(Ask::get(UNIT)).await;         // past the sockets: it has joined by now
//! held.release();                                         // answered as the upstream's script says now
//! assert!(second.reply().await.cache().contains("collapsed"));
//! gate.advance(Duration::from_secs(61));                  // the clock stands still otherwise
//! assert_eq!((first.reply().await.status, upstream.count()), (200, 1));
//! ```
//!
//! *What waits for what.* Nothing here sleeps or polls. [`Held::arrived`] and [`Upstream::arrived`] wait
//! for the upstream to have a request in its hands; [`Client::enter`] returns once the request has gone as
//! far as it can without waiting; [`Gate::logged`] waits for a line of the log, such as that of an exchange
//! that ended; [`Gate::leave`] waits for everything that is under way.
//!
//! *Time.* The gateway's clock is steered and starts at [`START`]; sockets and their deadlines are on real
//! time, so a test of a timeout sets it to a second and waits that long; less fails on a busy machine.
//!
//! *One thread.* `#[tokio::test]` without arguments: diagnostics are captured by the thread's own tracing
//! subscriber, so with two gates in a test the later one's log has the warnings of both.

mod client;
mod gate;
mod process;
mod upstream;

use std::time::Duration;

use unitgate::config::Config;

pub(crate) use client::{Ask, Client, Pending, Reply, Wire};
pub(crate) use gate::{Gate, START};
pub(crate) use process::{Process, configuration, fetch, unitgate};
pub(crate) use upstream::{Answer, Held, Seen, Upstream};

/// The unit that most tests ask for, as a path.
pub(crate) const UNIT: &str =
    "/api/v1/calcom/integration/unit/6f1c2d9e-0000-4000-8000-00000000a11a";

/// The id in [`UNIT`].
pub(crate) const UNIT_ID: &str = "6f1c2d9e-0000-4000-8000-00000000a11a";

/// Another unit's path.
pub(crate) const OTHER_UNIT: &str =
    "/api/v1/calcom/integration/unit/6f1c2d9e-0000-4000-8000-00000000b22b";

/// An integration's path: forwarded, not cached; `PUT` changes it.
pub(crate) const INTEGRATION: &str =
    "/api/v1/calcom/integration/0e9d8c7b-0000-4000-8000-0000000000e1";

/// Where integrations are created.
pub(crate) const INTEGRATIONS: &str = "/api/v1/calcom/integration";

/// What a key with a `cal_` prefix becomes.
pub(crate) const MASK: &str = "cal_****************";

/// The token of a caller by name. It is no JWT.
pub(crate) fn token(name: &str) -> String {
    format!("tok.{name}-{}", "Z9".repeat(12))
}

/// An unmasked key, different for each seed.
pub(crate) fn key(seed: &str) -> String {
    format!("cal_live_{}", seed.repeat(12))
}

/// The documented list of [`UNIT`], with one integration whose `apiKey` and `prompt` are given.
pub(crate) fn list(api_key: &str, prompt: &str) -> String {
    format!(
        concat!(
            r#"{{"data":[{{"id":"0e9d8c7b-0000-4000-8000-0000000000e1","botId":null,"unitId":"{unit}","#,
            r#""title":"Calcom","calcomUsername":"clinic","apiKey":"{key}","isActive":true,"#,
            r#""isTokenMasked":true,"timezone":"America/Sao_Paulo","prompt":"{prompt}","#,
            r#""checkAvailabilityEnabled":true,"createBookingEnabled":true,"defaultEventTypeId":5470074,"#,
            r#""defaultEventTypeSlug":"30min","createdAt":"2025-03-01 12:00:00.123456","#,
            r#""updatedAt":"2025-03-02 08:30:00.123"}}]}}"#
        ),
        unit = UNIT_ID,
        key = api_key,
        prompt = prompt,
    )
}

/// An upstream, the whole shared cache of `deploy/open.toml` in front of it, and somebody who asks.
pub(crate) async fn shared() -> (Upstream, Gate, Client) {
    shared_with(|_| ()).await
}

/// The same with a configuration that departs.
pub(crate) async fn shared_with(change: impl FnOnce(&mut Config)) -> (Upstream, Gate, Client) {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, change);
    let client = gate.stranger();
    (upstream, gate, client)
}

/// So many seconds.
pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How long is waited for what must happen before a test fails. Nothing that works takes nearly as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
