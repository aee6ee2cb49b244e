//! [`Upstream`]: a scripted server on a raw socket, which records every request as it came.
//!
//! It speaks HTTP/1.1 by hand, so that it can also reset, stall and send nonsense.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{MASK, PATIENCE, list};

/// The server behind the gateway. It ends with its value.
pub(crate) struct Upstream {
    address: SocketAddr,
    stage: Arc<Stage>,
    accepting: JoinSet<()>,
}

impl Upstream {
    /// Listens on a free port of loopback; answers each request with 200 and a masked list, without any
    /// caching field.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stage = Stage {
            script: Mutex::new(Script {
                answer: Box::new(|_seen| Answer::json(200, list(MASK, "Be kind."))),
                next: VecDeque::new(),
                holds: VecDeque::new(),
                seen: Vec::new(),
            }),
            count: watch::Sender::new(0),
            connections: Mutex::default(),
            accepted: watch::Sender::new(0),
        };
        let mut upstream = Self {
            address: listener.local_addr().unwrap(),
            stage: Arc::new(stage),
            accepting: JoinSet::new(),
        };
        upstream.accept(listener);
        upstream
    }

    /// From now on every request is answered so.
    pub(crate) fn answer(&self, answer: Answer) {
        self.answers(move |_seen| answer.clone());
    }

    /// From now on every request is answered by `script`.
    pub(crate) fn answers(&self, script: impl Fn(&Seen) -> Answer + Send + 'static) {
        self.stage.script.lock().answer = Box::new(script);
    }

    /// The next request that has no other such answer before it gets this one.
    pub(crate) fn next(&self, answer: Answer) {
        self.stage.script.lock().next.push_back(answer);
    }

    /// The next request that arrives is parked until it is released; its answer is chosen then.
    pub(crate) fn hold(&self) -> Held {
        let (arrived, has_arrived) = oneshot::channel();
        let (say, said) = mpsc::unbounded_channel();
        self.stage.script.lock().holds.push_back(Hold { arrived, said });
        Held { arrived: Mutex::new(Some(has_arrived)), say }
    }

    /// Waits until `many` requests have arrived in all.
    pub(crate) async fn arrived(&self, many: usize) {
        let mut count = self.stage.count.subscribe();
        let arrived = timeout(PATIENCE, count.wait_for(|count| *count >= many)).await;
        assert!(arrived.is_ok(), "only {} of {many} requests have arrived", self.count());
    }

    /// How many requests have arrived.
    pub(crate) fn count(&self) -> usize {
        *self.stage.count.borrow()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        *self.stage.accepted.borrow()
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.stage.script.lock().seen.clone()
    }

    /// The latest request.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("no request has reached the upstream")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and closes every connection: further attempts to connect are refused.
    pub(crate) async fn stop(&mut self) {
        self.accepting.shutdown().await;
        let mut connections = std::mem::take(&mut *self.stage.connections.lock());
        connections.shutdown().await;
    }

    /// Listens again where it did before [`Self::stop`].
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.accept(listener);
    }

    fn accept(&mut self, listener: TcpListener) {
        let stage = Arc::clone(&self.stage);
        self.accepting.spawn(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                stage.accepted.send_modify(|count| *count += 1);
                let served = Arc::clone(&stage);
                stage.connections.lock().spawn(async move {
                    // A connection that the gateway closed is none of a test's business.
                    drop(serve(stream, &served).await);
                });
            }
        });
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// The request target, byte for byte.
    pub(crate) target: String,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// The value of a field; `None` if it has none.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    /// The names of its fields, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// What the upstream says to a request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    head: Option<(u16, Vec<(String, String)>)>,
    body: Vec<u8>,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The next request of the connection is awaited.
    KeepAlive,
    /// The connection is closed after so many bytes of the body.
    Close(usize),
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// After so many bytes of the body nothing more comes, and the connection stays open.
    Stall(usize),
}

impl Answer {
    /// An answer with an `application/json` body.
    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, body).field("content-type", "application/json")
    }

    /// An answer with this body and no field but `Content-Length`.
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { head: Some((status, Vec::new())), body: body.into(), ending: Ending::KeepAlive }
    }

    /// A 304 without further fields.
    pub(crate) fn not_modified() -> Self {
        Self::new(304, "")
    }

    /// Exactly these bytes, head included, and then the end of the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { head: None, body: bytes.into(), ending: Ending::Close(usize::MAX) }
    }

    /// Nothing at all: the connection is reset.
    pub(crate) fn reset() -> Self {
        Self { ending: Ending::Reset(0), ..Self::raw("") }
    }

    /// Nothing at all, ever.
    pub(crate) fn silence() -> Self {
        Self { ending: Ending::Stall(0), ..Self::raw("") }
    }

    /// The same with one more field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        let (_, fields) = self.head.as_mut().expect("raw bytes have no fields to add to");
        fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, broken off by a close after so many bytes of the body (of everything, if raw).
    pub(crate) fn cut(self, after: usize) -> Self {
        Self { ending: Ending::Close(after), ..self }
    }

    /// The same, broken off by a reset.
    pub(crate) fn reset_after(self, after: usize) -> Self {
        Self { ending: Ending::Reset(after), ..self }
    }

    /// The same, but after so many bytes of the body nothing more comes.
    pub(crate) fn stall_after(self, after: usize) -> Self {
        Self { ending: Ending::Stall(after), ..self }
    }

    fn bytes(&self, is_head: bool) -> Vec<u8> {
        let Some((status, fields)) = &self.head else { return self.kept().to_vec() };
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        let framed = fields.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if !framed && !matches!(status, 204 | 304) {
            write!(head, "content-length: {}\r\n", self.body.len()).unwrap();
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !is_head {
            bytes.extend_from_slice(self.kept());
        }
        bytes
    }

    /// The part of the body that is sent.
    fn kept(&self) -> &[u8] {
        let (Ending::Close(after) | Ending::Reset(after) | Ending::Stall(after)) = self.ending
        else {
            return &self.body;
        };
        &self.body[..after.min(self.body.len())]
    }
}

