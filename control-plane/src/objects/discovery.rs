//! EndpointSlice: the endpoints of a service that no selector finds.

use std::sync::Arc;

use serde::Deserialize;

use super::{Name, ObjectMeta};

/// The label by which a slice names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub metadata: ObjectMeta,
    pub address_type: Arc<str>,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    pub addresses: Vec<Arc<str>>,
    pub conditions: Conditions,
    pub node_name: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub target_ref: Option<ObjectReference>,
}

/// Kubernetes' three answers; what is not said is not false.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Not said means ready.
    pub ready: Option<bool>,
    /// Not said means as `ready`.
    pub serving: Option<bool>,
    /// Not said means no.
    pub terminating: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ObjectReference {
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    pub name: Option<Arc<str>>,
    pub port: Option<u16>,
    pub protocol: Option<Arc<str>>,
}

impl EndpointSlice {
    /// The service that the slice belongs to, in the slice's own namespace.
    pub fn service(&self) -> Option<&Arc<str>> {
        self.metadata.label(SERVICE_NAME_LABEL)
    }

    /// The pod that an endpoint names.
    pub fn target_pod(&self, endpoint: &Endpoint) -> Option<Name> {
        let target = endpoint.target_ref.as_ref().filter(|target| &*target.kind == "Pod")?;
        let own = &self.metadata.namespace;
        // A slice speaks for its own namespace only: it must not draw another's pods into a service.
        let here = target.namespace.is_empty() || target.namespace == *own;
        here.then(|| Name { namespace: own.clone(), name: target.name.clone() })
    }
}
