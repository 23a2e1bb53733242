//! What came in: the entrances of the staircase.

use std::{fmt, sync::Arc};

use weft_model::{Hostname, Identity, Namespace, OriginalDst, PeerAddr, ServiceAccountName};

use crate::Authority;

/// A pod of this node, as the node agent announced it. The listener that a connection came in on tells which;
/// an address never does, since it can be reused or forged.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pod {
    pub namespace: Namespace,
    pub name: Arc<str>,
    /// A workload of the same name that runs as someone else is an earlier pod's, so it is not this one.
    pub service_account: ServiceAccountName,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A connection that a pod of this node opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    pub source: Pod,
    pub dst: OriginalDst,
}

/// A CONNECT that a peer sent over mutual TLS to a pod of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tunnelled {
    pub target: Pod,
    /// From the certificate of the finished handshake.
    pub peer: Identity,
    pub from: PeerAddr,
    /// The address that the tunnel's own connection was accepted on.
    pub local: PeerAddr,
    pub authority: Authority,
    /// `host=` of the `forwarded` header. Names the service in logs and metrics, decides nothing.
    pub forwarded_host: Option<Hostname>,
}

/// A connection in the clear to a pod of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    pub target: Pod,
    pub from: PeerAddr,
    pub dst: OriginalDst,
}

/// Any entrance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    Captured(Captured),
    Tunnelled(Tunnelled),
    Plain(Plain),
}

impl From<Captured> for Arrival {
    fn from(captured: Captured) -> Self {
        Self::Captured(captured)
    }
}

impl From<Tunnelled> for Arrival {
    fn from(tunnelled: Tunnelled) -> Self {
        Self::Tunnelled(tunnelled)
    }
}

impl From<Plain> for Arrival {
    fn from(plain: Plain) -> Self {
        Self::Plain(plain)
    }
}

/// Who is on the other end of an inbound connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Proved by a certificate in a finished handshake.
    Proven(Identity),
    Unauthenticated,
}

impl Peer {
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Proven(identity) => Some(identity),
            Self::Unauthenticated => None,
        }
    }
}
