//! Claims about the listener, made with raw bytes: on real sockets, and about long times on streams in memory, so
//! that the clock can be paused.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::shutdown::Phase;

/// Answers by path, and tells the test what it was told.
#[derive(Clone)]
struct Desk(Arc<Inside>);

struct Inside {
    told: mpsc::UnboundedSender<Told>,
    gate: Semaphore,
    open: watch::Sender<(usize, usize)>,
}

/// What a test hears of.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Refused(Refused),
    Entered,
    HandlerDropped,
}

/// Says so when a request's work is dropped before its end.
struct Working(Desk, bool);

impl Drop for Working {
    fn drop(&mut self) {
        if !self.1 {
            self.0.0.told.send(Told::HandlerDropped).ok();
        }
    }
}

impl Desk {
    fn new() -> (Self, mpsc::UnboundedReceiver<Told>) {
        let (tell, told) = mpsc::unbounded_channel();
        let (gate, open) = (Semaphore::new(0), watch::Sender::new((0, 0)));
        (Self(Arc::new(Inside { told: tell, gate, open })), told)
    }
}

impl Handler for Desk {
    type Body = Full<Bytes>;
    type Session = ();

    fn session(&self, _peer: SocketAddr) {}

    async fn call(
        &self,
        request: &mut Request<Incoming>,
        _session: &(),
        ahead: &Ahead,
    ) -> Response<Self::Body> {
        match framing(request.headers()) {
            Ok(()) => {}
            Err(FramingError::NotImplemented) => return status(501),
            Err(FramingError::Bad) => return status(400),
        }
        match request.uri().path() {
            "/wait" => {
                let mut working = Working(self.clone(), false);
                self.0.told.send(Told::Entered).unwrap();
                self.0.gate.acquire().await.unwrap().forget();
                working.1 = true;
                Response::new("waited".into())
            }
            "/early" => {
                let mut link = http::HeaderMap::new();
                link.insert(http::header::LINK, http::HeaderValue::from_static("</a>"));
                ahead.send(http::StatusCode::EARLY_HINTS, &link);
                self.0.told.send(Told::Entered).unwrap();
                self.0.gate.acquire().await.unwrap().forget();
                ahead.send(http::StatusCode::PROCESSING, &http::HeaderMap::new());
                Response::new("late".into())
            }
            "/panic" => panic!("on purpose"),
            "/page" => Response::new(vec![b'x'; PAGE].into()),
            "/small" => Response::new(vec![b'x'; PAGE / 2].into()),
            "/big" => Response::new(vec![b'x'; BIG].into()),
            "/echo" => match request.body_mut().collect().await {
                Ok(body) => Response::new(body.to_bytes().into()),
                Err(_) => status(400),
            },
            "/refuse" => status(413),
            "/both" => Response::builder()
                .header("content-length", "5")
                .header("transfer-encoding", "chunked")
                .body("hello".into())
                .unwrap(),
            path => Response::new(path.to_owned().into()),
        }
    }

    fn refused(&self, why: Refused, peer: SocketAddr) {
        assert!(peer.ip().is_loopback());
        self.0.told.send(Told::Refused(why)).ok();
    }

    fn connections(&self, change: Change) {
        self.0.open.send_modify(|(opened, closed)| match change {
            Change::Opened => *opened += 1,
            Change::Closed => *closed += 1,
        });
    }
}

fn status(code: u16) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::default()).unwrap()
}

/// A listener that serves, and what is heard of it.
struct Serving {
    addresses: Vec<SocketAddr>,
    shutdown: Shutdown,
    desk: Desk,
    told: Mutex<mpsc::UnboundedReceiver<Told>>,
    done: JoinHandle<Result<(), Error>>,
}

impl Serving {
    fn new() -> Self {
        Self::with(patient(), &Places::new(100))
    }

