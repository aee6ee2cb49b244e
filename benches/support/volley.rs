//! Many clients that ask for the same at once.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Sends `request` over so many connections that were opened before; the times to each whole answer of 200, in order.
///
/// # Panics
/// An answer is another one, or breaks off.
pub(crate) async fn fire(to: SocketAddr, clients: usize, request: &'static [u8]) -> Vec<Duration> {
    let mut streams = Vec::new();
    for _ in 0..clients {
        let stream = TcpStream::connect(to).await.expect("the server listens");
        stream.set_nodelay(true).expect("it is a TCP socket");
        streams.push(stream);
    }
    let began = Instant::now();
    let mut answers = JoinSet::new();
    for mut stream in streams {
        answers.spawn(async move {
            stream.write_all(request).await.expect("the server reads");
            let mut received = Vec::with_capacity(4 << 10);
            while !is_whole(&received) {
                let more = stream.read_buf(&mut received).await.expect("the server answers");
                assert!(more > 0, "an answer broke off");
            }
            assert!(received.starts_with(b"HTTP/1.1 200 "), "an answer is no 200");
            began.elapsed()
        });
    }
    let mut times = answers.join_all().await;
    times.sort_unstable();
    times
}

/// The sample upstream's answers end so, with a length or in chunks.
fn is_whole(received: &[u8]) -> bool {
    received.ends_with(b"]}") || received.ends_with(b"\r\n0\r\n\r\n")
}
