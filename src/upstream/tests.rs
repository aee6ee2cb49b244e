//! Claims about whole exchanges, against an upstream whose every byte a test decides.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::pool::HEAD_SIZE;
use super::*;
use crate::clock::{Clock, Dice};
use crate::config::NamedUpstream;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// An upstream whose every byte a test decides.
struct Scripted(TcpListener);

impl Scripted {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    async fn accept(&self) -> Peer {
        Peer(within(self.0.accept()).await.unwrap().0)
    }

    /// Accepts, reads a request, answers `bytes`; the connection stays open with the caller.
    async fn answer(&self, bytes: &[u8]) -> Peer {
        let mut peer = self.accept().await;
        peer.answer(bytes).await;
        peer
    }
}

/// A connection as the upstream sees it.
struct Peer(TcpStream);

impl Peer {
    /// Head and body of the next request, as text.
    async fn request(&mut self) -> String {
        let mut read = Vec::new();
        within(async {
            while !complete(&read) {
                assert_ne!(self.0.read_buf(&mut read).await.unwrap(), 0, "the client left");
            }
        })
        .await;
        String::from_utf8(read).unwrap()
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Reads a request, answers `bytes`.
    async fn answer(&mut self, bytes: &[u8]) {
        self.request().await;
        self.send(bytes).await;
    }

    /// Resolves once the client has closed the connection.
    async fn closed(&mut self) {
        let mut rest = Vec::new();
        drop(within(self.0.read_to_end(&mut rest)).await);
        assert!(rest.is_empty(), "a closed connection carried another request");
    }
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

async fn within<F: Future>(work: F) -> F::Output {
    timeout(Duration::from_secs(20), work).await.expect("a test waits for something that happens")
}

/// Lets the client's tasks run until a finished connection is back in its pool.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Moves the sockets' clock ahead, with nobody waiting on it.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn limits() -> config::Upstream {
    config::Upstream {
        connect: Duration::from_secs(5),
        first_byte: Duration::from_secs(10),
        total: Duration::from_secs(15),
        max_body: 64 << 10,
        max_fields: 100,
        idle: Duration::from_mins(1),
        age: Duration::from_mins(5),
        ..config::Upstream::default()
    }
}

fn upstreams(url: &str, limits: &config::Upstream) -> Upstreams {
    let named = BTreeMap::from([("api".to_owned(), NamedUpstream { url: url.parse().unwrap() })]);
    Upstreams::new(limits, &named, ground(Clock::steered(Duration::from_secs(1_000)))).unwrap()
}

fn ground(clock: Clock) -> Ground {
    Ground { callers: 100, clock, dice: Dice::seeded(1), dial: None }
}

fn toward(server: &Scripted, limits: &config::Upstream) -> Upstreams {
    upstreams(&format!("http://{}", server.address()), limits)
}

fn get(target: &str) -> Ask {
    Ask {
        interim: None,
        method: Method::GET,
        target: Bytes::copy_from_slice(target.as_bytes()),
        fields: Arc::new(Outbound::All(HeaderMap::new())),
        body: Bytes::new(),
        kind: Kind::Safe,
    }
}

fn post(body: &'static str) -> Ask {
    let fields = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
    Ask {
        method: Method::POST,
        fields: Arc::new(Outbound::All(fields)),
        body: body.into(),
        kind: Kind::Write,
        ..get("/w")
    }
}

/// What a GET makes of `bytes`, after which the upstream closes.
async fn answered(bytes: &[u8], limits: &config::Upstream) -> Result<Answer, Failure> {
    let server = Scripted::start().await;
    let client = toward(&server, limits);
    let serve = async { drop(server.answer(bytes).await) };
    tokio::join!(within(client.exchange(0, get("/"))), serve).0
}

/// The kind of failure that a GET makes of `bytes`.
async fn refused(bytes: &[u8]) -> &'static str {
    let Err(failure) = answered(bytes, &limits()).await else {
        return "none";
    };
    assert_eq!((failure.trip.tries, failure.sent), (1, Sent::Maybe));
    failure.error.kind()
}