    fn with(config: config::Listen, places: &Places) -> Self {
        let sockets = bind(&config.address, config.reuse_port).unwrap();
        let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let (desk, told) = Desk::new();
        let (shutdown, desk_too, places) = (Shutdown::new(), desk.clone(), places.clone());
        let drained = shutdown.clone();
        let serving = async move {
            let ground = Ground {
                places,
                workers: Workers::here(),
                tls: Tls::load(&config).unwrap(),
                clock: Clock::real(),
                dice: Dice::seeded(1),
                shutdown: drained,
            };
            serve(sockets, watch::Sender::new(config).subscribe(), ground, desk_too).await
        };
        let done = Shutdown::new().spawn(serving);
        Self { addresses, shutdown, desk, told: Mutex::new(told), done }
    }

    async fn connect(&self) -> Client {
        Client(soon(TcpStream::connect(self.addresses[0])).await.unwrap())
    }

    /// The next thing the listener told.
    async fn told(&self) -> Told {
        soon(poll_fn(|cx| self.told.lock().poll_recv(cx))).await.unwrap()
    }

    async fn refused(&self, why: Refused) {
        assert_eq!(self.told().await, Told::Refused(why));
    }

    /// The work for a client that left was dropped, and that it left was told.
    async fn has_seen_who_waits_leave(&self) {
        let told = [self.told().await, self.told().await];
        assert!(told.contains(&Told::HandlerDropped), "{told:?}");
        assert!(told.contains(&Told::Refused(Refused::Aborted)), "{told:?}");
    }

    /// Waits until so many connections have been opened and closed since the start.
    async fn counted(&self, opened: usize, closed: usize) {
        let mut open = self.desk.0.open.subscribe();
        soon(open.wait_for(|counts| *counts == (opened, closed))).await.unwrap();
    }

    fn opened(&self) -> usize {
        self.desk.0.open.borrow().0
    }

    fn release(&self, waiting: usize) {
        self.desk.0.gate.add_permits(waiting);
    }
}

/// A client that says exactly what it is told to.
struct Client(TcpStream);

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// One answer: its head and its content.
    async fn reply(&mut self) -> (String, String) {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(soon(self.0.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap_or("0");
        let mut content = vec![0; length.lines().next().unwrap().parse().unwrap()];
        soon(self.0.read_exact(&mut content)).await.unwrap();
        (head, String::from_utf8(content).unwrap())
    }

    /// All that comes until the connection is closed in order.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        soon(self.0.read_to_end(&mut bytes)).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    async fn get(&mut self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        self.reply().await.1
    }
}

/// A bound on what must happen, so that a failure is one and not a hang.
async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it took too long")
}

fn patient() -> config::Listen {
    let long = Duration::from_mins(1);
    config::Listen {
        reuse_port: false,
        handover: None,
        address: vec!["127.0.0.1:0".parse().unwrap()],
        via: None,
        connections: 100,
        head_size: 8192,
        head: long,
        idle: long,
        body: long,
        write: long,
        ..config::Listen::default()
    }
}

const SHORT: Duration = Duration::from_millis(200);

/// More than the kernel takes into its buffers on both sides.
const BIG: usize = 64 << 20;

const PAGE: usize = 4_000;

#[tokio::test]
async fn a_connection_is_kept_for_further_requests() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    assert_eq!(client.get("/one").await, "/one");
    assert_eq!(client.get("/two").await, "/two");
    serving.counted(1, 0).await;
    drop(client);
    serving.counted(1, 1).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    let requests: Vec<_> =
        (0..40).map(|i| format!("GET /{i} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(requests.concat()).await;
    for i in 0..40 {
        assert_eq!(client.reply().await.1, format!("/{i}"));
    }
}

#[tokio::test]
async fn interim_answers_come_at_once_and_ahead_of_their_own_answer() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /one HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2)).await;
    client.send("GET /early HTTP/1.1\r\nhost: a\r\n\r\nGET /two HTTP/1.1\r\nhost: a\r\n\r\n").await;
    for _ in 0..2 {
        assert_eq!(client.reply().await.1, "/one");
    }
    assert_eq!(client.reply().await.0, "http/1.1 103 early hints\r\nlink: </a>\r\n\r\n");
    assert_eq!(serving.told().await, Told::Entered);
    serving.release(1);
    assert_eq!(client.reply().await.0, "http/1.1 102 processing\r\n\r\n");
    assert_eq!(client.reply().await.1, "late");
    assert_eq!(client.reply().await.1, "/two");
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed_unless_kept_alive() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /kept HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    let (head, content) = client.reply().await;
    assert!(head.starts_with("http/1.0 200"), "{head}");
    assert_eq!(content, "/kept");
    client.send("GET /last HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.ends_with("\r\n\r\n/last"));
}

