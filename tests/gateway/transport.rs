//! Claims about the public port's transport: HTTP/2, TLS, PROXY headers, and who is turned away.
//!
//! 1. HTTP/2 is served as HTTP/1.1 is, where it is agreed on, and nowhere else.
//! 2. Certificates change without a connection lost; files that can't be used change nothing.
//! 3. Only trusted peers are believed whom they speak for.
//! 4. Each limit of a connection ends it in the way that it says, and is counted.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::Request;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use unitgate::config::{Config, Http2};

use crate::support::{Answer, Ask, Gate, MASK, PATIENCE, UNIT, Upstream, token};

const SHORT: Duration = Duration::from_millis(100);

// ── HTTP/2 ──────────────────────────────────────────────────────────────────────────────────────────

/// An HTTP/2 client.
struct Two {
    requests: SendRequest<Bytes>,
    ended: JoinSet<Result<(), h2::Error>>,
}

impl Two {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self::with(&h2::client::Builder::new(), stream).await
    }

    async fn with(
        builder: &h2::client::Builder,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let (requests, connection): (_, Connection<_, Bytes>) =
            builder.handshake(stream).await.unwrap();
        let mut ended = JoinSet::new();
        ended.spawn(connection);
        Self { requests, ended }
    }

    async fn ready(&mut self) -> Result<(), h2::Error> {
        poll_fn(|cx| self.requests.poll_ready(cx)).await
    }

    async fn get(&mut self, target: &str) -> (u16, http::HeaderMap, String) {
        self.send(&request(target)).await.unwrap()
    }

    async fn send(
        &mut self,
        request: &Request<()>,
    ) -> Result<(u16, http::HeaderMap, String), h2::Error> {
        self.ready().await?;
        let (response, _) = self.requests.send_request(request.clone(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            all.extend_from_slice(&data);
        }
        Ok((head.status.as_u16(), head.headers, String::from_utf8(all).unwrap()))
    }

    /// How the connection ended.
    async fn end(&mut self) -> Result<(), h2::Error> {
        timeout(PATIENCE, self.ended.join_next()).await.unwrap().unwrap().unwrap()
    }
}

fn request(target: &str) -> Request<()> {
    Request::get(format!("http://gate.example{target}"))
        .header("authorization", format!("Bearer {}", token("a")))
        .body(())
        .unwrap()
}

async fn tcp(gate: &Gate) -> TcpStream {
    TcpStream::connect(gate.address()).await.unwrap()
}

fn h2c(config: &mut Config) {
    config.listen.http2 = Http2::All;
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_answered_as_http1_is_on_the_same_port() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, h2c);
    let mut two = Two::over(tcp(&gate).await).await;
    let (status, fields, body) = two.get(UNIT).await;
    assert!(status == 200 && body.contains(MASK), "{body}");
    assert_eq!(fields["cache-status"], "unitgate; fwd=uri-miss; fwd-status=200; stored; ttl=60");
    let (_, fields, again) = two.get(UNIT).await;
    assert!(fields["cache-status"].to_str().unwrap().starts_with("unitgate; hit"));
    assert_eq!(again, body);
    // What one protocol has stored is a hit for the other.
    let reply = gate.client("a").get(UNIT).await;
    assert!(reply.is_hit() && reply.text() == body);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn without_tls_http2_is_spoken_only_where_it_is_configured() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |_| ());
    let mut stream = tcp(&gate).await;
    stream.write_all(PREFACE).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"");
    assert_eq!(ended(&gate, "malformed_head"), 1.0);
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_content_in_http2_too() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, h2c);
    let mut two = Two::over(tcp(&gate).await).await;
    for cache in ["unitgate; fwd", "unitgate; hit"] {
        let mut head = request(UNIT);
        *head.method_mut() = http::Method::HEAD;
        let (status, fields, body) = two.send(&head).await.unwrap();
        assert_eq!((status, body.as_str()), (200, ""));
        assert!(fields["cache-status"].to_str().unwrap().starts_with(cache));
        let got = two.get(UNIT).await.2.len().to_string();
        assert_eq!(fields["content-length"], got.as_str());
    }
}