#[tokio::test]
async fn a_target_goes_out_byte_for_byte_with_the_upstreams_own_host() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let target = "/a%2Fb/./..//c;d=%zz?q=1&&x=%20+'{}|~é";
    let mut ask = get(target);
    Arc::make_mut(&mut ask.fields).more().insert(HOST, HeaderValue::from_static("evil.example"));
    Arc::make_mut(&mut ask.fields).more().insert(CONTENT_LENGTH, HeaderValue::from_static("99"));
    let (answer, request) = tokio::join!(within(client.exchange(0, ask)), async {
        let mut peer = server.accept().await;
        let request = peer.request().await;
        peer.send(OK).await;
        request
    });
    let answer = answer.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"{}"[..]));
    let want = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", server.address());
    assert_eq!(request, want);
}

#[tokio::test]
async fn a_target_that_would_change_on_its_way_is_refused() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    for target in ["", "*", "x", "?q", "/a b", "/a#f", "/a\r\nb: c", "/\u{7f}", "http://x/"] {
        let failure = client.exchange(0, get(target)).await.err().unwrap();
        assert_eq!((failure.error.kind(), failure.sent), ("target", Sent::Nothing), "{target:?}");
    }
    let failure = client.exchange(7, get("/")).await.err().unwrap();
    assert_eq!(failure.error.kind(), "target");
}

