//! The shipped values. `config.toml` says each with its reason; a test holds the two equal.
//!
//! *Why not* parse the shipped file at start: a missing key takes its value from here while another
//! file is read, and a mistake in the shipped one would be found by a user instead of a test.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{Method, Uri};

use super::{
    AccessLog, Admin, Breaker, Cache, CachePolicy, Caller, Concurrency, Config, Http2, Invalidates,
    Lane, Level, Limits, Listen, Log, LogFormat, LogOutput, LogTarget, NamedUpstream, Rate, Route,
    Secrets, Shutdown, Upstream,
};

impl Default for Config {
    fn default() -> Self {
        let cache = Cache::default();
        Self {
            listen: Listen::default(),
            admin: Admin::default(),
            caller: Caller::default(),
            secrets: Secrets::default(),
            limits: Limits::default(),
            upstream: Upstream::default(),
            upstreams: upstreams(),
            log: Log::default(),
            shutdown: Shutdown::default(),
            routes: routes(&cache.policy),
            cache,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080)),
            ],
            reuse_port: false,
            handover: None,
            via: None,
            tls_certificate_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            http2: Http2::Tls,
            trusted: Vec::new(),
            proxy_protocol: false,
            connections: 10_000,
            connections_per_peer: 5_000,
            requests: 20_000,
            connection_requests: 100_000,
            connection_age: Duration::from_mins(30),
            streams: 100,
            control_frames: 100,
            target_size: 8 * KIB,
            fields: 100,
            head_size: 32 * KIB,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(10),
            write: Duration::from_secs(30),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9090))),
            token_file: None,
            hosts: Vec::new(),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, policy: CachePolicy::default() }
    }
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(1),
            negative_ttl: Duration::ZERO,
            jitter: 0.1,
            max_ttl: Duration::from_mins(5),
            stale_while_revalidate: Duration::from_secs(30),
            stale_if_error: Duration::from_mins(5),
            keep: Duration::from_mins(10),
            store_no_store: false,
            request_directives: false,
            heuristic: false,
            targeted: Vec::new(),
            store_set_cookie: true,
        }
    }
}

impl Default for Secrets {
    fn default() -> Self {
        let names = ["apiKey", "virtualKey", "secretId", "credentialId", "googleToken"];
        let objects = ["infisicalReference", "credentials"];
        Self { names: names.map(str::to_owned).into(), objects: objects.map(str::to_owned).into() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            caller: Some(Rate { per_second: 1000, burst: 2000 }),
            caller_upstream: Some(Rate { per_second: 50, burst: 1000 }),
            peer: None,
            lane: Some(Lane { in_flight: 256, wait: Duration::from_secs(8) }),
            keys: 100_000,
            request_body: 256 * KIB,
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(8),
            total: Duration::from_secs(10),
            max_body: 8192 * KIB,
            max_fields: 100,
            idle: Duration::from_secs(4),
            age: Duration::from_mins(5),
            breaker: Some(Breaker {
                failures: 0.5,
                of: 20,
                window: Duration::from_secs(10),
                open: Duration::from_secs(5),
            }),
            hold_back: Duration::from_mins(1),
            concurrency: Some(Concurrency { least: 50, most: 1000 }),
            queue: Duration::from_secs(3),
            retries: 0.2,
            max_buffered: 64 << 20,
            allow_plain: Vec::new(),
            ca_file: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: LogFormat::Json,
            output: LogOutput::Stdout,
            access: AccessLog::All,
            target: LogTarget::Full,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { delay: Duration::ZERO, deadline: Duration::from_secs(9) }
    }
}

/// The two hosts of the API.
pub(super) fn upstreams() -> BTreeMap<String, NamedUpstream> {
    let converflow = Uri::from_static("https://converflow.api.prod.toolzz.media");
    let chat = Uri::from_static("https://chat.api.toolzz.com.br");
    BTreeMap::from([
        ("converflow".to_owned(), NamedUpstream { url: converflow }),
        ("chat".to_owned(), NamedUpstream { url: chat }),
    ])
}

/// The Cal.com integration family: the unit's list is cached, the rest is forwarded.
pub(super) fn routes(policy: &CachePolicy) -> Vec<Route> {
    const ALL: &str = "/api/v1/calcom/integration";
    const ONE: &str = "/api/v1/calcom/integration/{integrationId}";
    let invalidates = Invalidates { member: "unitId".to_owned(), family: "calcom".to_owned() };
    vec![
        Route {
            cache: Some(policy.clone()),
            family: Some("calcom".to_owned()),
            ..Route::new("unit-list", "/api/v1/calcom/integration/unit/{unitId}", "converflow")
        },
        Route::new("integration", ONE, "converflow"),
        Route {
            methods: [Method::POST].into(),
            invalidates: Some(invalidates.clone()),
            ..Route::new("integration-create", ALL, "converflow")
        },
        Route {
            methods: [Method::PUT].into(),
            invalidates: Some(invalidates),
            ..Route::new("integration-update", ONE, "chat")
        },
    ]
}

const KIB: usize = 1024;
