//! [`Frames`]: what of an HTTP/2 connection's frames is work that brings nothing (RFC 9113 §10.5).
//!
//! *Invariants*
//! 1. A frame counts once its head is complete, before its payload has come.
//! 2. What a client may send without a request or content is bounded by time and by what it was sent.
//! 3. No bytes make it panic; a stream that is no HTTP/2 is hyper's to refuse.
//!
//! *Why here:* hyper's HTTP/2 counts resets and CONTINUATION, and answers any number of PING, SETTINGS,
//! PRIORITY and empty DATA frames.

/// Reads along what a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface or of a payload that are still to be passed over.
    skip: usize,
    head: [u8; HEAD],
    /// How much of `head` is there.
    have: usize,
    /// A head of a request has begun and not ended (RFC 9113 §4.3).
    in_head: bool,
    /// The frame whose payload is passed over is a part of a head.
    in_block: bool,
    /// It opens the window of all streams together.
    in_window: bool,
    /// By how much, as far as it has come.
    increment: u32,
    /// By how much that window was opened since it was last asked.
    opened: u64,
    /// Requests' heads that have begun, and the highest stream among them.
    heads: u64,
    newest: u32,
    allowance: Allowance,
}

/// Frames that may still come.
#[derive(Debug)]
struct Allowance {
    /// In thousandths of a frame.
    left: u64,
    per_second: u64,
    /// When it was last filled, in milliseconds.
    filled: u64,
}

/// A client sent more frames than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Frames {
    /// A connection whose preface is still to come, at `now` milliseconds.
    pub(super) fn new(per_second: u32, now: u64) -> Self {
        let per_second = u64::from(per_second);
        Self {
            skip: PREFACE.len(),
            head: [0; HEAD],
            have: 0,
            in_head: false,
            in_block: false,
            in_window: false,
            increment: 0,
            opened: 0,
            heads: 0,
            newest: 0,
            allowance: Allowance { left: per_second * BURST * 1000, per_second, filled: now },
        }
    }

    /// Reads what the client has sent.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: u64) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            let (payload, behind) = bytes.split_at_checked(skipped).unwrap_or_default();
            self.skip -= skipped;
            if self.in_window {
                self.window(payload);
            }
            bytes = behind;
            let wanted = (HEAD - self.have).min(bytes.len());
            let (fresh, rest) = bytes.split_at_checked(wanted).unwrap_or_default();
            if let Some(room) = self.head.get_mut(self.have..self.have + wanted) {
                room.copy_from_slice(fresh);
            }
            self.have += wanted;
            bytes = rest;
            if self.have == HEAD {
                self.have = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// So many bytes were sent: the client may tell that it took them (RFC 9113 §6.9).
    pub(super) fn sent(&mut self, bytes: usize) {
        let earned = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1000) / 1024;
        self.allowance.earn(earned);
    }

    /// Whether a request's head has begun and not ended.
    pub(super) fn in_head(&self) -> bool {
        self.in_head || (self.in_block && self.skip > 0)
    }

    /// How many requests' heads have begun. Trailers are none (RFC 9113 §8.1).
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// By how much the client has opened the window of all streams together since this was last asked.
    pub(super) fn take_opened(&mut self) -> u64 {
        std::mem::take(&mut self.opened)
    }

    /// Reads a part of an increment (RFC 9113 §6.9).
    fn window(&mut self, payload: &[u8]) {
        for byte in payload {
            self.increment = self.increment << 8 | u32::from(*byte);
        }
        if self.skip == 0 {
            self.in_window = false;
            self.opened += u64::from(self.increment & !RESERVED);
        }
    }

    /// Judges the frame whose head is complete (RFC 9113 §4.1).
    fn frame(&mut self, now: u64) -> Result<(), Flood> {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        let stream = u32::from_be_bytes(stream) & !RESERVED;
        self.in_block = matches!(kind, HEADERS | CONTINUATION);
        (self.in_window, self.increment) = (kind == WINDOW_UPDATE && stream == 0, 0);
        match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => return Ok(()),
            HEADERS => {
                // A new stream has a higher number than all before it (RFC 9113 §5.1.1).
                if stream > self.newest {
                    self.newest = stream;
                    self.heads = self.heads.saturating_add(1);
                }
                self.in_head = flags & END_HEADERS == 0;
                return Ok(());
            }
            CONTINUATION if flags & END_HEADERS != 0 => self.in_head = false,
            _ => {}
        }
        self.allowance.take(now)
    }
}

