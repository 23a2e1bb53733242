//! Datagrams with the address that they were sent to, and replies that come from there.
//!
//! A captured query was sent to any resolver, port 53, and arrives on our one socket. Its answer must come from
//! that address and port. The kernel tells the address ([`watch_destination`], [`receive`]). A reply from
//! another port than ours is written as a whole packet to a raw socket, which the node agent made: binding the
//! port instead would take a capability, and the port from the pod.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrLike, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::{io::Interest, net::UdpSocket};
use weft_model::{OriginalDst, PeerAddr};

const DATAGRAM_BYTES_MAX: usize = 65_535;
const TTL: u8 = 64;
const UDP: u8 = 17;
const UDP_HEADER_BYTES: usize = 8;

/// A datagram, from whom, and where it was meant to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) from: PeerAddr,
    pub(super) to: OriginalDst,
}

/// Raw sockets of the pod's namespace on which whole packets are written, one for each family.
#[derive(Debug, Default)]
pub struct RawReplies {
    pub v4: Option<OwnedFd>,
    pub v6: Option<OwnedFd>,
}

/// Asks the kernel for each datagram's destination.
pub(super) fn watch_destination(socket: &UdpSocket) -> io::Result<()> {
    match socket.local_addr()? {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true)?,
        SocketAddr::V6(_) => {
            setsockopt(socket, sockopt::Ipv6OrigDstAddr, &true)?;
            // For IPv4 on a socket of both families; one that is IPv6 only refuses it and needs none.
            let _ = setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true);
        }
    }
    Ok(())
}

/// Waits for a datagram. Cancel safe.
pub(super) async fn receive(socket: &UdpSocket) -> io::Result<Received> {
    socket
        .async_io(Interest::READABLE, || {
            let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
            let mut control = nix::cmsg_space!(libc::sockaddr_in6, libc::sockaddr_in);
            let mut into = [IoSliceMut::new(&mut bytes)];
            let fd = socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<SockaddrStorage>(fd, &mut into, Some(&mut control), flags)?;
            let from = message.address.as_ref().and_then(to_std);
            let to = message.cmsgs()?.find_map(|c| destination(&c));
            let (from, length) = (from.ok_or(io::ErrorKind::InvalidData)?, message.bytes);
            let to = to.map_or_else(|| socket.local_addr(), Ok)?;
            bytes.truncate(length);
            Ok(Received { bytes, from: PeerAddr::new(from), to: OriginalDst::new(to) })
        })
        .await
}

fn destination(control: &ControlMessageOwned) -> Option<SocketAddr> {
    match control {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => {
            let ip = Ipv4Addr::from(u32::from_be(to.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(to.sin_port)))
        }
        ControlMessageOwned::Ipv6OrigDstAddr(to) => {
            let ip = Ipv6Addr::from(to.sin6_addr.s6_addr);
            Some(SocketAddr::new(ip.into(), u16::from_be(to.sin6_port)))
        }
        _ => None,
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        AddressFamily::Inet => {
            address.as_sockaddr_in().map(|a| SocketAddr::new(a.ip().into(), a.port()))
        }
        AddressFamily::Inet6 => {
            address.as_sockaddr_in6().map(|a| SocketAddr::new(a.ip().into(), a.port()))
        }
        _ => None,
    }
}

/// Sends `bytes` to `to` as if from `from`. Does not wait: an answer that does not fit the buffer now is lost,
/// as any datagram may be.
pub(super) fn reply(
    socket: &UdpSocket,
    raw: &RawReplies,
    from: OriginalDst,
    to: PeerAddr,
    bytes: &[u8],
) -> io::Result<()> {
    let ours = socket.local_addr()?;
    if from.port() == ours.port() {
        return reply_from_address(socket, ours, from.ip(), to, bytes);
    }
    let raw = match from.ip() {
        IpAddr::V4(_) => raw.v4.as_ref(),
        IpAddr::V6(_) => raw.v6.as_ref(),
    };
    let Some(raw) = raw else {
        return Err(io::Error::other(format!("no raw socket to answer as {from}")));
    };
    let packet = packet(from, to, bytes)?;
    // The port in a raw socket's address means a protocol (and must be 0 or that, for IPv6).
    let to = SocketAddr::new(to.ip(), 0);
    rustix::net::sendto(raw.as_fd(), &packet, rustix::net::SendFlags::DONTWAIT, &to)?;
    Ok(())
}

/// From our own port and one of several addresses.
fn reply_from_address(
    socket: &UdpSocket,
    ours: SocketAddr,
    from: IpAddr,
    to: PeerAddr,
    bytes: &[u8],
) -> io::Result<()> {
    let (fd, iov, flags) = (socket.as_raw_fd(), [IoSlice::new(bytes)], MsgFlags::MSG_DONTWAIT);
    if ours.is_ipv4() || from.is_ipv4() && !ours.is_ipv4() {
        let IpAddr::V4(from) = from else {
            return Err(io::Error::other(format!("{from} cannot be answered from {ours}")));
        };
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(from).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let to = SockaddrStorage::from(if ours.is_ipv4() { to.0 } else { mapped(to.0) });
        sendmsg(fd, &iov, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&to))?;
        return Ok(());
    }
    let IpAddr::V6(from) = from else {
        return Err(io::Error::other(format!("{from} cannot be answered from {ours}")));
    };
    let info =
        libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
    let to = SockaddrStorage::from(to.0);
    sendmsg(fd, &iov, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&to))?;
    Ok(())
}

/// How a socket of both families names an IPv4 peer.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A whole UDP packet. The kernel fills in an IPv4 header's checksum and id.
fn packet(from: OriginalDst, to: PeerAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let too_long = |_| io::Error::other(format!("{} bytes do not fit a packet", bytes.len()));
    let length = u16::try_from(UDP_HEADER_BYTES + bytes.len()).map_err(too_long)?;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend_from_slice(&from.port().to_be_bytes());
    udp.extend_from_slice(&to.port().to_be_bytes());
    udp.extend_from_slice(&length.to_be_bytes());
    udp.extend_from_slice(&[0, 0]);
    udp.extend_from_slice(bytes);
    let (mut packet, pseudo) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(20 + usize::from(length)).map_err(too_long)?;
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&total.to_be_bytes());
            header.extend_from_slice(&[0, 0, 0, 0, TTL, UDP, 0, 0]);
            let addresses = [from.octets(), to.octets()].concat();
            header.extend_from_slice(&addresses);
            (header, addresses)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[UDP, TTL]);
            let addresses = [from.octets(), to.octets()].concat();
            header.extend_from_slice(&addresses);
            (header, addresses)
        }
        (from, to) => {
            return Err(io::Error::other(format!("{from} cannot answer {to}")));
        }
    };
    let sum = checksum(&[&pseudo, &[0, UDP], &length.to_be_bytes(), &udp]);
    if let Some(place) = udp.get_mut(6..8) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend_from_slice(&udp);
    Ok(packet)
}

/// RFC 1071. Every part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|word| match word {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            [high] => u32::from(*high) << 8,
            _ => 0,
        })
        .fold(0, |sum, word| {
            let sum = sum + word;
            (sum & 0xffff) + (sum >> 16)
        });
    sum = !sum & 0xffff;
    // 0 means "no checksum", which IPv6 forbids; RFC 768 sends all ones instead.
    u16::try_from(sum).ok().filter(|s| *s != 0).unwrap_or(0xffff)
}

#[cfg(test)]
mod tests;
