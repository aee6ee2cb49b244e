//! [`Tap`]: a connection between gateway and upstream that is listened to at the gateway's end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

use crate::http1::field;
use crate::world::{CALLERS, Shared, token};

/// One exchange at a time passes.
pub(crate) struct Tap {
    stream: TcpStream,
    world: Shared,
    /// When it was dialled, until a request was sent: that one may have waited for it.
    dialled: Option<Duration>,
    sent: Vec<u8>,
    received: Vec<u8>,
    under_way: Option<Asked>,
}

struct Asked {
    id: u64,
    is_read: bool,
    caller: String,
    unit: String,
}

impl Tap {
    pub(crate) fn new(stream: TcpStream, world: Shared, dialled: Duration) -> Self {
        let dialled = Some(dialled);
        Self { stream, world, dialled, sent: Vec::new(), received: Vec::new(), under_way: None }
    }

    fn sent(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        if self.under_way.is_some() {
            return;
        }
        let text = String::from_utf8_lossy(&self.sent).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return };
        if field(head, "content-length").is_some_and(|length| length != body.len().to_string()) {
            return;
        }
        let owner = CALLERS.iter().find(|name| head.contains(&token(name)));
        let caller = owner.map_or("nobody", |name| name).to_owned();
        let is_read = head.starts_with("GET ");
        let unit = if is_read {
            let target = head.split(' ').nth(1).unwrap_or_default();
            target.rsplit('/').next().unwrap_or_default().to_owned()
        } else {
            body.split('"').nth(3).unwrap_or_default().to_owned()
        };
        let mut world = self.world.lock();
        world.tally.fetched += u64::from(is_read);
        let id = world.tally.fetched * 2 + u64::from(is_read);
        if is_read {
            let since = self.dialled.unwrap_or(world.now);
            world.took_off(id, &caller, &unit, since);
        } else {
            world.ends_unit(&unit);
        }
        drop(world);
        self.dialled = None;
        self.sent.clear();
        self.received.clear();
        self.under_way = Some(Asked { id, is_read, caller, unit });
    }

    fn received(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return self.ended();
        }
        self.received.extend_from_slice(bytes);
        let text = String::from_utf8_lossy(&self.received).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return };
        let length = field(head, "content-length").and_then(|length| length.parse().ok());
        if body.len() < length.unwrap_or(0) {
            return;
        }
        let status = head.split(' ').nth(1).unwrap_or_default();
        let stamp = field(head, "x-stamp").or_else(|| {
            let from = body.split_once("\"stamp\":")?.1;
            from.split('}').next()
        });
        if let Some(stamp) = stamp.and_then(|stamp| stamp.parse().ok()) {
            self.world.lock().received(stamp);
        }
        let certain = serde_json::from_str::<serde_json::Value>(body).is_ok();
        if let (Some(asked), "401") = (&self.under_way, status) {
            self.world.lock().ends_caller(&asked.caller);
        }
        self.ends(true, status == "200" && certain);
    }

    fn ended(&mut self) {
        self.ends(false, false);
    }

    /// The exchange is over, with or without a whole answer. A write whose outcome isn't `certain` ends all that its caller has.
    fn ends(&mut self, answered: bool, certain: bool) {
        if let Some(asked) = self.under_way.take() {
            let mut world = self.world.lock();
            if asked.is_read {
                world.landed(asked.id, answered);
            } else {
                world.ends_unit(&asked.unit);
                if !certain {
                    world.ends_caller(&asked.caller);
                }
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.ended();
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &read {
            Poll::Ready(Ok(())) => {
                let fresh = buffer.filled()[before..].to_vec();
                self.received(&fresh);
            }
            Poll::Ready(Err(_)) => self.ended(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(wrote)) = wrote {
            self.sent(&bytes[..wrote]);
        }
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
