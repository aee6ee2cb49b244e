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
}

impl Gate {
    fn new(dial: Dial) -> Self {
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
        Self { portless: Portless::new(&config, setting, dial).unwrap(), lines, log }
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
    async fn end(self) -> (usize, usize) {
        let left = timeout(LONGEST, self.portless.leave()).await;
        left.expect("what is under way ends");
        let scrape = self.portless.telemetry().scrape();
        assert!(self.lines.flush(Duration::from_secs(10)));
        let log = String::from_utf8(self.log.0.lock().clone()).unwrap();
        hides_the_key(log.as_bytes());
        let recorded = sum(&scrape, "unitgate_requests_total");
        assert_eq!(log.matches("\"outcome\":").count(), recorded);
        assert_eq!(sum(&scrape, "unitgate_requests_in_flight"), 0);
        assert_eq!(sum(&scrape, "unitgate_connections"), 0);
        (recorded, sum(&scrape, "unitgate_connections_ended_total"))
    }
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

/// How many answers begin in what a client received, interim ones aside.
fn final_answers(received: &[u8]) -> usize {
    let begins = |window: &&[u8]| window.starts_with(b"HTTP/1.1 ") && window[9] != b'1';
    received.windows(10).filter(begins).count()
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

fn sum(scrape: &str, name: &str) -> usize {
    let series = scrape.lines().filter_map(|line| line.strip_prefix(name));
    let values = series.filter(|rest| rest.starts_with([' ', '{']));
    values.map(|rest| rest.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum()
}

/// Where the log goes.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Longer than any request takes.
const IN_TIME: Duration = Duration::from_secs(10);

const READ: &[u8] = b"GET /api/v1/calcom/integration/unit/u HTTP/1.1\r\nHost: gateway\r\n\
    Authorization: Bearer abc\r\nConnection: close\r\n\r\n";

const AGAIN: &[u8] = b"GET /api/v1/calcom/integration/unit/other HTTP/1.1\r\nHost: gateway\r\n\
    Authorization: Bearer abcd\r\nConnection: close\r\n\r\n";

const WRITE: &[u8] = b"PUT /api/v1/calcom/integration/one HTTP/1.1\r\nHost: gateway\r\n\
    Authorization: Bearer abc\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{\"unitId\":\"u\"}";
