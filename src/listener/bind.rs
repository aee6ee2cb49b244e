//! The listening sockets, and how many connections the process may hold.
//!
//! *Invariants*
//! 1. An error names its address and what to do about it.
//! 2. IPv6 sockets take IPv6 only, so that `0.0.0.0` and `[::]` may share a port.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Why the public or the operators' port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// One address could not be taken.
    #[error("cannot listen on {address}: {cause}; {}", remedy(cause))]
    Address {
        /// The address as configured.
        address: SocketAddr,
        /// What the system says.
        cause: Error,
    },
    /// There was none to take, or each was an IPv6 one on a machine without IPv6.
    #[error("no address to listen on; name at least one that this machine has")]
    Nowhere,
}

/// Opens a listening socket for each of `addresses`; with `reuse_port` other processes may, too.
///
/// An IPv6 address is passed over where the machine has no IPv6, as long as another one can be taken.
///
/// # Errors
/// For the first address that cannot be taken, or when none is left.
pub fn bind(addresses: &[SocketAddr], reuse_port: bool) -> Result<Vec<TcpListener>, BindError> {
    let mut sockets = Vec::with_capacity(addresses.len());
    for &address in addresses {
        match listen(address, reuse_port) {
            Ok(socket) => sockets.push(socket),
            Err(error) if lacks_ipv6(address, &error) => {}
            Err(cause) => return Err(BindError::Address { address, cause }),
        }
    }
    if sockets.is_empty() { Err(BindError::Nowhere) } else { Ok(sockets) }
}

fn listen(address: SocketAddr, reuse_port: bool) -> Result<TcpListener, Error> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the old process's closed connections.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether `error` says that the machine has no IPv6: there is no such family, or not even the
/// unspecified or the loopback address of it.
fn lacks_ipv6(address: SocketAddr, error: &Error) -> bool {
    let everywhere = address.ip().is_unspecified() || address.ip().is_loopback();
    address.is_ipv6()
        && (error.raw_os_error() == Some(EAFNOSUPPORT)
            || everywhere && error.kind() == ErrorKind::AddrNotAvailable)
}

fn remedy(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "stop the process that has it, or configure another port",
        ErrorKind::PermissionDenied => {
            "configure a port from 1024 up, or grant CAP_NET_BIND_SERVICE"
        }
        ErrorKind::AddrNotAvailable => "configure an address that this machine has",
        _ => "configure another address",
    }
}

/// The most connections the process can hold, given what it may hold of file descriptors: `configured`,
/// or less and what to warn of. A quarter of the descriptors is left for upstream connections and files.
pub fn connection_cap(configured: usize) -> (usize, Option<Lowered>) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    capped(configured, soft_descriptor_limit(&limits))
}

/// The configured number of connections was lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// What `listen.connections` says.
    pub configured: usize,
    /// What is kept instead.
    pub lowered: usize,
    /// The soft limit of open files.
    pub descriptors: usize,
}

impl fmt::Display for Lowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "listen.connections lowered from {} to {}: the process may open {} files; raise the \
             limit (ulimit -n, LimitNOFILE) or lower the key",
            self.configured, self.lowered, self.descriptors
        )
    }
}

fn capped(configured: usize, descriptors: Option<usize>) -> (usize, Option<Lowered>) {
    let Some(descriptors) = descriptors else {
        return (configured, None);
    };
    let most = descriptors.saturating_sub((descriptors / 4).max(SPARE)).max(1);
    if configured <= most {
        return (configured, None);
    }
    (most, Some(Lowered { configured, lowered: most, descriptors }))
}

/// The soft limit in the text of `/proc/self/limits`; `None` where it is unlimited or not told.
fn soft_descriptor_limit(limits: &str) -> Option<usize> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Descriptors that are never given to connections.
const SPARE: usize = 32;

/// Linux's number of 'address family not supported'; std has no kind for it.
const EAFNOSUPPORT: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_share_a_port() {
        let Ok(four) = bind(&["127.0.0.1:0".parse().unwrap()], false) else { panic!("no IPv4") };
        let port = four[0].local_addr().unwrap().port();
        let six = SocketAddr::new("::".parse().unwrap(), port);
        match bind(&[six], false) {
            Ok(_) | Err(BindError::Nowhere) => {}
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_taken_port_is_an_error_that_names_address_and_remedy() {
        let taken = bind(&["127.0.0.1:0".parse().unwrap()], false).unwrap();
        let address = taken[0].local_addr().unwrap();
        let said = bind(&[address], false).unwrap_err().to_string();
        assert!(said.contains(&address.to_string()), "{said}");
        assert!(said.contains("stop the process that has it"), "{said}");
    }

    #[test]
    fn an_address_of_another_machine_is_an_error() {
        let elsewhere = "192.0.2.1:0".parse().unwrap();
        let said = bind(&[elsewhere], false).unwrap_err().to_string();
        assert!(said.contains("an address that this machine has"), "{said}");
    }

    #[test]
    fn no_address_at_all_is_an_error() {
        assert!(matches!(bind(&[], false), Err(BindError::Nowhere)));
    }

    #[test]
    fn only_the_lack_of_ipv6_passes_an_ipv6_address_over() {
        let (any, one) = ("[::]:80".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
        let absent = || Error::from_raw_os_error(EAFNOSUPPORT);
        let unavailable = || Error::from(ErrorKind::AddrNotAvailable);
        assert!(lacks_ipv6(any, &absent()) && lacks_ipv6(one, &absent()));
        assert!(lacks_ipv6(any, &unavailable()) && !lacks_ipv6(one, &unavailable()));
        assert!(!lacks_ipv6(any, &ErrorKind::AddrInUse.into()));
        assert!(!lacks_ipv6("0.0.0.0:80".parse().unwrap(), &unavailable()));
    }

    #[test]
    fn the_soft_limit_of_descriptors_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             7600                 7600                 processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(soft_descriptor_limit(text), Some(1024));
        assert_eq!(soft_descriptor_limit("Max open files unlimited unlimited files"), None);
        assert_eq!(soft_descriptor_limit(""), None);
    }

    #[test]
    fn connections_are_lowered_to_what_the_descriptors_allow() {
        assert_eq!(capped(10_000, None), (10_000, None));
        assert_eq!(capped(700, Some(1024)), (700, None));
        let (cap, lowered) = capped(10_000, Some(1024));
        assert_eq!(cap, 768);
        assert!(lowered.unwrap().to_string().contains("from 10000 to 768"));
        assert_eq!(capped(10, Some(3)).0, 1);
    }
}
