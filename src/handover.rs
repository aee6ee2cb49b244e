//! A new process takes over the listening sockets of the one that runs, without a failed request.
//!
//! ```text
//!  new ── connects to listen.handover, says HELLO ──────► old
//!      ◄── HELLO with the sockets' names, and the sockets ──
//!      ── "ready", once it serves ──────────────────────►       from here both accept from one backlog
//!      ◄── "yours" ── old closes its own, and leaves ──────
//! ```
//!
//! *Invariants*
//! 1. The sockets themselves pass, so that no connection waits in a backlog that is closed.
//! 2. Until the new process has said that it serves, the old one goes on as if nothing had happened.
//! 3. Only a process of the same user, or root's, gets sockets, and only from such a one are they taken.
//!
//! *Why not only `SO_REUSEPORT`:* each process has a backlog of its own then, and what waits in the old one's
//! is reset when it closes.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{socket_domain, socket_peercred, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

use crate::listener::{ADMIN_SOCKET, Given, GivenError};
use crate::shutdown::Shutdown;

/// Why sockets could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The unix socket can't be used.
    #[error("listen.handover {path}: {cause}; check the path, its folder and its owner")]
    Socket {
        /// As configured.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// Whoever listens there is another user's process.
    #[error(
        "listen.handover {0}: another user's process listens there; choose a folder of our own"
    )]
    Stranger(PathBuf),
    /// The process there speaks another version of this, or stopped half-way.
    #[error(
        "listen.handover {0}: the process there does not hand over as this version does; stop it, then start this one"
    )]
    Version(PathBuf),
    /// What it gave can't be used.
    #[error(transparent)]
    Given(#[from] GivenError),
}

/// A process that has given its sockets and waits to hear that they are served.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Asks the process that listens at `path` for its sockets; `None` where there is none.
    ///
    /// # Errors
    /// There is one, and it did not give them.
    pub fn ask(path: &Path) -> Result<Option<(Self, Given)>, HandoverError> {
        let failed = |cause| HandoverError::Socket { path: path.to_owned(), cause };
        let mut stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(cause) => return Err(failed(cause)),
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        if !is_trusted(&stream) {
            return Err(HandoverError::Stranger(path.to_owned()));
        }
        stream.write_all(HELLO).map_err(failed)?;
        let (words, sockets) = receive(&stream).map_err(failed)?;
        let names = words.strip_prefix(HELLO).and_then(|names| std::str::from_utf8(names).ok());
        let names: Vec<&str> = names.unwrap_or_default().split_ascii_whitespace().collect();
        let sockets: Vec<TcpListener> =
            sockets.into_iter().filter(is_tcp).map(TcpListener::from).collect();
        if names.is_empty() || names.len() != sockets.len() {
            return Err(HandoverError::Version(path.to_owned()));
        }
        let given = Given::named(names.into_iter().zip(sockets))?;
        Ok(Some((Self(stream), given)))
    }

    /// Tells that its sockets are served here; returns once it has let go of them.
    ///
    /// # Errors
    /// It is gone, or does not answer: it may go on serving beside this process.
    pub fn relieve(mut self) -> io::Result<()> {
        self.0.write_all(READY)?;
        let mut answer = [0; YOURS.len()];
        self.0.read_exact(&mut answer)?;
        if answer == *YOURS { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }
}

/// The offer of our sockets to a process that comes after.
#[derive(Debug)]
pub struct Offer(oneshot::Receiver<Successor>);

/// A process that serves our sockets, and waits to hear that we let go of them.
#[derive(Debug)]
pub struct Successor(tokio::net::UnixStream);

