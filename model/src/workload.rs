//! What runs, where, and as whom.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    GatewayAddress, Hostname, Identity, Namespace, Network, NetworkAddress, PolicyName, Ports,
    ServiceAccountName, ServiceName, Table, TrustDomain, WorkloadUid,
};

/// One place where an application runs: a pod, a virtual machine, or an address outside of the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    pub uid: WorkloadUid,
    pub name: Arc<str>,
    pub namespace: Namespace,
    pub service_account: ServiceAccountName,
    pub trust_domain: TrustDomain,
    pub network: Network,
    /// All addresses are of one workload with one identity. Empty when reached by `hostname` or gateway only.
    pub addresses: Vec<IpAddr>,
    /// To be resolved by DNS when the workload has no address.
    pub hostname: Option<Hostname>,
    pub tunnel: TunnelProtocol,
    /// The application speaks HBONE itself; no proxy stands before it.
    pub native_tunnel: bool,
    pub application_tunnel: Option<ApplicationTunnel>,
    pub waypoint: Option<GatewayAddress>,
    pub network_gateway: Option<GatewayAddress>,
    pub network_mode: NetworkMode,
    pub node: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub workload_type: WorkloadType,
    pub workload_name: Arc<str>,
    pub cluster_id: Arc<str>,
    pub locality: Locality,
    pub health: Health,
    /// Weight among the endpoints of a service; 0 receives nothing. Default 1.
    pub capacity: u32,
    /// The services that this workload is an endpoint of, each with its own port map.
    pub services: Table<ServiceName, Ports>,
    /// Policies that select this workload. One that is not in the View denies: see `View::policies_of`.
    pub policies: Vec<PolicyName>,
}

impl Workload {
    /// A workload with every optional field at its wire default.
    pub fn new(
        uid: WorkloadUid,
        name: &str,
        namespace: Namespace,
        account: ServiceAccountName,
    ) -> Self {
        let empty: Arc<str> = "".into();
        Self {
            uid,
            name: name.into(),
            namespace,
            service_account: account,
            trust_domain: TrustDomain::default(),
            network: Network::default(),
            addresses: Vec::new(),
            hostname: None,
            tunnel: TunnelProtocol::None,
            native_tunnel: false,
            application_tunnel: None,
            waypoint: None,
            network_gateway: None,
            network_mode: NetworkMode::Standard,
            node: empty.clone(),
            canonical_name: empty.clone(),
            canonical_revision: empty.clone(),
            workload_type: WorkloadType::Pod,
            workload_name: empty,
            cluster_id: "Kubernetes".into(),
            locality: Locality::default(),
            health: Health::Healthy,
            capacity: 1,
            services: Table::new(),
            policies: Vec::new(),
        }
    }

    pub fn identity(&self) -> Identity {
        Identity::new(
            self.trust_domain.clone(),
            self.namespace.clone(),
            self.service_account.clone(),
        )
    }

    pub fn is_pod(&self) -> bool {
        self.uid.as_str().contains("//Pod/")
    }

    /// Addresses by which nobody else is found. A pod on its host's network shares the node's address.
    pub fn unique_addresses(&self) -> impl Iterator<Item = NetworkAddress> + '_ {
        let own = match self.network_mode {
            NetworkMode::Standard => self.addresses.as_slice(),
            NetworkMode::HostNetwork => &[],
        };
        own.iter().map(|ip| NetworkAddress::new(self.network.clone(), *ip))
    }
}

/// How a workload is reached. Istio's legacy mTLS is refused when decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    #[serde(rename = "TCP")]
    None,
    /// HTTP/2 CONNECT over mutual TLS, port 15008.
    #[serde(rename = "HBONE")]
    Hbone,
}

/// What a workload with a proxy of its own inside wants to receive instead of plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplicationTunnel {
    /// Plain bytes, to another port if one is given.
    None { port: Option<u16> },
    /// A PROXY protocol v2 header first, to `port`, or to the port that was asked for.
    Proxy { port: Option<u16> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum NetworkMode {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadType {
    Deployment,
    CronJob,
    #[default]
    Pod,
    Job,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

// By hand: `Arc<str>` has a default, but each would be its own allocation.
impl Default for Locality {
    fn default() -> Self {
        let empty: Arc<str> = "".into();
        Self { region: empty.clone(), zone: empty.clone(), subzone: empty }
    }
}
