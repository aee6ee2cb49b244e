//! A gateway as shipped, its rates above the load, and a hit on it without sockets.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use unitgate::clock::{Clock, Dice};
use unitgate::config::{AccessLog, Config, Limits};
use unitgate::gateway::{Content, Current, Session};
use unitgate::listener::{Ahead, Given, Workers};
use unitgate::server::{Server, Setting};
use unitgate::telemetry::Lines;

use crate::support;

/// What a gateway of a bench is opened with, beside what is shipped.
pub(crate) struct Scene {
    pub(crate) upstream: SocketAddr,
    pub(crate) access: AccessLog,
    /// Bytes of the cache.
    pub(crate) cache: u64,
}

impl Scene {
    /// Opens it here, its lines written to `out`.
    pub(crate) fn open(&self, out: impl Write + Send + 'static) -> Server {
        let mut config = Config::default();
        config.listen.address = vec![([127, 0, 0, 1], 0).into()];
        config.admin.address = None;
        config.log.access = self.access;
        config.cache.max_bytes = self.cache;
        config.cache.policy.ttl = Duration::from_hours(1);
        for route in &mut config.routes {
            if let Some(policy) = &mut route.cache {
                policy.ttl = Duration::from_hours(1);
            }
        }
        for upstream in config.upstreams.values_mut() {
            let url = format!("http://{}", self.upstream);
            upstream.url = url.parse().expect("an address is an authority");
        }
        raise(&mut config.limits);
        let lines = Lines::to(out).expect("the machine runs threads");
        let (clock, dice) = (Clock::real(), Dice::seeded(1));
        let (workers, given) = (Workers::here(), Given::default());
        let setting = Setting { lines, clock, dice, workers, given };
        Server::start(&config, setting).expect("loopback has free ports")
    }
}

/// In front of a sample upstream, its lines written to `out`.
pub(crate) async fn gateway(access: AccessLog, out: impl Write + Send + 'static) -> Server {
    let (listener, upstream) = support::loopback().await;
    #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
    tokio::spawn(support::serve_bare(listener, support::answer(), Duration::ZERO));
    Scene { upstream, access, cache: 64 << 20 }.open(out)
}

/// Rates above any load.
pub(crate) fn raise(limits: &mut Limits) {
    for rate in limits.caller.iter_mut().chain(limits.caller_upstream.iter_mut()) {
        rate.per_second = 1_000_000;
        rate.burst = 1_000_000;
    }
}

/// A connection from loopback.
pub(crate) fn session() -> Session {
    Session::of(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The answer to a request, past the sockets.
pub(crate) async fn answered(
    gateway: &Current,
    session: &Session,
    mut request: Request<Full<Bytes>>,
) -> Response<Full<Content>> {
    let reply = gateway.handle(&mut request, session, &Ahead::new()).await;
    assert!(reply.headers().contains_key("cache-status"), "it was refused");
    reply
}

/// What a client sends for a target.
pub(crate) fn request(target: &str) -> Request<Full<Bytes>> {
    Request::get(target)
        .header("host", "unitgate.internal")
        .header("authorization", "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef")
        .header("user-agent", "bench")
        .header("accept", "*/*")
        .body(Full::default())
        .expect("the request is well-formed")
}

pub(crate) const TARGET: &str = "/api/v1/calcom/integration/unit/unit-1";
