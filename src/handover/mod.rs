//! A new process takes over the listening sockets of the one that runs, without a failed request.
//!
//! ```text
//!  new ── connects to listen.handover, says HELLO ──────► old
//!      ◄── HELLO with the sockets' names, and the sockets ──
//!      ── "ready", once it can accept ──────────────────►
//!      ◄── "yours" ── old accepts no more ─────────────────      or "taken": another one was first
//!         accepts from the same backlog
//!      ── moves its own socket to listen.handover, ─────►
//!         tells the service manager, hangs up                   old may exit
//! ```
//!
//! *Invariants*
//! 1. The sockets themselves pass, so that no connection waits in a backlog that is closed.
//! 2. Until a new process has said that it serves, the old one goes on as if nothing had happened.
//! 3. Only a process of the same user, or root's, gets sockets, and only from such a one are they taken.
//! 4. Several may ask at once, and none waits for another; the first that serves takes over.
//! 5. The path leads to a process that serves: it moves once the old one has let go, and who asks that one in
//!    between is turned away and asks again.
//!
//! *Why not only `SO_REUSEPORT`:* each process has a backlog of its own then, and what waits in the old one's
//! is reset when it closes.

mod offer;
mod wire;

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::listener::{Given, GivenError};

pub use offer::{Offer, Successor};

use wire::{HELLO, READY, TAKEN, YOURS, is_tcp, is_trusted, receive};

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

/// Why the process before did not say that it let go.
#[derive(Debug, thiserror::Error)]
pub enum RelieveError {
    /// Another new process was faster, and serves.
    #[error("another new process took over the listening sockets first")]
    Taken,
    /// It is gone, or does not answer: it may go on serving beside this process.
    #[error(transparent)]
    Silent(#[from] io::Error),
}

/// A process that has given its sockets and waits to hear that they are served. It does not exit before
/// this is dropped, or a second has passed.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Asks the process that listens at `path` for its sockets; `None` where there is none.
    ///
    /// # Errors
    /// There is one, and it did not give them.
    pub fn ask(path: &Path) -> Result<Option<(Self, Given)>, HandoverError> {
        let failed = |cause| HandoverError::Socket { path: path.to_owned(), cause };
        for _ in 0..ASKED {
            let stream = match UnixStream::connect(path) {
                Ok(stream) => stream,
                Err(error) if is_nobody(&error) => return Ok(None),
                Err(cause) => return Err(failed(cause)),
            };
            stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
            if !is_trusted(&stream) {
                return Err(HandoverError::Stranger(path.to_owned()));
            }
            match hello(&stream) {
                Ok((words, sockets)) if !words.is_empty() => {
                    let given = taken(path, &words, sockets)?;
                    return Ok(Some((Self(stream), given)));
                }
                Err(error) if !has_hung_up(&error) => return Err(failed(error)),
                // It has just let go of its sockets: whoever has them is there, or about to be.
                _ => {}
            }
        }
        Err(HandoverError::Version(path.to_owned()))
    }

    /// Tells that its sockets are served here; returns once it has let go of them.
    ///
    /// # Errors
    /// Another process is to serve them, or the one before does not say that it let go.
    pub fn relieve(&mut self) -> Result<(), RelieveError> {
        // What was said before it hung up can still be heard.
        let told = self.0.write_all(READY);
        let mut answer = [0; YOURS.len()];
        let heard = self.0.read_exact(&mut answer);
        heard.map_err(|error| told.err().unwrap_or(error))?;
        match &answer {
            YOURS => Ok(()),
            TAKEN => Err(RelieveError::Taken),
            _ => Err(io::Error::from(ErrorKind::InvalidData).into()),
        }
    }
}

/// Asks for sockets, and hears the answer; no words when the other side hung up.
fn hello(mut stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    stream.write_all(HELLO)?;
    receive(stream)
}

/// The sockets out of the answer of the process at `path`.
fn taken(path: &Path, words: &[u8], sockets: Vec<OwnedFd>) -> Result<Given, HandoverError> {
    let names = words.strip_prefix(HELLO).and_then(|names| std::str::from_utf8(names).ok());
    let names: Vec<&str> = names.unwrap_or_default().split_ascii_whitespace().collect();
    let sockets: Vec<TcpListener> =
        sockets.into_iter().filter(is_tcp).map(TcpListener::from).collect();
    if names.is_empty() || names.len() != sockets.len() {
        return Err(HandoverError::Version(path.to_owned()));
    }
    Ok(Given::named(names.into_iter().zip(sockets))?)
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

fn has_hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// How often a process is asked that hangs up, or whoever is there in its place.
const ASKED: usize = 3;

/// Longest wait for an answer of the old process.
const PATIENCE: Duration = Duration::from_secs(5);