/// A request that is parked when it arrives, until it is released.
pub(crate) struct Held {
    arrived: Mutex<Option<oneshot::Receiver<()>>>,
    say: mpsc::UnboundedSender<Word>,
}

/// What is said to a request that is parked.
enum Word {
    /// These bytes, and no more for now.
    Ahead(Vec<u8>),
    /// What the script says by now, or this.
    Answer(Option<Answer>),
}

impl Held {
    /// Waits until the upstream has it in its hands; once.
    pub(crate) async fn arrived(&self) {
        let arrived = self.arrived.lock().take().expect("it was already waited for");
        let arrived = timeout(PATIENCE, arrived).await.expect("no request arrived to be held");
        arrived.expect("the upstream has ended");
    }

    /// Has it answered as the script says now.
    pub(crate) fn release(self) {
        self.say(Word::Answer(None));
    }

    /// Has it answered so.
    pub(crate) fn release_with(self, answer: Answer) {
        self.say(Word::Answer(Some(answer)));
    }

    /// Sends an interim response with these fields; it stays parked.
    pub(crate) fn interim(&self, status: u16, fields: &[(&str, &str)]) {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        self.say(Word::Ahead(format!("{head}\r\n").into_bytes()));
    }

    fn say(&self, word: Word) {
        assert!(self.say.send(word).is_ok(), "the gateway gave up on the held request");
    }
}

struct Stage {
    script: Mutex<Script>,
    count: watch::Sender<usize>,
    accepted: watch::Sender<usize>,
    connections: Mutex<JoinSet<()>>,
}

struct Script {
    answer: Box<dyn Fn(&Seen) -> Answer + Send>,
    next: VecDeque<Answer>,
    holds: VecDeque<Hold>,
    seen: Vec<Seen>,
}

struct Hold {
    arrived: oneshot::Sender<()>,
    said: mpsc::UnboundedReceiver<Word>,
}

impl Stage {
    /// Records a request, parks it if one is to be parked, and chooses its answer.
    async fn play(&self, seen: Seen, stream: &mut TcpStream) -> io::Result<Answer> {
        let hold = {
            let mut script = self.script.lock();
            script.seen.push(seen.clone());
            script.holds.pop_front()
        };
        self.count.send_modify(|count| *count += 1);
        if let Some(mut hold) = hold {
            hold.arrived.send(()).ok();
            // A `Held` that was dropped lets its request go on.
            while let Some(word) = hold.said.recv().await {
                match word {
                    Word::Ahead(bytes) => stream.write_all(&bytes).await?,
                    Word::Answer(Some(answer)) => return Ok(answer),
                    Word::Answer(None) => break,
                }
            }
        }
        let mut script = self.script.lock();
        Ok(match script.next.pop_front() {
            Some(answer) => answer,
            None => (script.answer)(&seen),
        })
    }
}

async fn serve(mut stream: TcpStream, stage: &Stage) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::new();
    while let Some(seen) = read_request(&mut stream, &mut input).await? {
        let is_head = seen.method == "HEAD";
        let answer = stage.play(seen, &mut stream).await?;
        stream.write_all(&answer.bytes(is_head)).await?;
        match answer.ending {
            Ending::KeepAlive => {}
            Ending::Close(_) => return stream.shutdown().await,
            Ending::Reset(_) => {
                return socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            // Until the gateway closes it.
            Ending::Stall(_) => while stream.read(&mut [0; 256]).await? > 0 {},
        }
    }
    Ok(())
}

/// The next request of a connection; `None` when it was closed instead.
async fn read_request(stream: &mut TcpStream, input: &mut BytesMut) -> io::Result<Option<Seen>> {
    let end = loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    };
    let head = input.split_to(end);
    input.advance(4);
    let head = std::str::from_utf8(&head).expect("the gateway sends text");
    let mut lines = head.split("\r\n");
    let mut start = lines.next().unwrap_or_default().splitn(3, ' ');
    let (method, target) = (start.next().unwrap(), start.next().unwrap());
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a field has a colon");
        fields.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value.trim()).unwrap(),
        );
    }
    assert!(
        !fields.contains_key("transfer-encoding"),
        "the gateway knows the length of what it sends"
    );
    let length =
        fields.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    while input.len() < length {
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
    let body = input.split_to(length).freeze();
    Ok(Some(Seen { method: method.to_owned(), target: target.to_owned(), fields, body }))
}
