//! How a connection ended. The access-log line, the metrics and the reply are all made from this.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use weft_model::{Identity, Service, View, Workload};

use crate::{Arrival, Endpoint, Hop, Inbound, Outbound, Peer, Reach, Refusal, Resolved, Target};

mod failure;
pub use failure::Failure;

/// Made once, at the end of each accepted connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub parties: Parties,
    pub end: End,
    pub duration: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    Carried(Carried),
    Refused(Refusal),
    /// Allowed, but it could not be brought about.
    Failed(Failure),
}

/// Bytes went both ways.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carried {
    /// From the client to the server.
    pub bytes_to_server: u64,
    /// From the server to the client.
    pub bytes_to_client: u64,
    pub finish: Finish,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finish {
    /// Both sides said that they were done.
    Closed,
    ResetByClient,
    ResetByServer,
    /// A newer policy forbids it.
    Revoked(Refusal),
    /// Its memory was needed, and whoever asked for it had most of it.
    Shed,
    /// The proxy's own end came first.
    Drained,
    Broken(Failure),
}

/// Who took part, as far as it is known. What is not known is `None`, and `unknown` in a label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parties {
    pub direction: Direction,
    pub source: Side,
    pub destination: Side,
    pub service: Option<Arc<Service>>,
    /// The far end of the tunnel that carries it.
    pub hbone: Option<SocketAddr>,
    pub security: Security,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Side {
    pub address: Option<SocketAddr>,
    pub workload: Option<Arc<Workload>>,
    /// Proved by this side, or ours.
    pub identity: Option<Identity>,
}

/// Which side reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    Outbound,
    Inbound,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Security {
    MutualTls,
    Plaintext,
}

/// Istio's `response_flags`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResponseFlag {
    None,
    Denied,
    Connect,
    TlsFailure,
    H2Handshake,
    NetworkPolicy,
    Identity,
    CertificateRevoked,
}

/// How loud the line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Outcome {
    pub fn bytes_to_server(&self) -> u64 {
        self.end.carried().map_or(0, |c| c.bytes_to_server)
    }

    pub fn bytes_to_client(&self) -> u64 {
        self.end.carried().map_or(0, |c| c.bytes_to_client)
    }
}

impl End {
    pub fn carried(&self) -> Option<&Carried> {
        match self {
            Self::Carried(carried) => Some(carried),
            Self::Refused(_) | Self::Failed(_) => None,
        }
    }

    /// The decision against it, at the beginning or while it ran.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal)
            | Self::Carried(Carried { finish: Finish::Revoked(refusal), .. }) => Some(refusal),
            Self::Carried(_) | Self::Failed(_) => None,
        }
    }

    fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure)
            | Self::Carried(Carried { finish: Finish::Broken(failure), .. }) => Some(failure),
            Self::Carried(_) | Self::Refused(_) => None,
        }
    }

    pub fn flag(&self) -> ResponseFlag {
        match (self.refusal(), self.failure()) {
            (Some(Refusal::Denied(_)), _) => ResponseFlag::Denied,
            (Some(_), _) => ResponseFlag::Connect,
            (None, Some(failure)) => failure.flag(),
            (None, None) => ResponseFlag::None,
        }
    }

    /// What went wrong, for the log line's `error`.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => Some(refusal.to_string()),
            Self::Failed(failure) => Some(failure.to_string()),
            Self::Carried(carried) => match &carried.finish {
                Finish::Closed => None,
                Finish::ResetByClient => Some("reset by the client".to_owned()),
                Finish::ResetByServer => Some("reset by the server".to_owned()),
                Finish::Revoked(refusal) => Some(format!("permit revoked: {refusal}")),
                Finish::Shed => Some("cut because memory ran out".to_owned()),
                Finish::Drained => Some("cut when the proxy stopped".to_owned()),
                Finish::Broken(failure) => Some(failure.to_string()),
            },
        }
    }

    /// Istio's: complete at info, complete with an error at error, and a denial at warn.
    pub fn level(&self) -> Level {
        match self {
            Self::Refused(_) => Level::Warn,
            Self::Failed(_) => Level::Error,
            Self::Carried(carried) => match &carried.finish {
                Finish::Closed | Finish::ResetByClient | Finish::ResetByServer => Level::Info,
                Finish::Shed | Finish::Drained | Finish::Revoked(_) => Level::Warn,
                Finish::Broken(_) => Level::Error,
            },
        }
    }

    pub fn message(&self) -> &'static str {
        match self {
            Self::Carried(_) => "connection complete",
            Self::Refused(_) | Self::Failed(_) => "connection failed",
        }
    }

    /// The reply to the CONNECT that began it.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Carried(_) => 200,
            Self::Refused(refusal) => refusal.http_status(),
            Self::Failed(_) => 503,
        }
    }
}

