//! Which services and policies a workload belongs to.

use std::{collections::BTreeMap, sync::Arc};

use weft_model::{Hostname, Namespace, PolicyName, Ports, ServiceName};

use super::{At, Target, authorization, labels_of, peer_authentication, service, slice};
use crate::objects::{
    IntOrString, Labels, Name, Pod, Service, ServiceEntry, ServicePort, WorkloadEntry, selects,
};

/// The services of a workload.
#[derive(Default)]
pub(super) struct Memberships {
    pub(super) ports: BTreeMap<ServiceName, Ports>,
    /// Those that are Kubernetes services, for policies that target them.
    pub(super) selecting: Vec<Name>,
}

impl Memberships {
    fn kubernetes(&mut self, at: At<'_>, service: &Service, ports: Ports) {
        let name = service.metadata.key();
        if let Ok(key) = super::service_name(at.mesh, &name) {
            self.ports.insert(key, ports);
            self.selecting.push(name);
        }
    }

    fn entry(&mut self, entry: &ServiceEntry, ports: &Ports) {
        for name in entry_names(entry) {
            // A Kubernetes service of the same name comes first, as it does in `service::compile`.
            self.ports.entry(name).or_insert_with(|| ports.clone());
        }
    }
}

pub(crate) fn entry_names(entry: &ServiceEntry) -> impl Iterator<Item = ServiceName> {
    let namespace = Namespace::new(&entry.metadata.namespace).ok();
    let hosts = entry.spec.hosts.iter().filter_map(|host| Hostname::new(host).ok());
    hosts.filter_map(move |hostname| Some(ServiceName { namespace: namespace.clone()?, hostname }))
}

/// Where each of the entry's ports is at an endpoint that has `own` ports.
pub(super) fn ports_of(entry: &ServiceEntry, own: &BTreeMap<Arc<str>, u16>) -> Ports {
    let ports = entry.spec.ports.iter();
    let target = |p: &crate::objects::ServiceEntryPort| {
        own.get(&p.name).copied().or(p.target_port).unwrap_or(p.number)
    };
    ports.map(|port| (port.number, target(port))).collect()
}

pub(super) fn services_of_pod(at: At<'_>, pod: &Pod) -> Memberships {
    let mut members = Memberships::default();
    let (namespace, labels) = (&pod.metadata.namespace, &pod.metadata.labels);
    for service in selecting(at, namespace, labels) {
        members.kubernetes(at, service, ports_of_pod(service, pod));
    }
    for (service, ports) in slice::services_of_pod(at, pod) {
        members.kubernetes(at, &service, ports);
    }
    for entry in selecting_entries(at, namespace, labels) {
        let ports = entry.spec.ports.iter().map(|p| (p.number, p.target_port.unwrap_or(p.number)));
        members.entry(entry, &ports.collect());
    }
    members
}

pub(super) fn services_of_entry(at: At<'_>, workload: &WorkloadEntry) -> Memberships {
    let mut members = Memberships::default();
    let (namespace, labels) = (&workload.metadata.namespace, labels_of(workload));
    let own = &workload.spec.ports;
    for service in selecting(at, namespace, labels) {
        let target = |port: &ServicePort| match &port.target_port {
            Some(IntOrString::String(name)) => own.get(name).copied(),
            Some(IntOrString::Int(number)) => Some(named(own, port).unwrap_or(*number)),
            None => Some(named(own, port).unwrap_or(port.port)),
        };
        let ports = service::tcp_ports(service).filter_map(|p| Some((p.port, target(p)?)));
        members.kubernetes(at, service, ports.collect());
    }
    for entry in selecting_entries(at, namespace, labels) {
        members.entry(entry, &ports_of(entry, own));
    }
    members
}

fn named(own: &BTreeMap<Arc<str>, u16>, port: &ServicePort) -> Option<u16> {
    own.get(port.name.as_ref()?).copied()
}

fn selecting<'a>(
    at: At<'a>,
    namespace: &'a str,
    labels: &'a Labels,
) -> impl Iterator<Item = &'a Arc<Service>> {
    at.store.services.of(namespace).filter(move |service| {
        let selector = &service.spec.selector;
        !selector.is_empty() && selects(selector, labels) && !service::is_external_name(service)
    })
}

fn selecting_entries<'a>(
    at: At<'a>,
    namespace: &'a str,
    labels: &'a Labels,
) -> impl Iterator<Item = &'a Arc<ServiceEntry>> {
    at.store.service_entries.of(namespace).filter(move |entry| {
        let selector = entry.spec.workload_selector.as_ref();
        selector.is_some_and(|s| !s.labels.is_empty() && selects(&s.labels, labels))
    })
}

/// A port's name means another number in every pod; a pod without it is no endpoint for that port.
fn ports_of_pod(service: &Service, pod: &Pod) -> Ports {
    let headless = service::is_headless(service);
    let target = |port: &ServicePort| match &port.target_port {
        // There is no address to be translated from: the client dials the pod itself.
        _ if headless => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => container_port(pod, name),
        None => Some(port.port),
    };
    service::tcp_ports(service).filter_map(|port| Some((port.port, target(port)?))).collect()
}

fn container_port(pod: &Pod, name: &str) -> Option<u16> {
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    pod.spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports)
        .find(|port| {
            port.name.as_deref() == Some(name) && service::is_tcp(port.protocol.as_deref())
        })
        .map(|port| port.container_port)
}

/// The policies that a workload has to list, since they are not found by its namespace.
pub(super) fn policies_of(
    at: At<'_>,
    namespace: &str,
    labels: &Labels,
    services: &[Name],
) -> Vec<PolicyName> {
    let root = &*at.mesh.root_namespace;
    let of_root = at.store.authorization_policies.of(root).filter(|_| namespace != root);
    let of_namespace = at.store.authorization_policies.of(namespace);
    let mut policies: Vec<PolicyName> = of_namespace
        .chain(of_root)
        .filter(|policy| match authorization::target(at.mesh, policy) {
            Target::Workloads { selector, services: targets } => {
                selector.is_some_and(|selector| selects(&selector, labels))
                    || targets.iter().any(|target| services.contains(target))
            }
            Target::Mesh | Target::Namespace | Target::Nothing => false,
        })
        .filter_map(|policy| {
            PolicyName::new(&policy.metadata.namespace, &policy.metadata.name).ok()
        })
        .collect();
    policies.extend(peer_authentication::policies_of(at, namespace, labels));
    policies.sort();
    policies
}