#[tokio::test]
async fn a_write_carries_its_body_and_length() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let (answer, request) = tokio::join!(client.exchange(0, post("hello")), async {
        let mut peer = server.accept().await;
        let request = peer.request().await;
        peer.send(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        request
    });
    assert_eq!(answer.unwrap().status, StatusCode::NO_CONTENT);
    assert!(request.contains("content-length: 5\r\n") && request.ends_with("\r\n\r\nhello"));
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_told_from_one_without_a_name() {
    let closed = Scripted::start().await;
    let client = toward(&closed, &limits());
    drop(closed);
    let failure = within(client.exchange(0, get("/"))).await.err().unwrap();
    assert_eq!((failure.error.kind(), failure.sent), ("connect", Sent::Nothing));
    assert_eq!(failure.trip.tries, 1);

    // A label of 64 bytes is no name: the resolver refuses it without asking anyone.
    let client = upstreams(&format!("http://{}.invalid", "a".repeat(64)), &limits());
    let failure = within(client.exchange(0, get("/"))).await.err().unwrap();
    assert_eq!((failure.error.kind(), failure.sent), ("resolve", Sent::Nothing));
}

#[tokio::test]
async fn the_connect_deadline_covers_a_tls_handshake_that_never_comes() {
    let server = Scripted::start().await;
    let short = config::Upstream { connect: Duration::from_millis(100), ..limits() };
    let client = upstreams(&format!("https://{}", server.address()), &short);
    let failure = within(client.exchange(0, get("/"))).await.err().unwrap();
    assert_eq!((failure.error.kind(), failure.sent), ("connect_timeout", Sent::Nothing));
    assert!(failure.error.is_timeout());
}

#[tokio::test]
async fn a_late_first_byte_is_a_timeout_and_its_connection_is_not_used_again() {
    let server = Scripted::start().await;
    let short = config::Upstream { first_byte: Duration::from_millis(250), ..limits() };
    let client = toward(&server, &short);
    let (answer, ()) = tokio::join!(within(client.exchange(0, get("/"))), async {
        let mut peer = server.accept().await;
        peer.request().await;
        peer.closed().await;
    });
    let failure = answer.err().unwrap();
    assert_eq!((failure.error.kind(), failure.sent), ("first_byte_timeout", Sent::Maybe));
    assert!(failure.error.is_timeout());
}

#[tokio::test]
async fn a_dripping_body_ends_with_the_total_deadline() {
    let server = Scripted::start().await;
    let short = config::Upstream { total: Duration::from_millis(400), ..limits() };
    let client = toward(&server, &short);
    let (answer, ()) = tokio::join!(within(client.exchange(0, get("/"))), async {
        let mut peer = server.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").await;
        peer.closed().await;
    });
    assert_eq!(answer.err().unwrap().error.kind(), "total_timeout");
}

#[tokio::test]
async fn answers_that_break_the_protocol_are_refused_each_by_its_kind() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let many = (0..101).map(|n| format!("f{n}: x")).collect::<Vec<_>>().join("\r\n") + "\r\n";
    let vast = format!("f: {}\r\n", "x".repeat(4 * HEAD_SIZE));
    let table = [
        ("protocol", format!("{ok}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}")),
        ("protocol", format!("{ok}content-length: 2, 3\r\n\r\n{{}}")),
        ("protocol", format!("{ok}content-length: 18446744073709551616\r\n\r\n{{}}")),
        ("protocol", format!("{ok}content-length: +2\r\n\r\n{{}}")),
        ("protocol", format!("{ok}a b: c\r\n\r\n")),
        ("protocol", "garbage\r\n\r\n".to_owned()),
        ("protocol", format!("{ok}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n")),
        ("truncated", format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n")),
        ("truncated", format!("{ok}transfer-encoding: chunked\r\n\r\n9\r\n{{}}")),
        ("truncated", format!("{ok}content-length: 3\r\n\r\n{{}}")),
        (
            "status",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
                .to_owned(),
        ),
        ("status", "HTTP/1.1 600 What\r\ncontent-length: 0\r\n\r\n".to_owned()),
        ("status", "HTTP/1.1 099 What\r\ncontent-length: 0\r\n\r\n".to_owned()),
        ("too_many_fields", format!("{ok}{many}\r\n")),
        ("too_many_fields", format!("{ok}{vast}\r\n")),
        ("reset", "HTTP/1.1 200".to_owned()),
        ("reset", String::new()),
        ("too_large", format!("{ok}content-length: 65537\r\n\r\n")),
        ("too_large", format!("{ok}\r\n{}", "x".repeat(65_537))),
    ];
    for (kind, bytes) in table {
        assert_eq!(refused(bytes.as_bytes()).await, kind, "{bytes:.80}");
    }
}

#[tokio::test]
async fn bodies_come_whole_however_they_are_framed() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let largest = "x".repeat(64 << 10);
    let table = [
        ("ab", format!("{ok}content-length: 2\r\n\r\nab")),
        ("ab", format!("{ok}content-length: 2\r\ncontent-length: 2\r\n\r\nab")),
        (
            "ab",
            format!("{ok}transfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\nt: x\r\n\r\n"),
        ),
        ("ab", format!("{ok}\r\nab")),
        ("ab", "HTTP/1.0 200 OK\r\n\r\nab".to_owned()),
        (
            "ab",
            format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{ok}content-length: 2\r\n\r\nab"),
        ),
        ("", "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n".to_owned()),
        ("", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        (&largest, format!("{ok}content-length: 65536\r\n\r\n{largest}")),
        (&largest, format!("{ok}\r\n{largest}")),
    ];
    for (body, bytes) in table {
        let answer = answered(bytes.as_bytes(), &limits()).await.unwrap();
        assert!(answer.body == body.as_bytes(), "{bytes:.80}");
    }
}

#[tokio::test]
async fn a_head_request_has_no_body_whatever_length_is_stated() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let ask = Ask { method: Method::HEAD, ..get("/") };
    let serve = server.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n");
    let (answer, _peer) = tokio::join!(within(client.exchange(0, ask)), serve);
    assert!(answer.unwrap().body.is_empty());
}

#[tokio::test]
async fn an_answered_5xx_is_not_retried() {
    let bytes = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let answer = answered(bytes, &limits()).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.trip.tries), (503, 1));
}

