//! The whole gateway between two peers of which one says whatever it likes, through connections in memory.
//!
//! `clients`: bytes of a client. The first byte says whether it closes its side and where it pauses; what follows
//! is sent as it stands. The upstream is well.
//!
//! `upstreams`: bytes of an upstream's answer. The first byte is the request (its lowest bit: a write instead of a
//! read; the next: whether the connection stays open after them); what follows is sent as it stands.
//!
//! *Claims*, whatever the bytes
//! 1. Nothing panics.
//! 2. Every connection ends within its deadlines, by simulated time; a request is answered within its own.
//! 3. No key reaches the client.
//! 4. Each exchange is recorded exactly once, counted and logged, and nothing stays under way.
//! 5. After an upstream's nonsense the next read is answered well.
//!
//! The gateway is made anew for each input, so that the same bytes have the same outcome; its telemetry, nine
//! tenths of the price, is that of the thread, and what is claimed of counters is claimed of what they grew by.
//!
//! `$k` stands for the letters of a key; a line feed alone ends a line as well as one after a carriage return.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{sleep, timeout};
use unitgate::clock::{Clock, Dice};
use unitgate::config::Config;
use unitgate::listener::{Given, Workers};
use unitgate::portless::Portless;
use unitgate::server::Setting;
use unitgate::telemetry::Lines;
use unitgate::upstream::Dial;

use super::capture::Capture;

/// What a key is made of; `$k` in an input.
const LETTERS: &[u8] = b"Zq7Zq7Zq7Zq7Zq7Zq7Zq7Zq7";

/// Whatever a client sends, and however it dawdles, its connection is over by then.
const LONGEST: Duration = Duration::from_mins(2);

/// Bytes of a client.
pub(crate) fn clients(data: &[u8]) {
    let (how, bytes) = data.split_first().unwrap_or((&0, &[]));
    let bytes = expanded(bytes);
    simulated(async {
        let gate = Gate::new(well());
        let (mut near, far) = duplex(1 << 16);
        let serving = gate.serve(far);
        let client = async {
            let pause = usize::from(how >> 1).min(bytes.len());
            let (first, rest) = bytes.split_at(pause);
            let mut received = Vec::new();
            // Whoever refuses to read on closes the connection.
            let (read, write) = (&mut received, &mut near);
            let (mut reading, mut writing) = tokio::io::split(write);
            let sending = async {
                writing.write_all(first).await?;
                sleep(Duration::from_millis(50)).await;
                writing.write_all(rest).await?;
                if how & 1 == 0 {
                    writing.shutdown().await?;
                }
                Ok::<_, io::Error>(())
            };
            drop(tokio::join!(sending, reading.read_to_end(read)));
            received
        };
        let ended = timeout(LONGEST, async { tokio::join!(serving, client).1 }).await;
        let received = ended.expect("the connection ends by itself");
        hides_the_key(&received);
        let answers = final_answers(&received);
        let (recorded, refused) = gate.end().await;
        assert!(answers <= recorded + refused, "{answers} answers, {recorded} records");
    });
}

/// Bytes of an upstream.
pub(crate) fn upstreams(data: &[u8]) {
    let (how, bytes) = data.split_first().unwrap_or((&0, &[]));
    let (bytes, stays) = (expanded(bytes), how & 2 != 0);
    simulated(async {
        // The first connection is answered with these bytes, also on its second try.
        let said = Arc::new(Mutex::new(0));
        let answering = Arc::clone(&said);
        let gate = Gate::new(Dial::new(move |_uri| {
            let strange = *answering.lock() == 0;
            let bytes = bytes.clone();
            async move {
                let (near, far) = duplex(1 << 16);
                let answer = if strange { bytes } else { good_answer() };
                #[expect(clippy::disallowed_methods, reason = "a peer, not the gateway")]
                tokio::spawn(answer_each(far, answer, stays || !strange));
                Ok(near)
            }
        }));
        let request = if how & 1 == 0 { READ } else { WRITE };
        let received = gate.ask(request).await;
        hides_the_key(&received);
        assert_eq!(final_answers(&received), 1, "{}", String::from_utf8_lossy(&received));
        *said.lock() = 1;
        // What is left of the strange connection may be met once more by a read that is tried only once.
        sleep(Duration::from_secs(10)).await;
        let after = gate.ask(AGAIN).await;
        hides_the_key(&after);
        assert!(after.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&after));
        assert_eq!(gate.end().await, (2, 0));
    });
}

