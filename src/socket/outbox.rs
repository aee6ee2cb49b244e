//! The outbox of a thread: small writes of its connections that go to the kernel together.
//!
//! *Invariants*
//! 1. What is put in goes out once the tasks that were ready then have had their turn, or when [`MOST`] connections
//!    ([`FEW`] while little is written) have put in something, each at most [`SMALL`] bytes; whatever a connection
//!    writes goes out in its order.
//! 2. A thread without a [`Postman`] has none: nothing can be put in and forgotten, as long as his thread is his.
//! 3. What the kernel does not take, or refuses, is kept with the connection, and its task is woken for it.
//!
//! *Why:* of a hit the kernel's half is as long as ours, and either drives the other's code and data out of the
//! processor's caches. Twenty answers made one after the other and then sent one after the other cost 5 to 8 %
//! less than twenty times one made and sent, and wake their clients less often.

use std::cell::RefCell;
use std::future::Future;
use std::io::IoSlice;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use super::{SMALL, Shared};

/// Sends what the outbox of its thread has, for as long as it is polled; a task of a runtime of one thread.
#[derive(Debug, Default)]
pub struct Postman(());

impl Future for Postman {
    type Output = std::convert::Infallible;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        with(|outbox| {
            outbox.empty();
            outbox.begin_turn();
            if !outbox.postman.as_ref().is_some_and(|postman| postman.will_wake(cx.waker())) {
                outbox.postman = Some(cx.waker().clone());
                // To grow it step by step would cost the first of many who wait for the same.
                outbox.bytes.reserve(MOST * USUAL);
                outbox.writes.reserve(MOST);
            }
        });
        Poll::Pending
    }
}

impl Drop for Postman {
    fn drop(&mut self) {
        with(|outbox| {
            outbox.empty();
            outbox.postman = None;
        });
    }
}

/// Sends what this thread's connections have put off: for who is about to keep the thread for long.
pub fn send_what_was_put_off() {
    with(Outbox::empty);
}