#[tokio::test]
async fn cookies_that_http2_splits_are_one_line_to_the_upstream() {
    let upstream = Upstream::start().await;
    let gate = Gate::shared(&upstream, h2c);
    let mut two = Two::over(tcp(&gate).await).await;
    let mut split = request("/page");
    for crumb in ["a=1", "b=2"] {
        split.headers_mut().append("cookie", crumb.parse().unwrap());
    }
    assert_eq!(two.send(&split).await.unwrap().0, 200);
    assert_eq!(upstream.last().field("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn a_drain_says_goaway_and_finishes_what_is_under_way() {
    let upstream = Upstream::start().await;
    let held = upstream.hold();
    let mut gate = Gate::start(&upstream, h2c);
    let mut two = Two::over(tcp(&gate).await).await;
    two.ready().await.unwrap();
    let (response, _) = two.requests.send_request(request(UNIT), true).unwrap();
    held.arrived().await;
    let (left, status) = tokio::join!(gate.leave(), async {
        // The gateway closes the connection to new streams before the answer is there.
        while two.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
        held.release();
        response.await.unwrap().status()
    });
    assert!(left);
    assert_eq!(status, 200);
    two.end().await.unwrap();
}

#[tokio::test]
async fn a_connection_above_its_number_of_requests_ends_in_order() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.connection_requests = 2;
        h2c(config);
    });
    let client = gate.client("a");
    let mut wire = client.connect().await;
    wire.write(&client.bytes(Ask::get(UNIT))).await;
    assert_eq!(wire.read(false).await.unwrap().field("connection"), None);
    wire.write(&client.bytes(Ask::get(UNIT))).await;
    let last = wire.read(false).await.unwrap();
    assert_eq!((last.status, last.field("connection")), (200, Some("close")));
    assert!(wire.read(false).await.is_none());

    let mut two = Two::over(tcp(&gate).await).await;
    for _ in 0..2 {
        assert_eq!(two.get(UNIT).await.0, 200);
    }
    two.end().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_too_old_ends_in_order_with_its_next_answer() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.connection_age = SHORT;
        h2c(config);
    });
    let client = gate.client("a");
    let mut wire = client.connect().await;
    let last = loop {
        wire.write(&client.bytes(Ask::get(UNIT))).await;
        let reply = wire.read(false).await.unwrap();
        if reply.field("connection").is_some() {
            break reply;
        }
    };
    assert_eq!((last.status, last.field("connection")), (200, Some("close")));
    let mut two = Two::over(tcp(&gate).await).await;
    while two.send(&request(UNIT)).await.is_ok() {}
    two.end().await.unwrap();
}

#[tokio::test]
async fn a_head_of_http2_is_held_to_the_sizes_of_http1() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.target_size = 300;
        config.listen.fields = 12;
        config.listen.head_size = 8 << 10;
        h2c(config);
    });
    let mut two = Two::over(tcp(&gate).await).await;
    let long = format!("{UNIT}?q={}", "x".repeat(300));
    assert_eq!(two.get(&long).await.0, 414);
    let mut many = request(UNIT);
    for number in 0..12 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        many.headers_mut().insert(name, "1".parse().unwrap());
    }
    assert_eq!(two.send(&many).await.unwrap().0, 431);
    let mut large = request(UNIT);
    large.headers_mut().insert("x-large", "y".repeat(9 << 10).parse().unwrap());
    assert_eq!(two.send(&large).await.unwrap().0, 431);
    assert_eq!(two.get(UNIT).await.0, 200);
    assert_eq!(gate.metric("errors_total", &[r#"code="head_too_large""#]), 2.0);
    let reply = gate.client("a").get(&long).await;
    assert_eq!((reply.status, reply.code().as_str()), (414, "target_too_long"));
    let mut ask = Ask::get(UNIT);
    for number in 0..12 {
        ask = ask.field(&format!("x-{number}"), "1");
    }
    assert_eq!(gate.client("a").send(ask).await.status, 431);
}

// ── HTTP/2, frame by frame ──────────────────────────────────────────────────────────────────────────

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request's fields without compression (RFC 7541 §6.2.2).
fn block(target: &str) -> Vec<u8> {
    let bearer = format!("Bearer {}", token("a"));
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "gate.example"),
        (":path", target),
        ("authorization", &bearer),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A client that sends what it likes.
struct Raw(TcpStream);

impl Raw {
    async fn connect(gate: &Gate, settings: &[u8]) -> Self {
        let mut raw = Self(tcp(gate).await);
        raw.send(PREFACE).await;
        raw.send(&frame(SETTINGS, 0, 0, settings)).await;
        raw
    }

    /// Sends, as far as the gateway still takes it.
    async fn send(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes).await);
    }

    /// The next frame; `None` once the connection is closed.
    async fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// All frames until the gateway closes.
    async fn rest(&mut self) -> Vec<(u8, u32, Vec<u8>)> {
        let all = async {
            let mut all = Vec::new();
            while let Some(frame) = self.frame().await {
                all.push(frame);
            }
            all
        };
        timeout(PATIENCE, all).await.expect("the gateway closes the connection")
    }
}

