//! Unix sockets that keep message boundaries and carry descriptors.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, listen, recv, sendmsg, socket_with, sockopt,
};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Peers send packets of at most this many bytes, and so do we.
pub(super) const PACKET_MAX: usize = 1024;
/// Descriptors that the kernel lets pass in one message.
pub(super) const DESCRIPTORS_MAX: usize = 253;

const PROXIES_WAITING_MAX: i32 = 16;

/// Where proxies dial.
#[derive(Debug)]
pub(super) struct PacketListener(AsyncFd<OwnedFd>);

impl PacketListener {
    /// Nobody can connect before [`Self::listen`].
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(sys::watched(socket)?))
    }

    pub(super) fn listen(&self) -> io::Result<()> {
        Ok(listen(self.0.get_ref(), PROXIES_WAITING_MAX)?)
    }

    /// Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<PacketSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let mut ready = self.0.readable().await?;
            let accept = |fd: &AsyncFd<OwnedFd>| Ok(accept_with(fd.get_ref(), flags)?);
            if let Ok(accepted) = ready.try_io(accept) {
                return Ok(PacketSocket(sys::watched(accepted?)?));
            }
        }
    }
}

/// One peer.
#[derive(Debug)]
pub(super) struct PacketSocket(AsyncFd<OwnedFd>);

/// What came from a peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// One packet. Descriptors that came with it were closed: we take none.
    Packet(Vec<u8>),
    /// It hung up.
    End,
}

impl PacketSocket {
    /// The user that the peer runs as.
    pub(super) fn peer_uid(&self) -> io::Result<u32> {
        Ok(sockopt::socket_peercred(self.0.get_ref())?.uid.as_raw())
    }

    /// The peer's process.
    pub(super) fn peer_pid(&self) -> io::Result<i32> {
        Ok(sockopt::socket_peercred(self.0.get_ref())?.pid.as_raw_nonzero().get())
    }

    /// Cancel safe: a packet is taken whole or not at all.
    pub(super) async fn receive(&self) -> io::Result<Received> {
        let mut packet = [0; PACKET_MAX];
        loop {
            let mut ready = self.0.readable().await?;
            let result =
                ready.try_io(|fd| Ok(recv(fd.get_ref(), &mut packet[..], RecvFlags::TRUNC)?));
            let Ok(received) = result else { continue };
            let (_, length) = received?;
            return match packet.get(..length) {
                Some([]) => Ok(Received::End),
                Some(whole) => Ok(Received::Packet(whole.to_vec())),
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("packet of {length} bytes, at most {PACKET_MAX} are allowed"),
                )),
            };
        }
    }

    /// Sends one packet with descriptors. Cancel safe likewise.
    pub(super) async fn send(
        &self,
        packet: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        debug_assert!(packet.len() <= PACKET_MAX && descriptors.len() <= DESCRIPTORS_MAX);
        loop {
            let mut ready = self.0.writable().await?;
            let sent = ready.try_io(|fd| send_once(fd.get_ref().as_fd(), packet, descriptors));
            if let Ok(done) = sent {
                return done;
            }
        }
    }
}

fn send_once(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