/// Runs `story` to its end on paused time: where all wait, time moves on.
fn simulated(story: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(story);
}

/// A gateway without ports and what it logs.
struct Gate {
    portless: Portless,
    lines: Lines,
    log: Capture,
    /// What was counted before: exchanges and refused connections.
    before: (u64, u64),
}

thread_local! {
    /// The first gateway of the thread, which serves nobody.
    static FIRST: (Portless, Lines, Capture) = first();
}

fn first() -> (Portless, Lines, Capture) {
    let log = Capture::default();
    let lines = Lines::to(log.clone()).unwrap();
    let setting = Setting {
        lines: lines.clone(),
        clock: Clock::steered(Duration::from_hours(500_000)),
        dice: Dice::seeded(1),
        workers: Workers::here(),
        given: Given::default(),
    };
    let mut config = Config::default();
    for upstream in config.upstreams.values_mut() {
        upstream.url = "http://upstream".parse().unwrap();
    }
    // Simulated time costs a little, too: a connection's clock ticks fifty times a second.
    config.listen.idle = Duration::from_secs(3);
    config.listen.head = Duration::from_secs(1);
    config.listen.body = Duration::from_secs(1);
    config.listen.write = Duration::from_secs(1);
    config.upstream.first_byte = Duration::from_secs(2);
    config.upstream.total = Duration::from_secs(3);
    config.upstream.idle = Duration::from_secs(1);
    config.limits.keys = 1000;
    (Portless::new(&config, setting, well()).unwrap(), lines, log)
}

impl Gate {
    fn new(dial: Dial) -> Self {
        FIRST.with(|(first, lines, log)| {
            let portless = first.afresh(Dice::seeded(1), dial).unwrap();
            // Where an input failed, its lines are still there.
            assert!(lines.flush(Duration::from_secs(10)));
            drop(log.take());
            let before = counted(&portless);
            Self { portless, lines: lines.clone(), log: log.clone(), before }
        })
    }

    async fn serve(&self, stream: DuplexStream) {
        self.portless.serve(stream, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).await;
    }

    /// Sends one request and gives all that comes back.
    async fn ask(&self, request: &[u8]) -> Vec<u8> {
        let (mut near, far) = duplex(1 << 16);
        let client = async {
            near.write_all(request).await.unwrap();
            let mut received = Vec::new();
            near.read_to_end(&mut received).await.unwrap();
            received
        };
        let asked = async { tokio::join!(self.serve(far), client).1 };
        timeout(IN_TIME, asked).await.expect("answered within the deadlines")
    }

    /// Leaves; how many exchanges were recorded, and connections refused.
    async fn end(self) -> (u64, u64) {
        let left = timeout(LONGEST, self.portless.leave()).await;
        left.expect("what is under way ends");
        assert!(self.lines.flush(Duration::from_secs(10)));
        let log = self.log.take();
        hides_the_key(log.as_bytes());
        let after = counted(&self.portless);
        let (recorded, refused) = (after.0 - self.before.0, after.1 - self.before.1);
        assert_eq!(log.matches("\"outcome\":").count() as u64, recorded);
        let metrics = &self.portless.telemetry().metrics;
        assert_eq!(metrics.requests_in_flight.get(), 0);
        assert_eq!(metrics.connections.get(), 0);
        (recorded, refused)
    }
}

