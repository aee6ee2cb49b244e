//! [`Offer`]: the sockets of the process that runs, for one that comes after.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use super::wire::{HELLO, READY, TAKEN, YOURS, is_trusted, send};
use crate::clock::Clock;
use crate::listener::ADMIN_SOCKET;
use crate::shutdown::Shutdown;
use crate::telemetry::Rarely;

/// The offer of our sockets to a process that comes after.
#[derive(Debug)]
pub struct Offer {
    found: oneshot::Receiver<Successor>,
    path: PathBuf,
    /// Where the offer is until it is at `path`.
    aside: Option<PathBuf>,
}

/// A process that serves our sockets, and waits to hear that we let go of them.
#[derive(Debug)]
pub struct Successor(Arc<UnixStream>);

impl Offer {
    /// Prepares to offer sockets at `path`, until draining begins; within a runtime. Nobody finds the offer
    /// before [`publish`](Self::publish).
    ///
    /// # Errors
    /// The path can't be listened on.
    pub fn at(
        path: &Path,
        public: &[TcpListener],
        admin: Option<&TcpListener>,
        clock: Clock,
        shutdown: &Shutdown,
    ) -> io::Result<Self> {
        let public = public.iter().map(|socket| Ok(("public", socket.try_clone()?)));
        let admin = admin.map(|socket| Ok((ADMIN_SOCKET, socket.try_clone()?)));
        let sockets = public.chain(admin).collect::<io::Result<Vec<_>>>()?;
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        // Of a process of the same number that died while it started.
        drop(std::fs::remove_file(&aside));
        let listener = UnixListener::bind(&aside)?;
        let (tell, found) = oneshot::channel();
        let end = shutdown.clone();
        let door = Door { listener, sockets: sockets.into(), clock, strangers: Rarely::new() };
        drop(shutdown.spawn(async move {
            let heir = tokio::select! {
                () = end.draining() => return,
                heir = door.wait() => Arc::new(heir),
            };
            drop(tell.send(Successor(Arc::clone(&heir))));
            // Until the path leads to it, those who ask are not to find nobody; nor is this process to end
            // before the service manager knows of the other one.
            drop(timeout(SETTLED, hung_up(&heir)).await);
        }));
        Ok(Self { found, path: path.to_owned(), aside: Some(aside) })
    }

    /// Moves the offer to its path, in place of what is there: there is never none.
    ///
    /// # Errors
    /// The path can't be had.
    pub fn publish(&mut self) -> io::Result<()> {
        if let Some(aside) = &self.aside {
            std::fs::rename(aside, &self.path)?;
        }
        self.aside = None;
        Ok(())
    }

    /// Where it is, once published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Resolves once another process serves our sockets. May be dropped and called again.
    pub async fn taken(&mut self) -> Successor {
        match (&mut self.found).await {
            Ok(successor) => successor,
            Err(_ended) => std::future::pending().await,
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(aside) = &self.aside {
            drop(std::fs::remove_file(aside));
        }
    }
}

impl Successor {
    /// Tells it that the sockets are its own now.
    pub fn release(self) {
        // It fails only for one that is gone, and then nobody serves: it has said that it did.
        self.0.try_write(YOURS).ok();
    }
}

/// Where processes ask for our sockets.
struct Door {
    listener: UnixListener,
    sockets: Arc<[(&'static str, TcpListener)]>,
    clock: Clock,
    /// Other users that were refused.
    strangers: Rarely,
}

impl Door {
    /// Gives the sockets to whoever asks, until one says that it serves them.
    async fn wait(&self) -> UnixStream {
        let mut askers = JoinSet::new();
        let (taken, over) = watch::channel(());
        let heir = loop {
            tokio::select! {
                asker = self.asker(), if askers.len() < MOST_ASKERS => {
                    askers.spawn(attend(asker, Arc::clone(&self.sockets), over.clone()));
                }
                attended = askers.join_next(), if !askers.is_empty() => {
                    if let Some(Ok(Some(heir))) = attended {
                        break heir;
                    }
                }
            }
        };
        drop(taken);
        while let Some(attended) = askers.join_next().await {
            if let Ok(Some(late)) = attended {
                late.try_write(TAKEN).ok();
            }
        }
        heir
    }

    /// The next one that may have them.
    async fn asker(&self) -> UnixStream {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors, most likely.
                tokio::time::sleep(REST).await;
                continue;
            };
            if is_trusted(&stream) {
                return stream;
            }
            if let Some(more) = self.strangers.due(self.clock.mono(), STRANGERS) {
                warn!(
                    suppressed = more,
                    "another user's process asked for the listening sockets; refused"
                );
            }
        }
    }
}

/// Gives `sockets` to the process behind `stream`; it is returned when it serves them, or waited to when that
/// was `over`.
async fn attend(
    mut stream: UnixStream,
    sockets: Arc<[(&'static str, TcpListener)]>,
    mut over: watch::Receiver<()>,
) -> Option<UnixStream> {
    let given = tokio::select! {
        given = timeout(HELLO_TIME, give(&mut stream, &sockets)) => given,
        _ = over.changed() => return None,
    };
    if let Err(error) = given.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
        warn!(%error, "somebody at listen.handover did not ask as a new process does");
        return None;
    }
    let ready = tokio::select! {
        ready = timeout(START, ready(&mut stream)) => ready,
        _ = over.changed() => return Some(stream),
    };
    match ready {
        Ok(Ok(())) => return Some(stream),
        Ok(Err(error)) => warn!(%error, "a new process did not take over; serving goes on here"),
        Err(_) => warn!("a new process took too long to take over; serving goes on here"),
    }
    None
}

/// Hears the process behind `stream` ask, and gives it `sockets`.
async fn give(stream: &mut UnixStream, sockets: &[(&'static str, TcpListener)]) -> io::Result<()> {
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello).await?;
    if hello != *HELLO {
        return Err(ErrorKind::InvalidData.into());
    }
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let words = [HELLO, names.join(" ").as_bytes()].concat();
    let descriptors: Vec<BorrowedFd<'_>> =
        sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    stream.async_io(Interest::WRITABLE, || send(&*stream, &words, &descriptors)).await
}

/// Waits until the process behind `stream` says that it serves.
async fn ready(stream: &mut UnixStream) -> io::Result<()> {
    let mut ready = [0; READY.len()];
    stream.read_exact(&mut ready).await?;
    if ready == *READY { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Waits until the other side hangs up.
async fn hung_up(stream: &UnixStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(1..) => {}
            _ => return,
        }
    }
}

/// Most processes that are attended to at once.
const MOST_ASKERS: usize = 16;

/// Longest wait for the first word of a new process.
const HELLO_TIME: Duration = Duration::from_secs(1);

/// Longest wait for a new process to serve.
const START: Duration = Duration::from_secs(30);

/// Longest wait for a new process to be known to all once it serves.
const SETTLED: Duration = Duration::from_secs(1);

/// Rest after a failed accept.
const REST: Duration = Duration::from_millis(100);

/// Refusals are told this often at most.
const STRANGERS: Duration = Duration::from_secs(10);
