//! [`Client`]: someone with a token (or without), who asks over a connection of its own each time.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use unitgate::gateway::{Content, Current, Session};
use unitgate::listener::Ahead;

/// Someone who asks the gateway.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    gateway: Current,
    authorization: Option<String>,
}

impl Client {
    /// A client of `gateway` at `address` that sends this `Authorization`.
    pub(super) fn new(
        address: SocketAddr,
        gateway: Current,
        authorization: Option<String>,
    ) -> Self {
        Self { address, gateway, authorization }
    }

    /// Asks with GET.
    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.send(Ask::get(target)).await
    }

    /// Asks with HEAD.
    pub(crate) async fn head(&self, target: &str) -> Reply {
        self.send(Ask::new("HEAD", target)).await
    }

    /// Writes a JSON body with PUT.
    pub(crate) async fn put(&self, target: &str, body: &str) -> Reply {
        self.send(Ask::put(target, body)).await
    }

    /// Sends a request over a connection of its own and waits for the reply.
    pub(crate) async fn send(&self, ask: Ask) -> Reply {
        let is_head = ask.method == "HEAD";
        let mut wire = self.connect().await;
        wire.write(&self.bytes(ask)).await;
        wire.read(is_head).await.expect("the gateway closed the connection instead of answering")
    }

    /// Sends a request in the background.
    pub(crate) fn begin(&self, ask: Ask) -> Pending {
        let client = self.clone();
        let mut task = JoinSet::new();
        task.spawn(async move { client.send(ask).await });
        Pending(task)
    }

    /// Hands a request to the gateway itself, past the sockets. When this returns it has gone as far as it
    /// can without waiting: it has been refused, has joined a flight, or has begun one.
    pub(crate) async fn enter(&self, ask: Ask) -> Pending {
        let mut request = self.request(ask);
        let gateway = self.gateway.clone();
        let session = Session::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut handling =
            Box::pin(async move { gateway.handle(&mut request, &session, &Ahead::new()).await });
        let begun =
            std::future::poll_fn(|context| Poll::Ready(handling.as_mut().poll(context))).await;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let response = match begun {
                Poll::Ready(response) => response,
                Poll::Pending => handling.await,
            };
            Reply::of(response).await
        });
        Pending(task)
    }

    /// A connection to speak over freely.
    pub(crate) async fn connect(&self) -> Wire {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream, input: BytesMut::new() }
    }

    /// A request as this client would send it.
    pub(crate) fn bytes(&self, ask: Ask) -> Vec<u8> {
        let ask = self.signed(ask);
        let mut head = format!("{} {} HTTP/1.1\r\n", ask.method, ask.target);
        if !ask.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            write!(head, "Host: {}\r\n", self.address).unwrap();
        }
        for (name, value) in &ask.fields {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !ask.body.is_empty() {
            write!(head, "Content-Length: {}\r\n", ask.body.len()).unwrap();
        }
        head.push_str("\r\n");
        [head.into_bytes(), ask.body].concat()
    }

    fn request(&self, ask: Ask) -> Request<Full<Bytes>> {
        let ask = self.signed(ask);
        let mut request = Request::new(Full::new(Bytes::from(ask.body)));
        *request.method_mut() = ask.method.parse().unwrap();
        *request.uri_mut() = ask.target.parse().unwrap();
        let host = ("host".to_owned(), self.address.to_string());
        for (name, value) in std::iter::once(host).chain(ask.fields) {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(&value).unwrap());
        }
        request
    }

    fn signed(&self, ask: Ask) -> Ask {
        match &self.authorization {
            Some(value) => ask.field("Authorization", value),
            None => ask,
        }
    }
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Ask {
    /// Any method.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    /// GET.
    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// PUT with a JSON body.
    pub(crate) fn put(target: &str, body: &str) -> Self {
        Self::new("PUT", target).field("Content-Type", "application/json").body(body)
    }

    /// POST with a JSON body.
    pub(crate) fn post(target: &str, body: &str) -> Self {
        Self::new("POST", target).field("Content-Type", "application/json").body(body)
    }

    /// The same with one more field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a body.
    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }
}

/// A reply that is still to come.
pub(crate) struct Pending(JoinSet<Reply>);

impl Pending {
    /// Waits for it.
    pub(crate) async fn reply(mut self) -> Reply {
        self.0.join_next().await.expect("there is one task").expect("the client did not panic")
    }

    /// Leaves without waiting for the reply; the connection is closed when this returns.
    pub(crate) async fn hang_up(mut self) {
        self.0.shutdown().await;
    }
}

/// What the gateway answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The value of a field; `None` if there is none.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    /// `Cache-Status`; empty if there is none.
    pub(crate) fn cache(&self) -> &str {
        self.field("cache-status").unwrap_or_default()
    }

    /// Whether it came from the cache without asking the upstream.
    pub(crate) fn is_hit(&self) -> bool {
        self.cache().starts_with("unitgate; hit")
    }

    /// The stable code of a problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["code"].as_str().unwrap().to_owned()
    }

    /// Head and body as one text, to be searched for what must not be there.
    pub(crate) fn everything(&self) -> String {
        format!("{:?}\n{}", self.fields, String::from_utf8_lossy(&self.body))
    }

    async fn of(response: Response<Full<Content>>) -> Self {
        let (parts, mut body) = response.into_parts();
        let content = body.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
        let body = content.map_or_else(Bytes::new, |content| Bytes::from_owner(Held(content)));
        Self { status: parts.status.as_u16(), fields: parts.headers, body }
    }
}

/// What a response carries, where the gateway has it.
struct Held(Content);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.chunk()
    }
}

/// A connection to the gateway.
pub(crate) struct Wire {
    stream: TcpStream,
    input: BytesMut,
}

impl Wire {
    /// Sends bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next final reply; `None` when the connection was closed or reset before the end of its head.
    /// `to_head`: it answers HEAD and so has no body.
    pub(crate) async fn read(&mut self, to_head: bool) -> Option<Reply> {
        loop {
            let reply = self.read_any(to_head).await?;
            if reply.status >= 200 {
                return Some(reply);
            }
        }
    }

    /// The next reply, interim ones too.
    pub(crate) async fn read_any(&mut self, to_head: bool) -> Option<Reply> {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if self.more().await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let head = self.input.split_to(end);
        self.input.advance(4);
        let mut lines = std::str::from_utf8(&head).unwrap().split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let mut fields = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            fields.append(name, HeaderValue::from_str(value.trim()).unwrap());
        }
        let length = fields
            .get("content-length")
            .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        let none = to_head || matches!(status, 100..200 | 204 | 304);
        let length: usize = if none { 0 } else { length };
        while self.input.len() < length {
            assert!(self.more().await.unwrap() > 0, "the body broke off");
        }
        let body = self.input.split_to(length).freeze();
        Some(Reply { status, fields, body })
    }

    /// Waits for the gateway to close; returns what it sent before that and was not read.
    pub(crate) async fn rest(mut self) -> Bytes {
        while self.more().await.unwrap_or(0) > 0 {}
        self.input.freeze()
    }

    /// Says that no more will be sent; replies can still be read.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.input).await
    }
}

impl Wire {
    /// A connection to whatever listens at `address`.
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, input: BytesMut::new() }
    }

    /// Sends a GET with a `Host` and these fields.
    pub(crate) async fn get(&mut self, target: &str, fields: &[(&str, &str)]) {
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\n");
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        self.write(format!("{head}\r\n").as_bytes()).await;
    }
}

impl Client {
    /// Where it connects to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
