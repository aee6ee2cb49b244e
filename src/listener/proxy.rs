//! The PROXY header, by which a load balancer tells whose connection it passes on (versions 1 and 2).
//!
//! *Invariants*
//! 1. Only what a trusted peer sends is read here; who isn't trusted speaks for itself alone.
//! 2. No more is read than the header takes, whatever is announced.

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::AsyncRead;

use super::rewound::Rewound;

/// The client's address as the header says it; `peer` itself where it speaks for itself (health checks).
///
/// # Errors
/// The stream ends before the header does, or begins with something else.
pub(super) async fn announced<S: AsyncRead + Unpin>(
    stream: &mut Rewound<S>,
    peer: SocketAddr,
) -> io::Result<SocketAddr> {
    loop {
        match ProxyHeader::parse(stream.ahead(), PARTS) {
            Ok((header, length)) => {
                let source = header.proxied_address().map(|address| address.source);
                stream.skip(length);
                return Ok(source.unwrap_or(peer));
            }
            Err(Error::BufferTooShort) if stream.ahead().len() < LONGEST => {
                if stream.more().await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(_other) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Of what follows the addresses nothing is needed here.
const PARTS: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };

/// Longest header that is waited for: certificates may stand in those of version 2.
const LONGEST: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    async fn told(bytes: &[u8]) -> (io::Result<SocketAddr>, Vec<u8>) {
        let (mut client, server) = duplex(64 << 10);
        client.write_all(bytes).await.unwrap();
        drop(client);
        let mut stream = Rewound::new(server);
        let peer = "10.0.0.1:1".parse().unwrap();
        let told = announced(&mut stream, peer).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (told, rest)
    }

    #[tokio::test]
    async fn both_versions_tell_the_clients_address_and_leave_the_rest() {
        let one = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\nGET /".to_vec();
        let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        two.extend_from_slice(&[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187]);
        two.extend_from_slice(b"GET /");
        for bytes in [one, two] {
            let (address, rest) = told(&bytes).await;
            assert_eq!(address.unwrap().to_string(), "192.0.2.7:4711");
            assert_eq!(rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn a_balancer_that_speaks_for_itself_stays_the_peer() {
        for bytes in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
            assert_eq!(told(bytes).await.0.unwrap().to_string(), "10.0.0.1:1");
        }
    }

    #[tokio::test]
    async fn anything_else_and_what_does_not_end_is_an_error() {
        let endless = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &vec![0; 20_000]].concat();
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 1.2.3.4", b"PROXY nonsense\r\n", &endless]
        {
            assert!(told(bytes).await.0.is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
