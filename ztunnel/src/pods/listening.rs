//! Where a pod's connections and DNS queries come in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use weft_xds::zds::SocketKind;

use crate::{
    dns,
    socket::{Capture, Netns},
    threads::Door,
    worker::Entrance,
};

/// Istio's ports, where a stock istio-cni's rules lead to.
const OUTBOUND: u16 = 15001;
const INBOUND_PLAINTEXT: u16 = 15006;
const HBONE: u16 = 15008;
const DNS: u16 = 15053;

/// A pod's listening sockets.
#[derive(Debug, Default)]
pub(super) struct Listening {
    pub(super) doors: Vec<Door>,
    pub(super) names: dns::Sockets,
}

impl Listening {
    /// Those that the agent opened: its redirect leaves the destination in the socket's own address.
    pub(super) fn passed(sockets: Vec<(SocketKind, OwnedFd)>) -> Self {
        let mut listening = Self::default();
        for (kind, socket) in sockets {
            let entrance = match kind {
                SocketKind::OutboundV4 | SocketKind::OutboundV6 => Entrance::Outbound,
                SocketKind::InboundPlaintextV4 | SocketKind::InboundPlaintextV6 => {
                    Entrance::Plaintext
                }
                SocketKind::HboneV4 | SocketKind::HboneV6 => Entrance::Hbone,
                SocketKind::DnsUdpV4 | SocketKind::DnsUdpV6 => {
                    listening.names.udp.push(socket.into());
                    continue;
                }
                SocketKind::DnsTcpV4 | SocketKind::DnsTcpV6 => {
                    listening.names.tcp.push(socket.into());
                    continue;
                }
                // Of a newer agent, or not for listening: closing it is all that can be done.
                _ => continue,
            };
            listening.doors.push(Door { entrance, capture: Capture::LocalAddress, socket });
        }
        listening
    }

    /// Those of a pod whose agent passes none: iptables rewrites destinations to these.
    pub(super) fn open(netns: &Netns) -> io::Result<Self> {
        let mut listening = Self::default();
        for (entrance, port, capture) in [
            (Entrance::Outbound, OUTBOUND, Capture::Conntrack),
            (Entrance::Plaintext, INBOUND_PLAINTEXT, Capture::Conntrack),
            (Entrance::Hbone, HBONE, Capture::LocalAddress),
        ] {
            let v4 = netns.listen(at(Ipv4Addr::UNSPECIFIED, port))?;
            let v6 = if_there(netns.listen(at(Ipv6Addr::UNSPECIFIED, port)))?;
            let doors = [Some(v4), v6].into_iter().flatten();
            listening.doors.extend(doors.map(|socket| Door { entrance, capture, socket }));
        }
        listening.names.udp.push(netns.datagrams(at(Ipv4Addr::LOCALHOST, DNS))?.into());
        listening.names.tcp.push(netns.listen(at(Ipv4Addr::LOCALHOST, DNS))?.into());
        if let Some(socket) = if_there(netns.datagrams(at(Ipv6Addr::LOCALHOST, DNS)))? {
            listening.names.udp.push(socket.into());
            listening.names.tcp.push(netns.listen(at(Ipv6Addr::LOCALHOST, DNS))?.into());
        }
        Ok(listening)
    }
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// A pod without IPv6 has nothing to be reached at.
fn if_there(socket: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    let without = |error: &io::Error| {
        error.kind() == io::ErrorKind::AddrNotAvailable
            || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
    };
    match socket {
        Err(error) if without(&error) => Ok(None),
        other => other.map(Some),
    }
}
