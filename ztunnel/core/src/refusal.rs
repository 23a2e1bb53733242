//! Why a connection was not let through: what, whose fault, and whether trying again may help.

use std::fmt;

use weft_model::{
    GatewayAddress, Hostname, NetworkAddress, PeerAddr, PolicyName, ServiceName, WorkloadUid,
};

use crate::{Authority, AuthorityError, Denial, LeftOut, Pod};

/// One decision against a connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("a tunnel is asked for by CONNECT, not by {method}")]
    NotConnect { method: String },
    #[error(transparent)]
    BadAuthority(#[from] AuthorityError),
    #[error("authority {authority} is not the address {local} that the tunnel came to")]
    WrongAuthority { authority: Authority, local: PeerAddr },
    #[error("pod {pod} is not known in the mesh, or runs as another service account there")]
    UnknownPod { pod: Pod },
    #[error("{address} was a pod's of the mesh, and it is not known yet who has it")]
    Retired { address: NetworkAddress },
    #[error("{hostname} is no service of this workload")]
    UnknownHost { hostname: Hostname },
    #[error("service {service} has no port {port}")]
    NoPort { service: ServiceName, port: u16 },
    #[error("port {port} is the proxy's own")]
    ProxyPort { port: u16 },
    #[error("{0}")]
    Denied(Denial),
    #[error("service {service} has no usable endpoint{}", Reasons(left_out))]
    NoEndpoint { service: ServiceName, left_out: Vec<(LeftOut, usize)> },
    #[error("gateway {} is not known in the mesh", Gateway(gateway))]
    UnknownGateway { gateway: GatewayAddress },
    #[error("workload {workload} was just tried, and there is no other")]
    NoOther { workload: WorkloadUid },
}

/// Who can mend it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The peer asked for something wrong.
    Client,
    /// Policy says no, as it should.
    Policy,
    /// The destination, or what is configured for it.
    Destination,
    /// The mesh's own knowledge is not complete.
    Mesh,
}

/// What may help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// The same question has the same answer.
    Never,
    /// The picture may be about to arrive: wait a bounded time and resolve again.
    NewerView,
}

impl Refusal {
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotConnect { .. }
            | Self::BadAuthority(_)
            | Self::WrongAuthority { .. }
            | Self::UnknownHost { .. }
            | Self::NoPort { .. }
            | Self::ProxyPort { .. } => Fault::Client,
            Self::Denied(denial) => match denial {
                Denial::Matched { .. } | Denial::NothingAllows { .. } => Fault::Policy,
                Denial::UnknownPolicy { .. } => Fault::Mesh,
            },
            Self::NoEndpoint { .. } | Self::NoOther { .. } => Fault::Destination,
            Self::UnknownPod { .. } | Self::Retired { .. } | Self::UnknownGateway { .. } => {
                Fault::Mesh
            }
        }
    }

    pub fn retry(&self) -> Retry {
        match self {
            Self::UnknownPod { .. }
            | Self::Retired { .. }
            | Self::UnknownHost { .. }
            | Self::UnknownGateway { .. }
            | Self::Denied(Denial::UnknownPolicy { .. }) => Retry::NewerView,
            Self::NoEndpoint { left_out, .. }
                if left_out.iter().any(|(reason, _)| *reason == LeftOut::NoGateway) =>
            {
                Retry::NewerView
            }
            Self::NotConnect { .. }
            | Self::BadAuthority(_)
            | Self::WrongAuthority { .. }
            | Self::NoPort { .. }
            | Self::ProxyPort { .. }
            | Self::Denied(_)
            | Self::NoEndpoint { .. }
            | Self::NoOther { .. } => Retry::Never,
        }
    }

    /// The reply to a CONNECT. Istio says 401 where one would expect 403; peers know it so.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::NotConnect { .. } | Self::BadAuthority(_) | Self::WrongAuthority { .. } => 400,
            Self::Denied(_) => 401,
            Self::UnknownPod { .. }
            | Self::Retired { .. }
            | Self::UnknownHost { .. }
            | Self::NoPort { .. }
            | Self::ProxyPort { .. }
            | Self::NoEndpoint { .. }
            | Self::UnknownGateway { .. }
            | Self::NoOther { .. } => 503,
        }
    }

    /// The policy that refused, when one did by itself.
    pub fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Denied(Denial::Matched { policy, .. } | Denial::UnknownPolicy { policy }) => {
                Some(policy)
            }
            Self::Denied(Denial::NothingAllows { policies }) => policies.first(),
            Self::NotConnect { .. }
            | Self::BadAuthority(_)
            | Self::WrongAuthority { .. }
            | Self::UnknownPod { .. }
            | Self::Retired { .. }
            | Self::UnknownHost { .. }
            | Self::NoPort { .. }
            | Self::ProxyPort { .. }
            | Self::NoEndpoint { .. }
            | Self::UnknownGateway { .. }
            | Self::NoOther { .. } => None,
        }
    }
}

struct Reasons<'a>(&'a [(LeftOut, usize)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (reason, count)) in self.0.iter().enumerate() {
            write!(f, "{}{count} {reason}", if i == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}

struct Gateway<'a>(&'a GatewayAddress);

impl fmt::Display for Gateway<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            GatewayAddress::Hostname { name, hbone_port } => write!(f, "{name}:{hbone_port}"),
            GatewayAddress::Address { address, hbone_port } => {
                write!(f, "{address}:{hbone_port}")
            }
        }
    }
}