fn ended(gate: &Gate, why: &str) -> f64 {
    gate.metric("connections_ended_total", &[&format!("reason={why:?}")])
}

#[tokio::test]
async fn floods_of_frames_that_bring_nothing_end_the_connection() {
    let upstream = Upstream::start().await;
    let floods = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(2, 0, 1, &[0, 0, 0, 0, 1]),
        frame(8, 0, 0, &[0, 0, 0, 1]),
        frame(99, 0, 0, &[]),
    ];
    for (number, flood) in (1..).zip(floods) {
        let gate = Gate::start(&upstream, |config| {
            config.listen.control_frames = 1;
            h2c(config);
        });
        let mut raw = Raw::connect(&gate, &[]).await;
        raw.send(&flood.repeat(20_000)).await;
        raw.rest().await;
        assert_eq!(ended(&gate, "flood"), 1.0, "flood {number}");
        // Others are served.
        assert_eq!(gate.client("a").get(UNIT).await.status, 200);
    }
}

#[tokio::test]
async fn a_rapid_reset_is_ended_and_leaves_bounded_work_upstream() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.control_frames = 5;
        h2c(config);
    });
    let mut raw = Raw::connect(&gate, &[]).await;
    for number in 0..2_000 {
        let stream = 2 * number + 1;
        raw.send(&frame(HEADERS, 5, stream, &block(&format!("{UNIT}-{number}")))).await;
        raw.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await;
    }
    raw.rest().await;
    assert_eq!(ended(&gate, "flood") + ended(&gate, "http2"), 1.0);
    assert!(upstream.count() <= 100, "{} requests upstream", upstream.count());
    assert_eq!(gate.client("a").get(UNIT).await.status, 200);
}

#[tokio::test]
async fn a_head_without_end_is_ended_by_its_size_and_by_its_time() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.head = SHORT;
        h2c(config);
    });
    let mut raw = Raw::connect(&gate, &[]).await;
    raw.send(&frame(HEADERS, 1, 1, &block(UNIT))).await;
    raw.rest().await;
    assert_eq!(ended(&gate, "slow_head"), 1.0);

    let gate = Gate::start(&upstream, h2c);
    let mut raw = Raw::connect(&gate, &[]).await;
    raw.send(&frame(HEADERS, 1, 1, &block(UNIT))).await;
    let filler = frame(CONTINUATION, 0, 1, &[&[0, 1, b'x', 100][..], &[b'y'; 100]].concat());
    raw.send(&filler.repeat(20_000)).await;
    raw.rest().await;
    assert_eq!(ended(&gate, "flood") + ended(&gate, "http2"), 1.0);
    assert_eq!(gate.metric("http2_requests_refused_total", &[]), 1.0);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_ended_by_the_write_time() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.write = SHORT;
        h2c(config);
    });
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    let mut raw = Raw::connect(&gate, &[0, 4, 0, 0, 0, 0]).await;
    raw.send(&frame(HEADERS, 5, 1, &block(UNIT))).await;
    let frames = raw.rest().await;
    assert!(frames.iter().any(|(kind, stream, _)| (*kind, *stream) == (HEADERS, 1)));
    assert!(!frames.iter().any(|(kind, ..)| *kind == DATA));
    assert_eq!(ended(&gate, "write_stalled"), 1.0);
}