/// Exchanges and refused connections so far. One in a series that nobody foresaw is none.
fn counted(portless: &Portless) -> (u64, u64) {
    let metrics = &portless.telemetry().metrics;
    (metrics.requests_total.foreseen(), metrics.connections_ended_total.listed())
}

/// An upstream that answers each request well.
fn well() -> Dial {
    Dial::new(|_uri| async {
        let (near, far) = duplex(1 << 16);
        #[expect(clippy::disallowed_methods, reason = "a peer, not the gateway")]
        tokio::spawn(answer_each(far, good_answer(), true));
        Ok(near)
    })
}

fn good_answer() -> Vec<u8> {
    let key = expanded(b"cal_live_$k");
    let body = [br#"{"data":[{"unitId":"u","apiKey":""#, &key[..], br#""}]}"#].concat();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.into_bytes(), body].concat()
}

/// Answers what comes with `answer`, once for each write of the peer that holds a head.
async fn answer_each(mut stream: DuplexStream, answer: Vec<u8>, stays: bool) {
    let mut received = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut received).await {
        if !received.windows(4).any(|end| end == b"\r\n\r\n") {
            continue;
        }
        received.clear();
        let (first, rest) = answer.split_at(answer.len() / 2);
        let wrote = async {
            stream.write_all(first).await?;
            sleep(Duration::from_millis(20)).await;
            stream.write_all(rest).await
        };
        if wrote.await.is_err() || !stays {
            return;
        }
    }
}

/// Letters alone, or behind what begins no key or stands in the middle of a word, are none: the bytes made up
/// may have broken the prefix.
fn hides_the_key(bytes: &[u8]) {
    let shown = memchr::memmem::find_iter(bytes, LETTERS).any(|start| {
        let before = &bytes[..start];
        let begins = |prefix: &&[u8]| {
            let word = before.strip_suffix(*prefix);
            word.is_some_and(|word| !word.last().is_some_and(u8::is_ascii_alphanumeric))
        };
        [&b"cal_"[..], b"cal_live_", b"cal_test_"].iter().any(begins)
    });
    assert!(!shown, "{}", String::from_utf8_lossy(bytes));
}

/// How many answers a client received, interim ones aside. They stand one behind the other, with nothing between;
/// over HTTP/2 there are none.
fn final_answers(received: &[u8]) -> u64 {
    let (mut count, mut rest) = (0, received);
    while rest.starts_with(b"HTTP/1.") {
        let end = memchr::memmem::find(rest, b"\r\n\r\n").expect("a head is sent whole");
        let (head, after) = rest.split_at(end + 4);
        count += u64::from(head[9] != b'1');
        // An answer to HEAD tells a length and has no body.
        let length = if after.starts_with(b"HTTP/1.") { 0 } else { length_of(head) };
        rest = after.get(length..).unwrap_or_default();
    }
    assert!(count == 0 || rest.is_empty(), "{}", String::from_utf8_lossy(received));
    count
}

fn length_of(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head);
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |length| length.parse().unwrap())
}

fn expanded(bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"$k") {
            whole.extend_from_slice(LETTERS);
            rest = after;
        } else {
            whole.push(*first);
            rest = after;
        }
    }
    whole
}

/// Longer than any request takes.
const IN_TIME: Duration = Duration::from_secs(10);

const READ: &[u8] = b"GET /api/v1/calcom/integration/unit/u HTTP/1.1\r\nHost: gateway\r\n\
    Authorization: Bearer abc\r\nConnection: close\r\n\r\n";

const AGAIN: &[u8] = b"GET /api/v1/calcom/integration/unit/other HTTP/1.1\r\nHost: gateway\r\n\
    Authorization: Bearer abcd\r\nConnection: close\r\n\r\n";

const WRITE: &[u8] = b"PUT /api/v1/calcom/integration/one HTTP/1.1\r\nHost: gateway\r\n\
    Authorization: Bearer abc\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{\"unitId\":\"u\"}";
