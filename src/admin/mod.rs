//! The operators' port: `/metrics`, `/healthz`, `/readyz`; `/purge` and `/reload` where there is a token.
//!
//! *Invariants*
//! 1. It proxies nothing; what it shows comes from read-only [`Probes`], what it may change is in
//!    [`Changes`], and needs the operators' token.
//! 2. It answers while the data port is saturated: a thread, a runtime and a listener of its own.
//! 3. `/healthz` and `/readyz` never depend on the upstream; its state is a detail in `/readyz`' body.
//!
//! *Why not a route of the data port:* what waits behind 10,000 connections can't say that they are there.

mod changes;
mod healthcheck;
mod probes;
mod server;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::telemetry::Telemetry;

pub use changes::{Access, Changes, Pass, Reloaded};
pub use healthcheck::{Unhealthy, healthcheck};
pub use probes::{Probes, Readiness};
pub use server::{Running, start};

/// What answers on the operators' port.
#[derive(Debug)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
    probes: Probes,
    changes: Changes,
}

impl Admin {
    /// Answers from `telemetry` and `probes`; has `changes` made.
    pub fn new(telemetry: Arc<Telemetry>, probes: Probes, changes: Changes) -> Self {
        Self { telemetry, probes, changes }
    }

    /// The answer to a request. That to HEAD has the body of GET's, which the connection leaves out.
    pub fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !PATHS.contains(&path) {
            return problem(
                StatusCode::NOT_FOUND,
                "no_endpoint",
                "GET / lists what this port serves.",
            );
        }
        if *method != Method::GET && *method != Method::HEAD {
            let text = "This endpoint only shows; use GET or HEAD.";
            let mut refusal = problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
            // RFC 9110 §15.5.6 requires it.
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/metrics" => self.metrics(),
            "/readyz" => self.ready(),
            "/healthz" => reply(StatusCode::OK, TEXT, "ok\n"),
            _ => reply(StatusCode::OK, TEXT, INDEX),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.probes.measure(&self.telemetry.metrics);
        reply(StatusCode::OK, EXPOSITION, self.telemetry.scrape())
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let readiness = (self.probes.readiness)();
        let status =
            if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        reply(status, JSON, readiness.json())
    }
}

/// A problem (RFC 9457).
fn problem(status: StatusCode, code: &str, text: &str) -> Response<Full<Bytes>> {
    problem_with(status, code, text, [])
}

/// A problem with members of its own.
fn problem_with(
    status: StatusCode,
    code: &str,
    text: &str,
    members: impl IntoIterator<Item = (String, Value)>,
) -> Response<Full<Bytes>> {
    let mut problem = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "code": code,
        "detail": text,
    });
    if let Value::Object(problem) = &mut problem {
        problem.extend(members);
    }
    reply(status, "application/problem+json", problem.to_string())
}

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What there is.
const PATHS: [&str; 4] = ["/", "/metrics", "/healthz", "/readyz"];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = r#"unitgate, the operators' port

/metrics  Prometheus text format
/healthz  200 while the process answers; for liveness
/readyz   200, or 503 before listening, while draining, or with a broken masker; for readiness
/purge    POST, with the token in admin.token_file: ends stored answers
          {"unit": ID}, {"caller": FINGERPRINT}, {"url": URL} or {"all": true};
          with "soft": true they only become stale
/reload   POST, with the same token: reads the configuration again; 422 tells what is wrong with it
"#;
