//! The next hop: what is to be dialled, and how.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_model::{Identity, PeerAddr, TunnelProtocol};

use crate::{Authority, Delivery, Endpoint, HBONE_PORT, Inbound, Permit, Reach};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Bytes in the clear, to what is not in the mesh.
    Plaintext { to: Reach },
    /// One CONNECT over mutual TLS. The peer must prove one of `expect`.
    Hbone { carrier: Carrier, via: Reach, authority: Authority, expect: Vec<Identity> },
    /// A tunnel within a tunnel, through the gateway of another network. The same authority goes to both ends.
    Nested {
        via: Reach,
        authority: Authority,
        expect_gateway: Vec<Identity>,
        expect: Vec<Identity>,
    },
    /// To the application in the pod of this node.
    Deliver { to: PeerAddr, bind: Bind, preamble: Preamble },
}

/// What carries a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Carrier {
    Tcp,
}

/// The source address that the application sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bind {
    /// The client's own, by a transparent socket, with any port.
    Client(IpAddr),
    /// Whatever the kernel picks: the client is this pod itself.
    Any,
    Loopback,
}

/// What the application reads before the client's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Preamble {
    None,
    /// A PROXY protocol v2 header; `identity` goes into TLV 0xD0.
    ProxyV2 {
        source: PeerAddr,
        destination: PeerAddr,
        identity: Option<Identity>,
    },
}

/// Turns a chosen endpoint into what to dial. The permit is the proof that it may be asked.
pub fn next_hop(_proof: &Permit, endpoint: &Endpoint) -> Hop {
    match endpoint {
        Endpoint::Local(inbound) => deliver(inbound),
        Endpoint::Outside { to } => Hop::Plaintext { to: Reach::At(*to) },
        Endpoint::Workload { workload, at, expect } => match workload.tunnel {
            TunnelProtocol::None => Hop::Plaintext { to: at.clone() },
            TunnelProtocol::Hbone => Hop::Hbone {
                carrier: Carrier::Tcp,
                via: at.with_port(HBONE_PORT),
                authority: at.authority(),
                expect: expect.clone(),
            },
        },
        Endpoint::Waypoint { via, authority, expect, .. } => Hop::Hbone {
            carrier: Carrier::Tcp,
            via: via.clone(),
            authority: authority.clone(),
            expect: expect.clone(),
        },
        Endpoint::Remote { via, authority, expect_gateway, expect, .. } => Hop::Nested {
            via: via.clone(),
            authority: authority.clone(),
            expect_gateway: expect_gateway.clone(),
            expect: expect.clone(),
        },
    }
}

fn deliver(inbound: &Inbound) -> Hop {
    match &inbound.delivery {
        Delivery::Bytes => {
            // A pod that calls itself cannot bind its own address transparently: the kernel would take the
            // two ends for one socket.
            let own = inbound.from.ip() == inbound.to.ip();
            let bind = if own { Bind::Any } else { Bind::Client(inbound.from.ip()) };
            Hop::Deliver { to: inbound.to, bind, preamble: Preamble::None }
        }
        Delivery::ProxyHeader { destination } => {
            let loopback: IpAddr = match inbound.to.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            Hop::Deliver {
                to: PeerAddr(SocketAddr::new(loopback, inbound.to.port())),
                bind: Bind::Loopback,
                preamble: Preamble::ProxyV2 {
                    source: inbound.from,
                    destination: *destination,
                    identity: inbound.peer.identity().cloned(),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