impl ResponseFlag {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Denied => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2Handshake => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::Identity => "IDENTITY_ERROR",
            Self::CertificateRevoked => "CERT_REVOKED",
        }
    }
}

impl Parties {
    /// What is known before, or without, a [`Resolved`].
    pub fn arriving(arrival: &Arrival) -> Self {
        let at = |address| Side { address: Some(address), ..Side::default() };
        let (direction, source, destination, hbone, security) = match arrival {
            Arrival::Captured(c) => {
                (Direction::Outbound, Side::default(), at(c.dst.0), None, Security::Plaintext)
            }
            Arrival::Tunnelled(t) => {
                let source = Side { identity: Some(t.peer.clone()), ..at(t.from.0) };
                let local = Some(t.local.0);
                (Direction::Inbound, source, at(t.local.0), local, Security::MutualTls)
            }
            Arrival::Plain(p) => {
                (Direction::Inbound, at(p.from.0), at(p.dst.0), None, Security::Plaintext)
            }
        };
        Self { direction, source, destination, service: None, hbone, security }
    }

    /// Adds who calls whom. A client's workload is told by its address, which is good enough to be logged
    /// and for nothing else.
    #[must_use]
    pub fn resolved(self, view: &View, resolved: &Resolved) -> Self {
        match resolved {
            Resolved::Outbound(outbound) => self.outbound(outbound),
            Resolved::Inbound(inbound) => self.inbound(view, inbound),
        }
    }

    fn outbound(mut self, outbound: &Outbound) -> Self {
        self.source.identity = Some(outbound.source.identity());
        self.source.workload = Some(outbound.source.clone());
        match &outbound.target {
            Target::Service(service) => self.service = Some(service.clone()),
            Target::Workload(workload) => self.destination.workload = Some(workload.clone()),
            Target::Outside => {}
        }
        self
    }

    fn inbound(mut self, view: &View, inbound: &Inbound) -> Self {
        let network = inbound.workload.network.clone();
        let address = weft_model::NetworkAddress::new(network, inbound.from.ip());
        self.source.workload = view
            .workload_at(&address)
            .filter(|found| match &inbound.peer {
                Peer::Proven(identity) => found.identity() == *identity,
                Peer::Unauthenticated => true,
            })
            .cloned();
        self.destination = Side {
            address: Some(inbound.to.0),
            identity: match &inbound.peer {
                Peer::Proven(_) => Some(inbound.workload.identity()),
                Peer::Unauthenticated => None,
            },
            workload: Some(inbound.workload.clone()),
        };
        self.service.clone_from(&inbound.service);
        self
    }

    /// Adds where it goes. The destination's identity follows when it was proved: [`Parties::proved`].
    #[must_use]
    pub fn towards(mut self, endpoint: &Endpoint, hop: &Hop) -> Self {
        if let Some(workload) = endpoint.workload() {
            self.destination.workload = Some(workload.clone());
        }
        let address = |reach: &Reach| match reach {
            Reach::At(address) => Some(address.0),
            Reach::Named { .. } => None,
        };
        match hop {
            Hop::Plaintext { to } => self.destination.address = address(to),
            Hop::Hbone { via, authority, .. } => {
                self.hbone = address(via);
                if let crate::Authority::Address(address) = authority {
                    self.destination.address = Some(*address);
                }
                self.security = Security::MutualTls;
            }
            Hop::Nested { via, .. } => {
                self.hbone = address(via);
                self.security = Security::MutualTls;
            }
            Hop::Deliver { .. } => {}
        }
        self
    }

    /// Adds the identity that the server proved.
    #[must_use]
    pub fn proved(mut self, identity: Identity) -> Self {
        self.destination.identity = Some(identity);
        self
    }
}

#[cfg(test)]
mod tests;