/// Long enough for a machine that is busy.
const WRITE: Duration = Duration::from_millis(500);

/// Gateway and client of `streams` answers that wait for windows, and what an answer is.
async fn unread(streams: u32) -> (Upstream, Gate, Raw, String) {
    let upstream = Upstream::start().await;
    let page = format!("[{}1]", "1,".repeat(25_000));
    upstream.answer(Answer::json(200, page.clone()));
    let gate = Gate::start(&upstream, |config| {
        config.listen.write = WRITE;
        // Windows are opened a byte at a time.
        config.listen.control_frames = 1_000_000;
        h2c(config);
    });
    gate.client("a").get(UNIT).await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    let mut raw = Raw::connect(&gate, &[0, 4, 0, 0, 0, 0]).await;
    let numbers = (0..streams).map(|number| 2 * number + 1);
    let asks: Vec<_> = numbers.map(|stream| frame(HEADERS, 5, stream, &block(UNIT))).collect();
    raw.send(&asks.concat()).await;
    (upstream, gate, raw, page)
}

#[tokio::test]
async fn answers_of_which_nothing_is_taken_end_the_connection_and_one_that_moves_comes_whole() {
    let (_upstream, gate, mut raw, page) = unread(100).await;
    let mut got = Vec::new();
    let told = async {
        loop {
            raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await;
            loop {
                match raw.frame().await.unwrap() {
                    (GOAWAY, ..) => return,
                    (DATA, stream, bytes) => {
                        assert_eq!(stream, 1);
                        got.extend(bytes);
                        break;
                    }
                    _ => {}
                }
            }
        }
    };
    timeout(PATIENCE, told).await.expect("the client is told");
    raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0])).await;
    for (kind, stream, bytes) in raw.rest().await {
        if kind == DATA {
            assert_eq!(stream, 1);
            got.extend(bytes);
        }
    }
    assert!(got == page.as_bytes(), "{} of {} bytes came", got.len(), page.len());
    assert_eq!(ended(&gate, "write_stalled"), 1.0);
}

#[tokio::test]
async fn who_takes_a_little_of_each_answer_is_left_alone() {
    let (_upstream, gate, mut raw, page) = unread(10).await;
    // Room on the connection for all of it, however much of it a fast machine takes meanwhile.
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0])).await;
    let (began, mut got) = (Instant::now(), 0);
    while began.elapsed() < 2 * WRITE && got < 5 * page.len() {
        for stream in (1..20).step_by(2) {
            raw.send(&frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1])).await;
        }
        let due = got + 10;
        while got < due {
            let (kind, _, bytes) = raw.frame().await.unwrap();
            assert_ne!(kind, GOAWAY);
            got += if kind == DATA { bytes.len() } else { 0 };
        }
    }
    for stream in [0].into_iter().chain((1..20).step_by(2)) {
        raw.send(&frame(WINDOW_UPDATE, 0, stream, &[0, 16, 0, 0])).await;
    }
    while got < 10 * page.len() {
        let (kind, _, bytes) = raw.frame().await.unwrap();
        got += if kind == DATA { bytes.len() } else { 0 };
    }
    assert_eq!(ended(&gate, "write_stalled"), 0.0);
}

#[tokio::test]
async fn a_connection_without_a_stream_is_ended_by_the_idle_time_whatever_it_pings() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.idle = SHORT;
        h2c(config);
    });
    let mut raw = Raw::connect(&gate, &[]).await;
    raw.send(&frame(HEADERS, 5, 1, &block(UNIT))).await;
    raw.send(&frame(PING, 0, 0, &[0; 8])).await;
    let frames = raw.rest().await;
    assert!(frames.iter().any(|(kind, ..)| *kind == DATA));
    // Who asks at that moment is to know whether it was worked on (RFC 9113 §6.8).
    assert!(frames.iter().any(|(kind, ..)| *kind == GOAWAY));
    assert_eq!(ended(&gate, "idle"), 1.0);
}

