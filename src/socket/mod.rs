//! [`Socket`]: a TCP connection, read and written by the cheapest calls for what there is.
//!
//! *Why not tokio's `TcpStream`:* it asks the kernel through the C library, whose `recv` and `send` make each call a
//! point where the thread could be cancelled: two locked instructions each, 1 % of a hit. And whoever serves with it
//! can't look at it from beside, to see whether the client has left.
//!
//! *Why one buffer at a time:* the kernel takes one (`send`) for less than a list of them (`writev`), which it has to
//! fetch, check and walk: 3 % of a hit, head and body of a kB. Copying them together costs a tenth of that.
//!
//! *Why not each write by itself:* see [`outbox`].

mod outbox;

use std::cell::RefCell;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use rustix::io::{Errno, writev};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

pub use self::outbox::{Postman, send_what_was_put_off};

/// A TCP connection; it is closed with the last that knows it.
#[derive(Debug)]
pub struct Socket {
    shared: Arc<Shared>,
    puts_off: PutsOff,
    /// Whom [`Owed`] knows, so that it is looked into only when that is another one.
    task: Option<Waker>,
}

/// When small writes go to the outbox of the thread, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PutsOff {
    Never,
    UnderLoad,
    Always,
}

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    /// Something of it is in the outbox.
    waits: AtomicBool,
    /// There is something in `owed`.
    owes: AtomicBool,
    owed: Mutex<Owed>,
}

/// What became of writes that were put off and could not be sent.
#[derive(Debug, Default)]
struct Owed {
    /// They are still to be sent, before anything else.
    bytes: Vec<u8>,
    error: Option<Error>,
    /// There was one.
    failed: bool,
    /// The task to be told.
    task: Option<Waker>,
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        let (waits, owes) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Shared { stream, waits, owes, owed: Mutex::default() };
        Self { shared: Arc::new(shared), puts_off: PutsOff::Never, task: None }
    }
}

impl Socket {
    /// Lets small writes wait for those of other connections (see [`Postman`]), and go out with them, as long as the
    /// kernel has room. A flush does not wait for them: where one could not be sent the task is woken, and a flush goes
    /// on with it. Who ends our side, or lets the socket go, sends them first.
    pub fn put_off_writes(&mut self) {
        self.puts_off = PutsOff::Always;
    }

    /// The same, but only while the thread is busy, as far as its last turn with a write tells; else they go out at
    /// once. For requests to an upstream: many may wait for the answer to one.
    pub fn put_off_writes_under_load(&mut self) {
        self.puts_off = PutsOff::UnderLoad;
    }

    /// Has the close be a reset that drops what was not delivered.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn set_zero_linger(&self) -> Result<()> {
        self.shared.stream.set_zero_linger()
    }

    /// Whom it is with.
    #[cfg(test)]
    pub(crate) fn peer_addr(&self) -> Result<std::net::SocketAddr> {
        self.shared.stream.peer_addr()
    }

    /// What looks at it from beside.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared))
    }

    /// Puts the write off, where that is possible.
    fn put_off(&mut self, cx: &Context<'_>, pieces: &[IoSlice<'_>]) -> bool {
        if self.puts_off == PutsOff::Never
            || self.shared.owes.load(Relaxed)
            || !self.shared.has_room()
        {
            return false;
        }
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            self.shared.owed.lock().task.clone_from(&self.task);
        }
        outbox::put(&self.shared, pieces, self.puts_off == PutsOff::UnderLoad)
    }

    /// Writes now, so many bytes or a part of them, as soon as there is room: after all that was put off.
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl FnMut() -> Result<usize>,
    ) -> Poll<Result<usize>> {
        ready!(self.poll_caught_up(cx))?;
        self.shared.poll_writing(cx, length, write)
    }

    fn poll_sending(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let write = || Ok(send(&self.shared.stream, bytes, SendFlags::NOSIGNAL)?);
        self.poll_writing(cx, bytes.len(), write)
    }

    /// Ready once the kernel has all that was put off, or with the error that befell it.
    fn poll_caught_up(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.shared.catch_up();
        self.shared.poll_settled(cx)
    }
}

