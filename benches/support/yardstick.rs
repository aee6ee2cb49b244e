//! The yardstick: what the gateway's libraries cost at a hit when nothing else is done with them.
//!
//! hyper with a head timer and a cap on connections, a keyed digest of the token, a lookup in moka by digest
//! and target, governor by caller, a counter and a histogram. It checks nothing, tells nothing and asks no
//! upstream: what is not there is made. **It stays as it is**, so that figures of different days compare.

use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Histogram, HistogramOpts, IntCounter};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use unitgate::clock::Clock;

/// Who asks, and for what.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    caller: [u8; 32],
    target: Box<str>,
}

struct KeyRef<'a> {
    caller: [u8; 32],
    target: &'a str,
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.caller.hash(state);
        self.target.hash(state);
    }
}

impl equivalent::Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.caller == key.caller && *self.target == *key.target
    }
}

struct Yardstick {
    secret: [u8; 32],
    cache: moka::sync::Cache<Key, Bytes>,
    limiter: DefaultKeyedRateLimiter<[u8; 32]>,
    requests: IntCounter,
    durations: Histogram,
    clock: Clock,
    body: Bytes,
}

/// Serves whatever is asked with `body`, each key with a copy of its own, of which it keeps so many bytes.
pub(crate) async fn serve(listener: TcpListener, body: Bytes, capacity: u64) {
    let many = NonZeroU32::new(1_000_000).expect("it is not zero");
    let weigher =
        |key: &Key, body: &Bytes| u32::try_from(key.target.len() + body.len()).unwrap_or(u32::MAX);
    let yardstick = Arc::new(Yardstick {
        secret: [7; 32],
        cache: moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(weigher)
            .time_to_live(Duration::from_hours(1))
            .build(),
        limiter: RateLimiter::keyed(Quota::per_second(many)),
        requests: IntCounter::new("requests_total", "Requests.").expect("the name is valid"),
        durations: Histogram::with_opts(HistogramOpts::new("duration_seconds", "Time."))
            .expect("the name is valid"),
        clock: Clock::real(),
        body,
    });
    let places = Arc::new(Semaphore::new(10_000));
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
    http1.max_buf_size(32 << 10);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let (yardstick, http1) = (Arc::clone(&yardstick), http1.clone());
        #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let yardstick = Arc::clone(&yardstick);
                async move { Ok::<_, Infallible>(yardstick.answer(&request)) }
            });
            http1.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

impl Yardstick {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let began = self.clock.mono();
        let Some(token) = request.headers().get(AUTHORIZATION) else {
            return refusal(StatusCode::UNAUTHORIZED);
        };
        let caller = *blake3::keyed_hash(&self.secret, token.as_bytes()).as_bytes();
        if self.limiter.check_key(&caller).is_err() {
            return refusal(StatusCode::TOO_MANY_REQUESTS);
        }
        let target = request.uri().path();
        let key = KeyRef { caller, target };
        let body = self.cache.get(&key).unwrap_or_else(|| {
            let body = Bytes::copy_from_slice(&self.body);
            self.cache.insert(Key { caller, target: target.into() }, body.clone());
            body
        });
        let mut response = Response::new(Full::new(body));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        self.requests.inc();
        self.durations.observe(self.clock.mono().saturating_sub(began).as_secs_f64());
        response
    }
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