/// Puts a write of `sender` into the outbox, if `only_under_load` only while the thread is busy; whether that was done.
pub(super) fn put(sender: &Arc<Shared>, pieces: &[IoSlice<'_>], only_under_load: bool) -> bool {
    with(|outbox| outbox.put(sender, pieces, only_under_load)) == Some(true)
}

/// `None` = the thread is at its end.
fn with<T>(work: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
    OUTBOX.try_with(|outbox| work(&mut outbox.borrow_mut())).ok()
}

#[derive(Debug)]
struct Outbox {
    /// All writes, one after the other.
    bytes: Vec<u8>,
    /// Whose they are, and which.
    writes: Vec<(Arc<Shared>, Range<usize>)>,
    /// Connections whose writes make it full, until the postman's next turn.
    room: usize,
    /// Writes since his last that made room for one more connection, and those that are put off only under load.
    count: usize,
    postman: Option<Waker>,
}

impl Outbox {
    fn put(&mut self, sender: &Arc<Shared>, pieces: &[IoSlice<'_>], only_under_load: bool) -> bool {
        let Some(postman) = &self.postman else { return false };
        if only_under_load && self.room < MOST {
            // It tells all the same how busy the thread is.
            if self.count == 0 {
                postman.wake_by_ref();
            }
            self.count += 1;
            return false;
        }
        let (start, length) =
            (self.bytes.len(), pieces.iter().map(|piece| piece.len()).sum::<usize>());
        match self.writes.last_mut() {
            Some((last, range)) if Arc::ptr_eq(last, sender) => {
                // So much for one: what a connection can be owed moves as a whole or not at all.
                if range.len() + length > SMALL {
                    return false;
                }
                // Answers to requests that came in one piece go out in one.
                range.end += length;
            }
            last => {
                if last.is_none() {
                    postman.wake_by_ref();
                }
                sender.waits.store(true, Relaxed);
                self.writes.push((Arc::clone(sender), start..start + length));
                self.count += 1;
            }
        }
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        if self.writes.len() >= self.room {
            self.empty();
        }
        true
    }

    /// What one turn brought tells whether the thread is busy in the next.
    fn begin_turn(&mut self) {
        self.room = if self.count >= MANY { MOST } else { FEW };
        self.count = 0;
    }

    fn empty(&mut self) {
        for (sender, range) in self.writes.drain(..) {
            sender.send(self.bytes.get(range).unwrap_or_default());
        }
        self.bytes.clear();
    }
}

thread_local! {
    static OUTBOX: RefCell<Outbox> = const {
        RefCell::new(Outbox {
            bytes: Vec::new(),
            writes: Vec::new(),
            room: FEW,
            count: 0,
            postman: None,
        })
    };
}

/// Connections whose writes make it full while the thread is not busy: what one waits for the others is noticed then,
/// 0.07 ms of each answer of a burst of twenty if they all wait.
const FEW: usize = 4;

/// So many writes in a turn and the thread is busy: what is gathered is throughput then.
const MANY: usize = 20;

/// Connections whose writes make it full while the thread is busy. With 16 a hit costs 1 to 2 % more; with 32, as many
/// as a turn of a worker brings, half of 500 who wait for the same have it 0.3 ms later.
const MOST: usize = 24;

/// Bytes of a usual write.
const USUAL: usize = 2 << 10;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{ErrorKind, Read as _};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use tokio::io::AsyncWrite as _;

    use super::super::{PutsOff, Socket};
    use super::*;

    /// A connection that puts off, and its peer, which reads what is there.
    async fn pair() -> (Socket, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let near = tokio::net::TcpStream::from_std(near).unwrap();
        // Until the runtime has heard of it, nothing can be sent.
        near.writable().await.unwrap();
        let mut near = Socket::from(near);
        near.put_off_writes();
        (near, far)
    }

    fn what_came(far: &mut TcpStream) -> Vec<u8> {
        let mut came = vec![0; 1 << 20];
        match far.read(&mut came) {
            Ok(length) => came.truncate(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => came.clear(),
            Err(error) => panic!("{error}"),
        }
        came
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Who writes and lets the postman have his turn, and how often either was woken.
    struct Bench {
        postman: Option<Postman>,
        postman_woken: Arc<Woken>,
        task: Waker,
        task_woken: Arc<Woken>,
    }

    impl Bench {
        fn new() -> Self {
            let task_woken: Arc<Woken> = Arc::default();
            let task = Waker::from(Arc::clone(&task_woken));
            let postman = Some(Postman::default());
            let mut bench = Self { postman, postman_woken: Arc::default(), task, task_woken };
            bench.turn();
            bench
        }

        fn turn(&mut self) {
            let waker = Waker::from(Arc::clone(&self.postman_woken));
            let postman = Pin::new(self.postman.as_mut().unwrap());
            assert!(postman.poll(&mut Context::from_waker(&waker)).is_pending());
        }

        /// Of a write that is taken at once.
        fn write(&self, socket: &mut Socket, bytes: &[u8]) {
            let wrote = Pin::new(socket).poll_write(&mut Context::from_waker(&self.task), bytes);
            assert!(matches!(wrote, Poll::Ready(Ok(length)) if length == bytes.len()));
        }

        fn flush(&self, socket: &mut Socket) -> Poll<std::io::Result<()>> {
            Pin::new(socket).poll_flush(&mut Context::from_waker(&self.task))
        }
    }

    #[tokio::test]
    async fn what_was_put_off_goes_out_with_the_postmans_turn_each_in_its_order() {
        let mut bench = Bench::new();
        let ((mut one, mut of_one), (mut two, mut of_two)) = (pair().await, pair().await);
        bench.write(&mut one, b"a");
        bench.write(&mut two, b"b");
        bench.write(&mut two, b"c");
        let pieces = [IoSlice::new(b"d"), IoSlice::new(b"ef")];
        let wrote = poll_fn(|cx| Pin::new(&mut one).poll_write_vectored(cx, &pieces)).await;
        assert_eq!(wrote.unwrap(), 3);
        assert_eq!((what_came(&mut of_one), what_came(&mut of_two)), (vec![], vec![]));
        // Once for them all.
        assert_eq!(bench.postman_woken.0.load(Relaxed), 1);
        bench.turn();
        assert_eq!(
            (&*what_came(&mut of_one), &*what_came(&mut of_two)),
            (&b"adef"[..], &b"bc"[..])
        );
        assert!(bench.flush(&mut one).is_ready());
        bench.write(&mut one, b"g");
        assert_eq!(bench.postman_woken.0.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn without_a_postman_nothing_is_put_off() {
        let (mut socket, mut far) = pair().await;
        assert_eq!(poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, b"a")).await.unwrap(), 1);
        assert_eq!(what_came(&mut far), b"a");
        let mut bench = Bench::new();
        bench.write(&mut socket, b"b");
        assert_eq!(what_came(&mut far), b"");
        // His last turn.
        bench.postman = None;
        assert_eq!(what_came(&mut far), b"b");
        assert_eq!(poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, b"c")).await.unwrap(), 1);
        assert_eq!(what_came(&mut far), b"c");
    }

    #[tokio::test]
    async fn who_does_not_put_off_does_not_wait_for_who_does() {
        let bench = Bench::new();
        let (mut socket, mut far) = pair().await;
        socket.puts_off = PutsOff::Never;
        bench.write(&mut socket, b"a");
        assert_eq!(what_came(&mut far), b"a");
    }

    #[tokio::test]
    async fn who_puts_off_under_load_alone_is_sent_at_once_until_many_were_in_one_turn() {
        let mut bench = Bench::new();
        let (mut socket, mut far) = pair().await;
        socket.put_off_writes_under_load();
        let pieces = [IoSlice::new(b"a"), IoSlice::new(b"b")];
        for many in [MANY - 1, MANY] {
            for _ in 0..many {
                let wrote = poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &pieces));
                assert_eq!(wrote.await.unwrap(), 2);
                assert_eq!(what_came(&mut far), b"ab");
            }
            bench.turn();
        }
        // The first of a turn had him called.
        assert_eq!(bench.postman_woken.0.load(Relaxed), 2);
        bench.write(&mut socket, b"b");
        assert_eq!(what_came(&mut far), b"");
        bench.turn();
        assert_eq!(what_came(&mut far), b"b");
        bench.write(&mut socket, b"c");
        assert_eq!(what_came(&mut far), b"c");
    }

    #[tokio::test]
    async fn who_is_sent_at_once_leaves_what_others_have_put_off() {
        let mut bench = Bench::new();
        let ((mut one, mut of_one), (mut two, mut of_two)) = (pair().await, pair().await);
        bench.write(&mut one, b"a");
        bench.write(&mut two, &[b'b'; SMALL + 1]);
        assert_eq!(what_came(&mut of_two), [b'b'; SMALL + 1]);
        two.put_off_writes_under_load();
        bench.write(&mut two, b"c");
        assert_eq!(what_came(&mut of_two), b"c");
        drop(two);
        assert_eq!(what_came(&mut of_one), b"");
        bench.turn();
        assert_eq!(what_came(&mut of_one), b"a");
    }

    /// Writes of one byte by as many connections after which the first has gone out; at most so many.
    async fn filled_by(bench: &Bench, most: usize) -> Option<usize> {
        let mut pairs = Vec::new();
        for count in 1..=most {
            pairs.push(pair().await);
            bench.write(&mut pairs.last_mut().unwrap().0, b"a");
            if what_came(&mut pairs[0].1) == b"a" {
                assert!(pairs[1..].iter_mut().all(|(_, far)| what_came(far) == b"a"));
                return Some(count);
            }
        }
        None
    }

    #[tokio::test]
    async fn the_write_that_fills_the_outbox_sends_them_all_and_a_busy_thread_has_a_larger_one() {
        let mut bench = Bench::new();
        for _ in 0..MANY / FEW {
            assert_eq!(filled_by(&bench, MOST).await, Some(FEW));
        }
        bench.turn();
        assert_eq!(filled_by(&bench, MOST).await, Some(MOST));
        bench.turn();
        assert_eq!(filled_by(&bench, MANY - 1).await, None);
        bench.turn();
        assert_eq!(filled_by(&bench, MOST).await, Some(FEW));
    }

    #[tokio::test]
    async fn no_more_is_put_off_for_one_connection_than_is_small() {
        let mut bench = Bench::new();
        let (mut socket, mut far) = pair().await;
        let half = [b'b'; SMALL / 2];
        bench.write(&mut socket, &half);
        bench.write(&mut socket, &half);
        assert_eq!(what_came(&mut far), b"");
        bench.write(&mut socket, b"c");
        assert_eq!(what_came(&mut far), [&half[..], &half, b"c"].concat());
        bench.write(&mut socket, b"d");
        assert_eq!(what_came(&mut far), b"");
        bench.turn();
        assert_eq!(what_came(&mut far), b"d");
    }

    #[tokio::test]
    async fn a_large_write_our_end_and_letting_go_come_behind_what_was_put_off() {
        let bench = Bench::new();
        let (mut socket, mut far) = pair().await;
        bench.write(&mut socket, b"a");
        bench.write(&mut socket, &[b'b'; SMALL + 1]);
        assert_eq!(what_came(&mut far), [&b"a"[..], &[b'b'; SMALL + 1]].concat());
        bench.write(&mut socket, b"c");
        poll_fn(|cx| Pin::new(&mut socket).poll_shutdown(cx)).await.unwrap();
        assert_eq!(what_came(&mut far), b"c");
        assert_eq!(far.read(&mut [0]).unwrap(), 0);

        let (mut socket, mut far) = pair().await;
        bench.write(&mut socket, b"d");
        drop(socket);
        assert_eq!(what_came(&mut far), b"d");
    }

    #[tokio::test]
    async fn who_is_about_to_keep_the_thread_can_have_it_all_sent() {
        let bench = Bench::new();
        let (mut socket, mut far) = pair().await;
        bench.write(&mut socket, b"a");
        send_what_was_put_off();
        assert_eq!(what_came(&mut far), b"a");
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_is_sent_by_the_task_that_wrote_it() {
        let mut bench = Bench::new();
        let (mut socket, mut far) = pair().await;
        let (mut other, mut of_other) = pair().await;
        let mut wrote = Vec::new();
        while !socket.shared.owes.load(Relaxed) {
            assert_eq!(bench.task_woken.0.load(Relaxed), 0);
            // More than one, so that some is put off behind what is already owed.
            for _ in 0..FEW / 2 {
                let block = [u8::try_from(wrote.len() / SMALL % 251).unwrap(); SMALL - 1];
                bench.write(&mut socket, &block);
                wrote.extend_from_slice(&block);
                bench.write(&mut other, b"between");
            }
            bench.turn();
            assert_eq!(what_came(&mut of_other), b"betweenbetween");
        }
        assert!(bench.task_woken.0.load(Relaxed) > 0);
        assert!(bench.flush(&mut socket).is_pending());
        assert!(!socket.watch().is_settled());
        // Nothing new is taken before it.
        let more = Pin::new(&mut socket).poll_write(&mut Context::from_waker(&bench.task), b"more");
        assert!(more.is_pending());
        let mut came = Vec::new();
        while came.len() < wrote.len() {
            came.extend(what_came(&mut far));
            // So that the runtime hears of the room that there is now.
            tokio::task::yield_now().await;
            let _pending = bench.flush(&mut socket);
        }
        assert!(came == wrote);
        assert!(bench.flush(&mut socket).is_ready());
        bench.write(&mut socket, b"more");
        assert!(socket.watch().is_settled() && !socket.watch().has_failed());
        assert_eq!(what_came(&mut far), b"more");
    }

    #[tokio::test]
    async fn a_flush_tells_what_befell_a_write_that_was_put_off() {
        let mut bench = Bench::new();
        let (mut socket, far) = pair().await;
        bench.write(&mut socket, b"a");
        socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        assert!(bench.flush(&mut socket).is_ready());
        bench.turn();
        assert_eq!(bench.task_woken.0.load(Relaxed), 1);
        assert!(matches!(bench.flush(&mut socket), Poll::Ready(Err(_))));
        // Told once; what comes then is up to the kernel.
        assert!(matches!(bench.flush(&mut socket), Poll::Ready(Ok(()))));
        // Who looks from beside sees it still.
        assert!(socket.watch().has_failed());
    }
}
