//! Writing to a socket by the cheapest call for what there is.
//!
//! *Why:* the kernel takes one buffer (`send`) for less than a list of them (`writev`), which it has to fetch,
//! check and walk: 3 % of a hit, head and body of a kB. Copying them together costs a tenth of that.

use std::cell::RefCell;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// Writes some of `buffers`, as [`AsyncWrite::poll_write_vectored`] does.
pub fn poll_write(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    buffers: &[IoSlice<'_>],
) -> Poll<Result<usize>> {
    let socket = Pin::new(socket);
    match buffers {
        [only] => socket.poll_write(cx, only),
        several if several.iter().map(|buffer| buffer.len()).sum::<usize>() <= SMALL => PIECE
            .with_borrow_mut(|piece| {
                piece.clear();
                for buffer in several {
                    piece.extend_from_slice(buffer);
                }
                socket.poll_write(cx, piece)
            }),
        several => socket.poll_write_vectored(cx, several),
    }
}

thread_local! {
    /// Where small buffers are put together. What was written stays until the next are, as in hyper's own buffers;
    /// nobody reads it.
    static PIECE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// From so many bytes on a copy costs more than it saves.
const SMALL: usize = 4096;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_in_order_whatever_it_is_cut_into() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 * SMALL).collect();
        for cuts in [
            &[0, 100, 100, SMALL][..],
            &[0, 1, SMALL + 1],
            &[0, 0, 3 * SMALL],
            &[0, SMALL, 2 * SMALL],
            &[0, 7],
        ] {
            let pieces: Vec<_> =
                cuts.windows(2).map(|cut| IoSlice::new(&bytes[cut[0]..cut[1]])).collect();
            let wrote = poll_fn(|cx| poll_write(&mut socket, cx, &pieces)).await.unwrap();
            assert_eq!(wrote, *cuts.last().unwrap());
            let mut read = vec![0; wrote];
            other.read_exact(&mut read).await.unwrap();
            assert_eq!(read, bytes[..wrote]);
        }
    }
}
