//! [`Session`]: what the gateway knows of a connection from one request to the next.

use std::net::IpAddr;

use crate::caller::LastCaller;

/// A client's connection.
#[derive(Debug)]
pub struct Session {
    /// Whose it is; an IPv4 address that came in through an IPv6 socket is an IPv4 address.
    pub(super) peer: IpAddr,
    /// Whether it is believed what it says of the clients behind it.
    pub(super) trusted: bool,
    pub(super) last_caller: LastCaller,
}

impl Session {
    /// A new connection of a client that speaks for itself.
    pub fn of(peer: IpAddr) -> Self {
        Self { peer: peer.to_canonical(), trusted: false, last_caller: LastCaller::default() }
    }
}
