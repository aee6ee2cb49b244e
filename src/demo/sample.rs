//! The sample upstream: the documented answers for made-up units, and a few knobs to turn.
//!
//! *Invariants*
//! 1. It counts each request of the API, whatever becomes of it, before it answers.
//! 2. Its keys are put together at run time, so that none stands in the source.
//!
//! Units are `unit-001`, `unit-002`, …; integrations `unit-001-1`, …: short, where the real ones are
//! UUIDs, so that a command line fits on a line. Every third unit comes with an unmasked key, and with
//! another one pasted into its prompt; every second has two integrations. The last unit is fresh for
//! two seconds only. Any token is accepted until it is revoked.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::listener::{Ahead, Handler};

/// The upstream of a demo; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sample(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    latency: Duration,
    requests: AtomicU64,
    outage: AtomicBool,
    revoked: Mutex<HashSet<String>>,
    /// The titles of each unit's integrations, from `unit-001` on.
    units: Mutex<Vec<Vec<String>>>,
}

/// Where an integration is: its unit and its place there, both from 0.
#[derive(Clone, Copy, Debug)]
struct Spot {
    unit: usize,
    place: usize,
}

impl Sample {
    /// An upstream of so many units that takes `latency` for an answer.
    pub(super) fn new(units: u16, latency: Duration) -> Self {
        let titles = |unit: usize| {
            let two = unit % 2 == 1;
            ["Calcom", "Calcom, second team"]
                .into_iter()
                .take(1 + usize::from(two))
                .map(str::to_owned)
                .collect()
        };
        Self(Arc::new(Shared {
            latency,
            requests: AtomicU64::new(0),
            outage: AtomicBool::new(false),
            revoked: Mutex::default(),
            units: Mutex::new((0..usize::from(units)).map(titles).collect()),
        }))
    }

    /// Requests of the API so far.
    pub(super) fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// How many units there are.
    pub(super) fn units(&self) -> usize {
        self.0.units.lock().len()
    }

    async fn answer(&self, request: &mut Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            ["demo", knob @ ..] => self.turn(request.method(), knob),
            ["api", "v1", "calcom", "integration", rest @ ..] => {
                self.0.requests.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(self.0.latency).await;
                if let Some(refusal) = self.refusal(request.headers()) {
                    return refusal;
                }
                let method = request.method().clone();
                match (&method, rest) {
                    (&Method::GET | &Method::HEAD, ["unit", unit]) => self.list(unit),
                    (&Method::GET | &Method::HEAD, [id]) => self.one(id),
                    (&Method::POST, []) => self.create(&read(request).await),
                    (&Method::PUT, [id]) => self.change(id, &read(request).await),
                    _ => message(StatusCode::NOT_FOUND, "Cannot find that"),
                }
            }
            _ => message(StatusCode::NOT_FOUND, "Cannot find that"),
        }
    }

    /// What the readers of the demo can do to it.
    fn turn(&self, method: &Method, knob: &[&str]) -> Response<Full<Bytes>> {
        let done = match (method, knob) {
            (&Method::GET, ["count"]) => format!("requests so far: {}", self.requests()),
            (&Method::POST, ["revoke", token]) => {
                let mut revoked = self.0.revoked.lock();
                if revoked.len() < MOST_REVOKED {
                    revoked.insert((*token).to_owned());
                }
                format!("{token} is revoked")
            }
            (&Method::POST, ["accept", token]) => {
                self.0.revoked.lock().remove(*token);
                format!("{token} is accepted")
            }
            (&Method::POST, ["outage", switch @ ("on" | "off")]) => {
                self.0.outage.store(*switch == "on", Ordering::SeqCst);
                format!("outage {switch}")
            }
            _ => return message(StatusCode::NOT_FOUND, "Cannot find that"),
        };
        message(StatusCode::OK, &done)
    }

    fn refusal(&self, fields: &HeaderMap) -> Option<Response<Full<Bytes>>> {
        if self.0.outage.load(Ordering::SeqCst) {
            return Some(message(StatusCode::SERVICE_UNAVAILABLE, "Out of order"));
        }
        let token = fields
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let known = token.is_some_and(|token| !self.0.revoked.lock().contains(token));
        (!known).then(|| message(StatusCode::UNAUTHORIZED, "Unauthorized"))
    }

    fn list(&self, id: &str) -> Response<Full<Bytes>> {
        let units = self.0.units.lock();
        let found = unit_of(id).and_then(|unit| Some((unit, units.get(unit)?)));
        let Some((unit, titles)) = found else {
            return message(StatusCode::NOT_FOUND, "No such unit");
        };
        let objects: Vec<String> = titles
            .iter()
            .enumerate()
            .map(|(place, title)| object(Spot { unit, place }, title))
            .collect();
        let mut response = answer(StatusCode::OK, format!("{{\"data\":[{}]}}", objects.join(",")));
        if unit + 1 == units.len() {
            response.headers_mut().insert(CACHE_CONTROL, SHORT_LIFE);
        }
        response
    }

    fn one(&self, id: &str) -> Response<Full<Bytes>> {
        let units = self.0.units.lock();
        let found =
            spot_of(id).and_then(|spot| Some((spot, units.get(spot.unit)?.get(spot.place)?)));
        match found {
            Some((spot, title)) => answer(StatusCode::OK, object(spot, title)),
            None => message(StatusCode::NOT_FOUND, "No such integration"),
        }
    }

    fn create(&self, body: &Value) -> Response<Full<Bytes>> {
        let mut units = self.0.units.lock();
        let unit = body.get("unitId").and_then(Value::as_str).and_then(unit_of);
        let Some((unit, titles)) = unit.and_then(|unit| Some((unit, units.get_mut(unit)?))) else {
            return message(StatusCode::BAD_REQUEST, "unitId must name a unit");
        };
        if titles.len() >= MOST_INTEGRATIONS {
            return message(StatusCode::CONFLICT, "This unit has enough integrations");
        }
        let title = title_of(body).unwrap_or("Calcom");
        titles.push(title.to_owned());
        answer(StatusCode::CREATED, object(Spot { unit, place: titles.len() - 1 }, title))
    }

    fn change(&self, id: &str, body: &Value) -> Response<Full<Bytes>> {
        let mut units = self.0.units.lock();
        let found = spot_of(id)
            .and_then(|spot| Some((spot, units.get_mut(spot.unit)?.get_mut(spot.place)?)));
        let Some((spot, title)) = found else {
            return message(StatusCode::NOT_FOUND, "No such integration");
        };
        if let Some(new) = title_of(body) {
            new.clone_into(title);
        }
        answer(StatusCode::OK, object(spot, title))
    }
}

