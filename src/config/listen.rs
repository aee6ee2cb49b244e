//! `[listen]`: what the operator decided about the public port.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// `[listen]`: the public port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Addresses to accept on. An IPv6 one is passed over where the machine has no IPv6.
    pub address: Vec<SocketAddr>,
    /// Other processes may bind the same addresses (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// A unix socket over which a new process takes over the listening sockets; `None` = switched off.
    pub handover: Option<PathBuf>,
    /// The instance's name in `Via` (RFC 9110 §7.6.3); `None` = `unitgate-` and a random suffix.
    pub via: Option<String>,
    /// A PEM file with the certificate chain, leaf first; `None` = no TLS.
    pub tls_certificate_file: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    pub tls_key_file: Option<PathBuf>,
    /// A PEM file with the authorities that clients' certificates must come from; `None` = none is asked for.
    pub tls_client_ca_file: Option<PathBuf>,
    /// Who may speak HTTP/2.
    pub http2: Http2,
    /// Peers whose `X-Forwarded-For` and PROXY header are believed.
    pub trusted: Vec<IpNet>,
    /// Whether connections of trusted peers begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Most connections at once; further ones are answered 503.
    pub connections: usize,
    /// Most connections of one peer at once, IPv6 by /64; 0 = as many as there are.
    pub connections_per_peer: usize,
    /// Most requests at once that wait for the upstream; 0 = no such limit.
    pub requests: usize,
    /// Most requests of one connection, after which it is ended in order; 0 = no such limit.
    pub connection_requests: u64,
    /// Age at which a connection is ended in order, shortened by up to a quarter; zero = never.
    pub connection_age: Duration,
    /// Most streams at once on an HTTP/2 connection.
    pub streams: u32,
    /// Frames per second without a request or content that an HTTP/2 connection may bring in the long run.
    pub control_frames: u32,
    /// Longest target of a request in bytes; above it 414.
    pub target_size: usize,
    /// Most fields of a request; above it 431.
    pub fields: usize,
    /// Largest head of a request in bytes (request line and fields); above it 431.
    pub head_size: usize,
    /// Longest time from the first byte of a head to its last.
    pub head: Duration,
    /// Longest time between two requests of a connection.
    pub idle: Duration,
    /// Longest time to wait for a request's body.
    pub body: Duration,
    /// Longest time without progress while a reply is written.
    pub write: Duration,
}

impl Listen {
    /// What new connections are held to once a reload has put `next` in force: its bounds of one connection, and
    /// of those of one peer; all else as it is.
    #[must_use]
    pub fn under(&self, next: &Self) -> Self {
        Self {
            connections_per_peer: next.connections_per_peer,
            connection_requests: next.connection_requests,
            connection_age: next.connection_age,
            streams: next.streams,
            control_frames: next.control_frames,
            head: next.head,
            idle: next.idle,
            write: next.write,
            ..self.clone()
        }
    }
}

/// Who may speak HTTP/2 (RFC 9113).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2 {
    /// Who agrees on it in the TLS handshake.
    Tls,
    /// And, without TLS, who begins with its preface (RFC 9113 §3.3).
    All,
    /// Nobody.
    Off,
}

/// Whether one of `networks` holds `address`; an IPv4 address in IPv6 clothes is an IPv4 address.
pub fn covers(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}