impl Shared {
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        mut write: impl FnMut() -> Result<usize>,
    ) -> Poll<Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
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
        let tried = self.stream.try_io(interest, || {
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

    /// Whether the kernel may have room for a write, as far as is known.
    fn has_room(&self) -> bool {
        self.stream.try_io(Interest::WRITABLE, || Ok(())).is_ok()
    }

    /// Sends what it has in the outbox, if anything.
    fn catch_up(&self) {
        if self.waits.load(Relaxed) {
            send_what_was_put_off();
        }
    }

    /// Sends what was put off; what can't be is owed.
    fn send(&self, bytes: &[u8]) {
        self.waits.store(false, Relaxed);
        let sent = if self.owes.load(Relaxed) {
            Ok(0)
        } else {
            let send = || Ok(send(&self.stream, bytes, SendFlags::NOSIGNAL)?);
            self.attempt(Interest::WRITABLE, bytes.len(), send).unwrap_or(Ok(0))
        };
        match sent {
            Ok(sent) if sent == bytes.len() => {}
            Ok(sent) => self.owe(bytes.get(sent..).unwrap_or_default(), None),
            Err(error) => self.owe(&[], Some(error)),
        }
    }

    #[cold]
    fn owe(&self, bytes: &[u8], error: Option<Error>) {
        let mut owed = self.owed.lock();
        owed.bytes.extend_from_slice(bytes);
        owed.failed |= error.is_some();
        owed.error = error.or_else(|| owed.error.take());
        self.owes.store(true, Relaxed);
        if let Some(task) = &owed.task {
            task.wake_by_ref();
        }
    }

    /// Ready once nothing is owed, or with the error that befell it.
    fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.owes.load(Relaxed) { self.poll_settling(cx) } else { Poll::Ready(Ok(())) }
    }

    #[cold]
    fn poll_settling(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut owed = self.owed.lock();
        if let Some(error) = owed.error.take() {
            owed.bytes.clear();
            return Poll::Ready(Err(error));
        }
        while !owed.bytes.is_empty() {
            let write = || Ok(send(&self.stream, &owed.bytes, SendFlags::NOSIGNAL)?);
            let sent = ready!(self.poll_writing(cx, owed.bytes.len(), write));
            owed.failed |= sent.is_err();
            owed.bytes.drain(..sent?);
        }
        owed.bytes = Vec::new();
        self.owes.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shared.catch_up();
    }
}

/// Looks at a [`Socket`] from beside.
#[derive(Debug)]
pub struct Watch(Arc<Shared>);

impl Watch {
    /// Whether all that was written is the kernel's; sends first what was put off.
    pub fn is_settled(&self) -> bool {
        self.0.catch_up();
        !self.0.owes.load(Relaxed)
    }

    /// Whether something that was put off could not be sent any more.
    pub fn has_failed(&self) -> bool {
        self.0.owed.lock().failed
    }

    /// Ready once the peer has ended its side or the connection failed; what it has sent stays unread. Pending, and
    /// not woken for its end, where something unread stands before it.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Self(shared) = self;
        loop {
            let Ok(()) = ready!(shared.stream.poll_read_ready(cx)) else {
                return Poll::Ready(());
            };
            match shared.attempt(Interest::READABLE, 1, || {
                Ok(recv(&shared.stream, &mut [0][..], RecvFlags::PEEK)?.0)
            }) {
                Some(Ok(1..)) => return Poll::Pending,
                Some(_) => return Poll::Ready(()),
                None => {}
            }
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
                ready!(self.shared.stream.poll_read_ready(cx))?;
                let read_some = || Ok(recv(&self.shared.stream, &mut *read, RecvFlags::empty())?.0);
                match self.shared.attempt(Interest::READABLE, room, read_some) {
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
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        if bytes.len() <= SMALL && self.put_off(cx, &[IoSlice::new(bytes)]) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_sending(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let length = buffers.iter().map(|buffer| buffer.len()).sum();
        match buffers {
            [only] => self.poll_write(cx, only),
            several if length <= SMALL && self.put_off(cx, several) => Poll::Ready(Ok(length)),
            several if length <= SMALL => PIECE.with_borrow_mut(|piece| {
                piece.clear();
                for buffer in several {
                    piece.extend_from_slice(buffer);
                }
                self.poll_sending(cx, piece)
            }),
            several => {
                let write = || Ok(writev(&self.shared.stream, several)?);
                self.poll_writing(cx, length, write)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is the kernel's, or waits in the outbox; what the kernel did not take is sent first.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.shared.poll_settled(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_caught_up(cx))?;
        Poll::Ready(match shutdown(&self.shared.stream, Shutdown::Write) {
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
        let (socket, other) = pair().await;
        let (mut far, mut near) = tokio::io::split(socket);
        let (mut reading, mut writing) = other.into_split();
        let bytes: Vec<u8> = (0..=250_u8).cycle().take(8 << 20).collect();
        let echo = async move {
            tokio::io::copy(&mut reading, &mut writing).await.unwrap();
            writing.shutdown().await.unwrap();
        };
        let sent = bytes.clone();
        let sending = async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let receive = async {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), (), read) = tokio::join!(echo, sending, receive);
        assert!(read == bytes);
    }

    #[tokio::test]
    async fn the_peers_end_is_seen_and_what_it_sent_before_stays_to_be_read() {
        let (mut socket, mut other) = pair().await;
        let watch = socket.watch();
        assert!(poll_fn(|cx| Poll::Ready(watch.poll_ended(cx).is_pending())).await);
        other.write_all(b"more").await.unwrap();
        other.shutdown().await.unwrap();
        let mut read = [0; 4];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"more");
        poll_fn(|cx| socket.watch().poll_ended(cx)).await;
        // Seen, and not taken.
        assert_eq!(socket.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_reset_is_an_end() {
        let (socket, other) = pair().await;
        other.set_zero_linger().unwrap();
        drop(other);
        poll_fn(|cx| socket.watch().poll_ended(cx)).await;
    }

    #[tokio::test]
    async fn an_end_behind_something_unread_is_not_seen() {
        let (socket, mut other) = pair().await;
        other.write_all(b"more").await.unwrap();
        drop(other);
        let readable = poll_fn(|cx| socket.shared.stream.poll_read_ready(cx));
        readable.await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(socket.watch().poll_ended(cx).is_pending())).await);
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
