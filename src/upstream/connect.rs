//! Connections to upstreams: names, TCP and TLS within one deadline.
//!
//! *Invariants*
//! 1. Resolving a name, connecting and the TLS handshake share one deadline.
//! 2. Every failure is a [`ConnectError`]; nothing of a request was sent when one is seen.
//! 3. A connection knows when it was opened and when it is too old to be used again.
//!
//! *Why not the connector's own timeout:* it covers neither name resolution nor TLS. It is set all
//! the same, since it is what gives each of several addresses its share of the time.

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::dial::{Carrier, Dial, Way};
use super::names::{Memory, Resolver, Unresolved};
use crate::clock::Dice;
use crate::config;
use crate::socket::Socket;

/// Opens connections, plain or with TLS, and tells which protocol was agreed on.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    transport: HttpsConnector<Way>,
    deadline: Duration,
    age: Duration,
    dice: Dice,
}

impl Connector {
    /// A connector that trusts `roots` and keeps to the deadlines of `limits`. TCP's part is left to
    /// `dial` where there is one.
    pub(super) fn new(
        limits: &config::Upstream,
        roots: RootCertStore,
        names: Memory,
        dice: Dice,
        dial: Option<Dial>,
    ) -> Result<Self, SetupError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(SetupError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let transport = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(dial.map_or_else(
                || Way::Tcp(Tcp::new(limits, Resolver::new(limits.connect / 2, names))),
                Way::Given,
            ));
        Ok(Self { transport, deadline: limits.connect, age: limits.age, dice })
    }
}

impl Connector {
    /// Opens a connection to the scheme and authority of a URI.
    pub(super) async fn open(&self, uri: Uri) -> Result<Line, ConnectError> {
        // Always ready, as all below it are.
        let dialling = self.transport.clone().call(uri);
        let lifetime = self.dice.shorten(self.age, AGE_JITTER);
        let stream = timeout(self.deadline, dialling)
            .await
            .or(Err(ConnectError::TimedOut))?
            .map_err(ConnectError::from_transport)?;
        let opened = Instant::now();
        Ok(Line { stream, span: Span { opened, lifetime } })
    }
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The name has no address, or no name server answered.
    #[error("the name could not be resolved")]
    Resolve(#[source] Box<dyn Error + Send + Sync>),
    /// No address accepted.
    #[error("no address could be connected to")]
    Tcp(#[source] Box<dyn Error + Send + Sync>),
    /// The TLS handshake failed, most often for want of trust.
    #[error("the TLS handshake failed")]
    Tls(#[source] Box<dyn Error + Send + Sync>),
    /// The deadline for all of it passed.
    #[error("connecting took too long")]
    TimedOut,
}

impl ConnectError {
    /// TCP's failures arrive typed; whatever else the transport reports comes from TLS.
    fn from_transport(error: Box<dyn Error + Send + Sync>) -> Self {
        error.downcast::<Self>().map_or_else(Self::Tls, |typed| *typed)
    }

    pub(super) fn from_tcp(error: impl Error + Send + Sync + 'static) -> Self {
        if find::<Unresolved>(&error).is_some() {
            return Self::Resolve(Box::new(error));
        }
        match find::<io::Error>(&error) {
            Some(cause) if cause.kind() == io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Tcp(Box::new(error)),
        }
    }
}

/// When a connection was opened, and for how long it may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// When its handshakes were done.
    pub(super) opened: Instant,
    /// `upstream.age`, shortened at random so that connections don't all end together.
    lifetime: Duration,
}

impl Span {
    /// Whether it may not be used any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.opened) >= self.lifetime
    }
}

/// An open connection that knows its [`Span`].
#[derive(Debug)]
pub(super) struct Line {
    stream: MaybeHttpsStream<Carrier>,
    span: Span,
}

impl Line {
    /// When it was opened, and for how long it may be used.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// Whether HTTP/2 was agreed on.
    pub(super) fn speaks_http2(&self) -> bool {
        self.stream.connected().is_negotiated_h2()
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

/// TCP with our socket options; its failures are typed.
#[derive(Clone, Debug)]
pub(super) struct Tcp(HttpConnector<Resolver>);

impl Tcp {
    pub(super) fn new(limits: &config::Upstream, resolver: Resolver) -> Self {
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(limits.connect));
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE / 3));
        http.set_keepalive_retries(Some(3));
        // Bytes that stay unacknowledged for as long as an exchange may last will not arrive.
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(limits.total));
        Self(http)
    }
}