#[tokio::test]
async fn a_body_is_asked_for_and_read() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .await;
    assert!(client.reply().await.0.starts_with("http/1.1 100"));
    client.send("hello").await;
    assert_eq!(client.reply().await.1, "hello");
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_answered_408_and_ends() {
    let serving = Serving::with(config::Listen { head: SHORT, ..patient() }, &Places::new(9));
    let mut client = serving.connect().await;
    assert_eq!(client.get("/first").await, "/first");
    client.send("GET / HTTP/1.1\r\nhost:").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(answer.contains("\r\ndate: "), "{answer}");
    serving.refused(Refused::SlowHead).await;
}

#[tokio::test]
async fn an_idle_connection_ends_without_a_word() {
    let serving = Serving::with(config::Listen { idle: SHORT, ..patient() }, &Places::new(9));
    let mut never = serving.connect().await;
    assert_eq!(never.rest().await, "");
    serving.refused(Refused::Idle).await;
    let mut used = serving.connect().await;
    used.get("/").await;
    assert_eq!(used.rest().await, "");
    serving.refused(Refused::Idle).await;
}

#[tokio::test]
async fn idle_time_does_not_end_a_request_that_is_worked_on() {
    let serving = Serving::with(config::Listen { idle: SHORT, ..patient() }, &Places::new(9));
    let mut busy = serving.connect().await;
    busy.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(serving.told().await, Told::Entered);
    // Two idle times, one after the other, go by on other connections.
    for _ in 0..2 {
        assert_eq!(serving.connect().await.rest().await, "");
        serving.refused(Refused::Idle).await;
    }
    serving.release(1);
    assert_eq!(busy.reply().await.1, "waited");
}

#[tokio::test]
async fn a_client_that_does_not_read_ends() {
    let serving = Serving::with(config::Listen { write: SHORT, ..patient() }, &Places::new(9));
    let mut client = serving.connect().await;
    client.send("GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await;
    serving.refused(Refused::WriteStalled).await;
    serving.counted(1, 1).await;
    let mut got = Vec::new();
    let ended = soon(client.0.read_to_end(&mut got)).await;
    assert!(ended.is_err() && got.len() < BIG, "{ended:?} after {}", got.len());
}

#[tokio::test]
async fn a_client_that_reads_gets_a_large_answer_whole() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.reply().await.1.len(), BIG);
}

/// Far more small answers than the kernel takes, asked for at once.
const MANY: usize = BIG / PAGE;

#[tokio::test]
async fn who_asks_for_many_small_answers_and_reads_late_gets_each_whole() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /small HTTP/1.1\r\nhost: a\r\n\r\n".repeat(MANY)).await;
    // Until the kernel has taken all that it does.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let (head, content) = client.reply().await;
    let mut others = vec![0; (MANY - 1) * (head.len() + content.len())];
    soon(client.0.read_exact(&mut others)).await.unwrap();
    for answer in others.chunks(head.len() + content.len()) {
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(content.as_bytes()));
    }
    assert_eq!(client.get("/after").await, "/after");
}

#[tokio::test]
async fn who_asks_for_many_small_answers_and_reads_none_is_ended() {
    let serving = Serving::with(config::Listen { write: SHORT, ..patient() }, &Places::new(9));
    let mut client = serving.connect().await;
    client.send("GET /small HTTP/1.1\r\nhost: a\r\n\r\n".repeat(MANY)).await;
    serving.refused(Refused::WriteStalled).await;
    serving.counted(1, 1).await;
}