impl Allowance {
    fn take(&mut self, now: u64) -> Result<(), Flood> {
        let passed = now.saturating_sub(self.filled);
        self.filled = now;
        // So many a second are as many thousandths a millisecond.
        self.earn(passed.saturating_mul(self.per_second));
        self.left = self.left.checked_sub(1000).ok_or(Flood)?;
        Ok(())
    }

    fn earn(&mut self, thousandths: u64) {
        let most = self.per_second * BURST * 1000;
        self.left = self.left.saturating_add(thousandths).min(most);
    }
}

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Seconds' worth of frames that may come at once.
const BURST: u64 = 10;

/// Length of a frame's head.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The bit before a stream's number and before an increment, which means nothing.
const RESERVED: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn begun() -> Frames {
        let mut frames = Frames::new(1, 0);
        frames.read(PREFACE, 0).unwrap();
        frames
    }

    #[test]
    fn ten_seconds_worth_of_pings_may_come_at_once_and_then_one_a_second() {
        let mut frames = begun();
        let ping = frame(PING, 0, &[0; 8]);
        for _ in 0..10 {
            assert_eq!(frames.read(&ping, 0), Ok(()));
        }
        assert_eq!(frames.read(&ping, 1000), Ok(()));
        assert_eq!(frames.read(&ping, 1999), Err(Flood));
    }

    #[test]
    fn requests_and_content_cost_nothing_and_empty_data_does() {
        let mut frames = begun();
        for _ in 0..100 {
            frames.read(&frame(HEADERS, END_HEADERS, b"head"), 0).unwrap();
            frames.read(&frame(DATA, 0, b"x"), 0).unwrap();
            frames.read(&frame(DATA, END_STREAM, b""), 0).unwrap();
        }
        let empty = frame(DATA, 0, b"").repeat(11);
        assert_eq!(frames.read(&empty, 0), Err(Flood));
    }

    #[test]
    fn what_was_sent_earns_frames_up_to_the_burst() {
        let mut frames = begun();
        let pings = frame(PING, 0, &[0; 8]).repeat(10);
        frames.read(&pings, 0).unwrap();
        frames.sent(3 << 10);
        assert_eq!(frames.read(&frame(PING, 0, &[0; 8]).repeat(3), 0), Ok(()));
        frames.sent(1 << 30);
        assert_eq!(frames.read(&pings, 0), Ok(()));
        assert_eq!(frames.read(&pings, 0), Err(Flood));
    }

    #[test]
    fn a_head_is_under_way_from_headers_to_the_end_of_its_continuation() {
        let mut frames = begun();
        frames.read(&frame(HEADERS, 0, b"first"), 0).unwrap();
        assert!(frames.in_head());
        frames.read(&frame(CONTINUATION, 0, b"more"), 0).unwrap();
        assert!(frames.in_head());
        frames.read(&frame(CONTINUATION, END_HEADERS, b"last"), 0).unwrap();
        assert!(!frames.in_head());
    }

    #[test]
    fn a_head_whose_last_bytes_do_not_come_is_under_way() {
        let mut frames = begun();
        let head = frame(HEADERS, END_HEADERS, b"head");
        let (first, last) = head.split_at(head.len() - 1);
        frames.read(first, 0).unwrap();
        assert!(frames.in_head());
        frames.read(last, 0).unwrap();
        assert!(!frames.in_head());
    }

    #[test]
    fn only_what_opens_the_window_of_all_streams_is_summed_up_however_it_is_cut() {
        let update = |stream: u8, increment: u32| {
            let mut update = frame(WINDOW_UPDATE, 0, &increment.to_be_bytes());
            update[8] = stream;
            update
        };
        let all = [update(0, 70_000), update(1, 9), update(0, RESERVED | 5)].concat();
        for size in 1..=all.len() {
            let mut frames = begun();
            for part in all.chunks(size) {
                frames.read(part, 0).unwrap();
            }
            assert_eq!(
                (frames.take_opened(), frames.take_opened()),
                (70_005, 0),
                "in parts of {size}"
            );
        }
    }

    #[test]
    fn frames_are_seen_wherever_the_bytes_are_cut() {
        let all = [&PREFACE[..], &frame(DATA, 0, &[PING; 30]), &frame(PING, 0, &[0; 8])].concat();
        for size in 1..all.len() {
            let mut frames = Frames::new(1, 0);
            for part in all.repeat(1).chunks(size) {
                frames.read(part, 0).unwrap();
            }
            assert_eq!(frames.allowance.left, 9000, "in parts of {size}");
        }
    }
}
