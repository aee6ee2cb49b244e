//! Many clients that ask for the same at once.
//!
//! One thread is all of them, and looks at the answers after it has them all: what clients cost is in the times that
//! they measure, and is taken from the upstream that shares their core.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// More than an answer of the sample upstream takes; a larger one costs its client more reads.
const ROOM: usize = 4 << 10;
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What became of a volley.
pub(crate) struct Volley {
    /// The moment before the first request was written, by the machine's monotonic clock.
    pub(crate) began: Duration,
    /// From then until the last byte of each answer was read, in order.
    pub(crate) times: Vec<Duration>,
}

/// Sends `request` over so many connections that were opened before.
///
/// # Panics
/// An answer is no 200, breaks off, or is followed by something.
pub(crate) fn fire(to: SocketAddr, clients: usize, request: &[u8]) -> Volley {
    let mut clients: Vec<Client> = (0..clients).map(|_| Client::connected(to)).collect();
    let epoll = watching(clients.iter().map(|client| &client.stream));
    let mut events = Vec::with_capacity(clients.len());

    let began = now();
    for client in &mut clients {
        client.stream.write_all(request).expect("the server reads");
    }
    let mut waiting = clients.len();
    // From the first answer on it doesn't sleep: a server would pay for each time that it wakes its clients.
    let mut patience = None;
    while waiting > 0 {
        epoll::wait(&epoll, spare_capacity(&mut events), patience).expect("nothing interrupts");
        patience = Some(&AT_ONCE);
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64()).expect("it is one of ours");
            let client = clients.get_mut(number).expect("it is one of ours");
            if client.has_all() {
                waiting -= 1;
            }
        }
    }

    let mut times: Vec<Duration> =
        clients.iter().map(|client| client.answered().saturating_sub(began)).collect();
    times.sort_unstable();
    Volley { began, times }
}

/// A connection that sends at once.
pub(crate) fn connected(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("the server listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream
}

/// What tells by their numbers which of these have something to read.
pub(crate) fn watching<'a>(streams: impl Iterator<Item = &'a TcpStream>) -> OwnedFd {
    let epoll = epoll::create(CreateFlags::CLOEXEC).expect("there is epoll");
    for (number, stream) in (0..).zip(streams) {
        epoll::add(&epoll, stream, EventData::new_u64(number), EventFlags::IN)
            .expect("it is a socket");
    }
    epoll
}

/// One connection with one request.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    length: usize,
    read_at: Duration,
}

impl Client {
    fn connected(to: SocketAddr) -> Self {
        let stream = connected(to);
        // Something else than zeros, so that these pages are there before an answer is.
        Self { stream, received: vec![b' '; ROOM], length: 0, read_at: Duration::ZERO }
    }

    /// Reads once, what there is; whether that was the end of the answer.
    fn has_all(&mut self) -> bool {
        if self.length == self.received.len() {
            self.received.resize(2 * self.length, b' ');
        }
        assert!(!is_whole(self.answer()), "something came after an answer");
        let room = self.received.get_mut(self.length..).expect("there is room");
        let more = self.stream.read(room).expect("the server answers");
        self.read_at = now();
        assert!(more > 0, "an answer broke off");
        self.length += more;
        is_whole(self.answer())
    }

    /// When its last byte was read, of an answer as it should be.
    fn answered(&self) -> Duration {
        assert!(self.answer().starts_with(b"HTTP/1.1 200 "), "an answer is no 200");
        self.read_at
    }

    fn answer(&self) -> &[u8] {
        self.received.get(..self.length).expect("no more was read")
    }
}

/// Whether an answer ends so: the sample upstream's do, with a length or in chunks.
pub(crate) fn is_whole(received: &[u8]) -> bool {
    received.ends_with(b"]}") || received.ends_with(b"\r\n0\r\n\r\n")
}

/// The same clock as Python's `time.monotonic`.
pub(crate) fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).expect("the clock runs since the start")
}
