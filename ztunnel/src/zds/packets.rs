//! Packets with descriptors, over a Unix `SOCK_SEQPACKET`.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with,
};
use tokio::io::{Interest, unix::AsyncFd};
use weft_xds::zds::PACKET_BYTES_MAX;

/// The kernel passes no more in one packet (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;

/// A connection that keeps the bounds of messages and carries descriptors with them.
#[derive(Debug)]
pub(super) struct Packets(AsyncFd<OwnedFd>);

impl Packets {
    /// A Unix connect does not wait: the agent's backlog takes it or refuses it.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        #[expect(deprecated, reason = "safe here: an OwnedFd keeps one descriptor for its life")]
        Ok(Self(AsyncFd::new(socket)?))
    }

    /// The next packet and its descriptors; `None` when the other side has closed. Cancel safe.
    pub(super) async fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, receive).await
    }

    /// Cancel safe: a packet is sent whole or not at all.
    pub(super) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let none = &mut SendAncillaryBuffer::default();
        let send = |socket: &OwnedFd| {
            Ok(sendmsg(socket, &[IoSlice::new(packet)], none, SendFlags::NOSIGNAL)?)
        };
        let mut send = send;
        self.0.async_io(Interest::WRITABLE, |socket| send(socket)).await.map(drop)
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = [0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        let text = format!(
            "a packet is longer than {PACKET_BYTES_MAX} bytes or {DESCRIPTORS_MAX} descriptors"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // No packet of the protocol is empty, so this is the end.
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((bytes.get(..received.bytes).unwrap_or_default().to_vec(), descriptors)))
}
