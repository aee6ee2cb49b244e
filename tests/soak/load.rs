//! The clients of the soak, and the book of what they saw.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use unitgate::clock::Dice;

use crate::Scene;
use crate::http1::{Reply, field, read};

/// Callers and units; every pair is a key.
const CALLERS: u64 = 40;
const UNITS: u64 = 15;

/// Longer than the gateway takes for any answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The token of a caller.
pub(crate) fn token(caller: &str) -> String {
    format!("tok.{caller}-{}", "Q7".repeat(12))
}

/// The unmasked key that the upstream shows to a caller.
pub(crate) fn key(caller: &str) -> String {
    format!("cal_live_{}", format!("{caller}X9").repeat(6))
}

/// What no answer and no line of the log may hold: a part of every key, and of every token.
pub(crate) fn holds_a_secret(text: &str) -> bool {
    text.split("cal_live_").skip(1).any(|rest| !rest.starts_with('*'))
        || text.contains(&"Q7".repeat(12))
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) wrong: Vec<String>,
    answers: BTreeMap<&'static str, u64>,
    versions: BTreeMap<String, u64>,
    written: BTreeMap<String, u64>,
}

impl Book {
    pub(crate) fn write(&mut self, unit: &str) -> u64 {
        let version = self.versions.entry(unit.to_owned()).or_default();
        *version += 1;
        *version
    }

    pub(crate) fn version(&self, unit: &str) -> u64 {
        self.versions.get(unit).copied().unwrap_or_default()
    }

    pub(crate) fn summary(&self) -> String {
        format!("answers: {:?}", self.answers)
    }

    pub(crate) fn all_kinds_happened(&self) -> bool {
        ["hit", "fetched", "excused", "failed", "written", "refused", "slow", "left"]
            .iter()
            .all(|kind| self.answers.get(kind).is_some_and(|many| *many > 0))
    }

    fn count(&mut self, kind: &'static str) {
        *self.answers.entry(kind).or_default() += 1;
    }

    fn complain(&mut self, what: String) {
        // The first few tell enough.
        if self.wrong.len() < 10 {
            self.wrong.push(what);
        }
    }
}

/// A client with a connection that it keeps.
struct Client {
    address: SocketAddr,
    scene: Arc<Scene>,
    dice: Dice,
    stream: Option<TcpStream>,
}

/// Starts all clients; they end when the scene is over.
pub(crate) fn start(address: SocketAddr, scene: &Arc<Scene>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let client =
        |seed| Client { address, scene: Arc::clone(scene), dice: Dice::seeded(seed), stream: None };
    for reader in 0..8 {
        tasks.spawn(client(reader).reads());
    }
    tasks.spawn(client(100).writes());
    tasks.spawn(client(200).shows_bad_tokens());
    for slow in 300..306 {
        tasks.spawn(client(slow).dawdles());
    }
    for leaver in 400..403 {
        tasks.spawn(client(leaver).leaves());
    }
    tasks
}

impl Client {
    fn draw(&self, many: u64) -> u64 {
        self.dice.roll() % many
    }

    fn unit(&self) -> String {
        format!("unit-{}", self.draw(UNITS))
    }

    fn caller(&self) -> String {
        format!("caller{}", self.draw(CALLERS))
    }

    async fn reads(mut self) {
        while !self.scene.is_over() {
            let (caller, unit) = (self.caller(), self.unit());
            let least = self.scene.book.lock().written.get(&unit).copied().unwrap_or_default();
            let settled = self.scene.is_settled();
            let request = get(&unit, &token(&caller));
            let reply = self.ask(&request).await;
            let settled = settled && self.scene.is_settled();
            self.judge(&caller, &unit, least, settled, reply);
            sleep(Duration::from_millis(self.draw(8))).await;
        }
    }