#[tokio::test]
async fn a_connection_is_used_again_by_reads_and_by_writes() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let (first, mut peer) = tokio::join!(client.exchange(0, get("/")), server.answer(OK));
    assert!(!first.unwrap().trip.reused);
    for ask in [get("/"), post("x"), post("y"), get("/")] {
        settle().await;
        let (next, ()) = tokio::join!(within(client.exchange(0, ask)), peer.answer(OK));
        assert!(next.unwrap().trip.reused);
    }
}

#[tokio::test]
async fn exchanges_at_once_have_a_connection_each_and_what_came_back_last_goes_out_first() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let answered_in_turn = async {
        let mut peers = [server.accept().await, server.accept().await];
        for peer in &mut peers {
            peer.request().await;
        }
        for peer in &mut peers {
            peer.send(OK).await;
            settle().await;
        }
        peers
    };
    let (one, other, [mut first, mut last]) = tokio::join!(
        client.exchange(0, get("/1")),
        client.exchange(0, get("/2")),
        answered_in_turn
    );
    assert!(one.is_ok() && other.is_ok());
    for _ in 0..2 {
        settle().await;
        let (next, ()) = tokio::join!(within(client.exchange(0, get("/3"))), last.answer(OK));
        assert!(next.unwrap().trip.reused);
    }
    drop(client);
    first.closed().await;
}

#[tokio::test]
async fn what_is_idle_for_too_long_is_closed_though_nobody_asks() {
    let server = Scripted::start().await;
    let (_client, mut peer) = pooled(&server, get("/")).await;
    for _ in 0..3 {
        settle().await;
        pass(Duration::from_secs(30)).await;
    }
    peer.closed().await;
}

/// A client with one pooled connection, and that connection's other end.
async fn pooled(server: &Scripted, ask: Ask) -> (Upstreams, Peer) {
    let client = toward(server, &limits());
    let (answer, peer) = tokio::join!(client.exchange(0, ask), server.answer(OK));
    answer.unwrap();
    settle().await;
    (client, peer)
}

#[tokio::test]
async fn a_read_whose_pooled_connection_dies_is_tried_again_unseen() {
    let server = Scripted::start().await;
    let (client, mut old) = pooled(&server, get("/")).await;
    let (answer, _peer) = tokio::join!(within(client.exchange(0, get("/"))), async {
        old.request().await;
        drop(old);
        server.answer(OK).await
    });
    let trip = answer.unwrap().trip;
    assert_eq!((trip.tries, trip.reused), (2, false));
}

#[tokio::test]
async fn a_read_is_tried_again_once_and_no_more() {
    let server = Scripted::start().await;
    let (client, mut old) = pooled(&server, get("/")).await;
    let (answer, ()) = tokio::join!(within(client.exchange(0, get("/"))), async {
        old.request().await;
        drop(old);
        drop(server.answer(b"").await);
    });
    let failure = answer.err().unwrap();
    assert_eq!((failure.error.kind(), failure.trip.tries), ("reset", 2));
}

#[tokio::test]
async fn a_write_whose_pooled_connection_dies_is_not_sent_twice() {
    let server = Scripted::start().await;
    let (client, mut old) = pooled(&server, post("a")).await;
    let (answer, ()) = tokio::join!(within(client.exchange(0, post("b"))), async {
        assert!(old.request().await.ends_with("\r\n\r\nb"));
        drop(old);
    });
    let failure = answer.err().unwrap();
    assert_eq!((failure.error.kind(), failure.sent), ("reset", Sent::Maybe));
    assert_eq!(failure.trip.tries, 1);
}

#[tokio::test]
async fn a_write_does_not_start_on_a_connection_idle_for_over_a_second() {
    let server = Scripted::start().await;
    let (client, mut old) = pooled(&server, post("a")).await;
    pass(Duration::from_millis(1_001)).await;
    let (answer, new) = tokio::join!(within(client.exchange(0, post("b"))), server.answer(OK));
    assert_eq!(answer.unwrap().trip.tries, 1);
    drop(new);
    settle().await;
    // A read may still have it.
    let (answer, ()) = tokio::join!(within(client.exchange(0, get("/"))), old.answer(OK));
    assert!(answer.unwrap().trip.reused);
}