#[tokio::test]
async fn streams_above_the_most_are_refused_and_told() {
    let upstream = Upstream::start().await;
    let held = upstream.hold();
    let mut gate = Gate::start(&upstream, |config| {
        config.listen.streams = 2;
        h2c(config);
    });
    let mut raw = Raw::connect(&gate, &[]).await;
    let settings = loop {
        let (kind, _, payload) = raw.frame().await.unwrap();
        if kind == SETTINGS && !payload.is_empty() {
            break payload;
        }
    };
    // SETTINGS_MAX_CONCURRENT_STREAMS.
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]), "{settings:?}");
    raw.send(&frame(SETTINGS, 1, 0, &[])).await;
    for stream in [1, 3, 5] {
        raw.send(&frame(HEADERS, 5, stream, &block(&format!("{UNIT}-{stream}")))).await;
    }
    let (stream, code) = loop {
        let (kind, stream, payload) = raw.frame().await.unwrap();
        if kind == RST_STREAM {
            break (stream, payload);
        }
    };
    // REFUSED_STREAM (RFC 9113 §8.7): it may be tried again.
    assert_eq!((stream, code), (5, vec![0, 0, 0, 7]));
    held.release();
    drop(raw);
    gate.leave().await;
    assert_eq!(gate.metric("http2_requests_refused_total", &[]), 1.0);
}

#[tokio::test]
async fn what_breaks_the_rules_of_http2_is_told_goaway_and_counted() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, h2c);
    let mut raw = Raw::connect(&gate, &[]).await;
    // DATA on a stream that was never opened (RFC 9113 §5.1).
    raw.send(&frame(DATA, 0, 7, b"x")).await;
    assert!(raw.rest().await.iter().any(|(kind, ..)| *kind == GOAWAY));
    assert_eq!(ended(&gate, "http2"), 1.0);
}

// ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────

/// A directory with a certificate of its own authority, and one for a client.
struct Papers {
    directory: TempDir,
}

impl Papers {
    fn new() -> Self {
        let papers = Self { directory: TempDir::new().unwrap() };
        papers.renew();
        papers
    }

