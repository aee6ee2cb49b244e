//! Who asks on the tour, and how a reader can ask the same: one [`Ask`] makes both the request and its
//! `curl` line, so that they can't differ.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::DemoError;
use crate::clock::Clock;
use crate::shutdown::Shutdown;

/// Asks, and waits for the whole reply.
#[derive(Clone)]
pub(super) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    clock: Clock,
    tasks: Shutdown,
}

/// A request to make.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: Method,
    url: String,
    token: Option<&'static str>,
    etag: Option<String>,
    json: Option<&'static str>,
}

/// A reply as it was received.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
    pub(super) took: Duration,
    /// The upstream's count before the request and after its reply.
    pub(super) upstream: Range<u64>,
}

impl Client {
    /// A client with connections of its own.
    pub(super) fn new() -> Self {
        Self {
            http: legacy::Client::builder(TokioExecutor::new()).build_http(),
            clock: Clock::real(),
            tasks: Shutdown::new(),
        }
    }

    /// Makes one request.
    pub(super) async fn send(&self, ask: Ask) -> Result<Seen, DemoError> {
        let url = ask.url.clone();
        let silent = |why: String| DemoError::Silent { url: url.clone(), why };
        let request = ask.request().map_err(|error| silent(error.to_string()))?;
        let started = self.clock.mono();
        let exchange = async {
            let reply = self.http.request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = reply.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok((head, body.to_bytes()))
        };
        let answered = timeout(PATIENCE, exchange).await;
        let (head, body) =
            answered.map_err(|_late| silent("not in time".to_owned()))?.map_err(silent)?;
        Ok(Seen {
            status: head.status,
            fields: head.headers,
            body,
            took: self.clock.mono().saturating_sub(started),
            upstream: 0..0,
        })
    }

    /// Makes the same request `times` at once; returns when all are answered.
    pub(super) async fn burst(&self, ask: &Ask, times: usize) -> Result<Vec<Seen>, DemoError> {
        let one = || {
            let (client, ask) = (self.clone(), ask.clone());
            self.tasks.spawn(async move { client.send(ask).await })
        };
        let under_way: Vec<_> = std::iter::repeat_with(one).take(times).collect();
        let mut all = Vec::with_capacity(times);
        for task in under_way {
            let lost = |why: tokio::task::JoinError| DemoError::Silent {
                url: ask.url.clone(),
                why: why.to_string(),
            };
            all.push(task.await.map_err(lost)??);
        }
        Ok(all)
    }
}

impl Ask {
    /// A `GET` without a token.
    pub(super) fn get(url: String) -> Self {
        Self { method: Method::GET, url, token: None, etag: None, json: None }
    }

    /// A `POST`.
    pub(super) fn post(url: String, json: Option<&'static str>) -> Self {
        Self { method: Method::POST, json, ..Self::get(url) }
    }

    /// With a token.
    pub(super) fn by(self, token: &'static str) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Unless the content still has this entity tag (RFC 9110 §13.1.2).
    pub(super) fn unless(self, etag: &str) -> Self {
        Self { etag: Some(etag.to_owned()), ..self }
    }

    /// The words of the same in a shell, the address last.
    pub(super) fn curl(&self) -> Vec<String> {
        let mut words = vec!["curl -i".to_owned()];
        if self.method != Method::GET && self.json.is_none() {
            words.push(format!("-X {}", self.method));
        }
        words.extend(self.bearer());
        words.extend(self.etag.as_ref().map(|etag| format!("-H 'If-None-Match: {etag}'")));
        if let Some(json) = self.json {
            words.push("-H 'Content-Type: application/json'".to_owned());
            words.push(format!("-d '{json}'"));
        }
        words.push(self.url.clone());
        words
    }

    /// The same for many at once: `keep` is what curl tells of each reply, `filter` what of that counts.
    /// The fragment only makes curl repeat itself, it is not sent.
    pub(super) fn curls(&self, times: usize, keep: &str, filter: &str) -> Vec<String> {
        let mut words = vec![format!("curl -sZ --parallel-immediate --parallel-max {times}")];
        words.extend(self.bearer());
        words.push(format!("-o /dev/null {keep}"));
        words.push(format!("'{}#[1-{times}]'", self.url));
        words.push(format!("{filter}| sort | uniq -c"));
        words
    }

    fn bearer(&self) -> Option<String> {
        self.token.map(|token| format!("--oauth2-bearer {token}"))
    }

    fn request(self) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder().method(self.method).uri(self.url);
        if let Some(token) = self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(etag) = self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if self.json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::from(self.json.unwrap_or_default()))
    }
}

impl Seen {
    /// A field as received.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.to_str().ok()
    }

    /// Whether `Cache-Status` says so: `hit`, `collapsed`, `fwd=uri-miss`.
    pub(super) fn says(&self, word: &str) -> bool {
        let status = self.field("Cache-Status").unwrap_or_default();
        status.split(';').any(|part| part.trim() == word)
    }

    /// How many requests reached the upstream meanwhile.
    pub(super) fn cost(&self) -> u64 {
        self.upstream.end.saturating_sub(self.upstream.start)
    }

    /// The body as JSON; `null` if it is none.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Longest wait for a reply; the gateway's own deadlines are shorter.
const PATIENCE: Duration = Duration::from_secs(30);
