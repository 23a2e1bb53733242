//! The objects themselves, and the indexes that lead from one to another.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use weft_model::{Hostname, ServiceName};

use crate::objects::{
    AuthorizationPolicy, EndpointSlice, Kind, Name, Namespace, Node, Object, ObjectKey,
    PeerAuthentication, Pod, Service, ServiceAccount, ServiceEntry, WorkloadEntry,
};

/// Objects of one kind, by namespace and name.
#[derive(Debug)]
pub struct Namespaced<T>(BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<T>>>);

impl<T> Default for Namespaced<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Namespaced<T> {
    pub fn get(&self, name: &Name) -> Option<&Arc<T>> {
        self.0.get(&name.namespace)?.get(&name.name)
    }

    pub fn of(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        self.0.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.values().flat_map(BTreeMap::values)
    }

    fn insert(&mut self, name: Name, object: Arc<T>) {
        self.0.entry(name.namespace).or_default().insert(name.name, object);
    }

    fn remove(&mut self, name: &Name) {
        if let Some(namespace) = self.0.get_mut(&name.namespace) {
            namespace.remove(&name.name);
            if namespace.is_empty() {
                self.0.remove(&name.namespace);
            }
        }
    }
}

/// One key to several names.
#[derive(Debug)]
struct Multi<K>(BTreeMap<K, BTreeSet<Name>>);

impl<K> Default for Multi<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Multi<K> {
    fn insert(&mut self, key: K, name: Name) {
        self.0.entry(key).or_default().insert(name);
    }

    fn remove(&mut self, key: &K, name: &Name) {
        if let Some(names) = self.0.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn get<'a, Q: Ord + ?Sized>(&'a self, key: &Q) -> impl Iterator<Item = &'a Name> + use<'a, K, Q>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten()
    }
}

#[derive(Debug, Default)]
pub struct Store {
    pub namespaces: Namespaced<Namespace>,
    pub nodes: Namespaced<Node>,
    pub service_accounts: Namespaced<ServiceAccount>,
    pub pods: Namespaced<Pod>,
    pub services: Namespaced<Service>,
    pub slices: Namespaced<EndpointSlice>,
    pub service_entries: Namespaced<ServiceEntry>,
    pub workload_entries: Namespaced<WorkloadEntry>,
    pub authorization_policies: Namespaced<AuthorizationPolicy>,
    pub peer_authentications: Namespaced<PeerAuthentication>,
    slices_by_service: Multi<Name>,
    slices_by_pod: Multi<Name>,
    pods_by_node: Multi<Arc<str>>,
    pods_by_address: Multi<IpAddr>,
    /// By namespace: those that are being deleted.
    pods_ending: Multi<Arc<str>>,
    service_entries_by_host: Multi<Hostname>,
    pub(crate) vips: BTreeMap<ServiceName, Ipv4Addr>,
    pub(crate) vips_stale: bool,
}

macro_rules! by_kind {
    ($self:ident, $key:expr, $($kind:ident => $field:ident),*) => {
        match $key.kind {
            $(Kind::$kind => $self.$field.get(&$key.name).cloned().map(Object::$kind),)*
        }
    };
}

impl Store {
    pub fn object(&self, key: &ObjectKey) -> Option<Object> {
        by_kind!(self, key,
            Namespace => namespaces, Node => nodes, ServiceAccount => service_accounts, Pod => pods,
            Service => services, EndpointSlice => slices, ServiceEntry => service_entries,
            WorkloadEntry => workload_entries, AuthorizationPolicy => authorization_policies,
            PeerAuthentication => peer_authentications)
    }

    pub(crate) fn insert(&mut self, object: &Object) {
        let name = object.meta().key();
        match object.clone() {
            Object::Namespace(o) => self.namespaces.insert(name, o),
            Object::Node(o) => self.nodes.insert(name, o),
            Object::ServiceAccount(o) => self.service_accounts.insert(name, o),
            Object::Service(o) => self.services.insert(name, o),
            Object::AuthorizationPolicy(o) => self.authorization_policies.insert(name, o),
            Object::PeerAuthentication(o) => self.peer_authentications.insert(name, o),
            Object::WorkloadEntry(o) => self.workload_entries.insert(name, o),
            Object::Pod(o) => {
                self.pods_by_node.insert(o.spec.node_name.clone(), name.clone());
                for address in addresses_of(&o) {
                    self.pods_by_address.insert(address, name.clone());
                }
                if o.metadata.deletion_timestamp.is_some() {
                    self.pods_ending.insert(name.namespace.clone(), name.clone());
                }
                self.pods.insert(name, o);
            }
            Object::EndpointSlice(o) => {
                if let Some(service) = service_of(&o) {
                    self.slices_by_service.insert(service, name.clone());
                }
                for pod in pods_of(&o) {
                    self.slices_by_pod.insert(pod, name.clone());
                }
                self.slices.insert(name, o);
            }
            Object::ServiceEntry(o) => {
                for host in hosts_of(&o) {
                    self.service_entries_by_host.insert(host, name.clone());
                }
                self.service_entries.insert(name, o);
                self.vips_stale = true;
            }
        }
    }

