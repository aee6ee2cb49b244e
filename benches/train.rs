//! The traffic that the shipped program is optimised for.
//!
//! `cargo bench --bench train -- UNITGATE DIRECTORY` starts that program in front of a sample upstream, sends it what
//! clients send, and ends it by SIGTERM, so that one built to count how often its code runs leaves its counts.
//! `deploy/build` does that; DIRECTORY takes a certificate.
//!
//! What is never run here is taken for never run, and made small instead of fast. So each way through the gateway that
//! many will take is here, and the proportions are those of its job: mostly hits, over every transport; then misses.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

mod support;

fn main() {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<PathBuf> = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .map(PathBuf::from)
        .collect();
    let [program, directory] = &arguments[..] else {
        writeln!(std::io::stderr(), "usage: train UNITGATE DIRECTORY").ok();
        // `cargo bench` runs every bench, this one with nothing to do.
        std::process::exit(if arguments.is_empty() { 0 } else { 2 });
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the machine runs threads")
        .block_on(train(program, directory));
}

async fn train(program: &Path, directory: &Path) {
    let (listener, upstream) = support::loopback().await;
    #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
    tokio::spawn(serve_sample(listener));
    let identity = Identity::write(directory);
    for (access, secure) in [("off", false), ("all", false), ("all", true)] {
        let gateway = Gateway::start(program, upstream, access, secure.then_some(&identity)).await;
        if secure {
            let pooled = client(false, &identity, usize::MAX);
            gateway.serve(&pooled, OVER_TLS).await;
            gateway.serve(&client(true, &identity, usize::MAX), OVER_TLS).await;
            gateway.serve(&client(false, &identity, 0), HANDSHAKES).await;
        } else {
            gateway.serve(&client(false, &identity, usize::MAX), PLAIN).await;
            gateway.serve(&client(true, &identity, usize::MAX), HTTP2).await;
        }
        gateway.end().await;
    }
}

/// What is asked: how often, which request by its number, and the status that it has to be answered with.
type Scene = (usize, fn(usize) -> Request<Full<Bytes>>, StatusCode);

/// HTTP/1.1 over connections that are kept.
const PLAIN: &[Scene] = &[
    (40_000, |_| read("unit-1", 0), StatusCode::OK),
    (40_000, |n| read(&format!("unit-{}", n % 2_000), n / 2_000), StatusCode::OK),
    (12_000, |n| read(&format!("new-{n}"), n % 50), StatusCode::OK),
    (2_000, |n| read(&format!("key-{n}"), 0), StatusCode::OK),
    (1_000, |n| read(&format!("gzip-{n}"), 0), StatusCode::OK),
    (100, |n| read(&format!("large-{n}"), 0), StatusCode::OK),
    (2_000, |_| if_none("unit-1"), StatusCode::NOT_MODIFIED),
    (1_000, |_| by(Method::HEAD, read("unit-1", 0)), StatusCode::OK),
    (1_000, |n| read(&format!("gone-{n}"), 0), StatusCode::NOT_FOUND),
    (1_000, |_| nobodys("unit-1"), StatusCode::UNAUTHORIZED),
];

/// HTTP/2, its streams many on few connections.
const HTTP2: &[Scene] = &[
    (20_000, |n| read(&format!("unit-{}", n % 2_000), 0), StatusCode::OK),
    (2_000, |n| read(&format!("newer-{n}"), n % 50), StatusCode::OK),
];

const OVER_TLS: &[Scene] = &[
    (10_000, |n| read(&format!("unit-{}", n % 2_000), 0), StatusCode::OK),
    (1_000, |n| read(&format!("new-{n}"), n % 50), StatusCode::OK),
    (50, |_| read("large-1", 0), StatusCode::OK),
];

/// A connection for each.
const HANDSHAKES: &[Scene] = &[(1_000, |_| read("unit-1", 0), StatusCode::OK)];

/// A read of a unit by a caller.
fn read(unit: &str, caller: usize) -> Request<Full<Bytes>> {
    with(nobodys(unit), AUTHORIZATION, &format!("Bearer {caller:048}"))
}

/// A read without a token.
fn nobodys(unit: &str) -> Request<Full<Bytes>> {
    Request::get(format!("/api/v1/calcom/integration/unit/{unit}"))
        .header("user-agent", "a-service/1.0")
        .header("accept", "application/json")
        .body(Full::default())
        .expect("the request is well-formed")
}

/// A read that wants no body of what is there already.
fn if_none(unit: &str) -> Request<Full<Bytes>> {
    with(read(unit, 0), IF_NONE_MATCH, "*")
}

fn with(
    mut request: Request<Full<Bytes>>,
    name: http::HeaderName,
    value: &str,
) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, HeaderValue::from_str(value).expect("it is ASCII"));
    request
}

fn by(method: Method, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    *request.method_mut() = method;
    request
}

/// The program under training.
struct Gateway {
    process: Child,
    address: SocketAddr,
    secure: bool,
}

