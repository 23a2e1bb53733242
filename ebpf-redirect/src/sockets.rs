//! Sockets of a pod's namespace, made for the proxy so that it needs no capability.
//!
//! Everything here acts on the namespace of the calling thread; call it inside [`crate::netns::Netns::run`].

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use weft_redirect_abi::{BYPASS_MARK, CAPTURE_MARK, Family, LISTEN_V4, LISTEN_V6, Slot};
use weft_xds::zds::SocketKind;

use crate::netlink::DnsCapture;
use crate::sys;

/// Connections that may wait for a proxy; the kernel caps it at the pod's `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// As ztunnel's: a peer that vanished is noticed after half an hour.
const KEEPALIVE: Duration = Duration::from_mins(3);
const KEEPALIVE_PROBES: u32 = 9;

const IP_RECVORIGDSTADDR: libc::c_int = 20;
const IPV6_RECVORIGDSTADDR: libc::c_int = 74;

/// A socket that captured traffic is steered to.
#[derive(Debug)]
pub struct Listener {
    kind: SocketKind,
    slot: Slot,
    family: Family,
    socket: Socket,
}

impl Listener {
    /// What the proxy calls it.
    pub fn kind(&self) -> SocketKind {
        self.kind
    }

    /// What is steered to it.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The packets' family.
    pub fn family(&self) -> Family {
        self.family
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

// aya's typed maps ask for it.
impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What listens in a pod. The ports are Istio's, for whoever looks with `ss`; nobody can dial them.
const LISTENERS: [(Slot, u16, SocketKind, SocketKind); 5] = [
    (Slot::Outbound, 15001, SocketKind::OutboundV4, SocketKind::OutboundV6),
    (Slot::InboundPlaintext, 15006, SocketKind::InboundPlaintextV4, SocketKind::InboundPlaintextV6),
    (Slot::Hbone, 15008, SocketKind::HboneV4, SocketKind::HboneV6),
    (Slot::DnsUdp, 15053, SocketKind::DnsUdpV4, SocketKind::DnsUdpV6),
    (Slot::DnsTcp, 15053, SocketKind::DnsTcpV4, SocketKind::DnsTcpV6),
];

/// Opens the listeners of a pod; those of IPv4 only, on a machine without IPv6.
///
/// Those that are open are kept, with what waits in them, as far as they are still needed.
pub fn listen(dns: DnsCapture, open: &[Listener]) -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for (slot, port, v4, v6) in LISTENERS {
        if dns == DnsCapture::Off && matches!(slot, Slot::DnsUdp | Slot::DnsTcp) {
            continue;
        }
        for (family, kind) in [(Family::V4, v4), (Family::V6, v6)] {
            let kept = open.iter().find(|one| one.kind == kind);
            let listening =
                kept.map_or_else(|| listener(slot, family, port), |one| one.socket.try_clone());
            match listening {
                Ok(socket) => listeners.push(Listener { kind, slot, family, socket }),
                Err(error)
                    if family == Family::V6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(listeners)
}

fn listener(slot: Slot, family: Family, port: u16) -> io::Result<Socket> {
    let socket = match slot {
        Slot::DnsUdp => dns_socket(family)?,
        Slot::Outbound | Slot::InboundPlaintext | Slot::Hbone | Slot::DnsTcp => tcp(family)?,
    };
    bind(&socket, family, port)?;
    if slot != Slot::DnsUdp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Binds to the address that nobody can dial. If the pod's program has the port, any other does as well.
fn bind(socket: &Socket, family: Family, port: u16) -> io::Result<()> {
    let ip = match family {
        Family::V4 => Ipv4Addr::from(LISTEN_V4).into(),
        Family::V6 => Ipv6Addr::from(LISTEN_V6).into(),
    };
    let wanted = SocketAddr::new(ip, port);
    match socket.bind(&wanted.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            socket.bind(&SocketAddr::new(ip, 0).into())
        }
        done => done,
    }
}

fn tcp(family: Family) -> io::Result<Socket> {
    let socket = open(family, Type::STREAM, Some(Protocol::TCP))?;
    // A restarted agent listens beside the old listeners that the proxy still has.
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    transparent(&socket, family)?;
    // Accepted sockets inherit these.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    Ok(socket)
}

/// Each datagram comes with the address that was asked.
fn dns_socket(family: Family) -> io::Result<Socket> {
    let socket = open(family, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    transparent(&socket, family)?;
    match family {
        Family::V4 => {
            sys::set_option(&socket, libc::SOL_IP, libc::IP_PKTINFO, 1)?;
            sys::set_option(&socket, libc::SOL_IP, IP_RECVORIGDSTADDR, 1)?;
        }
        Family::V6 => {
            sys::set_option(&socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            sys::set_option(&socket, libc::SOL_IPV6, IPV6_RECVORIGDSTADDR, 1)?;
        }
    }
    Ok(socket)
}

/// Why no socket of a kind can be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Listeners are sent with the pod, not by request.
    #[error("sockets of kind {0:?} are not made on request")]
    Kind(SocketKind),
    /// The kernel refused.
    #[error("a socket of kind {kind:?} cannot be made")]
    Make {
        /// Which.
        kind: SocketKind,
        /// Why.
        source: io::Error,
    },
}

/// Makes unconnected sockets for the proxy.
pub fn batch(kind: SocketKind, count: usize) -> Result<Vec<OwnedFd>, SocketError> {
    let family = match kind {
        SocketKind::ConnectV4
        | SocketKind::DeliverV4
        | SocketKind::UdpV4
        | SocketKind::DnsReplyV4 => Family::V4,
        SocketKind::ConnectV6
        | SocketKind::DeliverV6
        | SocketKind::UdpV6
        | SocketKind::DnsReplyV6 => Family::V6,
        SocketKind::Unspecified
        | SocketKind::OutboundV4
        | SocketKind::OutboundV6
        | SocketKind::InboundPlaintextV4
        | SocketKind::InboundPlaintextV6
        | SocketKind::HboneV4
        | SocketKind::HboneV6
        | SocketKind::DnsUdpV4
        | SocketKind::DnsUdpV6
        | SocketKind::DnsTcpV4
        | SocketKind::DnsTcpV6 => return Err(SocketError::Kind(kind)),
    };
    (0..count)
        .map(|_| one(kind, family).map(OwnedFd::from))
        .collect::<io::Result<_>>()
        .map_err(|source| SocketError::Make { kind, source })
}

fn one(kind: SocketKind, family: Family) -> io::Result<Socket> {
    match kind {
        SocketKind::DeliverV4 | SocketKind::DeliverV6 => deliver(family),
        SocketKind::UdpV4 | SocketKind::UdpV6 => {
            let socket = open(family, Type::DGRAM, Some(Protocol::UDP))?;
            // Else its queries would be captured, and come back to the proxy.
            socket.set_mark(BYPASS_MARK)?;
            Ok(socket)
        }
        SocketKind::DnsReplyV4 | SocketKind::DnsReplyV6 => {
            open(family, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        }
        _ => outgoing(family),
    }
}

/// To dial out of the pod, with the pod's own address.
fn outgoing(family: Family) -> io::Result<Socket> {
    let socket = open(family, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// To reach the pod's program with the client's address: the answers stay in the pod by the mark.
fn deliver(family: Family) -> io::Result<Socket> {
    let socket = outgoing(family)?;
    transparent(&socket, family)?;
    socket.set_mark(CAPTURE_MARK)?;
    // The port is chosen at connect, per destination: the same client may have many connections.
    sys::set_option(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    Ok(socket)
}

fn open(family: Family, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, kind.nonblocking(), protocol)?;
    if family == Family::V6 && kind != Type::RAW {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn transparent(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => sys::set_option(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
        Family::V6 => sys::set_option(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}
