//! `unitgate healthcheck`: asks a running process whether it lives, for images without a shell.
//!
//! *Invariant:* it ends within [`DEADLINE`], whatever answers.
//!
//! *Why `/healthz`, not `/readyz`:* a container runtime restarts what is unhealthy; a process that drains
//! must be left to finish.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::clock::Clock;

/// Why a process does not count as alive.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// Nobody answers there, or not in time.
    #[error("nothing answers on {address}")]
    Silent {
        /// The address that was asked.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The answer is no 200.
    #[error("{address} does not answer /healthz with 200")]
    Refused {
        /// The address that was asked.
        address: SocketAddr,
    },
}

/// Asks the operators' port at `address` for `/healthz`.
///
/// # Errors
/// Nobody answers within two seconds, or something else than 200.
pub fn healthcheck(address: SocketAddr) -> Result<(), Unhealthy> {
    let address = reachable(address);
    let head = ask(address).map_err(|source| Unhealthy::Silent { address, source })?;
    if head == *ALIVE { Ok(()) } else { Err(Unhealthy::Refused { address }) }
}

/// The first bytes of the answer, as many as the status takes.
fn ask(address: SocketAddr) -> io::Result<[u8; ALIVE.len()]> {
    let clock = Clock::real();
    let left = || {
        let left = DEADLINE.saturating_sub(clock.mono());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_write_timeout(Some(left()?))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; ALIVE.len()];
    let mut rest = head.as_mut_slice();
    while !rest.is_empty() {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => rest = rest.get_mut(read..).unwrap_or_default(),
        }
    }
    Ok(head)
}

/// An address to listen on everywhere is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// How a good answer begins.
const ALIVE: &[u8; 13] = b"HTTP/1.1 200 ";

/// Time for all of it.
const DEADLINE: Duration = Duration::from_secs(2);