#[tokio::test]
async fn a_connection_with_unasked_bytes_is_dropped() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let twice = [OK, b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nunasked"].concat();
    let (first, mut old) = tokio::join!(client.exchange(0, get("/")), server.answer(&twice));
    first.unwrap();
    settle().await;
    let (second, _peer) = tokio::join!(within(client.exchange(0, get("/"))), server.answer(OK));
    assert_eq!(&second.unwrap().body[..], b"{}");
    old.closed().await;
}

#[tokio::test]
async fn a_length_beside_a_coding_ends_the_connection() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let both = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let (first, mut old) = tokio::join!(client.exchange(0, get("/")), server.answer(both));
    assert_eq!(&first.unwrap().body[..], b"{}");
    settle().await;
    let (second, _peer) = tokio::join!(within(client.exchange(0, get("/"))), server.answer(OK));
    second.unwrap();
    old.closed().await;
}

#[tokio::test]
async fn a_connection_that_grew_too_old_carries_no_further_request() {
    let server = Scripted::start().await;
    let minute = Duration::from_mins(1);
    let client = toward(&server, &config::Upstream { age: minute, idle: 10 * minute, ..limits() });
    let (first, mut peer) = tokio::join!(client.exchange(0, get("/")), server.answer(OK));
    first.unwrap();
    settle().await;
    pass(minute).await;
    let (second, _peer) = tokio::join!(within(client.exchange(0, get("/"))), server.answer(OK));
    assert!(!second.unwrap().trip.reused);
    peer.closed().await;
}

#[tokio::test]
async fn who_waits_for_a_connection_takes_one_that_comes_free_and_the_new_one_is_kept() {
    async fn serve(mut stream: TlsStream<TcpStream>) {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            stream.write_all(OK).await.unwrap();
        }
    }
    let (server, ca) = (Scripted::start().await, Authority::new());
    let client = secure(&server, &ca, limits());
    let tls = ca.acceptor(b"http/1.1");
    let (answered, is_there) = (Notify::new(), Notify::new());
    let asks = async {
        let ask = async || within(client.exchange(0, get("/"))).await.unwrap().trip.reused;
        let (first, second) = tokio::join!(ask(), ask());
        assert!(first != second, "one of them opened it");
        answered.notify_one();
        is_there.notified().await;
        settle().await;
        assert_eq!(tokio::join!(ask(), ask()), (true, true));
    };
    let serving = async {
        let first = serve(handshake(&server, &tls).await);
        let second = async {
            // It gets no further until both have been answered by the first.
            let late = server.accept().await.0;
            answered.notified().await;
            let late = within(tls.accept(late)).await.unwrap();
            is_there.notify_one();
            serve(late).await;
        };
        tokio::join!(first, second);
    };
    tokio::select! {
        () = asks => {}
        () = serving => unreachable!("it waits forever"),
    }
}

#[tokio::test]
async fn writes_after_a_pause_share_one_new_http2_connection() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let client = secure(&server, &ca, limits());
    let tls = ca.acceptor(b"h2");
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let answer = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
    });
    let connection = async || {
        let stream = TokioIo::new(handshake(&server, &tls).await);
        drop(builder.serve_connection(stream, answer).await);
        std::future::pending::<()>().await;
    };
    let asks = async {
        let write = async || within(client.exchange(0, post("x"))).await.unwrap().trip.reused;
        assert!(!write().await);
        pass(Duration::from_millis(1_500)).await;
        assert_eq!((write().await, write().await, write().await), (false, true, true));
    };
    tokio::select! {
        () = asks => {}
        _ = async { tokio::join!(connection(), connection()) } => unreachable!("they wait forever"),
    }
}

