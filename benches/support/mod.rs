//! What the benches share: the usual answer, and a sample upstream that gives it.

#![allow(dead_code, reason = "no bench uses all of it")]

pub(crate) mod gate;
pub(crate) mod yardstick;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// The documented answer with one integration and a prompt of usual length: about 1.3 kB.
pub(crate) fn answer() -> Bytes {
    let mask = format!("cal_{}", "*".repeat(16));
    let prompt = "Be kind and brief, and offer the next free hour. ".repeat(16);
    Bytes::from(format!(
        r#"{{"data":[{{"id":"5f0c1b9e-7d0a-4a53-9f0e-2b1f5d3c8a11","botId":null,"unitId":"unit-1","title":"Calcom","calcomUsername":"team","apiKey":"{mask}","isActive":true,"isTokenMasked":true,"timezone":"America/Sao_Paulo","prompt":"{prompt}","checkAvailabilityEnabled":true,"createBookingEnabled":true,"defaultEventTypeId":5470074,"defaultEventTypeSlug":"30min","createdAt":"2025-01-02 03:04:05.678901","updatedAt":"2025-01-02 03:04:05.678"}}]}}"#
    ))
}

/// The same with as many integrations as take so many bytes.
pub(crate) fn answer_of(bytes: usize) -> Bytes {
    let one = answer();
    let Some(item) = one.strip_prefix(br#"{"data":["#).and_then(|one| one.strip_suffix(b"]}"))
    else {
        return one;
    };
    let items = vec![item; bytes.div_ceil(item.len()).max(1)];
    Bytes::from([&br#"{"data":["#[..], &items.join(&b','), b"]}"].concat())
}

/// A server that gives `body` to everything after `delay`, with no work at all: the bare hyper that hits
/// are compared with, and the upstream of the benches. Who asks while somebody waits is answered with him.
pub(crate) async fn serve_bare(listener: TcpListener, body: Bytes, delay: Duration) {
    let crowd = Arc::new(Crowd::default());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let (body, crowd) = (body.clone(), Arc::clone(&crowd));
        #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
        tokio::spawn(async move {
            let service = service_fn(move |_request: Request<Incoming>| {
                let mut response = Response::new(Full::new(body.clone()));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                let crowd = (!delay.is_zero()).then(|| Arc::clone(&crowd));
                async move {
                    if let Some(crowd) = crowd {
                        crowd.wait(delay).await;
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// Those who wait together.
#[derive(Default)]
struct Crowd {
    waits: AtomicBool,
    over: Notify,
}

impl Crowd {
    /// Waits so long, or with who waits already for as long as he does.
    async fn wait(&self, delay: Duration) {
        let mut over = pin!(self.over.notified());
        // From here on, so that no end is missed between the look at `waits` and the wait.
        over.as_mut().enable();
        if self.waits.swap(true, Ordering::Relaxed) {
            return over.await;
        }
        tokio::time::sleep(delay).await;
        self.waits.store(false, Ordering::Relaxed);
        self.over.notify_waiters();
    }
}

/// A listener on a free port of loopback.
pub(crate) async fn loopback() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, address)
}
