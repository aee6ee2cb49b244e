//! [`Framed`]: the stream below an HTTP/2 connection. Its frames are read along, its writes gathered and noted.
//!
//! *Invariants*
//! 1. What is written goes to the kernel with what follows it: by [`Framed::send`], once the connection has nothing
//!    more to say for now, or when [`MOST`] bytes have gathered.
//! 2. More than that is not held back: larger writes go through uncopied.
//!
//! *Why gather:* h2 writes each answer's bytes by themselves, and each write of a kB costs as much in the kernel as
//! making the answer does here.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use super::line::Line;
use super::pulse::Pulse;

/// A stream of frames; clones share it.
#[derive(Clone)]
pub(super) struct Framed(Arc<Mutex<Wire>>);

struct Wire {
    stream: Line,
    gathered: BytesMut,
    /// When it began to gather.
    since: u64,
    frames: Frames,
    pulse: Arc<Pulse>,
}

impl Framed {
    pub(super) fn new(stream: Line, pulse: Arc<Pulse>, control_frames: u32) -> Self {
        let frames = Frames::new(control_frames, pulse.now());
        let (gathered, since) = (BytesMut::new(), pulse.now());
        Self(Arc::new(Mutex::new(Wire { stream, gathered, since, frames, pulse })))
    }

    /// Brings out what has gathered.
    pub(super) fn send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.lock();
        ready!(wire.drain(cx))?;
        // Under TLS a write may be done whose bytes only a flush brings out.
        let flushed = Pin::new(&mut wire.stream).poll_flush(cx);
        wire.pulse.wrote(flushed.is_pending());
        flushed
    }
}

impl Wire {
    fn received(&mut self, fresh: &[u8]) -> io::Result<()> {
        if self.pulse.read_along(&mut self.frames, fresh) {
            Ok(())
        } else {
            Err(ErrorKind::InvalidData.into())
        }
    }

    /// Writes what has gathered.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let wrote = Pin::new(&mut self.stream).poll_write(cx, &self.gathered);
            self.pulse.wrote(wrote.is_pending());
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                wrote => self.gathered.advance(wrote),
            }
            self.pulse.moved(self.since);
        }
        self.pulse.drained(self.since);
        // A connection that says nothing holds no memory for it.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if self.gathered.len() + length > MOST {
            ready!(self.drain(cx))?;
        }
        let wrote = if length > MOST {
            let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
            self.pulse.wrote(wrote.is_pending());
            ready!(wrote)?
        } else {
            if self.gathered.is_empty() {
                self.gathered.reserve(MOST);
                self.since = self.pulse.now();
                self.pulse.gathers();
            }
            for buffer in buffers {
                self.gathered.extend_from_slice(buffer);
            }
            length
        };
        self.frames.sent(wrote);
        Poll::Ready(Ok(wrote))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.pulse.resets() {
            self.stream.reset_on_close();
        }
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.lock();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut wire.stream).poll_read(cx, buffer))?;
        Poll::Ready(wire.received(buffer.filled().get(before..).unwrap_or_default()))
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, &[IoSlice::new(bytes)])
    }

    /// h2 asks for it after each answer: [`Framed::send`] does it once for all of them.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.lock();
        ready!(wire.drain(cx))?;
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// So many bytes gather at most: a few dozen usual answers.
const MOST: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::listener::io::Ticks;
    use crate::listener::wear::Wear;

    fn framed(room: usize) -> (tokio::io::DuplexStream, Framed) {
        let (near, far) = duplex(room);
        let ticks = Ticks::new();
        let pulse = Arc::new(Pulse::new(ticks.clone(), Wear::new(ticks, 0, Duration::ZERO)));
        (near, Framed::new(Line::Brought(Box::new(far)), pulse, 100))
    }

    async fn send(framed: &Framed) -> io::Result<()> {
        std::future::poll_fn(|cx| framed.send(cx)).await
    }

    fn waits(read: &mut tokio::io::DuplexStream) -> bool {
        let mut read = std::pin::pin!(read.read_u8());
        read.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn what_is_written_goes_out_together_when_it_is_sent() {
        let (mut near, mut framed) = framed(1 << 20);
        for word in [&b"one "[..], b"two"] {
            framed.write_all(word).await.unwrap();
            framed.flush().await.unwrap();
        }
        assert!(waits(&mut near));
        send(&framed).await.unwrap();
        let mut received = [0; 7];
        near.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"one two");
    }

    #[tokio::test]
    async fn everything_goes_out_in_order_however_large_and_however_narrow_the_way() {
        for room in [1, 1_000, 1 << 20] {
            let (mut near, mut framed) = framed(room);
            let lengths = [1, MOST - 1, 1, MOST, MOST + 1, 5, 3 * MOST, 7];
            let writing = async {
                for (length, byte) in lengths.iter().zip(0..) {
                    framed.write_all(&vec![byte; *length]).await.unwrap();
                }
                framed.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let reading = near.read_to_end(&mut received);
            tokio::join!(writing, async { reading.await.unwrap() });
            let sent = lengths.iter().zip(0..).flat_map(|(length, byte)| vec![byte; *length]);
            assert!(received.iter().copied().eq(sent), "{room}");
        }
    }

    #[tokio::test]
    async fn no_more_gathers_than_may() {
        let (_near, mut framed) = framed(1);
        framed.write_all(&vec![0; MOST]).await.unwrap();
        let mut more = std::pin::pin!(framed.write_u8(0));
        let more = more.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(more.is_pending());
    }

    #[tokio::test]
    async fn who_has_left_is_told_by_the_send() {
        let (near, mut framed) = framed(16);
        drop(near);
        framed.write_all(b"gone").await.unwrap();
        assert_eq!(send(&framed).await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
