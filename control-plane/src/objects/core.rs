//! Namespace, Node, Pod, Service, ServiceAccount.

use std::sync::Arc;

use serde::Deserialize;

use super::{Labels, ObjectMeta};

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    pub metadata: ObjectMeta,
}

/// Only where it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: ObjectMeta,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceAccount {
    pub metadata: ObjectMeta,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: Arc<str>,
    pub service_account_name: Arc<str>,
    pub host_network: bool,
    pub containers: Vec<Container>,
    /// Those that keep running beside the others (`restartPolicy: Always`) have ports like any container.
    pub init_containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub ports: Vec<ContainerPort>,
    pub restart_policy: Option<Arc<str>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    pub name: Option<Arc<str>>,
    pub container_port: u16,
    pub protocol: Option<Arc<str>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    pub phase: Option<Arc<str>>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<Arc<str>>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    pub status: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: Option<Arc<str>>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<Arc<str>>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<Arc<str>>,
    pub ip_families: Vec<Arc<str>>,
    pub ports: Vec<ServicePort>,
    /// Empty: the endpoints come from its slices alone.
    pub selector: Labels,
    pub publish_not_ready_addresses: bool,
    pub internal_traffic_policy: Option<Arc<str>>,
    pub traffic_distribution: Option<Arc<str>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    pub name: Option<Arc<str>>,
    pub port: u16,
    pub target_port: Option<IntOrString>,
    pub protocol: Option<Arc<str>>,
    pub app_protocol: Option<Arc<str>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    Int(u16),
    String(Arc<str>),
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    pub load_balancer: LoadBalancerStatus,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    pub ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    pub ip: Option<Arc<str>>,
}
