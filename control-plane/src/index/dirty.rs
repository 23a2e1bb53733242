//! Which units an object has a say in.
//!
//! Asked with the object in the store, once for what it was and once for what it is. The property test
//! (`index/tests.rs`) fails when an arrow is missing here.

use std::{collections::BTreeSet, sync::Arc};

use weft_model::{Hostname, Namespace as NamespaceName, ServiceName};

use crate::store::{Store, addresses_of, hosts_of, pods_of, service_of};
use crate::{
    compile::{
        Mesh, Target, Unit, authorization_target, entry_names, peer_authentication_target,
        service_name,
    },
    objects::{EndpointSlice, Labels, Name, Object, Pod, Service, ServiceEntry, selects},
};

pub(super) fn units(store: &Store, mesh: &Mesh, object: &Object) -> Vec<Unit> {
    let name = object.meta().key();
    let mut units = Units { store, mesh, marked: Vec::new() };
    match object {
        Object::Namespace(o) => units.namespace(&o.metadata.name),
        Object::Node(o) => units.node(&o.metadata.name),
        // A pod's identity is what its spec says, whether or not the account exists.
        Object::ServiceAccount(_) => {}
        Object::Service(o) => units.service(&name, o),
        Object::EndpointSlice(o) => units.slice(&name, o),
        Object::ServiceEntry(o) => units.service_entry(&name, o),
        Object::WorkloadEntry(_) => units.mark(Unit::WorkloadEntry(name)),
        Object::Pod(o) => units.pod(name, o),
        Object::AuthorizationPolicy(o) => {
            units.target(&name, &authorization_target(mesh, o));
            units.mark(Unit::AuthorizationPolicy(name));
        }
        Object::PeerAuthentication(o) => {
            units.target(&name, &peer_authentication_target(mesh, o));
            units.peer_authentications(&name);
            units.mark(Unit::StaticStrict);
        }
    }
    units.marked
}

/// Every unit that there is.
pub(super) fn all(store: &Store, mesh: &Mesh) -> BTreeSet<Unit> {
    let mut all = BTreeSet::from([Unit::StaticStrict]);
    let policies = store.authorization_policies.all();
    all.extend(policies.map(|o| Unit::AuthorizationPolicy(o.metadata.key())));
    let peers = store.peer_authentications.all();
    all.extend(peers.map(|o| Unit::PeerAuthentication(o.metadata.key())));
    all.extend(store.slices.all().map(|o| Unit::EndpointSlice(o.metadata.key())));
    all.extend(store.workload_entries.all().map(|o| Unit::WorkloadEntry(o.metadata.key())));
    all.extend(store.pods.all().map(|o| Unit::Pod(o.metadata.key())));
    let services = store.services.all();
    let services = services.filter_map(|o| service_name(mesh, &o.metadata.key()).ok());
    all.extend(services.map(Unit::Service));
    for entry in store.service_entries.all() {
        all.insert(Unit::ServiceEntry(entry.metadata.key()));
        all.extend(entry_names(entry).map(Unit::Service));
    }
    all
}

struct Units<'a> {
    store: &'a Store,
    mesh: &'a Mesh,
    marked: Vec<Unit>,
}

