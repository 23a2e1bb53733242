//! What the objects mean: a pure function from a unit of the store to resources.
//!
//! Nothing here waits, reads a clock or keeps anything: the same store gives the same resources.

use std::sync::Arc;

use weft_model::{Change, Hostname, NameError, Namespace, Network, ServiceName, TrustDomain};

use crate::{
    FieldProblem,
    objects::{Kind, Labels, Name, ObjectKey, WorkloadEntry},
    store::Store,
};

mod authorization;
mod conditions;
mod external;
mod labels;
mod liveness;
mod peer_authentication;
mod pod;
mod selection;
mod service;
mod service_entry;
mod slice;

pub(crate) use authorization::target as authorization_target;
pub use peer_authentication::name_of as converted_name;
pub(crate) use peer_authentication::target as peer_authentication_target;
pub(crate) use pod::{identity, is_enrolled};
pub(crate) use selection::entry_names;

/// What is true of the whole mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mesh {
    pub cluster_id: Arc<str>,
    pub trust_domain: TrustDomain,
    /// Policies in this namespace hold everywhere.
    pub root_namespace: Arc<str>,
    /// The suffix of services' names.
    pub domain: Arc<str>,
    pub network: Network,
}

impl Mesh {
    /// A mesh with Istio's defaults.
    pub fn new(cluster_id: &str, trust_domain: TrustDomain) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            trust_domain,
            root_namespace: "istio-system".into(),
            domain: "cluster.local".into(),
            network: Network::default(),
        }
    }
}

/// The smallest part that is compiled on its own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Unit {
    /// The one policy that workloads under STRICT list.
    StaticStrict,
    AuthorizationPolicy(Name),
    PeerAuthentication(Name),
    /// By what it is called, since several ServiceEntries may name one host.
    Service(ServiceName),
    /// The endpoints written in it.
    ServiceEntry(Name),
    EndpointSlice(Name),
    WorkloadEntry(Name),
    Pod(Name),
}

/// What a unit comes to.
#[derive(Debug, Default, PartialEq)]
pub struct Compiled {
    pub resources: Vec<Change>,
    pub problems: Vec<FieldProblem>,
}

/// What a policy is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Mesh,
    Namespace,
    /// The workloads that a selector selects (of all namespaces, if the policy is in the root namespace), and
    /// those behind services.
    Workloads {
        selector: Option<Labels>,
        services: Vec<Name>,
    },
    /// Nothing that a node enforces.
    Nothing,
}

/// Compiles one unit. A unit whose object is gone comes to nothing.
pub fn unit(store: &Store, mesh: &Mesh, unit: &Unit) -> Compiled {
    let at = At { store, mesh };
    match unit {
        Unit::StaticStrict => peer_authentication::static_strict(at),
        Unit::AuthorizationPolicy(name) => authorization::compile(at, name),
        Unit::PeerAuthentication(name) => peer_authentication::compile(at, name),
        Unit::Service(name) => {
            service::compile(at, name).unwrap_or_else(|| service_entry::service(at, name))
        }
        Unit::ServiceEntry(name) => service_entry::endpoints(at, name),
        Unit::EndpointSlice(name) => slice::compile(at, name),
        Unit::WorkloadEntry(name) => external::workload_entry(at, name),
        Unit::Pod(name) => pod::compile(at, name),
    }
}

/// What everything is compiled against.
#[derive(Clone, Copy)]
struct At<'a> {
    store: &'a Store,
    mesh: &'a Mesh,
}

/// Collects what is wrong with one object.
struct Report {
    object: ObjectKey,
    problems: Vec<FieldProblem>,
}

impl Report {
    fn new(kind: Kind, name: &Name) -> Self {
        Self { object: ObjectKey { kind, name: name.clone() }, problems: Vec::new() }
    }

    fn add(&mut self, field: impl Into<String>, value: &str, message: impl Into<String>) {
        self.problems.push(FieldProblem {
            object: self.object.clone(),
            field: field.into(),
            value: crate::escape::shown(value),
            message: message.into(),
        });
    }

    /// The value, or `None` with a problem reported.
    fn ok<T, E: std::fmt::Display>(
        &mut self,
        result: Result<T, E>,
        field: impl Into<String>,
        value: &str,
    ) -> Option<T> {
        result.map_err(|error| self.add(field, value, error.to_string())).ok()
    }

    fn with(self, resources: impl IntoIterator<Item = Change>) -> Compiled {
        Compiled { resources: resources.into_iter().collect(), problems: self.problems }
    }
}

pub(crate) fn service_name(mesh: &Mesh, name: &Name) -> Result<ServiceName, NameError> {
    let hostname = Hostname::new(&format!("{}.{}.svc.{}", name.name, name.namespace, mesh.domain))?;
    Ok(ServiceName { namespace: Namespace::new(&name.namespace)?, hostname })
}

/// The labels that selectors see. Istio puts a WorkloadEntry's in its spec; those of its metadata count too.
pub(crate) fn labels_of(entry: &WorkloadEntry) -> &Labels {
    if entry.spec.labels.is_empty() { &entry.metadata.labels } else { &entry.spec.labels }
}

#[cfg(test)]
pub(crate) mod tests;
