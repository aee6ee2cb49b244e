//! [`Peers`]: how many connections each address has.
//!
//! *Invariant:* an address without a connection takes no memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// The connections of each address; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
}

/// A connection in its address's count, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Option<(Peers, IpAddr)>);

impl Peers {
    /// At most `most` connections each; 0 = nothing is counted.
    pub(super) fn new(most: usize) -> Self {
        Self { counts: Arc::default(), most }
    }

    /// The same connections held to another number; those that came while there was none are not among them.
    pub(super) fn under(&self, most: usize) -> Self {
        Self { most, ..self.clone() }
    }

    /// A place for one more connection of `peer`, if it may have it. IPv6 addresses are told apart by /64,
    /// which is what one subscriber gets.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Counted> {
        if self.most == 0 {
            return Some(Counted(None));
        }
        let peer = site(peer);
        let mut counts = self.counts.lock();
        let count = counts.entry(peer).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted(Some((self.clone(), peer))))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((peers, peer)) = &self.0 else { return };
        let mut counts = peers.counts.lock();
        if let Some(count) = counts.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(peer);
            }
        }
    }
}

fn site(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_own_places_and_gets_them_back() {
        let peers = Peers::new(2);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|it| it.parse().unwrap());
        let held = [peers.admit(one).unwrap(), peers.admit(one).unwrap()];
        assert!(peers.admit(one).is_none() && peers.admit(other).is_some());
        drop(held);
        assert!(peers.admit(one).is_some());
        assert!(peers.counts.lock().is_empty());
    }

    #[test]
    fn the_addresses_of_one_subscriber_are_one() {
        let peers = Peers::new(1);
        let _held = peers.admit("2001:db8::1".parse().unwrap()).unwrap();
        assert!(peers.admit("2001:db8::2".parse().unwrap()).is_none());
        assert!(peers.admit("2001:db8:0:1::1".parse().unwrap()).is_some());
        let _mapped = peers.admit("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert!(peers.admit("192.0.2.1".parse().unwrap()).is_none());
    }

    #[test]
    fn under_another_limit_those_that_are_there_count() {
        let peers = Peers::new(2);
        let one = "192.0.2.1".parse().unwrap();
        let held = [peers.admit(one).unwrap(), peers.admit(one).unwrap()];
        let (fewer, more) = (peers.under(1), peers.under(3));
        assert!(fewer.admit(one).is_none());
        let also = more.admit(one).unwrap();
        drop((held, also));
        assert!(fewer.admit(one).is_some());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let peers = Peers::new(0);
        let one = "192.0.2.1".parse().unwrap();
        let _held: Vec<_> = (0..10).map(|_| peers.admit(one).unwrap()).collect();
        assert!(peers.counts.lock().is_empty());
    }
}