#[tokio::test]
async fn a_new_connection_that_ends_at_once_is_not_followed_by_another() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let (answer, ()) =
        tokio::join!(within(client.exchange(0, get("/"))), async { drop(server.accept().await) });
    let failure = answer.err().unwrap();
    assert_eq!((failure.error.kind(), failure.trip.tries), ("reset", 1));
}

#[tokio::test]
async fn an_exchange_that_is_given_up_ends_its_connection() {
    let server = Scripted::start().await;
    let client = toward(&server, &limits());
    let mut peer = tokio::select! {
        _ = client.exchange(0, get("/")) => panic!("nobody answered"),
        peer = async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer
        } => peer,
    };
    peer.closed().await;
}

/// A certificate authority, and a certificate of its for 127.0.0.1.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn file(&self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.issuer.pem().as_bytes()).unwrap();
        file
    }

    fn acceptor(&self, protocol: &[u8]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(tls))
    }
}

/// The address that a listener has, behind TLS, trusted by way of `ca`.
fn secure(server: &Scripted, ca: &Authority, limits: config::Upstream) -> Upstreams {
    let file = ca.file();
    let limits = config::Upstream { ca_file: Some(file.path().to_owned()), ..limits };
    upstreams(&format!("https://{}", server.address()), &limits)
}

async fn handshake(server: &Scripted, tls: &TlsAcceptor) -> TlsStream<TcpStream> {
    within(tls.accept(server.accept().await.0)).await.unwrap()
}

#[tokio::test]
async fn an_upstream_is_trusted_by_way_of_the_ca_file() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let client = secure(&server, &ca, limits());
    assert_eq!(client.roots().extra, 1);
    let tls = ca.acceptor(b"http/1.1");
    let (answer, ()) = tokio::join!(within(client.exchange(0, get("/"))), async {
        let mut stream = handshake(&server, &tls).await;
        let mut request = Vec::new();
        while !complete(&request) {
            within(stream.read_buf(&mut request)).await.unwrap();
        }
        stream.write_all(OK).await.unwrap();
        stream.flush().await.unwrap();
    });
    assert_eq!(answer.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn an_upstream_that_nobody_vouches_for_gets_no_request() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let client = secure(&server, &Authority::new(), limits());
    let tls = ca.acceptor(b"http/1.1");
    let (answer, shaken) = tokio::join!(within(client.exchange(0, get("/"))), async {
        tls.accept(server.accept().await.0).await.is_ok()
    });
    let failure = answer.err().unwrap();
    assert_eq!((failure.error.kind(), failure.sent), ("tls", Sent::Nothing));
    assert!(!shaken);
}

#[tokio::test]
async fn http2_is_agreed_on_by_alpn_and_gets_the_upstreams_authority() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let client = secure(&server, &ca, limits());
    let tls = ca.acceptor(b"h2");
    let mut ask = get("/a%2fb?c");
    Arc::make_mut(&mut ask.fields)
        .more()
        .insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    let serve = async {
        let stream = TokioIo::new(handshake(&server, &tls).await);
        let answer = service_fn(async |request: Request<Incoming>| {
            assert_eq!(request.version(), http::Version::HTTP_2);
            let target = request.uri().to_string();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(target))))
        });
        drop(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, answer)
                .await,
        );
    };
    let url = format!("https://{}/a%2fb?c", server.address());
    tokio::select! {
        () = serve => panic!("the connection ended"),
        () = async {
            let first = within(client.exchange(0, ask.clone())).await.unwrap();
            assert_eq!((first.trip.reused, &first.body[..]), (false, url.as_bytes()));
            let second = within(client.exchange(0, ask)).await.unwrap();
            assert!(second.trip.reused);
        } => {}
    }
}

