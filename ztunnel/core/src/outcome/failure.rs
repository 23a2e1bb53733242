//! What can go wrong with a connection that was allowed. Told by those who act; judged here.

use std::net::SocketAddr;

use weft_model::{Hostname, Identity};

use super::ResponseFlag;
use crate::HBONE_PORT;

/// `error` texts are the causes, as the system or the library gave them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    #[error("cannot resolve {hostname}: {error}")]
    Resolve { hostname: Hostname, error: String },
    #[error("cannot connect to {to}: {error}")]
    Connect { to: SocketAddr, error: String },
    #[error(
        "no answer from {to} within {after_ms} ms{}",
        if to.port() == HBONE_PORT { "; maybe a NetworkPolicy blocks port 15008" } else { "" }
    )]
    ConnectTimeout { to: SocketAddr, after_ms: u64 },
    #[error("TLS handshake with {to} failed: {error}")]
    Handshake { to: SocketAddr, error: String },
    #[error("certificate of {to} is revoked")]
    CertificateRevoked { to: SocketAddr },
    #[error("HTTP/2 handshake with {to} failed: {error}")]
    H2 { to: SocketAddr, error: String },
    #[error("{to} refused the tunnel with status {status}")]
    TunnelRefused { to: SocketAddr, status: u16 },
    #[error("no certificate for {identity}: {error}")]
    Certificate { identity: Identity, error: String },
    #[error("limit reached: {limit}")]
    Exhausted { limit: &'static str },
    #[error("no socket in the pod's network namespace: {error}")]
    Socket { error: String },
    #[error("the connection broke: {error}")]
    Broken { error: String },
    #[error("the proxy is stopping")]
    Stopping,
}

impl Failure {
    pub(super) fn flag(&self) -> ResponseFlag {
        match self {
            Self::ConnectTimeout { to, .. } if to.port() == HBONE_PORT => {
                ResponseFlag::NetworkPolicy
            }
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::TunnelRefused { .. }
            | Self::Exhausted { .. }
            | Self::Socket { .. }
            | Self::Stopping => ResponseFlag::Connect,
            Self::Handshake { .. } => ResponseFlag::TlsFailure,
            Self::CertificateRevoked { .. } => ResponseFlag::CertificateRevoked,
            Self::H2 { .. } => ResponseFlag::H2Handshake,
            Self::Certificate { .. } => ResponseFlag::Identity,
            Self::Broken { .. } => ResponseFlag::None,
        }
    }

    /// Whether another endpoint may do better: nothing of the client's was sent yet, and the fault is there.
    pub fn try_another(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Handshake { .. }
            | Self::CertificateRevoked { .. }
            | Self::H2 { .. } => true,
            // A refusal by the far proxy is a decision, and may be a policy's: going elsewhere would only
            // spread it. The rest is ours.
            Self::TunnelRefused { status, .. } => *status == 503,
            Self::Certificate { .. }
            | Self::Exhausted { .. }
            | Self::Socket { .. }
            | Self::Broken { .. }
            | Self::Stopping => false,
        }
    }
}
