//! A name, the addresses it is reached at, and how to choose among its endpoints.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Hostname, Identity, Namespace, NetworkAddress, NetworkCidr, PortName, ServiceName, Table,
};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub name: Arc<str>,
    pub namespace: Namespace,
    pub hostname: Hostname,
    pub vips: Vec<NetworkAddress>,
    pub cidr_vips: Vec<NetworkCidr>,
    pub ports: Vec<ServicePort>,
    /// Identities accepted from an endpoint, besides the endpoint's own.
    pub subject_alt_names: Vec<Identity>,
    pub waypoint: Option<GatewayAddress>,
    /// If not empty, used instead of `waypoint`.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    pub load_balancing: LoadBalancing,
    pub ip_families: IpFamilies,
    /// Preferred when several services have one hostname.
    pub canonical: bool,
    pub ingress_use_waypoint: bool,
    pub visibility: Visibility,
}

impl Service {
    /// A service with every optional field at its wire default.
    pub fn new(name: &str, namespace: Namespace, hostname: Hostname) -> Self {
        Self {
            name: name.into(),
            namespace,
            hostname,
            vips: Vec::new(),
            cidr_vips: Vec::new(),
            ports: Vec::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            load_balancing: LoadBalancing::default(),
            ip_families: IpFamilies::Automatic,
            canonical: false,
            ingress_use_waypoint: false,
            visibility: Visibility::Public,
        }
    }

    pub fn key(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }

    pub fn port(&self, service_port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.service_port == service_port)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Told by our own control plane only; SRV records are found by it.
    pub name: Option<PortName>,
    pub service_port: u16,
    /// 0 where each endpoint decides (a named port).
    pub target_port: u16,
    pub app_protocol: AppProtocol,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

/// An endpoint's own map from service port to target port.
pub type Ports = Table<u16, u16>;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadBalancing {
    /// Compared in order; an endpoint's rank is how many match before the first that does not.
    pub routing_preference: Vec<RoutingScope>,
    pub mode: Mode,
    pub health: HealthPolicy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RoutingScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Every endpoint, whatever its rank.
    #[default]
    #[serde(rename = "Standard")]
    Any,
    /// Only endpoints that match all scopes; none is an error.
    Strict,
    /// The best rank that has an endpoint.
    Failover,
    /// The address that was asked for, unchanged.
    Passthrough,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum IpFamilies {
    #[default]
    Automatic,
    #[serde(rename = "IPv4")]
    Ipv4Only,
    #[serde(rename = "IPv6")]
    Ipv6Only,
    Dual,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Visibility {
    #[default]
    Public,
    /// Seen only by clients of the service's own namespace.
    Namespace,
}

/// Where a gateway or waypoint is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GatewayAddress {
    Hostname { name: ServiceName, hbone_port: u16 },
    Address { address: NetworkAddress, hbone_port: u16 },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WeightedWaypoint {
    pub destination: GatewayAddress,
    pub weight: u32,
}
