//! The only door to the network: what a stream must be able to do, and who makes a pod's sockets.
//!
//! Everything above (inbound, outbound, tunnel, relay) is generic over [`Sockets`], so the same code runs on the
//! kernel's TCP and, in a simulation, on in-memory pipes under paused time.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};
use weft_model::{OriginalDst, PeerAddr};
use ztunnel_core::Bind;

mod agent;
mod kernel;
mod netns;
mod pod;

pub use agent::{AgentSockets, Need};
pub use kernel::{Capture, KernelListener, TcpEnd};
pub use netns::Netns;
pub use pod::PodSockets;

/// A connection's byte stream. A read or write that fails with `ConnectionReset` means that the peer reset it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// From now on dropping the stream tells the peer RST instead of FIN.
    fn reset_on_drop(&mut self);

    /// Ready once the peer has reset the connection, also while nothing is being read or written.
    /// May never become ready where the transport cannot tell.
    fn poll_peer_reset(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A connection just accepted, and between whom.
#[derive(Debug)]
pub struct Accepted<S> {
    pub stream: S,
    pub peer: PeerAddr,
    /// Where the caller meant to go: the pod's own address for inbound, anything for outbound.
    pub to: OriginalDst,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Ours or the node agent's fault: the destination was not even asked.
    #[error("no socket")]
    NoSocket(#[source] io::Error),
    #[error("not connected")]
    Connect(#[source] io::Error),
}

/// Accepts one kind of connection of one pod. Cancel safe: dropping an `accept` loses no connection.
pub trait Listener: 'static {
    type Stream: Stream;

    fn accept(&self) -> impl Future<Output = io::Result<Accepted<Self::Stream>>>;
}

/// Makes the sockets of one pod's network namespace.
pub trait Sockets: 'static {
    type Stream: Stream;
    type Listener: Listener<Stream = Self::Stream>;

    /// Connects to another node or an address outside of the mesh, as the pod. Has no deadline of its own.
    fn connect(&self, to: SocketAddr) -> impl Future<Output = Result<Self::Stream, SocketError>>;

    /// Connects to the pod's application, which sees the address that `bind` says.
    fn deliver(
        &self,
        bind: Bind,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Self::Stream, SocketError>>;
}