impl Service<Uri> for Tcp {
    type Response = TokioIo<Socket>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.0.poll_ready(cx).map_err(ConnectError::from_tcp)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let is_plain = uri.scheme() == Some(&Scheme::HTTP);
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let stream = connecting.await.map_err(ConnectError::from_tcp)?;
            let mut socket = Socket::from(stream.into_inner());
            if is_plain {
                // A sidecar, say, which is woken once for many requests then. Below TLS a record costs more than that.
                socket.put_off_writes_under_load();
            }
            Ok(TokioIo::new(socket))
        })
    }
}

/// Whom the gateway trusts as upstreams' certificate authorities: how many of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// From the system; 0 deserves a warning, for then `https://` upstreams fail but for `ca_file`.
    pub system: usize,
    /// From `upstream.ca_file`.
    pub extra: usize,
}

/// Why the upstream side can't be set up: a mistake of the operator.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `upstream.ca_file` can't be read or holds something else than certificates in PEM.
    #[error("upstream.ca_file: {path} can't be read as PEM certificates")]
    CaFile {
        /// The file as configured.
        path: PathBuf,
        /// What went wrong.
        #[source]
        cause: pem::Error,
    },
    /// `upstream.ca_file` holds no usable certificate.
    #[error("upstream.ca_file: {path} holds no usable certificate")]
    NoCertificate {
        /// The file as configured.
        path: PathBuf,
    },
    /// An upstream's URL has no scheme and authority.
    #[error("upstreams.{name}: the url needs a scheme and a host")]
    Url {
        /// Name of the upstream.
        name: String,
    },
    /// TLS can't be set up at all.
    #[error("TLS can't be set up")]
    Tls(#[source] rustls::Error),
}

/// The system's roots and those of `ca_file`.
pub(super) fn trusted(
    secure: bool,
    ca_file: Option<&Path>,
) -> Result<(RootCertStore, Roots), SetupError> {
    let mut store = RootCertStore::empty();
    // Where nobody is asked over TLS, neither files nor the environment need to be looked at.
    let system = if secure { rustls_native_certs::load_native_certs().certs } else { Vec::new() };
    let (system, _unusable) = store.add_parsable_certificates(system);
    let mut roots = Roots { system, extra: 0 };
    if let Some(path) = ca_file {
        let unreadable = |cause| SetupError::CaFile { path: path.to_owned(), cause };
        let bytes = config::read_file(path).map_err(|cause| unreadable(pem::Error::Io(cause)))?;
        let certificates = CertificateDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        (roots.extra, _) = store.add_parsable_certificates(certificates);
        if roots.extra == 0 {
            return Err(SetupError::NoCertificate { path: path.to_owned() });
        }
    }
    Ok((store, roots))
}

/// The first error of type `E` among `error` and its causes.
pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Part of a connection's age that chance may take away.
const AGE_JITTER: f64 = 0.25;

/// Silence after which the kernel probes a connection.
const KEEPALIVE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nobody listens at the first two.
        let addresses = [2, 3, 1].map(|last| SocketAddr::from(([127, 0, 0, last], 0)));
        let script =
            move || -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
                Box::pin(async move { Ok(addresses.to_vec()) })
            };
        let resolver = Resolver::scripted(Duration::from_secs(1), Arc::new(script));
        let mut tcp = Tcp::new(&config::Upstream::default(), resolver);
        let uri = format!("http://api.test:{port}").parse().unwrap();
        let (stream, accepted) = tokio::join!(tcp.call(uri), listener.accept());
        assert_eq!(stream.unwrap().inner().peer_addr().unwrap().port(), port);
        accepted.unwrap();
    }
}