#[tokio::test]
async fn too_large_a_head_is_answered_431_and_told() {
    let serving = Serving::new();
    let (long, many) = ("x".repeat(9_000), "a: b\r\n".repeat(101));
    for fields in [format!("a: {long}\r\n"), format!("a: {long}"), many] {
        let mut client = serving.connect().await;
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        serving.refused(Refused::LargeHead).await;
    }
}

#[tokio::test]
async fn a_request_line_longer_than_a_head_is_answered_414_and_told() {
    let serving = Serving::new();
    let path = "x".repeat(100_000);
    for after in [" HTTP/1.1\r\nhost: a\r\n\r\n", ""] {
        let mut client = serving.connect().await;
        client.send(format!("GET /{path}{after}")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 414 URI Too Long\r\n"), "{answer}");
        serving.refused(Refused::LongTarget).await;
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_400_and_told() {
    let serving = Serving::new();
    let huge = "content-length: 18446744073709551616";
    let mut cases: Vec<String> = [
        "a: b\r\n folded",
        "a : b",
        " a: b",
        "a",
        ": b",
        "a: \0",
        "a: b\rc",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5, 5",
        "content-length: +5",
        "content-length: -1",
        "content-length: ",
        "content-length: 0x5",
        huge,
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding: chunked;a=b",
    ]
    .map(|field| format!("POST / HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n"))
    .into();
    cases.extend(
        [
            "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "G\0T / HTTP/1.1\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03",
        ]
        .map(str::to_owned),
    );
    for case in cases {
        let mut client = serving.connect().await;
        client.send(&case).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{case:?}: {answer:?}");
        assert_eq!(serving.told().await, Told::Refused(Refused::MalformedHead), "{case:?}");
    }
}

#[tokio::test]
async fn an_http_2_preface_is_closed_and_told() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!(client.rest().await, "");
    serving.refused(Refused::MalformedHead).await;
}

#[tokio::test]
async fn a_coding_beside_chunked_is_501_and_chunked_twice_400() {
    let serving = Serving::new();
    for (codings, expected) in [
        ("gzip, chunked", 501),
        ("chunked, chunked", 400),
        ("chunked\r\ntransfer-encoding: chunked", 400),
    ] {
        let mut client = serving.connect().await;
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: {codings}\r\n\r\n0\r\n\r\n"
            ))
            .await;
        let (head, _) = client.reply().await;
        assert!(head.starts_with(&format!("http/1.1 {expected} ")), "{codings}: {head}");
    }
}

#[tokio::test]
async fn length_and_coding_together_are_answered_once_and_closed() {
    let serving = Serving::new();
    for fields in [
        "content-length: 40\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
    ] {
        let mut client = serving.connect().await;
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n\
                 GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
            ))
            .await;
        let answer = client.rest().await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn broken_chunks_end_the_connection_after_one_answer() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client
        .send(
            "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn an_answer_to_a_body_that_nobody_reads_is_not_lost_to_a_reset() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send(format!("POST /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: {BIG}\r\n\r\n")).await;
    client.send(vec![b'x'; 8 << 20]).await;
    let (head, _) = client.reply().await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work_for_it() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(serving.told().await, Told::Entered);
    drop(client);
    serving.has_seen_who_waits_leave().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_alone_has_left_too() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(serving.told().await, Told::Entered);
    client.0.shutdown().await.unwrap();
    serving.has_seen_who_waits_leave().await;
}

#[tokio::test]
async fn who_closes_its_side_behind_a_request_that_is_answered_at_once_has_the_answer() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /page HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.0.shutdown().await.unwrap();
    let answer = client.rest().await;
    assert!(answer.ends_with(&"x".repeat(PAGE)), "{answer}");
}

