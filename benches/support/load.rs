//! As many requests as a server takes, over connections that are kept.
//!
//! *Why not wrk:* it parses each field of an answer, which takes longer than the gateway does to send it: the
//! generator was the limit. This one looks how an answer begins and ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::volley::{connected, is_whole, now, watching};

/// More than an answer takes that is not made to be large.
const ROOM: usize = 64 << 10;

/// What to ask, where, and for how long.
pub(crate) struct Load {
    pub(crate) to: SocketAddr,
    /// Each has a request under way at any time.
    pub(crate) connections: usize,
    /// Share the connections.
    pub(crate) threads: usize,
    pub(crate) time: Duration,
    /// Request up to the number of its key, and from there on.
    pub(crate) request: (Vec<u8>, Vec<u8>),
    /// They are asked for in turn, from 1 on.
    pub(crate) keys: u64,
}

/// What was answered.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// The longest of a thread.
    pub(crate) time: Duration,
}

impl Load {
    /// Puts it on.
    ///
    /// # Panics
    /// An answer is no 200, or a connection ends.
    pub(crate) fn put_on(&self) -> Outcome {
        let mut all = Outcome::default();
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.threads).map(|_| scope.spawn(|| self.put_on_by_one_thread())).collect();
            for thread in threads {
                let one = thread.join().expect("a load failed");
                all.requests += one.requests;
                all.bytes += one.bytes;
                all.time = all.time.max(one.time);
            }
        });
        all
    }

    fn put_on_by_one_thread(&self) -> Outcome {
        let mut connections: Vec<Connection> =
            (0..self.connections / self.threads).map(|_| Connection::to(self.to)).collect();
        let epoll = watching(connections.iter().map(|connection| &connection.stream));
        let mut events = Vec::with_capacity(connections.len());
        let (mut key, mut asked, mut read) = (0, Vec::new(), vec![0; ROOM]);
        let mut outcome = Outcome::default();

        let began = now();
        for connection in &mut connections {
            self.next(&mut key, &mut asked);
            connection.ask(&asked);
        }
        while outcome.time < self.time {
            epoll::wait(&epoll, spare_capacity(&mut events), None).expect("nothing interrupts");
            for event in events.drain(..) {
                let number = usize::try_from(event.data.u64()).expect("it is one of ours");
                let connection = connections.get_mut(number).expect("it is one of ours");
                if let Some(length) = connection.read(&mut read) {
                    outcome.requests += 1;
                    outcome.bytes += length;
                    self.next(&mut key, &mut asked);
                    connection.ask(&asked);
                }
            }
            outcome.time = now().saturating_sub(began);
        }
        outcome
    }

    /// The request for the next key.
    fn next(&self, key: &mut u64, request: &mut Vec<u8>) {
        *key = *key % self.keys + 1;
        let (before, after) = &self.request;
        request.clear();
        request.extend_from_slice(before);
        write!(request, "{key}").expect("there is memory");
        request.extend_from_slice(after);
    }
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the answer that has begun.
    received: u64,
    /// The last bytes that came.
    end: [u8; END],
}

/// As much as tells the end of an answer.
const END: usize = 7;

impl Connection {
    fn to(address: SocketAddr) -> Self {
        Self { stream: connected(address), received: 0, end: [0; END] }
    }

    fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).expect("the server reads");
    }

    /// Reads once, what there is; the length of the answer, if that was its end.
    fn read(&mut self, buffer: &mut [u8]) -> Option<u64> {
        let length = self.stream.read(buffer).expect("the server answers");
        let read = buffer.get(..length).expect("no more was read");
        assert!(!read.is_empty(), "a connection ended");
        assert!(self.received > 0 || read.starts_with(b"HTTP/1.1 200 "), "an answer is no 200");
        self.received += length as u64;
        if let Some(end) = read.last_chunk() {
            self.end = *end;
        } else {
            for byte in read {
                self.end.rotate_left(1);
                self.end[END - 1] = *byte;
            }
        }
        is_whole(&self.end).then(|| std::mem::take(&mut self.received))
    }
}
