//! The nouns of the mesh.
//!
//! ```text
//!   names    Identity, TrustDomain, WorkloadUid, ServiceName, PolicyName ...: parsed once, then valid
//!   address  NetworkAddress, OriginalDst, PeerAddr: never two bare `SocketAddr` in one signature
//!   workload what runs, where, as whom          service  a name, its addresses, how to choose among endpoints
//!   enrollment  whether a pod is to be in the mesh, as its labels say
//!   policy   who may call whom at layer 4       change   one step from a View to the next
//!   dump     a View as text: `/config_dump`, and the file that a proxy without a control plane reads
//!   table    a map of few entries            texts    what many resources say, in memory once
//!   view     all of it at one instant, immutable, indexed for the questions that a connection asks
//! ```
//!
//! Plain data: no I/O, no clock, no randomness. Nothing here depends on another crate of ours.
//!
//! Invariants: a value that exists is valid (constructors refuse, nothing is repaired later); a [`View`]
//! is never changed after it was shared, a newer one is made from it and swapped in whole.

#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

mod address;
mod change;
pub mod dump;
pub mod enrollment;
mod names;
mod policy;
mod service;
mod table;
mod texts;
mod view;
mod workload;

pub use address::{NetworkAddress, NetworkCidr, OriginalDst, PeerAddr};
pub use change::{Change, ResourceKey};
pub use names::{
    Hostname, Identity, NameError, Namespace, Network, PolicyName, PortName, ServiceAccountName,
    ServiceName, TrustDomain, WorkloadUid,
};
pub use policy::{
    Action, Authorization, Clause, Field, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
};
pub use service::{
    AppProtocol, GatewayAddress, HealthPolicy, IpFamilies, LoadBalancing, Mode, Ports,
    RoutingScope, Service, ServicePort, Visibility, WeightedWaypoint,
};
pub use table::Table;
pub use texts::Texts;
pub use view::{Endpoint, View};
pub use workload::{
    ApplicationTunnel, Health, Locality, NetworkMode, TunnelProtocol, Workload, WorkloadType,
};