    /// A new certificate and key in the files.
    fn renew(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["gate.example".to_owned()]).unwrap();
        self.write("tls.crt", &made.cert.pem());
        self.write("tls.key", &made.signing_key.serialize_pem());
        made.cert.der().clone()
    }

    fn write(&self, name: &str, text: &str) {
        // As mounted secrets change: whole.
        let new = self.directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.directory.path().join(name)).unwrap();
    }

    fn configure(&self, config: &mut Config) {
        config.listen.tls_certificate_file = Some(self.directory.path().join("tls.crt"));
        config.listen.tls_key_file = Some(self.directory.path().join("tls.key"));
    }

    /// A client that trusts what is in the certificate's file now.
    fn client(&self, protocols: &[&str], shown: Option<&Self>) -> TlsConnector {
        let certificate = |papers: &Self| {
            CertificateDer::from_pem_file(papers.directory.path().join("tls.crt")).unwrap()
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate(self)).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(papers) => {
                let key = papers.directory.path().join("tls.key");
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(vec![certificate(papers)], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

async fn shake(gate: &Gate, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    client.connect("gate.example".try_into().unwrap(), tcp(gate).await).await
}

/// Asks for a head over HTTP/1.1 and returns its first line.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    let bearer = token("a");
    let request =
        format!("HEAD {UNIT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {bearer}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap().lines().next().unwrap().to_owned())
}

#[tokio::test]
async fn over_tls_each_client_gets_the_protocol_that_it_agrees_on() {
    let upstream = Upstream::start().await;
    let papers = Papers::new();
    let gate = Gate::start(&upstream, |config| papers.configure(config));
    let stream = shake(&gate, &papers.client(&["h2", "http/1.1"], None)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(Two::over(stream).await.get(UNIT).await.0, 200);
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = shake(&gate, &papers.client(protocols, None)).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), "HTTP/1.1 200 OK");
    }

    let gate = Gate::start(&upstream, |config| {
        papers.configure(config);
        config.listen.http2 = Http2::Off;
    });
    let stream = shake(&gate, &papers.client(&["h2", "http/1.1"], None)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_handshake_that_fails_or_does_not_come_is_ended_and_counted() {
    let upstream = Upstream::start().await;
    let papers = Papers::new();
    let gate = Gate::start(&upstream, |config| {
        papers.configure(config);
        config.listen.head = SHORT;
    });
    let mut plain = tcp(&gate).await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    drop(plain.read_to_end(&mut all).await);
    assert!(!all.starts_with(b"HTTP"));
    let mut silent = tcp(&gate).await;
    drop(silent.read_to_end(&mut Vec::new()).await);
    assert_eq!(ended(&gate, "tls_failed"), 2.0);
}

#[tokio::test]
async fn a_changed_certificate_serves_new_connections_and_old_ones_go_on() {
    let upstream = Upstream::start().await;
    let papers = Papers::new();
    let gate = Gate::start(&upstream, |config| papers.configure(config));
    let mut old = shake(&gate, &papers.client(&[], None)).await.unwrap();
    assert_eq!(ask(&mut old).await.unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(gate.metric("tls_certificate_last_load_successful", &[]), 1.0);

    papers.write("tls.crt", "-----BEGIN CERTIFICATE-----\nnonsense\n");
    gate.logged("TLS: the changed files can't be used").await;
    assert_eq!(gate.metric("tls_certificate_last_load_successful", &[]), 0.0);

    let renewed = papers.renew();
    gate.logged("TLS: the changed certificate is in use").await;
    assert_eq!(gate.metric("tls_certificate_last_load_successful", &[]), 1.0);
    let new = shake(&gate, &papers.client(&[], None)).await.unwrap();
    assert_eq!(new.get_ref().1.peer_certificates(), Some(&[renewed][..]));
    assert_eq!(ask(&mut old).await.unwrap(), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn where_clients_need_a_certificate_none_is_served_without() {
    let upstream = Upstream::start().await;
    let (papers, clients) = (Papers::new(), Papers::new());
    let gate = Gate::start(&upstream, |config| {
        papers.configure(config);
        config.listen.tls_client_ca_file = Some(clients.directory.path().join("tls.crt"));
    });
    let mut shown = shake(&gate, &papers.client(&[], Some(&clients))).await.unwrap();
    assert_eq!(ask(&mut shown).await.unwrap(), "HTTP/1.1 200 OK");
    for stranger in [None, Some(&papers)] {
        // In TLS 1.3 a client learns of it with the first answer.
        let mut stream = shake(&gate, &papers.client(&[], stranger)).await.unwrap();
        assert!(ask(&mut stream).await.is_err());
    }
    assert_eq!(ended(&gate, "tls_failed"), 2.0);
    assert_eq!(upstream.count(), 1);
}

// ── Whom a connection is from ───────────────────────────────────────────────────────────────────────

/// One failed request per address and hour.
fn one_failure(config: &mut Config) {
    config.limits.peer = Some(unitgate::config::Rate { per_second: 1, burst: 1 });
}

#[tokio::test]
async fn a_trusted_balancer_tells_the_client_by_its_proxy_header() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        one_failure(config);
        config.listen.trusted = vec!["127.0.0.0/8".parse().unwrap()];
        config.listen.proxy_protocol = true;
    });
    let asks = async |header: &str| {
        let mut stream = tcp(&gate).await;
        let request =
            format!("{header}GET {UNIT} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        // Who is closed with bytes unread sees a reset.
        drop(stream.read_to_end(&mut all).await);
        all.get(9..12).map(|status| String::from_utf8(status.to_vec()).unwrap())
    };
    let one = "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n";
    let other = "PROXY TCP4 192.0.2.2 127.0.0.1 1 2\r\n";
    assert_eq!(asks(one).await.as_deref(), Some("401"));
    assert_eq!(asks(one).await.as_deref(), Some("429"));
    assert_eq!(asks(other).await.as_deref(), Some("401"));
    assert_eq!(asks("").await, None);
    assert_eq!(ended(&gate, "bad_proxy_header"), 1.0);
    assert!(gate.log().contains(r#""peer":"192.0.2.2""#), "{}", gate.log());
}

#[tokio::test]
async fn x_forwarded_for_is_believed_from_the_trusted_alone() {
    let upstream = Upstream::start().await;
    for trusted in [true, false] {
        let gate = Gate::start(&upstream, |config| {
            one_failure(config);
            let network = if trusted { "127.0.0.0/8" } else { "10.0.0.0/8" };
            config.listen.trusted = vec![network.parse().unwrap()];
        });
        let stranger = gate.stranger();
        let from = |address: &str| Ask::get(UNIT).field("X-Forwarded-For", address);
        assert_eq!(stranger.send(from("192.0.2.1")).await.status, 401);
        let other = stranger.send(from("192.0.2.2")).await.status;
        assert_eq!(other, if trusted { 401 } else { 429 });
        assert_eq!(stranger.send(from("192.0.2.1")).await.status, 429);
    }
}

#[tokio::test]
async fn without_trust_a_proxy_header_is_no_request() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| {
        config.listen.trusted = vec!["10.0.0.0/8".parse().unwrap()];
        config.listen.proxy_protocol = true;
    });
    let mut stream = tcp(&gate).await;
    stream.write_all(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n\r\n").await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 400 "), "{all}");
    assert_eq!(gate.client("a").get(UNIT).await.status, 200);
}

// ── Who is turned away ──────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_so_and_others_are_served() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.listen.connections_per_peer = 1);
    let client = gate.client("a");
    let mut first = client.connect().await;
    first.write(&client.bytes(Ask::get(UNIT))).await;
    assert_eq!(first.read(false).await.unwrap().status, 200);
    let turned_away = client.connect().await.read(false).await.unwrap();
    assert_eq!(turned_away.status, 503);
    assert_eq!(turned_away.field("retry-after"), Some("1"));
    assert_eq!(turned_away.field("connection"), Some("close"));
    assert_eq!(ended(&gate, "peer_full"), 1.0);
    drop(first);
    // Its place is free as soon as the gateway has seen that it left.
    let freed = async { while client.get(UNIT).await.status != 200 {} };
    timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test]
async fn connections_above_the_most_are_told_to_come_back() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.listen.connections = 1);
    let client = gate.client("a");
    let mut first = client.connect().await;
    first.write(&client.bytes(Ask::get(UNIT))).await;
    assert_eq!(first.read(false).await.unwrap().status, 200);
    let turned_away = client.connect().await.read(false).await.unwrap();
    assert_eq!((turned_away.status, turned_away.field("retry-after")), (503, Some("1")));
    assert_eq!(ended(&gate, "shed"), 1.0);
}

#[tokio::test]
async fn requests_above_those_that_may_wait_are_told_to_come_back_and_hits_are_served() {
    let upstream = Upstream::start().await;
    let gate = Gate::start(&upstream, |config| config.listen.requests = 2);
    let client = gate.client("a");
    client.get(UNIT).await;
    let mut waiting = Vec::new();
    for number in 0..2 {
        let held = upstream.hold();
        let asked = client.begin(Ask::get(&format!("{UNIT}-{number}")));
        held.arrived().await;
        waiting.push((held, asked));
    }
    let refused = client.get(&format!("{UNIT}-more")).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert!(client.get(UNIT).await.is_hit());
    // Past its lifetime, what is there is better than a refusal.
    gate.advance(Duration::from_secs(100));
    let stale = client.get(UNIT).await;
    assert_eq!(stale.status, 200);
    assert!(stale.cache().contains("fwd=stale"), "{}", stale.cache());
    for (held, asked) in waiting {
        held.release();
        assert_eq!(asked.reply().await.status, 200);
    }
}