    pub(crate) fn remove(&mut self, object: &Object) {
        let name = object.meta().key();
        match object {
            Object::Namespace(_) => self.namespaces.remove(&name),
            Object::Node(_) => self.nodes.remove(&name),
            Object::ServiceAccount(_) => self.service_accounts.remove(&name),
            Object::Service(_) => self.services.remove(&name),
            Object::AuthorizationPolicy(_) => self.authorization_policies.remove(&name),
            Object::PeerAuthentication(_) => self.peer_authentications.remove(&name),
            Object::WorkloadEntry(_) => self.workload_entries.remove(&name),
            Object::Pod(o) => {
                self.pods_by_node.remove(&o.spec.node_name, &name);
                for address in addresses_of(o) {
                    self.pods_by_address.remove(&address, &name);
                }
                self.pods_ending.remove(&name.namespace, &name);
                self.pods.remove(&name);
            }
            Object::EndpointSlice(o) => {
                if let Some(service) = service_of(o) {
                    self.slices_by_service.remove(&service, &name);
                }
                for pod in pods_of(o) {
                    self.slices_by_pod.remove(&pod, &name);
                }
                self.slices.remove(&name);
            }
            Object::ServiceEntry(o) => {
                for host in hosts_of(o) {
                    self.service_entries_by_host.remove(&host, &name);
                }
                self.service_entries.remove(&name);
                self.vips_stale = true;
            }
        }
    }

    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(&Name::new("", name))
    }

    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&Name::new("", name))
    }

    pub fn slices_of_service<'a>(
        &'a self,
        service: &Name,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> + use<'a> {
        self.slices_by_service.get(service).filter_map(|name| self.slices.get(name))
    }

    pub fn slices_of_pod<'a>(
        &'a self,
        pod: &Name,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> + use<'a> {
        self.slices_by_pod.get(pod).filter_map(|name| self.slices.get(name))
    }

    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_by_node.get(node).filter_map(|name| self.pods.get(name))
    }

    /// The pods whose status names an address: several, while one is about to forget it.
    pub fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_by_address.get(&address).filter_map(|name| self.pods.get(name))
    }

    /// The pods of a namespace that are being deleted.
    pub fn pods_ending(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_ending.get(namespace).filter_map(|name| self.pods.get(name))
    }

    /// The entries that name a host, of all namespaces.
    pub fn entries_of_host(&self, host: &Hostname) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.service_entries_by_host.get(host).filter_map(|name| self.service_entries.get(name))
    }

    /// The entries that name a host, the one that is in force first: the oldest.
    pub fn entries_of(&self, service: &ServiceName) -> Vec<&Arc<ServiceEntry>> {
        let mut entries: Vec<_> = self
            .entries_of_host(&service.hostname)
            .filter(|entry| *entry.metadata.namespace == *service.namespace.as_str())
            .collect();
        entries.sort_by_key(|entry| entry.metadata.age());
        entries
    }

    pub(crate) fn vip(&self, service: &ServiceName) -> Option<Ipv4Addr> {
        self.vips.get(service).copied()
    }
}

pub(crate) fn service_of(slice: &EndpointSlice) -> Option<Name> {
    let service = slice.service()?;
    Some(Name { namespace: slice.metadata.namespace.clone(), name: service.clone() })
}

/// Those that are addresses; what is not is told when the pod is compiled.
pub(crate) fn addresses_of(pod: &Pod) -> BTreeSet<IpAddr> {
    let several = pod.status.pod_ips.iter().map(|ip| &ip.ip);
    let all = several.chain(&pod.status.pod_ip).filter_map(|ip| ip.parse::<IpAddr>().ok());
    all.map(|ip| ip.to_canonical()).collect()
}

pub(crate) fn pods_of(slice: &EndpointSlice) -> impl Iterator<Item = Name> {
    slice.endpoints.iter().filter_map(|endpoint| slice.target_pod(endpoint))
}

pub(crate) fn hosts_of(entry: &ServiceEntry) -> impl Iterator<Item = Hostname> {
    entry.spec.hosts.iter().filter_map(|host| Hostname::new(host).ok())
}