impl Gateway {
    /// As shipped, with its rates above the load; returns once it listens.
    async fn start(
        program: &Path,
        upstream: SocketAddr,
        access: &str,
        identity: Option<&Identity>,
    ) -> Self {
        let address = free().await;
        let above = "{ per_second = 1_000_000, burst = 1_000_000 }";
        let mut command = Command::new(program);
        command
            .args(["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml")])
            .stdout(Stdio::null())
            .env("UNITGATE__LISTEN__ADDRESS", address.to_string())
            .env("UNITGATE__LISTEN__HTTP2", "all")
            .env("UNITGATE__ADMIN__ADDRESS", free().await.to_string())
            .env("UNITGATE__UPSTREAMS__CONVERFLOW__URL", format!("http://{upstream}"))
            .env("UNITGATE__UPSTREAMS__CHAT__URL", format!("http://{upstream}"))
            .env("UNITGATE__LIMITS__CALLER", above)
            .env("UNITGATE__LIMITS__CALLER_UPSTREAM", above)
            .env("UNITGATE__LOG__ACCESS", access);
        if let Some(identity) = identity {
            command
                .env("UNITGATE__LISTEN__TLS_CERTIFICATE_FILE", &identity.certificate)
                .env("UNITGATE__LISTEN__TLS_KEY_FILE", &identity.key);
        }
        let process = command.spawn().expect("the program can be started");
        let gateway = Self { process, address, secure: identity.is_some() };
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), listens).await.expect("the program listens");
        gateway
    }

    /// Plays the scenes one after the other, [`AT_ONCE`] requests at a time.
    async fn serve(&self, client: &Sender, scenes: &'static [Scene]) {
        for &(times, request, status) in scenes {
            let next = Arc::new(AtomicUsize::new(0));
            let mut askers = JoinSet::new();
            for _ in 0..AT_ONCE {
                let (next, client, origin) = (Arc::clone(&next), client.clone(), self.origin());
                askers.spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= times {
                            return;
                        }
                        let mut request = request(number);
                        let uri = format!("{origin}{}", request.uri());
                        *request.uri_mut() = uri.parse().expect("it is a URI");
                        let response = client.request(request).await.expect("it is answered");
                        assert_eq!(response.status(), status, "{uri}");
                        response.into_body().collect().await.expect("the answer comes whole");
                    }
                });
            }
            askers.join_all().await;
        }
    }

    fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// Ends it as a service manager does, so that it leaves in good order.
    async fn end(mut self) {
        let number = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        let number = number.expect("a process has a number");
        rustix::process::kill_process(number, rustix::process::Signal::TERM).expect("it runs");
        // Not on this thread: connections that are still open have to answer its farewell.
        let ended = tokio::task::spawn_blocking(move || self.process.wait()).await;
        let ended = ended.expect("nothing here panics").expect("it is ours");
        assert!(ended.success(), "the program failed");
    }
}

impl Drop for Gateway {
    /// Nothing is left behind where something went wrong.
    fn drop(&mut self) {
        self.process.kill().ok();
    }
}

/// An address of loopback that was free just now.
async fn free() -> SocketAddr {
    support::loopback().await.1
}

/// A certificate for `localhost` and its key, in files.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

impl Identity {
    fn write(directory: &Path) -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is a name");
        let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("the directory can be written");
        let mut file = std::fs::OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(0o600).open(&key);
        let file =
            file.and_then(|mut file| file.write_all(made.signing_key.serialize_pem().as_bytes()));
        file.expect("the directory can be written");
        Self { certificate, key }
    }
}

type Sender = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that keeps so many idle connections.
fn client(http2: bool, identity: &Identity, kept: usize) -> Sender {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(&identity.certificate).expect("we wrote it");
    roots.add(certificate).expect("it is a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let connector =
        if http2 { connector.enable_http2().build() } else { connector.enable_http1().build() };
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .pool_max_idle_per_host(kept)
        .build(connector)
}

/// An upstream whose answers go by the unit's name.
async fn serve_sample(listener: TcpListener) {
    let sample = Arc::new(Sample::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let sample = Arc::clone(&sample);
        #[expect(clippy::disallowed_methods, reason = "a bench has no drain")]
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = sample.answer(request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// The bodies of the sample upstream.
struct Sample {
    usual: Bytes,
    unmasked: Bytes,
    packed: Bytes,
    large: Bytes,
}

impl Sample {
    fn new() -> Self {
        let sixteen = String::from_utf8(support::answer_of(16 << 10).to_vec()).expect("it is text");
        let key = format!("cal_live_{}", "a1b2".repeat(8));
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(sixteen.as_bytes()).expect("memory can be written");
        Self {
            usual: support::answer(),
            unmasked: sixteen.replace(&format!("cal_{}", "*".repeat(16)), &key).into(),
            packed: packer.finish().expect("memory can be written").into(),
            large: support::answer_of(1 << 20),
        }
    }

    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let kind = path.rsplit('/').next().and_then(|unit| unit.split('-').next());
        let body = match kind {
            Some("key") => &self.unmasked,
            Some("gzip") => &self.packed,
            Some("large") => &self.large,
            _ => &self.usual,
        };
        let mut response = Response::new(Full::new(body.clone()));
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        match kind {
            Some("gzip") => {
                fields.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            Some("gone") => *response.status_mut() = StatusCode::NOT_FOUND,
            _ => {}
        }
        response
    }
}

/// Requests under way at a time.
const AT_ONCE: usize = 32;
