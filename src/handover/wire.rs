//! What the two processes say to each other, and whom they believe.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::{socket_domain, socket_peercred, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, recvmsg, sendmsg,
};
use rustix::process::Uid;

/// Sends `words` with `descriptors` in one message.
pub(super) fn send(to: impl AsFd, words: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more listening sockets than can be handed over"));
    }
    let sent = sendmsg(to, &[IoSlice::new(words)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == words.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

/// The words and descriptors of one message.
pub(super) fn receive(from: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
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
pub(super) fn is_trusted(stream: impl AsFd) -> bool {
    let us = rustix::process::geteuid();
    socket_peercred(stream).is_ok_and(|peer| trusts(us, peer.uid))
}

fn trusts(us: Uid, peer: Uid) -> bool {
    peer == us || peer.is_root()
}

/// Whether it is a socket of TCP.
pub(super) fn is_tcp(socket: &OwnedFd) -> bool {
    let family = socket_domain(socket);
    socket_type(socket) == Ok(SocketType::STREAM)
        && (family == Ok(AddressFamily::INET) || family == Ok(AddressFamily::INET6))
}

/// Who we are, and the version of what follows.
pub(super) const HELLO: &[u8; 21] = b"unitgate handover 1\n\n";
pub(super) const READY: &[u8; 6] = b"ready\n";
pub(super) const YOURS: &[u8; 6] = b"yours\n";
pub(super) const TAKEN: &[u8; 6] = b"taken\n";

/// Most sockets in a message.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_user_and_root_are_trusted_even_by_root() {
        let [root, us, other] = [0, 1000, 1001].map(Uid::from_raw);
        assert!(trusts(us, us) && trusts(us, root) && trusts(root, root));
        assert!(!trusts(us, other) && !trusts(root, other));
    }
}