impl Offer {
    /// Offers sockets at `path`, in place of what is there, until draining begins; within a runtime.
    ///
    /// # Errors
    /// The path can't be listened on.
    pub fn at(
        path: &Path,
        public: &[TcpListener],
        admin: Option<&TcpListener>,
        shutdown: &Shutdown,
    ) -> io::Result<Self> {
        let public = public.iter().map(|socket| Ok(("public", socket.try_clone()?)));
        let admin = admin.map(|socket| Ok((ADMIN_SOCKET, socket.try_clone()?)));
        let sockets = public.chain(admin).collect::<io::Result<Vec<_>>>()?;
        // A new socket under another name, moved over the old one: there is never none.
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        let listener = UnixListener::bind(&aside)?;
        std::fs::rename(&aside, path)?;
        let (found, offer) = oneshot::channel();
        let end = shutdown.clone();
        drop(shutdown.spawn(async move {
            tokio::select! {
                () = end.draining() => {}
                successor = wait(&listener, &sockets) => drop(found.send(successor)),
            }
        }));
        Ok(Self(offer))
    }

    /// Resolves once another process serves our sockets. May be dropped and called again.
    pub async fn taken(&mut self) -> Successor {
        match (&mut self.0).await {
            Ok(successor) => successor,
            Err(_ended) => std::future::pending().await,
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

/// Gives `sockets` to whoever asks, until one says that it serves them.
async fn wait(listener: &UnixListener, sockets: &[(&'static str, TcpListener)]) -> Successor {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely.
            tokio::time::sleep(REST).await;
            continue;
        };
        if !is_trusted(&stream) {
            warn!("another user's process asked for the listening sockets; refused");
            continue;
        }
        match timeout(START, give(stream, sockets)).await {
            Ok(Ok(successor)) => return successor,
            Ok(Err(error)) => {
                warn!(%error, "a new process did not take over; serving goes on here");
            }
            Err(_) => warn!("a new process took too long to take over; serving goes on here"),
        }
    }
}

/// Gives `sockets` to the process behind `stream`, and waits until it serves them.
async fn give(
    mut stream: tokio::net::UnixStream,
    sockets: &[(&'static str, TcpListener)],
) -> io::Result<Successor> {
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello).await?;
    if hello != *HELLO {
        return Err(ErrorKind::InvalidData.into());
    }
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let words = [HELLO, names.join(" ").as_bytes()].concat();
    let descriptors: Vec<BorrowedFd<'_>> =
        sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    stream.async_io(Interest::WRITABLE, || send(&stream, &words, &descriptors)).await?;
    let mut ready = [0; READY.len()];
    stream.read_exact(&mut ready).await?;
    if ready == *READY { Ok(Successor(stream)) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Sends `words` with `descriptors` in one message.
fn send(to: impl AsFd, words: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more listening sockets than can be handed over"));
    }
    let sent = sendmsg(to, &[IoSlice::new(words)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == words.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

/// The words and descriptors of one message.
fn receive(from: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut words = vec![0; 4096];
    let mut slices = [IoSliceMut::new(&mut words)];
    let length = recvmsg(from, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    words.truncate(length);
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((words, descriptors.flatten().collect()))
}

/// Whether the other side runs as our user, or as root.
fn is_trusted(stream: impl AsFd) -> bool {
    let us = rustix::process::geteuid();
    socket_peercred(stream).is_ok_and(|peer| peer.uid == us || peer.uid.is_root())
}

fn is_tcp(socket: &OwnedFd) -> bool {
    let family = socket_domain(socket);
    socket_type(socket) == Ok(SocketType::STREAM)
        && (family == Ok(AddressFamily::INET) || family == Ok(AddressFamily::INET6))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Who we are, and the version of what follows.
const HELLO: &[u8; 21] = b"unitgate handover 1\n\n";
const READY: &[u8; 6] = b"ready\n";
const YOURS: &[u8; 6] = b"yours\n";

/// Most sockets in a message.
const MOST: usize = 64;

/// Longest wait for an answer of the old process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for a new process to serve.
const START: Duration = Duration::from_secs(30);

/// Rest after a failed accept.
const REST: Duration = Duration::from_millis(100);
