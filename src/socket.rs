//! [`Socket`]: a TCP connection, read and written by the cheapest calls for what there is.
//!
//! *Why not tokio's `TcpStream`:* it asks the kernel through the C library, whose `recv` and `send` make each call a
//! point where the thread could be cancelled: two locked instructions each, 1 % of a hit. And whoever serves with it
//! can't look at it from beside, to see whether the client has left.
//!
//! *Why one buffer at a time:* the kernel takes one (`send`) for less than a list of them (`writev`), which it has to
//! fetch, check and walk: 3 % of a hit, head and body of a kB. Copying them together costs a tenth of that.

use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, writev};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection. Clones are the same one; it is closed with the last.
#[derive(Clone, Debug)]
pub struct Socket(Arc<TcpStream>);

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }
}

impl Socket {
    /// Has the close be a reset that drops what was not delivered.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn set_zero_linger(&self) -> Result<()> {
        self.0.set_zero_linger()
    }

    /// Whom it is with.
    #[cfg(test)]
    pub(crate) fn peer_addr(&self) -> Result<std::net::SocketAddr> {
        self.0.peer_addr()
    }

    /// Ready once the peer has ended its side or the connection failed; what it has sent stays unread. Pending, and
    /// not woken for its end, where something unread stands before it.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(()) = ready!(self.0.poll_read_ready(cx)) else {
                return Poll::Ready(());
            };
            match self.attempt(Interest::READABLE, 1, || {
                Ok(recv(&*self.0, &mut [0][..], RecvFlags::PEEK)?.0)
            }) {
                Some(Ok(1..)) => return Poll::Pending,
                Some(_) => return Poll::Ready(()),
                None => {}
            }
        }
    }

    /// Writes so many bytes, or a part of them, as soon as there is room.
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        mut write: impl FnMut() -> Result<usize>,
    ) -> Poll<Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            if let Some(wrote) = self.attempt(Interest::WRITABLE, length, &mut write) {
                return Poll::Ready(wrote);
            }
        }
    }

    /// Tries what moves up to `wanted` bytes; `None` = not now. Where it moved fewer the kernel has no more for us, or
    /// no more room, and tells once it has (epoll(7), on edge-triggered events): a call less each time.
    fn attempt(
        &self,
        interest: Interest,
        wanted: usize,
        call: impl FnOnce() -> Result<usize>,
    ) -> Option<Result<usize>> {
        let mut moved = None;
        let tried = self.0.try_io(interest, || {
            let bytes = call()?;
            moved = Some(bytes);
            if 0 < bytes && bytes < wanted { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (moved, tried) {
            (Some(bytes), _) => Some(Ok(bytes)),
            (None, Err(error)) if !is_transient(error.kind()) => Some(Err(error)),
            (None, _) => None,
        }
    }
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        READ.with_borrow_mut(|read| {
            // Through a piece of ours: a buffer that holds nothing yet would have to be cleared before.
            let room = buffer.remaining().min(read.len());
            let read = read.get_mut(..room).unwrap_or_default();
            loop {
                ready!(self.0.poll_read_ready(cx))?;
                let read_some = || Ok(recv(&*self.0, &mut *read, RecvFlags::empty())?.0);
                match self.attempt(Interest::READABLE, room, read_some) {
                    Some(Ok(length)) => {
                        buffer.put_slice(read.get(..length).unwrap_or_default());
                        return Poll::Ready(Ok(()));
                    }
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => {}
                }
            }
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.poll_writing(cx, bytes.len(), || Ok(send(&*self.0, bytes, SendFlags::NOSIGNAL)?))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let length = buffers.iter().map(|buffer| buffer.len()).sum();
        match buffers {
            [only] => self.poll_write(cx, only),
            several if length <= SMALL => PIECE.with_borrow_mut(|piece| {
                piece.clear();
                for buffer in several {
                    piece.extend_from_slice(buffer);
                }
                self.poll_write(cx, piece)
            }),
            several => self.poll_writing(cx, length, || Ok(writev(&*self.0, several)?)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is the kernel's.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(match shutdown(&*self.0, Shutdown::Write) {
            // The peer has already ended all of it.
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}

thread_local! {
    /// What was read last, until it is read over, as in hyper's own buffers; nobody looks at it.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
    /// Where small buffers are put together. What was written stays until the next are; nobody reads it.
    static PIECE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// Most that is read at once. A body that is longer takes more calls, each for so much that the call hardly counts.
const ROOM: usize = 64 << 10;

/// From so many bytes on a copy costs more than it saves.
const SMALL: usize = 4096;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::from(stream), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_written_arrives_in_order_whatever_it_is_cut_into() {
        let (mut socket, mut other) = pair().await;
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
            let wrote =
                poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &pieces)).await.unwrap();
            assert_eq!(wrote, *cuts.last().unwrap());
            let mut read = vec![0; wrote];
            other.read_exact(&mut read).await.unwrap();
            assert_eq!(read, bytes[..wrote]);
        }
    }

    #[tokio::test]
    async fn more_than_the_kernel_takes_or_one_read_brings_arrives_whole_both_ways() {
        let (mut socket, other) = pair().await;
        let (mut reading, mut writing) = other.into_split();
        let bytes: Vec<u8> = (0..=250_u8).cycle().take(8 << 20).collect();
        let echo = async move {
            tokio::io::copy(&mut reading, &mut writing).await.unwrap();
            writing.shutdown().await.unwrap();
        };
        let (mut near, sent) = (socket.clone(), bytes.clone());
        let sending = async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let receive = async {
            let mut read = Vec::new();
            socket.read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), (), read) = tokio::join!(echo, sending, receive);
        assert!(read == bytes);
    }

    #[tokio::test]
    async fn the_peers_end_is_seen_and_what_it_sent_before_stays_to_be_read() {
        let (mut socket, mut other) = pair().await;
        let ended = |socket: &Socket, cx: &mut Context<'_>| socket.poll_ended(cx).is_ready();
        assert!(!poll_fn(|cx| Poll::Ready(ended(&socket, cx))).await);
        other.write_all(b"more").await.unwrap();
        other.shutdown().await.unwrap();
        let mut read = [0; 4];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"more");
        poll_fn(|cx| socket.poll_ended(cx)).await;
        // Seen, and not taken.
        assert_eq!(socket.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_reset_is_an_end() {
        let (socket, other) = pair().await;
        other.set_zero_linger().unwrap();
        drop(other);
        poll_fn(|cx| socket.poll_ended(cx)).await;
    }

    #[tokio::test]
    async fn an_end_behind_something_unread_is_not_seen() {
        let (socket, mut other) = pair().await;
        other.write_all(b"more").await.unwrap();
        drop(other);
        let readable = poll_fn(|cx| socket.0.poll_read_ready(cx));
        readable.await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(socket.poll_ended(cx).is_pending())).await);
    }

    #[tokio::test]
    async fn a_socket_that_is_reset_on_close_drops_what_was_not_delivered() {
        let (socket, mut other) = pair().await;
        socket.set_zero_linger().unwrap();
        drop(socket);
        let error = other.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