impl Units<'_> {
    fn mark(&mut self, unit: Unit) {
        self.marked.push(unit);
    }

    fn mark_all(&mut self, units: impl Iterator<Item = Unit>) {
        self.marked.extend(units);
    }

    fn pod(&mut self, name: Name, pod: &Pod) {
        // Of two at one address, one has it; and while none is ready, those that end are made do with.
        let rivals = addresses_of(pod).into_iter().flat_map(|ip| self.store.pods_at(ip));
        let ending = self.store.pods_ending(&name.namespace);
        self.marked.extend(rivals.chain(ending).map(|pod| Unit::Pod(pod.metadata.key())));
        // A slice leaves an endpoint to the pod that it names, while that pod is alive.
        let slices = self.store.slices_of_pod(&name).map(|s| Unit::EndpointSlice(s.metadata.key()));
        self.marked.extend(slices);
        self.mark(Unit::Pod(name));
    }

    /// Where it is, is where those are that run on it.
    fn node(&mut self, node: &str) {
        let pods = self.store.pods_on(node).map(|pod| Unit::Pod(pod.metadata.key()));
        self.marked.extend(pods);
        let on_it = |slice: &&Arc<EndpointSlice>| {
            slice.endpoints.iter().any(|endpoint| endpoint.node_name.as_deref() == Some(node))
        };
        let slices = self.store.slices.all().filter(on_it);
        self.marked.extend(slices.map(|slice| Unit::EndpointSlice(slice.metadata.key())));
    }

    fn slice(&mut self, name: &Name, slice: &EndpointSlice) {
        self.mark(Unit::EndpointSlice(name.clone()));
        self.mark_all(pods_of(slice).map(Unit::Pod));
        if let Some(service) = service_of(slice) {
            // One slice's ready endpoint changes what another's terminating one is worth.
            let siblings = self.store.slices_of_service(&service);
            self.marked.extend(siblings.map(|s| Unit::EndpointSlice(s.metadata.key())));
        }
    }

    fn service(&mut self, name: &Name, service: &Service) {
        if let Ok(key) = service_name(self.mesh, name) {
            self.host(&key.hostname);
            self.mark(Unit::Service(key));
        }
        if !service.spec.selector.is_empty() {
            self.workloads(&name.namespace, &service.spec.selector);
        }
        let slices: Vec<_> = self.store.slices_of_service(name).cloned().collect();
        for slice in slices {
            self.mark(Unit::EndpointSlice(slice.metadata.key()));
            self.mark_all(pods_of(&slice).map(Unit::Pod));
        }
    }

    fn service_entry(&mut self, name: &Name, entry: &ServiceEntry) {
        self.mark(Unit::ServiceEntry(name.clone()));
        for host in hosts_of(entry) {
            self.host(&host);
        }
        if let Some(selector) = &entry.spec.workload_selector {
            self.workloads(&name.namespace, &selector.labels);
        }
    }

    /// All services of a host: one of them is the canonical one.
    fn host(&mut self, host: &Hostname) {
        for entry in self.store.entries_of_host(host) {
            if let Ok(namespace) = NamespaceName::new(&entry.metadata.namespace) {
                let name = ServiceName { namespace, hostname: host.clone() };
                self.marked.push(Unit::Service(name));
            }
        }
    }

    /// Pods and WorkloadEntries that a selector selects.
    fn workloads(&mut self, namespace: &str, selector: &Labels) {
        let selected = |labels: &Labels| selects(selector, labels);
        let pods = self.store.pods.of(namespace).filter(|pod| selected(&pod.metadata.labels));
        self.marked.extend(pods.map(|pod| Unit::Pod(pod.metadata.key())));
        let entries = self.store.workload_entries.of(namespace);
        let entries = entries.filter(|e| selected(crate::compile::labels_of(e)));
        self.marked.extend(entries.map(|entry| Unit::WorkloadEntry(entry.metadata.key())));
    }

    fn target(&mut self, name: &Name, target: &Target) {
        match target {
            // Policies of a namespace are found by its name; the peer's mode is written into each workload.
            Target::Namespace => self.workloads(&name.namespace, &Labels::new()),
            Target::Mesh => self.everywhere(&Labels::new()),
            Target::Workloads { selector, services } => {
                if let Some(selector) = selector {
                    if *name.namespace == *self.mesh.root_namespace {
                        self.everywhere(selector);
                    } else {
                        self.workloads(&name.namespace, selector);
                    }
                }
                for service in services {
                    self.service_workloads(service);
                }
            }
            Target::Nothing => {}
        }
    }

    fn service_workloads(&mut self, name: &Name) {
        if let Some(service) = self.store.services.get(name).cloned() {
            self.service(name, &service);
        }
    }

    fn everywhere(&mut self, selector: &Labels) {
        for namespace in self.namespaces() {
            self.workloads(&namespace, selector);
        }
    }

    fn namespaces(&self) -> Vec<Arc<str>> {
        let pods = self.store.pods.all().map(|pod| &pod.metadata.namespace);
        let entries = self.store.workload_entries.all().map(|entry| &entry.metadata.namespace);
        let mut all: Vec<Arc<str>> = pods.chain(entries).cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// A policy's own mode may be inherited from a wider one.
    fn peer_authentications(&mut self, changed: &Name) {
        let all = self.store.peer_authentications.all();
        let mesh = *changed.namespace == *self.mesh.root_namespace;
        let affected = all.filter(|p| mesh || p.metadata.namespace == changed.namespace);
        self.marked.extend(affected.map(|p| Unit::PeerAuthentication(p.metadata.key())));
        self.mark(Unit::PeerAuthentication(changed.clone()));
    }

    /// A namespace's labels and annotations are defaults for all that is in it.
    fn namespace(&mut self, namespace: &str) {
        self.workloads(namespace, &Labels::new());
        let store = self.store;
        self.mark_all(store.slices.of(namespace).map(|s| Unit::EndpointSlice(s.metadata.key())));
        for service in store.services.of(namespace) {
            self.mark_all(
                service_name(self.mesh, &service.metadata.key())
                    .ok()
                    .map(Unit::Service)
                    .into_iter(),
            );
        }
        for entry in store.service_entries.of(namespace) {
            self.service_entry(&entry.metadata.key(), entry);
        }
    }
}