impl Handler for Sample {
    type Body = Full<Bytes>;
    type Session = ();

    fn session(&self, _peer: SocketAddr) {}

    async fn call(
        &self,
        request: &mut Request<Incoming>,
        _session: &(),
        _ahead: &Ahead,
    ) -> Response<Self::Body> {
        self.answer(request).await
    }
}

/// An integration as documented, member for member.
fn object(spot: Spot, title: &str) -> String {
    let (unit, number) = (unit_id(spot.unit), spot.place + 1);
    let open = spot.unit % 3 == 2;
    let (key, pasted) = if open { keys(&unit, number) } else { (MASK.to_owned(), String::new()) };
    let pasted = if open { format!(" The key is {pasted}.") } else { pasted };
    let (title, masked) = (Value::from(title), !open);
    format!(
        "{{\"id\":\"{unit}-{number}\",\"botId\":null,\"unitId\":\"{unit}\",\"title\":{title},\
         \"calcomUsername\":\"{unit}\",\"apiKey\":\"{key}\",\"isActive\":true,\"isTokenMasked\":{masked},\
         \"timezone\":\"America/Sao_Paulo\",\"prompt\":\"Be brief, offer two times.{pasted}\",\
         \"checkAvailabilityEnabled\":true,\"createBookingEnabled\":true,\"defaultEventTypeId\":5470074,\
         \"defaultEventTypeSlug\":\"30min\",\"createdAt\":\"2026-03-02 09:30:00.123456\",\
         \"updatedAt\":\"2026-03-05 14:00:00.123\"}}"
    )
}

/// Two made-up keys: one for `apiKey`, one for the prompt.
fn keys(unit: &str, number: usize) -> (String, String) {
    let letters = |use_| {
        let hash = blake3::hash(format!("{unit} {number} {use_}").as_bytes()).to_hex();
        hash.chars().take(32).collect::<String>()
    };
    (format!("cal_live_{}", letters("apiKey")), format!("cal_{}", letters("prompt")))
}

/// `unit-001` is the unit at 0.
pub(super) fn unit_id(unit: usize) -> String {
    format!("unit-{:03}", unit + 1)
}

fn unit_of(id: &str) -> Option<usize> {
    let unit = id.strip_prefix("unit-")?.parse::<usize>().ok()?.checked_sub(1)?;
    (unit_id(unit) == id).then_some(unit)
}

fn spot_of(id: &str) -> Option<Spot> {
    let (unit, number) = id.rsplit_once('-')?;
    let place = number.parse::<usize>().ok()?.checked_sub(1)?;
    Some(Spot { unit: unit_of(unit)?, place })
}

fn title_of(body: &Value) -> Option<&str> {
    body.get("title").and_then(Value::as_str)
}

/// A body as JSON; `null` if it is none, or too large.
async fn read(request: &mut Request<Incoming>) -> Value {
    let body = Limited::new(request.body_mut(), MOST_BODY).collect().await;
    body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok()).unwrap_or_default()
}

fn message(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    answer(status, json!({ "message": text }).to_string())
}

fn answer(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// As the API documents it.
const MASK: &str = "cal_****************";

/// For the last unit: soon stale, and then asked for before it is shown.
const SHORT_LIFE: HeaderValue = HeaderValue::from_static("max-age=2, stale-while-revalidate=0");

const MOST_REVOKED: usize = 1_000;
const MOST_INTEGRATIONS: usize = 8;
const MOST_BODY: usize = 256 << 10;
