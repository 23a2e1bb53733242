//! Where things are.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Network;

/// An address that is unique only within its network. An IPv4-mapped IPv6 address is stored as IPv4.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NetworkAddress {
    pub network: Network,
    address: IpAddr,
}

impl NetworkAddress {
    pub fn new(network: Network, address: IpAddr) -> Self {
        Self { network, address: address.to_canonical() }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}

/// A range of addresses within a network.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NetworkCidr {
    pub network: Network,
    pub cidr: IpNet,
}

/// What the application asked to be connected to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OriginalDst(pub SocketAddr);

/// The other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddr(pub SocketAddr);

macro_rules! canonical {
    ($($name:ident),*) => {$(
        impl $name {
            /// Stores an IPv4-mapped IPv6 address as IPv4, so that one endpoint has one spelling.
            pub fn new(address: SocketAddr) -> Self {
                Self(SocketAddr::new(address.ip().to_canonical(), address.port()))
            }

            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }

            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
canonical!(OriginalDst, PeerAddr);