    fn judge(&self, caller: &str, unit: &str, least: u64, settled: bool, reply: io::Result<Reply>) {
        let mut book = self.scene.book.lock();
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return book.complain(format!("{caller} got no answer: {error}")),
        };
        let cache = field(&reply.head, "cache-status").unwrap_or_default();
        match reply.status {
            200 => {
                let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
                let list = &body["data"][0];
                let version = list["version"].as_u64();
                let right = list["for"] == *caller && list["unitId"] == *unit;
                if !right || version.is_none_or(|version| version < least) {
                    let (head, body) = (&reply.head, &reply.body);
                    book.complain(format!(
                        "{caller} asked for {unit} from {least} on: {head} {body}"
                    ));
                }
                book.count(match cache {
                    it if it.contains("stale-if-error") => "excused",
                    it if it.contains("hit") => "hit",
                    _ => "fetched",
                });
            }
            status if settled => {
                book.complain(format!("{status} from an upstream that is well: {}", reply.head));
            }
            502..=504 => book.count("failed"),
            status => book.complain(format!("{status} for a read: {}", reply.head)),
        }
    }

    async fn writes(mut self) {
        while !self.scene.is_over() {
            let unit = self.unit();
            let body = format!(r#"{{"unitId":"{unit}"}}"#);
            let request = format!(
                "PUT /api/v1/calcom/integration/one HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                token("writer"),
                body.len()
            );
            let reply = self.ask(&request).await;
            self.judge_write(unit, reply);
            sleep(Duration::from_millis(60)).await;
        }
    }

    fn judge_write(&self, unit: String, reply: io::Result<Reply>) {
        let mut book = self.scene.book.lock();
        match reply {
            Ok(reply) if reply.status == 200 => {
                let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
                let version = body["version"].as_u64().unwrap_or_default();
                let written = book.written.entry(unit).or_default();
                *written = (*written).max(version);
                book.count("written");
            }
            Ok(reply) if (502..=504).contains(&reply.status) => book.count("write failed"),
            Ok(reply) => book.complain(format!("{} for a write", reply.status)),
            Err(error) => book.complain(format!("a write got no answer: {error}")),
        }
    }

    fn judge_refusal(&self, reply: io::Result<Reply>) {
        let mut book = self.scene.book.lock();
        match reply {
            Ok(reply) if reply.status == 401 => book.count("refused"),
            Ok(reply) if (502..=504).contains(&reply.status) => book.count("refused late"),
            Ok(reply) => book.complain(format!("{} for a bad token", reply.status)),
            Err(error) => book.complain(format!("a bad token got no answer: {error}")),
        }
    }

    /// With a token that is nobody's, a malformed one, or none.
    async fn shows_bad_tokens(mut self) {
        while !self.scene.is_over() {
            let request = match self.draw(3) {
                0 => get("unit-1", &format!("bogus.{:x}", self.dice.roll())),
                1 => get("unit-1", "two words"),
                _ => "GET /api/v1/calcom/integration/unit/unit-1 HTTP/1.1\r\nHost: g\r\n\r\n"
                    .to_owned(),
            };
            let reply = self.ask(&request).await;
            self.judge_refusal(reply);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends half a head and waits, or asks for much and does not read for a while.
    async fn dawdles(self) {
        while !self.scene.is_over() {
            let Ok(mut stream) = TcpStream::connect(self.address).await else { continue };
            let half = self.draw(2) == 0;
            let request = get(&self.unit(), &token(&self.caller()));
            let sent = if half { request.chars().take(40).collect() } else { request.repeat(20) };
            let slow = async {
                stream.write_all(sent.as_bytes()).await?;
                if !half {
                    sleep(Duration::from_secs(1)).await;
                    stream.shutdown().await?;
                }
                let mut received = Vec::new();
                stream.read_to_end(&mut received).await?;
                Ok::<_, io::Error>(received)
            };
            let ended = timeout(PATIENCE, slow).await;
            let mut book = self.scene.book.lock();
            match ended {
                Err(_) => book.complain("a slow client's connection does not end".to_owned()),
                Ok(Ok(received)) => {
                    let text = String::from_utf8_lossy(&received);
                    if half && !text.starts_with("HTTP/1.1 408 ") {
                        book.complain(format!("half a head was answered with {text:?}"));
                    }
                    if holds_a_secret(&text) {
                        book.complain("a slow client got a secret".to_owned());
                    }
                    book.count("slow");
                }
                Ok(Err(_reset)) => book.count("slow and reset"),
            }
        }
    }

    /// Asks and leaves in the middle, in order or with a reset.
    async fn leaves(self) {
        while !self.scene.is_over() {
            if let Ok(mut stream) = TcpStream::connect(self.address).await {
                let request = get(&self.unit(), &token(&self.caller()));
                let part = request.len() - usize::try_from(self.draw(3) * 20).unwrap();
                drop(stream.write_all(&request.as_bytes()[..part]).await);
                sleep(Duration::from_millis(self.draw(20))).await;
                if self.draw(2) == 0 {
                    stream.set_zero_linger().ok();
                }
                drop(stream);
                self.scene.book.lock().count("left");
            }
            sleep(Duration::from_millis(self.draw(40))).await;
        }
    }

    /// One request on the connection that is kept, or on a new one where that was closed meanwhile.
    async fn ask(&mut self, request: &str) -> io::Result<Reply> {
        let kept = self.stream.take();
        let is_kept = kept.is_some();
        match self.ask_on(kept, request).await {
            Err(_) if is_kept => self.ask_on(None, request).await,
            other => other,
        }
    }

    async fn ask_on(&mut self, stream: Option<TcpStream>, request: &str) -> io::Result<Reply> {
        let asked = async {
            let mut stream = match stream {
                Some(stream) => stream,
                None => TcpStream::connect(self.address).await?,
            };
            stream.set_nodelay(true)?;
            stream.write_all(request.as_bytes()).await?;
            let reply = read(&mut stream).await?;
            Ok::<_, io::Error>((stream, reply))
        };
        let (stream, reply) = timeout(PATIENCE, asked).await??;
        if holds_a_secret(&reply.head) || holds_a_secret(&reply.body) {
            self.scene.book.lock().complain(format!("a secret: {} {}", reply.head, reply.body));
        }
        let closes = field(&reply.head, "connection") == Some("close");
        self.stream = (!closes && self.draw(200) > 0).then_some(stream);
        Ok(reply)
    }
}

fn get(unit: &str, token: &str) -> String {
    format!(
        "GET /api/v1/calcom/integration/unit/{unit} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
}
