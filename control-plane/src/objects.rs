//! The Kubernetes and Istio objects that we read, with only the fields that we use.
//!
//! Own types instead of a generated API: a pod costs a few hundred bytes, and a field that is not named here
//! cannot be depended upon by accident. Policies are the exception to "ignore what is not known": an unknown
//! field in one may be what makes it strict, so it is refused (see [`security::Spec`]).

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

mod core;
mod discovery;
mod meta;
mod networking;
mod parse;
pub mod security;

pub use self::core::{
    Condition, Container, ContainerPort, IntOrString, LoadBalancerIngress, LoadBalancerStatus,
    Namespace, Node, Pod, PodIp, PodSpec, PodStatus, Service, ServiceAccount, ServicePort,
    ServiceSpec, ServiceStatus,
};
pub use discovery::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, ObjectReference, SERVICE_NAME_LABEL,
};
pub use meta::{Labels, ObjectMeta, OwnerReference};
pub(crate) use meta::{is_known_annotation, selects};
pub use networking::{
    Location, Resolution, ServiceEntry, ServiceEntryAddress, ServiceEntryPort, ServiceEntrySpec,
    ServiceEntryStatus, WorkloadEntry, WorkloadEntrySpec, WorkloadSelector,
};
pub(crate) use parse::drop_nulls;
pub use parse::{ParseError, Parsed, parse};
pub use security::{AuthorizationPolicy, PeerAuthentication};

/// Which kind of object. The order is the order in which a folder's objects are applied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    Namespace,
    Node,
    ServiceAccount,
    AuthorizationPolicy,
    PeerAuthentication,
    Service,
    ServiceEntry,
    EndpointSlice,
    WorkloadEntry,
    Pod,
}

impl Kind {
    /// `None`: a kind that we do not read. Any version of an API group that we know is taken.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        match (group, kind) {
            ("", "Namespace") => Some(Self::Namespace),
            ("", "Node") => Some(Self::Node),
            ("", "ServiceAccount") => Some(Self::ServiceAccount),
            ("", "Service") => Some(Self::Service),
            ("", "Pod") => Some(Self::Pod),
            ("discovery.k8s.io", "EndpointSlice") => Some(Self::EndpointSlice),
            ("networking.istio.io", "ServiceEntry") => Some(Self::ServiceEntry),
            ("networking.istio.io", "WorkloadEntry") => Some(Self::WorkloadEntry),
            ("security.istio.io", "AuthorizationPolicy") => Some(Self::AuthorizationPolicy),
            ("security.istio.io", "PeerAuthentication") => Some(Self::PeerAuthentication),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
            Self::EndpointSlice => "EndpointSlice",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Pod => "Pod",
        }
    }
}

/// Namespace and name within a kind. The namespace is empty for a `Namespace` and for a `Node`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Name {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What tells one object from all others.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectKey {
    pub kind: Kind,
    pub name: Name,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.as_str())?;
        match &*self.name.namespace {
            "" => f.write_str(&self.name.name),
            _ => self.name.fmt(f),
        }
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// One object as it was read.
#[derive(Clone, PartialEq, Debug)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    ServiceAccount(Arc<ServiceAccount>),
    Service(Arc<Service>),
    Pod(Arc<Pod>),
    EndpointSlice(Arc<EndpointSlice>),
    ServiceEntry(Arc<ServiceEntry>),
    WorkloadEntry(Arc<WorkloadEntry>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Service(_) => Kind::Service,
            Self::Pod(_) => Kind::Pod,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::ServiceEntry(_) => Kind::ServiceEntry,
            Self::WorkloadEntry(_) => Kind::WorkloadEntry,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
        }
    }

    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(o) => &o.metadata,
            Self::Node(o) => &o.metadata,
            Self::ServiceAccount(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::ServiceEntry(o) => &o.metadata,
            Self::WorkloadEntry(o) => &o.metadata,
            Self::AuthorizationPolicy(o) => &o.metadata,
            Self::PeerAuthentication(o) => &o.metadata,
        }
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), name: self.meta().key() }
    }
}

/// What a source has found since it was last asked.
#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    /// In the order of [`Kind`], if found at once: policies before the pods that they guard.
    pub apply: Vec<Object>,
    pub delete: Vec<ObjectKey>,
}

#[cfg(test)]
mod tests;
