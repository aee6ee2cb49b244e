//! What the limiters count by: a caller on a route, or a peer's network.
//!
//! *Invariants*
//! 1. Two callers, two routes, never share a bucket: keys compare in full.
//! 2. A peer has one key, however its address is written.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;

use super::store::Key;
use crate::caller::CallerId;

/// A caller on a route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CallerKey {
    caller: CallerId,
    route: u32,
}

impl CallerKey {
    /// `route` is 0 where all routes count together.
    pub(super) fn new(caller: CallerId, route: usize) -> Self {
        Self { caller, route: u32::try_from(route).unwrap_or(u32::MAX) }
    }
}

impl Hash for CallerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let head = self.caller.as_bytes().first_chunk().copied().unwrap_or_default();
        state.write_u64(u64::from_ne_bytes(head));
        state.write_u32(self.route);
    }
}

impl Key for CallerKey {
    // The digest is keyed by a secret: nobody can choose where it falls, and hashing it again would
    // be for nothing.
    type Spread = BuildHasherDefault<Digested>;

    fn caller(&self) -> Option<&CallerId> {
        Some(&self.caller)
    }
}

/// A peer's network: an IPv4 address, or an IPv6 /64, which is what one subscriber has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PeerKey {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl From<IpAddr> for PeerKey {
    fn from(peer: IpAddr) -> Self {
        // An IPv4 peer on a dual-stack socket comes as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
        match peer.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

impl Key for PeerKey {
    type Spread = RandomState;

    fn caller(&self) -> Option<&CallerId> {
        None
    }
}

/// A hasher for what is evenly spread already.
#[derive(Default)]
pub(super) struct Digested(u64);

impl Hasher for Digested {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        // An odd factor keeps every bit of what came before; the golden ratio's bits spread the
        // routes of one caller.
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