#[tokio::test]
async fn an_http2_connection_on_which_a_deadline_ran_out_is_not_used_again() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let short = config::Upstream { first_byte: Duration::from_millis(300), ..limits() };
    let client = secure(&server, &ca, short);
    let tls = ca.acceptor(b"h2");
    let silent = service_fn(async |_: Request<Incoming>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let connection = async || {
        let stream = TokioIo::new(handshake(&server, &tls).await);
        drop(builder.serve_connection(stream, silent).await);
    };
    let asks = async {
        for _ in 0..2 {
            let failure = within(client.exchange(0, get("/"))).await.err().unwrap();
            assert_eq!((failure.error.kind(), failure.trip.reused), ("first_byte_timeout", false));
        }
    };
    tokio::select! {
        () = asks => {}
        _ = async { tokio::join!(connection(), connection(), std::future::pending::<()>()) } => {}
    }
}

#[tokio::test]
async fn a_read_whose_http2_connection_dies_is_tried_again_unseen() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let client = secure(&server, &ca, limits());
    let tls = ca.acceptor(b"h2");
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let stuck = Arc::new(Notify::new());
    let seen = Arc::clone(&stuck);
    let answer = service_fn(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            if request.uri().path() == "/stuck" {
                seen.notify_one();
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
        }
    });
    let dies = async {
        let stream = TokioIo::new(handshake(&server, &tls).await);
        tokio::select! {
            ended = builder.serve_connection(stream, answer) => panic!("{ended:?}"),
            () = stuck.notified() => {}
        }
    };
    let lives = async {
        let stream = TokioIo::new(handshake(&server, &tls).await);
        let answer = service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"[]"))))
        });
        drop(builder.serve_connection(stream, answer).await);
    };
    let ask = async {
        within(client.exchange(0, get("/"))).await.unwrap();
        within(client.exchange(0, get("/stuck"))).await.unwrap()
    };
    let serve = async {
        dies.await;
        lives.await;
    };
    tokio::select! {
        () = serve => panic!("the connection ended"),
        answer = ask => assert_eq!((&answer.body[..], answer.trip.tries), (&b"[]"[..], 2)),
    }
}

#[tokio::test]
async fn cold_reads_at_once_share_what_http2_connection_comes_about() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let client = secure(&server, &ca, limits());
    let tls = ca.acceptor(b"h2");
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let answer = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
    });
    // Of three connections one gets as far as to HTTP/2.
    let serve = async {
        let stream = TokioIo::new(handshake(&server, &tls).await);
        let silent = async { [server.accept().await, server.accept().await] };
        let (ended, _silent) = tokio::join!(builder.serve_connection(stream, answer), silent);
        panic!("the connection ended: {ended:?}");
    };
    let ask = async || within(client.exchange(0, get("/"))).await.unwrap();
    tokio::select! {
        () = serve => {}
        answers = async { tokio::join!(ask(), ask(), ask()) } => {
            let answers = [answers.0, answers.1, answers.2];
            assert!(answers.iter().all(|answer| &answer.body[..] == b"{}"));
            assert_eq!(answers.iter().filter(|answer| answer.trip.reused).count(), 2);
        }
    }
}

