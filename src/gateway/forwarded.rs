//! Whom a request is from, where a trusted proxy passes it on: `X-Forwarded-For`.
//!
//! *Invariants*
//! 1. Only what trusted peers wrote is believed: the list is read from its end, and where it names someone who
//!    isn't trusted, that is the client, whatever stands before.
//! 2. What can't be read ends the list there.
//!
//! *Why not* the first address of the list: a client may send a list of its own, to which proxies append.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::config::covers;

/// The client's address as the trusted say it; `peer`, who is one of them, where they say none.
pub(super) fn client(fields: &HeaderMap, trusted: &[IpNet], peer: IpAddr) -> IpAddr {
    let mut client = peer;
    for line in fields.get_all(X_FORWARDED_FOR).iter().rev() {
        let Ok(line) = line.to_str() else { return client };
        for said in line.rsplit(',') {
            let Some(address) = address(said.trim()) else { return client };
            client = address;
            if !covers(trusted, address) {
                return client;
            }
        }
    }
    client
}

/// An address, with or without port and brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> String {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
        client(&fields, &trusted, "10.0.0.1".parse().unwrap()).to_string()
    }

    #[test]
    fn the_last_address_that_is_not_trusted_is_the_client() {
        assert_eq!(told(&[]), "10.0.0.1");
        assert_eq!(told(&["192.0.2.1"]), "192.0.2.1");
        assert_eq!(told(&["198.51.100.9, 192.0.2.1, 10.1.1.1"]), "192.0.2.1");
        assert_eq!(told(&["198.51.100.9", "192.0.2.1,10.1.1.1", "2001:db8::7"]), "192.0.2.1");
    }

    #[test]
    fn where_all_are_trusted_the_first_of_them_asks() {
        assert_eq!(told(&["10.2.2.2, 10.1.1.1"]), "10.2.2.2");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        assert_eq!(told(&["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(told(&["[2001:db9::1]:80"]), "2001:db9::1");
        assert_eq!(told(&["[2001:db9::1]"]), "2001:db9::1");
        assert_eq!(told(&["::ffff:192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn what_can_not_be_read_ends_the_list() {
        assert_eq!(told(&["192.0.2.1, unknown, 10.1.1.1"]), "10.1.1.1");
        assert_eq!(told(&["_hidden"]), "10.0.0.1");
        assert_eq!(told(&[""]), "10.0.0.1");
    }
}
