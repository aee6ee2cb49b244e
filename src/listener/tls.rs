//! TLS of the public port: certificate, key and clients' authorities from files, read again when they change.
//!
//! *Invariants*
//! 1. A handshake takes the newest files that could be used; a connection keeps what it began with.
//! 2. Files that can't be used change nothing, and are told once.
//! 3. Neither a key nor the path of its file is quoted.
//!
//! *Why look at the files instead of being told of changes:* mounted secrets are swapped by a link two levels
//! above; three small files every [`LOOK`] cost nothing and miss no way of replacing them.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config;

/// How handshakes are made; clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Inside>);

struct Inside {
    files: Files,
    http2: bool,
    current: RwLock<TlsAcceptor>,
    /// Of the contents that were last tried.
    seen: Mutex<Option<blake3::Hash>>,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What stands in the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Why TLS can't be set up from the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{key} can't be read: {cause}; check the file and who may read it")]
    File {
        /// The configuration's key for it.
        key: &'static str,
        /// What the system says.
        cause: io::Error,
    },
    /// A file isn't what it has to be.
    #[error("{key} can't be used: {cause}; name a file in PEM")]
    Pem {
        /// The configuration's key for it.
        key: &'static str,
        /// What is wrong.
        cause: pem::Error,
    },
    /// Certificate and key don't belong together, or are of a kind that isn't supported.
    #[error("listen.tls_certificate_file and listen.tls_key_file can't be used together: {0}")]
    Pair(rustls::Error),
    /// The authorities of clients can't be used.
    #[error("listen.tls_client_ca_file holds no authority that can be used")]
    ClientCa,
}

impl Tls {
    /// TLS as configured; `None` = off.
    ///
    /// # Errors
    /// The files can't be used.
    pub fn load(listen: &config::Listen) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (&listen.tls_certificate_file, &listen.tls_key_file)
        else {
            return Ok(None);
        };
        let files = Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: listen.tls_client_ca_file.clone(),
        };
        let http2 = listen.http2 != config::Http2::Off;
        let contents = files.read()?;
        let (seen, current) = (contents.digest(), contents.acceptor(http2)?);
        let (current, seen) = (RwLock::new(current), Mutex::new(Some(seen)));
        Ok(Some(Self(Arc::new(Inside { files, http2, current, seen }))))
    }

    /// What the next handshake is made with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.current.read().clone()
    }

    /// Looks at the files for as long as it is polled, and tells of each change.
    pub(super) async fn watch(&self, told: impl Fn(Result<(), TlsError>)) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = self.clone();
            // A file system that hangs must hold up neither connections nor the drain.
            if let Ok(Some(change)) = tokio::task::spawn_blocking(move || tls.look()).await {
                told(change);
            }
        }
    }

    /// Takes over what has changed since the last look; `None` = nothing has.
    fn look(&self) -> Option<Result<(), TlsError>> {
        let contents = self.0.files.read();
        let now = contents.as_ref().ok().map(Contents::digest);
        if std::mem::replace(&mut *self.0.seen.lock(), now) == now {
            return None;
        }
        let renewed = contents.and_then(|contents| contents.acceptor(self.0.http2));
        Some(renewed.map(|renewed| *self.0.current.write() = renewed))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl Files {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(CERTIFICATE, &self.certificate)?,
            key: read(KEY, &self.key)?,
            client_ca: self.client_ca.as_deref().map(|path| read(CLIENT_CA, path)).transpose()?,
        })
    }
}

impl Contents {
    fn digest(&self) -> blake3::Hash {
        let parts = [&self.certificate, &self.key, self.client_ca.as_ref().unwrap_or(&self.key)];
        let mut all = blake3::Hasher::new();
        for part in parts {
            all.update(blake3::hash(part).as_bytes());
        }
        all.finalize()
    }

    fn acceptor(&self, http2: bool) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(CERTIFICATE, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|cause| TlsError::Pem { key: KEY, cause })?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                builder.with_client_cert_verifier(verifier(authorities, provider)?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
        // RFC 7301: what is spoken inside, the one that costs less first.
        let protocols: &[&[u8]] = if http2 { &[H2, b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // Clients that come back skip the signature; without it only 256 of them would be known again.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Pair)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn verifier(
    authorities: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(CLIENT_CA, authorities)?);
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|_none_usable| TlsError::ClientCa)
}

fn certificates(key: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|cause| TlsError::Pem { key, cause })
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    config::read_file(path).map_err(|cause| TlsError::File { key, cause })
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// HTTP/2's name in the handshake (RFC 9113 §3.2).
pub(super) const H2: &[u8] = b"h2";

const CERTIFICATE: &str = "listen.tls_certificate_file";
const KEY: &str = "listen.tls_key_file";
const CLIENT_CA: &str = "listen.tls_client_ca_file";
