//! A View as text: what `istioctl ztunnel-config` decodes from `/config_dump`, and the file that a proxy reads
//! when it has no control plane. Nothing is lost: a View made from the dump of a View equals it.
//!
//! Fields that Istio's tool does not know (`services` with `stagedServices`, `appProtocols`, ...) it ignores.
//! A service's ports are written in the order of their numbers.

use std::{collections::BTreeMap, fmt, marker::PhantomData, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::{
    Action, AppProtocol, Health, HealthPolicy, Hostname, Identity, IpFamilies, Locality, Mode,
    Namespace, Network, NetworkMode, PolicyName, PortName, Ports, RoutingScope, Scope,
    ServiceAccountMatch, ServiceAccountName, ServiceName, TrustDomain, TunnelProtocol, Visibility,
    WorkloadType, WorkloadUid,
};

mod from_view;
mod into_changes;
mod text;

pub use into_changes::DumpError;
pub use text::{AddressText, CidrText, GatewayText};

/// The whole of `/config_dump`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dump {
    #[serde(deserialize_with = "list_or_map")]
    pub workloads: Vec<WorkloadDump>,
    #[serde(deserialize_with = "list_or_map")]
    pub services: Vec<ServiceDump>,
    #[serde(deserialize_with = "list_or_map")]
    pub policies: Vec<PolicyDump>,
    #[serde(deserialize_with = "list_or_map")]
    pub certificates: Vec<CertificateDump>,
    /// By the uid of the pod. Filled by the proxy.
    pub workload_state: BTreeMap<String, WorkloadStateDump>,
    /// Endpoints whose service is not known yet.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub staged_services: BTreeMap<ServiceName, BTreeMap<WorkloadUid, EndpointDump>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadDump {
    pub uid: WorkloadUid,
    #[serde(default)]
    pub workload_ips: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayDump>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_gateway: Option<GatewayDump>,
    /// Has no default: a forgotten or misspelt one must not turn encryption off.
    pub protocol: TunnelProtocol,
    pub name: Arc<str>,
    pub namespace: Namespace,
    pub service_account: ServiceAccountName,
    #[serde(default)]
    pub workload_name: Arc<str>,
    #[serde(default)]
    pub workload_type: WorkloadType,
    #[serde(default)]
    pub canonical_name: Arc<str>,
    #[serde(default)]
    pub canonical_revision: Arc<str>,
    #[serde(default = "default_cluster")]
    pub cluster_id: Arc<str>,
    #[serde(default)]
    pub trust_domain: TrustDomain,
    #[serde(default)]
    pub locality: Locality,
    #[serde(default)]
    pub node: Arc<str>,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub status: Health,
    #[serde(
        default,
        deserialize_with = "text::hostname_or_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub hostname: Option<Hostname>,
    #[serde(default = "default_capacity")]
    pub capacity: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_tunnel: Option<ApplicationTunnelDump>,
    #[serde(default)]
    pub authorization_policies: Vec<PolicyName>,
    #[serde(default)]
    pub network_mode: NetworkMode,
    #[serde(default)]
    pub native_tunnel: bool,
}

fn default_cluster() -> Arc<str> {
    "Kubernetes".into()
}

fn default_capacity() -> u32 {
    1
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayDump {
    pub destination: GatewayText,
    #[serde(default = "default_hbone_port")]
    pub hbone_mtls_port: u16,
}

fn default_hbone_port() -> u16 {
    15008
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApplicationTunnelDump {
    pub protocol: ApplicationProtocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ApplicationProtocol {
    None,
    Proxy,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDump {
    pub name: Arc<str>,
    pub namespace: Namespace,
    pub hostname: Hostname,
    #[serde(default)]
    pub vips: Vec<AddressText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidr_vips: Vec<CidrText>,
    /// From service port to target port.
    #[serde(default)]
    pub ports: Ports,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerDump>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayDump>,
    #[serde(default)]
    pub endpoints: BTreeMap<WorkloadUid, EndpointDump>,
    #[serde(default)]
    pub subject_alt_names: Vec<Identity>,
    #[serde(default)]
    pub ip_families: IpFamilies,
    #[serde(default)]
    pub canonical: bool,
    #[serde(default)]
    pub visibility: Visibility,
    /// By service port; a port that is not named here has no known protocol.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub app_protocols: BTreeMap<u16, AppProtocol>,
    /// By service port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub port_names: BTreeMap<u16, PortName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weighted_waypoints: Vec<WeightedWaypointDump>,
    #[serde(default)]
    pub ingress_use_waypoint: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerDump {
    pub mode: Mode,
    pub routing_preferences: Vec<RoutingScope>,
    pub health_policy: HealthPolicy,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightedWaypointDump {
    pub destination: GatewayText,
    #[serde(default = "default_hbone_port")]
    pub hbone_mtls_port: u16,
    pub weight: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDump {
    pub workload_uid: WorkloadUid,
    /// Shown; the key of what holds it decides.
    #[serde(default)]
    pub service: String,
    /// Shown; the workload's own addresses decide.
    #[serde(default)]
    pub address: String,
    #[serde(default)]
    pub port: Ports,
}

// Unknown fields are refused in policies: a misspelt condition that is ignored makes another policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyDump {
    pub name: Arc<str>,
    /// Empty for the whole mesh.
    #[serde(default)]
    pub namespace: Arc<str>,
    pub scope: Scope,
    pub action: Action,
    /// Any of the rules, all of their clauses, any of their matches.
    #[serde(default)]
    pub rules: Vec<Vec<Vec<PolicyMatch>>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PolicyMatch {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<TextMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<TextMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<TextMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<TextMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<ServiceAccountMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TextMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Written `{"Presence":{}}`.
    Presence {},
}

/// A certificate that the proxy holds, or tries to. Filled by the proxy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateDump {
    pub identity: String,
    /// `Available`, `Initializing`, or `Unavailable: <why>`.
    pub state: String,
    /// The leaf first.
    pub cert_chain: Vec<Cert>,
    pub root_certs: Vec<Cert>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cert {
    /// The PEM text, in base64 once more.
    pub pem: String,
    /// Decimal.
    pub serial_number: String,
    /// RFC 3339.
    pub valid_from: String,
    /// RFC 3339.
    pub expiration_time: String,
}

/// A pod of this node. Filled by the proxy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadStateDump {
    /// `Up`, `Pending` or `Draining`.
    pub state: String,
    pub connections: ConnectionsDump,
    pub info: WorkloadInfoDump,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionsDump {
    pub inbound: Vec<ConnectionDump>,
    pub outbound: Vec<ConnectionDump>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionDump {
    pub src: String,
    pub original_dst: String,
    pub actual_dst: String,
    /// `HBONE` or `TCP`.
    pub protocol: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadInfoDump {
    pub name: String,
    pub namespace: String,
    pub trust_domain: String,
    pub service_account: String,
}

/// Older proxies write a map; its keys say nothing that the values do not.
fn list_or_map<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Either<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list, or a map")
        }

        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(values)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some((_, value)) = map.next_entry::<String, T>()? {
                values.push(value);
            }
            Ok(values)
        }
    }

    deserializer.deserialize_any(Either(PhantomData))
}
