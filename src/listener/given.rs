//! [`Given`]: listening sockets that somebody else opened, a service manager or the process before.
//!
//! *Invariants*
//! 1. Given sockets win over configured addresses; that they differ is told.
//! 2. What is no listening TCP socket is an error, never passed over.
//!
//! *Why not* open what is configured and not given: nobody could say then which of the two is in force.

use std::io::Error;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

/// Listening sockets that were opened elsewhere.
#[derive(Debug, Default)]
pub struct Given {
    /// Those of the public port; none = the configured addresses are opened.
    pub public: Vec<TcpListener>,
    /// That of the operators' port; none = the configured address is opened.
    pub admin: Option<TcpListener>,
}

/// Why given sockets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// One is no TCP socket.
    #[error(
        "socket {name:?} of the service manager can't be used: {cause}; pass TCP sockets only (ListenStream= with a port)"
    )]
    Unusable {
        /// Its name in `LISTEN_FDNAMES`.
        name: String,
        /// What is wrong with it.
        cause: Error,
    },
    /// It is a TCP socket, but a connection or not listening yet.
    #[error(
        "socket {0:?} that was passed to us does not listen; pass listening sockets (Accept=no)"
    )]
    NotListening(String),
    /// More than one is for operators.
    #[error("more than one socket named {ADMIN:?} was passed to us; there is one operators' port")]
    TwoAdmins,
}

impl Given {
    /// What the service manager passed (`LISTEN_FDS`); nothing where it passed none, or to another process.
    ///
    /// To be called once, before there are other threads: it takes the variables out of the environment.
    ///
    /// # Errors
    /// What was passed is not ours to use.
    pub fn by_service_manager() -> Result<Self, GivenError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(Self::default());
        }
        let mut passed = ListenFd::from_env();
        let mut names = names.split(':');
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            match passed.take_tcp_listener(index) {
                Ok(socket) => sockets.extend(socket.map(|socket| (name, socket))),
                Err(cause) => return Err(GivenError::Unusable { name: name.to_owned(), cause }),
            }
        }
        Self::named(sockets)
    }

    /// Sockets by their names: `admin` for the operators' port, every other one is public.
    ///
    /// # Errors
    /// One does not listen, or there is a second `admin`.
    pub fn named<'a>(
        sockets: impl IntoIterator<Item = (&'a str, TcpListener)>,
    ) -> Result<Self, GivenError> {
        let mut given = Self::default();
        for (name, socket) in sockets {
            let listens = socket_acceptconn(&socket).unwrap_or(false);
            // Whoever opened it may have left it blocking.
            if !listens || socket.set_nonblocking(true).is_err() {
                return Err(GivenError::NotListening(name.to_owned()));
            }
            if name != ADMIN {
                given.public.push(socket);
            } else if given.admin.replace(socket).is_some() {
                return Err(GivenError::TwoAdmins);
            }
        }
        Ok(given)
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.public.is_empty() && self.admin.is_none()
    }

    /// The addresses that are in force and those that are configured, where they differ.
    pub fn departure(&self, configured: &[SocketAddr]) -> Option<String> {
        let given: Vec<SocketAddr> =
            self.public.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let same = |one: &SocketAddr, other: &SocketAddr| {
            one.ip() == other.ip() && (one.port() == other.port() || other.port() == 0)
        };
        let differs = given.iter().any(|one| !configured.iter().any(|other| same(one, other)))
            || configured.iter().any(|other| !given.iter().any(|one| same(one, other)));
        (!given.is_empty() && differs).then(|| {
            let list = |addresses: &[SocketAddr]| {
                addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
            };
            format!(
                "the sockets that were passed to us win over listen.address: {} instead of {}; make the two agree",
                list(&given),
                list(configured)
            )
        })
    }
}

/// The name of the operators' socket.
pub const ADMIN: &str = "admin";

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn sockets_are_public_unless_they_are_named_admin() {
        let given =
            Given::named([("", socket()), ("admin", socket()), ("x.socket", socket())]).unwrap();
        assert_eq!((given.public.len(), given.admin.is_some()), (2, true));
        let two = Given::named([("admin", socket()), ("admin", socket())]);
        assert!(matches!(two, Err(GivenError::TwoAdmins)));
    }

    #[test]
    fn a_socket_that_does_not_listen_is_an_error() {
        let only_bound = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )
        .unwrap();
        let refused = Given::named([("public", only_bound.into())]).unwrap_err().to_string();
        assert!(refused.contains("\"public\"") && refused.contains("listen"), "{refused}");
    }

    #[test]
    fn given_addresses_that_are_not_the_configured_ones_are_told() {
        let given = Given { public: vec![socket()], admin: None };
        let here = given.public[0].local_addr().unwrap();
        assert_eq!(given.departure(&[here]), None);
        assert_eq!(given.departure(&["127.0.0.1:0".parse().unwrap()]), None);
        let other = "127.0.0.1:1".parse().unwrap();
        let told = given.departure(&[other]).unwrap();
        assert!(told.contains(&here.to_string()) && told.contains("127.0.0.1:1"), "{told}");
        assert!(given.departure(&[here, other]).is_some());
        assert_eq!(Given::default().departure(&[other]), None);
    }
}