#[tokio::test]
async fn who_asks_ahead_is_answered_in_order_and_once_all_is_read_seen_to_leave() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    let ahead = "GET /wait HTTP/1.1\r\nhost: a\r\n\r\nGET /wait HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(serving.told().await, Told::Entered);
    client.send(ahead).await;
    for _ in 0..2 {
        serving.release(1);
        assert_eq!(client.reply().await.1, "waited");
        assert_eq!(serving.told().await, Told::Entered);
    }
    drop(client);
    serving.has_seen_who_waits_leave().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_head_is_told() {
    let serving = Serving::new();
    serving.connect().await.send("GET / HT").await;
    serving.refused(Refused::Aborted).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_framed_is_told() {
    let serving = Serving::new();
    let mut client = serving.connect().await;
    client.send("GET /both HTTP/1.1\r\nhost: a\r\n\r\n").await;
    serving.refused(Refused::BadReply).await;
    serving.counted(1, 1).await;
}

#[tokio::test]
async fn a_panic_closes_its_own_connection_only() {
    let serving = Serving::new();
    let mut other = serving.connect().await;
    assert_eq!(other.get("/before").await, "/before");
    let mut client = serving.connect().await;
    client.send("GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
    serving.counted(2, 1).await;
    assert_eq!(other.get("/after").await, "/after");
}

#[tokio::test]
async fn connections_above_the_most_are_answered_503_whichever_port_they_come_to() {
    let places = Places::new(1);
    let serving = Serving::with(patient(), &places);
    let also = Serving::with(patient(), &places);
    let mut first = serving.connect().await;
    assert_eq!(first.get("/1").await, "/1");
    for (port, mut turned_away) in
        [(&serving, serving.connect().await), (&also, also.connect().await)]
    {
        let said = turned_away.rest().await;
        assert!(
            said.starts_with("HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n"),
            "{said}"
        );
        assert_eq!(port.told().await, Told::Refused(Refused::Shed));
    }
    assert_eq!(first.get("/2").await, "/2");
    assert_eq!((serving.opened(), also.opened()), (1, 0));
}

#[tokio::test]
async fn draining_closes_what_is_idle_and_finishes_what_is_in_flight() {
    let serving = Serving::new();
    let mut fresh = serving.connect().await;
    let mut idle = serving.connect().await;
    idle.get("/").await;
    let mut busy = serving.connect().await;
    busy.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(serving.told().await, Told::Entered);
    serving.counted(3, 0).await;

    serving.shutdown.enter(Phase::Draining);
    assert_eq!((fresh.rest().await, idle.rest().await), (String::new(), String::new()));
    serving.counted(3, 2).await;
    let late = soon(TcpStream::connect(serving.addresses[0])).await;
    assert_eq!(late.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!serving.done.is_finished());
    assert_eq!(serving.shutdown.tracked(), 1);

    serving.release(1);
    let (head, content) = busy.reply().await;
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    assert_eq!((content.as_str(), busy.rest().await.as_str()), ("waited", ""));
    soon(serving.done).await.unwrap().unwrap();
    soon(serving.shutdown.idle()).await;
}

#[tokio::test]
async fn every_address_is_served_and_ipv6_where_the_machine_has_it() {
    let any = [
        "127.0.0.1:0".parse().unwrap(),
        "127.0.0.2:0".parse().unwrap(),
        "[::1]:0".parse().unwrap(),
    ];
    let serving =
        Serving::with(config::Listen { address: any.into(), ..patient() }, &Places::new(9));
    let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    assert_eq!(serving.addresses.len(), if has_ipv6 { 3 } else { 2 });
    for _ in 0..2 {
        for &address in &serving.addresses {
            let mut client = Client(soon(TcpStream::connect(address)).await.unwrap());
            assert_eq!(client.get("/here").await, "/here");
        }
    }
}

#[test]
fn only_errors_of_one_connection_are_passed_over_without_a_rest() {
    use std::io::ErrorKind;
    assert!(is_of_one_connection(&ErrorKind::ConnectionAborted.into()));
    // Out of descriptors, in the process and in the system.
    for number in [24, 23] {
        assert!(!is_of_one_connection(&Error::from_raw_os_error(number)));
    }
}

#[test]
fn every_refusal_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Refused::ALL.map(Refused::as_str).into();
    assert_eq!(names.len(), Refused::ALL.len());
}

// ── Streams in memory ───────────────────────────────────────────────────────────────────────────────

/// Who they are from.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

fn speaks_http2() -> config::Listen {
    config::Listen { http2: config::Http2::All, ..patient() }
}

/// An HTTP/2 client of a listener with one connection.
struct Two {
    stream: DuplexStream,
    told: mpsc::UnboundedReceiver<Told>,
    desk: Desk,
    _serving: tokio::task::JoinSet<()>,
}

impl Two {
    /// `buffer` bytes are under way at most.
    async fn new(config: config::Listen, buffer: usize) -> Self {
        let ((stream, served), (desk, told)) = (duplex(buffer), Desk::new());
        let desk_too = desk.clone();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            let (clock, dice, shutdown) = (Clock::real(), Dice::seeded(1), Shutdown::new());
            serve_one(served, PEER, &config, clock, dice, shutdown, desk_too).await;
        });
        let mut two = Self { stream, told, desk, _serving: serving };
        two.stream.write_all(frames::PREFACE).await.unwrap();
        two.send(4, 0, 0, &[]).await;
        two
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        self.stream.write_all(&[&head, payload].concat()).await.unwrap();
    }

    /// Asks with fields of RFC 7541's static table, where it has them.
    async fn ask(&mut self, stream: u8, path: &str) {
        let length = u8::try_from(path.len()).unwrap();
        let block = [&[0x82, 0x86, 0x41, 1, b'a', 4, length], path.as_bytes()].concat();
        self.send(HEADERS, 5, stream, &block).await;
    }

    /// The next frame's kind, stream and length; `None` once the connection is closed.
    async fn frame(&mut self) -> Option<(u8, u8, usize)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, .., stream] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        self.stream.read_exact(&mut vec![0; length]).await.ok()?;
        Some((kind, stream, length))
    }

    /// Reads until a frame of this kind has come.
    async fn until(&mut self, kind: u8) -> (u8, usize) {
        loop {
            let (came, stream, length) = self.frame().await.expect("the connection is open");
            if came == kind {
                return (stream, length);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_too_many_connections_holds_a_place_for_no_longer_than_50_ms() {
    for http2 in [config::Http2::Off, config::Http2::All] {
        let config = config::Listen { connections_per_peer: 1, http2, ..patient() };
        let (desk, mut told) = Desk::new();
        let port = Arc::new(Port::new(&config, None, Clock::real(), Dice::seeded(1), desk));
        let enter = || {
            let (client, served) = duplex(1);
            let line = Line::Brought(Box::new(served));
            (client, Box::pin(entrance::run(line, PEER, Arc::clone(&port))))
        };
        let (_first, mut served) = enter();
        assert!(tokio::time::timeout(Duration::ZERO, &mut served).await.is_err());
        // It neither reads nor leaves.
        let (_second, turned_away) = enter();
        let began = Instant::now();
        turned_away.await;
        let held = began.elapsed();
        assert!(held <= Duration::from_millis(51), "{held:?}, timers being as coarse as 1 ms");
        assert_eq!(told.recv().await, Some(Told::Refused(Refused::PeerFull)));
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_confirms_goaway_and_asks_on_is_cut_after_five_minutes() {
    let config = config::Listen { connection_requests: 1, ..speaks_http2() };
    let mut two = Two::new(config, 1 << 16).await;
    let began = Instant::now();
    two.ask(1, "/wait").await;
    two.until(GOAWAY).await;
    two.ask(3, "/one").await;
    assert_eq!(two.until(DATA).await.0, 3);
    while two.frame().await.is_some() {}
    let lasted = began.elapsed().as_secs();
    assert!((300..=301).contains(&lasted), "{lasted} s");
    // The work for it goes too.
    assert_eq!(two.told.recv().await, Some(Told::Entered));
    assert_eq!(two.told.recv().await, Some(Told::HandlerDropped));
    drop(two.desk);
}

#[tokio::test(start_paused = true)]
async fn who_was_told_goaway_and_has_nothing_under_way_is_waited_for_a_second() {
    let config = config::Listen { connection_requests: 1, ..speaks_http2() };
    let mut two = Two::new(config, 1 << 16).await;
    let began = Instant::now();
    two.ask(1, "/one").await;
    while two.frame().await.is_some() {}
    let lasted = began.elapsed().as_millis();
    assert!((1_000..1_100).contains(&lasted), "{lasted} ms");
}

#[tokio::test(start_paused = true)]
async fn of_two_answers_the_one_that_is_left_ends_the_connection_and_the_other_has_as_long_again() {
    let write = Duration::from_secs(30);
    let mut two = Two::new(config::Listen { write, ..speaks_http2() }, 1 << 16).await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    two.send(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    let began = Instant::now();
    for stream in [1, 3] {
        two.ask(stream, "/page").await;
    }
    let mut told = None;
    for second in 0.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if two.stream.write_all(&[0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 1, 0, 0, 0, 1]).await.is_err()
        {
            assert!((60..=62).contains(&second), "closed after {second} s");
            break;
        }
        loop {
            match two.frame().await {
                Some((DATA, stream, length)) => {
                    assert_eq!((stream, length), (1, 1));
                    break;
                }
                Some((GOAWAY, ..)) => told = Some(began.elapsed().as_secs()),
                Some(_) => {}
                None => break,
            }
        }
    }
    assert!(told.is_some_and(|told| (30..=31).contains(&told)), "{told:?}");
    assert_eq!(two.told.recv().await, Some(Told::Refused(Refused::WriteStalled)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_moves_again_after_goaway_is_not_cut() {
    let write = Duration::from_secs(30);
    let mut two = Two::new(config::Listen { write, ..speaks_http2() }, 1 << 16).await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    two.send(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    for stream in [1, 3] {
        two.ask(stream, "/page").await;
    }
    let mut left = false;
    for _second in 0..200 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The second one is left until that is told.
        for stream in if left { &[1, 3][..] } else { &[1] } {
            two.send(WINDOW_UPDATE, 0, *stream, &[0, 0, 0, 1]).await;
            loop {
                match two.frame().await.expect("it is not cut") {
                    (DATA, came, _) if came == *stream => break,
                    (GOAWAY, ..) => left = true,
                    _ => {}
                }
            }
        }
    }
    assert!(left);
}

#[tokio::test(start_paused = true)]
async fn who_only_pings_is_idle() {
    let idle = Duration::from_secs(10);
    let mut two = Two::new(config::Listen { idle, ..speaks_http2() }, 1 << 16).await;
    two.ask(1, "/one").await;
    two.until(DATA).await;
    let began = Instant::now();
    let ping = 6;
    while began.elapsed() < 3 * idle {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if two
            .stream
            .write_all(&[0, 0, 8, ping, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
            .await
            .is_err()
        {
            break;
        }
        while two.frame().await.is_some_and(|(kind, ..)| kind != ping) {}
    }
    assert!((10..=13).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn on_a_slow_line_answers_wait_for_their_turn() {
    let write = Duration::from_secs(10);
    let mut two = Two::new(config::Listen { write, ..speaks_http2() }, 256).await;
    // The window of all streams is no matter here.
    two.send(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0]).await;
    for number in 0..20 {
        two.ask(2 * number + 1, "/page").await;
    }
    let (mut came, mut ended, mut room) = (0, 0, 0);
    while ended < 20 {
        let (kind, _, length) = two.frame().await.expect("it is left alone");
        ended += usize::from(kind == DATA);
        came += length;
        room += length;
        while room > 500 {
            room -= 500;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    assert!(came > 20 * PAGE);
}

#[tokio::test(start_paused = true)]
async fn where_the_window_of_all_streams_is_opened_slowly_answers_wait_for_their_turn() {
    let write = Duration::from_secs(10);
    let mut two = Two::new(config::Listen { write, ..speaks_http2() }, 1 << 18).await;
    for number in 0..40 {
        two.ask(2 * number + 1, "/page").await;
    }
    let mut left = 40 * PAGE;
    while left > 40 * PAGE - 65_535 {
        left -= two.until(DATA).await.1;
    }
    while left > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        two.send(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 144]).await;
        let step = left.min(400);
        let until = left - step;
        while left > until {
            left -= two.until(DATA).await.1;
        }
    }
}