#[tokio::test]
async fn an_http2_connection_with_an_answer_under_way_is_not_idle() {
    let (server, ca) = (Scripted::start().await, Authority::new());
    let ten = Duration::from_mins(10);
    let patient = config::Upstream { first_byte: ten, total: ten, age: ten, ..limits() };
    let client = secure(&server, &ca, patient);
    let tls = ca.acceptor(b"h2");
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let [stuck, goes_on] = [(); 2].map(|()| Arc::new(Notify::new()));
    let (seen, word) = (Arc::clone(&stuck), Arc::clone(&goes_on));
    let answer = service_fn(move |request: Request<Incoming>| {
        let (seen, word) = (Arc::clone(&seen), Arc::clone(&word));
        async move {
            if request.uri().path() == "/stuck" {
                seen.notify_one();
                word.notified().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
        }
    });
    let serve = async {
        let stream = TokioIo::new(handshake(&server, &tls).await);
        drop(builder.serve_connection(stream, answer).await);
    };
    let others = async {
        stuck.notified().await;
        for ask in [get("/"), post("x")] {
            // `upstream.idle` is a minute.
            pass(Duration::from_secs(61)).await;
            settle().await;
            assert!(within(client.exchange(0, ask)).await.unwrap().trip.reused);
        }
        goes_on.notify_one();
    };
    tokio::select! {
        () = serve => panic!("the connection ended"),
        (stuck, ()) = async { tokio::join!(client.exchange(0, get("/stuck")), others) } => {
            assert!(stuck.is_ok());
        }
    }
}

#[test]
fn a_ca_file_without_certificates_is_a_mistake() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let limits = config::Upstream { ca_file: Some(file.path().to_owned()), ..limits() };
    let named = BTreeMap::new();
    let made = Upstreams::new(&limits, &named, ground(Clock::real()));
    assert!(matches!(made, Err(SetupError::NoCertificate { .. })));
    let limits = config::Upstream { ca_file: Some("/nonexistent".into()), ..limits };
    let made = Upstreams::new(&limits, &named, ground(Clock::real()));
    assert!(matches!(made, Err(SetupError::CaFile { .. })));
}

#[tokio::test]
async fn other_limits_rule_from_when_they_take_over_and_not_before() {
    let named = BTreeMap::from([("api".to_owned(), NamedUpstream { url: url("a.test") })]);
    let limits = config::Upstream { queue: Duration::ZERO, ..limits() };
    let last = Upstreams::new(&limits, &named, ground(Clock::real())).unwrap();
    let enter = async |upstreams: &Upstreams| upstreams.enter(0, None, b"/").await;
    let before = enter(&last).await.unwrap();
    let concurrency = Some(config::Concurrency { least: 1, most: 1 });
    let limits = config::Upstream { concurrency, max_buffered: 1 << 10, ..limits };
    let next = last.succeeded_by(&limits, &named).unwrap();
    assert!(enter(&last).await.is_ok() && enter(&next).await.is_ok());
    next.take_over();
    assert!(enter(&last).await.is_err() && enter(&next).await.is_err(), "one is there already");
    drop(before);
    let again = enter(&next).await.unwrap();
    let moved = BTreeMap::from([
        ("api".to_owned(), NamedUpstream { url: url("b.test") }),
        ("also".to_owned(), NamedUpstream { url: url("a.test") }),
    ]);
    let moved = next.succeeded_by(&limits, &moved).unwrap();
    assert_eq!([0, 1].map(|index| moved.view(index).unwrap().in_flight), [0, 0]);
    assert_eq!(next.view(0).unwrap().in_flight, 1);
    drop(again);
}

fn url(host: &str) -> Uri {
    format!("http://{host}").parse().unwrap()
}

#[test]
fn no_more_than_a_mebibyte_is_read_of_a_ca_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let ca = Authority::new().file();
    std::fs::copy(ca.path(), file.path()).unwrap();
    let limits = config::Upstream { ca_file: Some(file.path().to_owned()), ..limits() };
    let made = || Upstreams::new(&limits, &BTreeMap::new(), ground(Clock::real()));
    let length = |bytes| file.as_file().set_len(bytes).unwrap();
    length(1 << 20);
    assert!(made().is_ok());
    length((1 << 20) + 1);
    let Err(SetupError::CaFile { cause, .. }) = made() else { panic!("it was read") };
    assert!(matches!(cause, rustls::pki_types::pem::Error::Io(_)), "{cause}");
}

#[test]
fn every_kind_of_failure_has_a_label_of_its_own() {
    let kinds: std::collections::BTreeSet<_> = UpstreamError::KINDS.into_iter().collect();
    assert_eq!(kinds.len(), UpstreamError::KINDS.len());
    assert!(kinds.contains(UpstreamError::Coding(DecodeError::Broken).kind()));
}
