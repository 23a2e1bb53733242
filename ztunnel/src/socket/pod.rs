//! A pod's sockets, of whichever maker.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use weft_xds::zds::SocketKind;
use ztunnel_core::Bind;

use crate::dns::{RawReplies, Upstreams};

use super::{
    AgentSockets, KernelListener, Netns, SocketError, Sockets, TcpEnd, netns::Transparency,
};

/// Who makes the sockets of a pod. Cheap to clone.
#[derive(Clone, Debug)]
pub enum PodSockets {
    /// Our node agent passes them.
    Agent(Arc<AgentSockets>),
    /// A stock istio-cni passes only the namespace; the proxy then needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    Netns(Arc<Netns>),
}

impl Sockets for PodSockets {
    type Stream = TcpEnd;
    type Listener = KernelListener;

    async fn connect(&self, to: SocketAddr) -> Result<TcpEnd, SocketError> {
        self.dial(to).await.map(TcpEnd::new)
    }

    async fn deliver(&self, bind: Bind, to: SocketAddr) -> Result<TcpEnd, SocketError> {
        let socket = match self {
            Self::Agent(agent) => match to {
                SocketAddr::V4(_) => agent.take(SocketKind::DeliverV4).await?,
                SocketAddr::V6(_) => agent.take(SocketKind::DeliverV6).await?,
            },
            Self::Netns(netns) => made(netns, to, Transparency::Transparent)?,
        };
        let from = match bind {
            Bind::Client(ip) if ip.is_ipv4() == to.is_ipv4() => Some(SocketAddr::new(ip, 0)),
            // An address of the other family cannot be bound; the application then sees the pod's own.
            // For loopback the kernel picks loopback.
            Bind::Client(_) | Bind::Any | Bind::Loopback => None,
        };
        connect(socket, from, to).await.map(TcpEnd::new)
    }
}

impl PodSockets {
    async fn dial(&self, to: SocketAddr) -> Result<TcpStream, SocketError> {
        let socket = match self {
            Self::Agent(agent) => match to {
                SocketAddr::V4(_) => agent.take(SocketKind::ConnectV4).await?,
                SocketAddr::V6(_) => agent.take(SocketKind::ConnectV6).await?,
            },
            Self::Netns(netns) => made(netns, to, Transparency::None)?,
        };
        connect(socket, None, to).await
    }

    /// What writes whole packets, so that a DNS answer comes from the resolver that was asked. None where the agent
    /// makes none; queries that were sent to another resolver's address then get no answer of ours over UDP.
    pub async fn raw_replies(&self) -> RawReplies {
        match self {
            Self::Agent(agent) => RawReplies {
                v4: agent.take(SocketKind::DnsReplyV4).await.ok(),
                v6: agent.take(SocketKind::DnsReplyV6).await.ok(),
            },
            Self::Netns(_) => RawReplies::default(),
        }
    }
}

impl Upstreams for PodSockets {
    async fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = match self {
            Self::Agent(agent) => {
                let kind = match to {
                    SocketAddr::V4(_) => SocketKind::UdpV4,
                    SocketAddr::V6(_) => SocketKind::UdpV6,
                };
                agent.take(kind).await.map_err(io::Error::other)?
            }
            Self::Netns(netns) => netns.asker(to)?,
        };
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
        socket.connect(to).await?;
        Ok(socket)
    }

    async fn tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.dial(to).await.map_err(io::Error::other)
    }
}

fn made(netns: &Netns, to: SocketAddr, kind: Transparency) -> Result<OwnedFd, SocketError> {
    netns.socket(to, kind).map(OwnedFd::from).map_err(SocketError::NoSocket)
}

async fn connect(
    socket: OwnedFd,
    from: Option<SocketAddr>,
    to: SocketAddr,
) -> Result<TcpStream, SocketError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    if let Some(from) = from {
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("cannot bind the client's address {from}: {error}"),
            )
        };
        socket.bind(from).map_err(|error| SocketError::NoSocket(named(error)))?;
    }
    socket.connect(to).await.map_err(SocketError::Connect)
}
