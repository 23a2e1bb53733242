//! The whole mesh at one instant, indexed for the questions that a connection asks.

use std::{hash::Hash, net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap};

mod few;

use few::{Few, Left};

use crate::{
    Authorization, Change, Hostname, Namespace, NetworkAddress, NetworkCidr, PolicyName, Ports,
    ResourceKey, Scope, Service, ServiceName, TunnelProtocol, Visibility, Workload, WorkloadUid,
};

/// An immutable picture of the mesh.
///
/// A newer one is a clone with changes applied: the maps are persistent, so a clone is cheap and shares what
/// did not change. Every index is derived from the resources alone, so the order of changes never matters; the
/// one exception is what history is kept of: [`View::is_retired`].
#[derive(Clone, Debug, Default)]
pub struct View {
    generation: u64,
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    services: HashMap<ServiceName, Arc<Service>>,
    policies: HashMap<PolicyName, Arc<Authorization>>,

    workloads_by_address: HashMap<NetworkAddress, Few<WorkloadUid>>,
    workloads_by_name: HashMap<(Namespace, Arc<str>), Few<WorkloadUid>>,
    workloads_by_hostname: HashMap<Hostname, Few<WorkloadUid>>,
    services_by_vip: HashMap<NetworkAddress, Few<ServiceName>>,
    /// Few in any mesh, so they are searched one by one.
    cidr_vips: imbl::Vector<(NetworkCidr, ServiceName)>,
    services_by_hostname: HashMap<Hostname, Few<ServiceName>>,
    /// May name a service that is not known yet: the order of resources is free.
    endpoints: HashMap<ServiceName, OrdMap<WorkloadUid, Arc<Workload>>>,
    /// Counts the addresses that were freed.
    freed: u64,
    /// Addresses that were of workloads behind HBONE and are nobody's since, in the order in which they were freed.
    retired: OrdMap<u64, NetworkAddress>,
    retired_at: HashMap<NetworkAddress, u64>,
    /// Policies that apply without being listed by a workload, by namespace; "" is the whole mesh.
    policies_by_namespace: HashMap<Arc<str>, Few<PolicyName>>,
}

/// How many freed addresses are remembered; beyond it the oldest is forgotten.
const RETIRED_MAX: usize = 16_384;

/// One workload behind one service.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    pub workload: &'a Arc<Workload>,
    /// This endpoint's own port map; empty where the service's decides.
    pub ports: &'a Ports,
}

impl View {
    /// Counts the changes that led here.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workload that owns an address. Of several (an address being reused), a pod comes before anything
    /// else, then one that speaks HBONE, then the smaller uid.
    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        self.first_of(self.workloads_by_address.get(address)?)
    }

    /// Whether an address was of a workload behind HBONE, and nobody has come to it since.
    ///
    /// It may belong to the next pod already, of which the news is still on its way: nothing may be sent there
    /// in the clear. Every pod of a mesh is told of, so an address outside of it never looks like this.
    pub fn is_retired(&self, address: &NetworkAddress) -> bool {
        self.retired_at.contains_key(address)
    }

    /// The pod that the node agent announced by namespace and name; never found by address, which can be reused.
    pub fn pod(&self, namespace: &Namespace, name: &str) -> Option<&Arc<Workload>> {
        let uids = self.workloads_by_name.get(&(namespace.clone(), Arc::from(name)))?;
        uids.into_iter().filter_map(|uid| self.workloads.get(uid)).min_by_key(|w| !w.is_pod())
    }

    /// The workload that a host name means; of several, as for [`View::workload_at`].
    pub fn workload_named(&self, hostname: &Hostname) -> Option<&Arc<Workload>> {
        self.first_of(self.workloads_by_hostname.get(hostname)?)
    }

    fn first_of(&self, owners: &Few<WorkloadUid>) -> Option<&Arc<Workload>> {
        owners
            .into_iter()
            .filter_map(|uid| self.workloads.get(uid))
            .min_by_key(|w| (!w.is_pod(), matches!(w.tunnel, TunnelProtocol::None)))
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The service that a client in `client` reaches at an address: an exact VIP first, then the longest range;
    /// the client's own namespace wins a tie, then a canonical service, then the smaller name.
    pub fn service_at(&self, vip: &NetworkAddress, client: &Namespace) -> Option<&Arc<Service>> {
        let exact = self.services_by_vip.get(vip).into_iter().flatten();
        if let Some(service) = self.preferred(exact, client) {
            return Some(service);
        }
        let address = vip.address();
        let ranges = || {
            self.cidr_vips
                .iter()
                .filter(|(range, _)| range.network == vip.network && range.cidr.contains(&address))
        };
        let visible =
            |name: &ServiceName| self.services.get(name).is_some_and(|s| is_visible(s, client));
        let longest =
            ranges().filter(|(_, n)| visible(n)).map(|(range, _)| range.cidr.prefix_len()).max()?;
        let best = ranges().filter(|(range, _)| range.cidr.prefix_len() == longest);
        self.preferred(best.map(|(_, name)| name), client)
    }

    /// The service that a client in `client` means by a host name, wildcard services last.
    pub fn service_named(&self, hostname: &Hostname, client: &Namespace) -> Option<&Arc<Service>> {
        let named = |h: &Hostname| {
            self.preferred(self.services_by_hostname.get(h).into_iter().flatten(), client)
        };
        named(hostname).or_else(|| {
            let mut rest = hostname.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                let wildcard = Hostname::new(&format!("*.{parent}")).ok()?;
                if let Some(service) = named(&wildcard) {
                    return Some(service);
                }
                rest = parent;
            }
            None
        })
    }

    fn preferred<'a>(
        &'a self,
        names: impl Iterator<Item = &'a ServiceName>,
        client: &Namespace,
    ) -> Option<&'a Arc<Service>> {
        names
            .filter_map(|name| self.services.get(name))
            .filter(|service| is_visible(service, client))
            .min_by_key(|service| (service.namespace != *client, !service.canonical, service.key()))
    }

    /// All endpoints of a service, whatever their health, in the order of their uids.
    pub fn endpoints(&self, service: &ServiceName) -> impl Iterator<Item = Endpoint<'_>> {
        let of = service.clone();
        self.endpoints.get(service).into_iter().flat_map(OrdMap::values).filter_map(
            move |workload| workload.services.get(&of).map(|ports| Endpoint { workload, ports }),
        )
    }

    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Authorization>> {
        self.policies.get(name)
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.values()
    }

    /// Whether the two surely say the same about who may call a workload. Two pointers are compared, no policy is
    /// read; `false` says only that it has to be looked at.
    pub fn agrees_on(&self, other: &Self, workload: &WorkloadUid) -> bool {
        let same = match (self.workloads.get(workload), other.workloads.get(workload)) {
            (Some(this), Some(that)) => Arc::ptr_eq(this, that),
            (Some(_) | None, None) | (None, Some(_)) => false,
        };
        same && self.policies.ptr_eq(&other.policies)
    }

    /// Every policy that governs connections to `workload`: of the mesh, of its namespace, and those it lists.
    ///
    /// A listed policy that is not known is returned as `Err`: who decides must deny on it, since what it
    /// would have denied cannot be told.
    pub fn policies_of<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = Result<&'a Arc<Authorization>, &'a PolicyName>> {
        let of = |namespace: &str| {
            self.policies_by_namespace
                .get(namespace)
                .into_iter()
                .flatten()
                .filter_map(|name| self.policies.get(name))
                .map(Ok)
        };
        let listed = workload.policies.iter().map(|name| self.policies.get(name).ok_or(name));
        of("").chain(of(workload.namespace.as_str())).chain(listed)
    }

    /// Applies one change. Replacing a resource by an equal one is not counted as a change.
    pub fn apply(&mut self, change: Change) {
        let changed = match change {
            Change::Workload(workload) => self.put_workload(workload),
            Change::Service(service) => self.put_service(service),
            Change::Policy(policy) => self.put_policy(policy),
            Change::Remove(ResourceKey::Workload(uid)) => self.take_workload(&uid),
            Change::Remove(ResourceKey::Service(name)) => self.take_service(&name),
            Change::Remove(ResourceKey::Policy(name)) => self.take_policy(&name),
        };
        self.generation += u64::from(changed);
    }

    fn put_workload(&mut self, workload: Arc<Workload>) -> bool {
        let uid = workload.uid.clone();
        if self.workloads.get(&uid) == Some(&workload) {
            return false;
        }
        self.take_workload(&uid);
        for address in workload.unique_addresses() {
            self.revive(&address);
            insert(&mut self.workloads_by_address, address, uid.clone());
        }
        insert(&mut self.workloads_by_name, name_of(&workload), uid.clone());
        if let Some(hostname) = &workload.hostname {
            insert(&mut self.workloads_by_hostname, hostname.clone(), uid.clone());
        }
        for service in workload.services.keys() {
            self.endpoints
                .entry(service.clone())
                .or_default()
                .insert(uid.clone(), workload.clone());
        }
        self.workloads.insert(uid, workload);
        true
    }

    fn take_workload(&mut self, uid: &WorkloadUid) -> bool {
        let Some(old) = self.workloads.remove(uid) else { return false };
        for address in old.unique_addresses() {
            remove(&mut self.workloads_by_address, &address, uid);
            if matches!(old.tunnel, TunnelProtocol::Hbone)
                && !self.workloads_by_address.contains_key(&address)
            {
                self.retire(address);
            }
        }
        remove(&mut self.workloads_by_name, &name_of(&old), uid);
        if let Some(hostname) = &old.hostname {
            remove(&mut self.workloads_by_hostname, hostname, uid);
        }
        for service in old.services.keys() {
            if let Some(endpoints) = self.endpoints.get_mut(service) {
                endpoints.remove(uid);
                if endpoints.is_empty() {
                    self.endpoints.remove(service);
                }
            }
        }
        true
    }

    fn retire(&mut self, address: NetworkAddress) {
        self.freed += 1;
        self.retired.insert(self.freed, address.clone());
        self.retired_at.insert(address, self.freed);
        if self.retired.len() > RETIRED_MAX
            && let Some((first, oldest)) = self.retired.get_min().cloned()
        {
            self.retired.remove(&first);
            self.retired_at.remove(&oldest);
        }
    }

    fn revive(&mut self, address: &NetworkAddress) {
        if let Some(freed) = self.retired_at.remove(address) {
            self.retired.remove(&freed);
        }
    }

    fn put_service(&mut self, service: Arc<Service>) -> bool {
        let name = service.key();
        if self.services.get(&name) == Some(&service) {
            return false;
        }
        self.take_service(&name);
        for vip in &service.vips {
            insert(&mut self.services_by_vip, vip.clone(), name.clone());
        }
        for range in &service.cidr_vips {
            self.cidr_vips.push_back((range.clone(), name.clone()));
        }
        insert(&mut self.services_by_hostname, service.hostname.clone(), name.clone());
        self.services.insert(name, service);
        true
    }

    fn take_service(&mut self, name: &ServiceName) -> bool {
        let Some(old) = self.services.remove(name) else { return false };
        for vip in &old.vips {
            remove(&mut self.services_by_vip, vip, name);
        }
        if !old.cidr_vips.is_empty() {
            self.cidr_vips.retain(|(_, owner)| owner != name);
        }
        remove(&mut self.services_by_hostname, &old.hostname, name);
        true
    }

    fn put_policy(&mut self, policy: Arc<Authorization>) -> bool {
        let name = policy.name.clone();
        if self.policies.get(&name) == Some(&policy) {
            return false;
        }
        self.take_policy(&name);
        if let Some(namespace) = governed_namespace(&policy) {
            insert(&mut self.policies_by_namespace, namespace, name.clone());
        }
        self.policies.insert(name, policy);
        true
    }

    fn take_policy(&mut self, name: &PolicyName) -> bool {
        let Some(old) = self.policies.remove(name) else { return false };
        if let Some(namespace) = governed_namespace(&old) {
            remove(&mut self.policies_by_namespace, &namespace, name);
        }
        true
    }
}

/// Two views are equal when they hold the same resources; how they came to is not compared.
impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.workloads == other.workloads
            && self.services == other.services
            && self.policies == other.policies
    }
}

impl FromIterator<Change> for View {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        let mut view = Self::default();
        changes.into_iter().for_each(|change| view.apply(change));
        view
    }
}

impl Endpoint<'_> {
    pub fn address(&self) -> Option<IpAddr> {
        self.workload.addresses.first().copied()
    }
}

fn is_visible(service: &Service, client: &Namespace) -> bool {
    match service.visibility {
        Visibility::Public => true,
        Visibility::Namespace => service.namespace == *client,
    }
}

fn governed_namespace(policy: &Authorization) -> Option<Arc<str>> {
    match policy.scope {
        Scope::Global => Some("".into()),
        Scope::Namespace => Some(policy.name.namespace().into()),
        Scope::Workload => None,
    }
}

fn name_of(workload: &Workload) -> (Namespace, Arc<str>) {
    (workload.namespace.clone(), workload.name.clone())
}

fn insert<K: Hash + Eq + Clone, V: Ord + Clone>(index: &mut HashMap<K, Few<V>>, key: K, value: V) {
    if let Some(values) = index.get_mut(&key) {
        values.insert(value);
    } else {
        index.insert(key, Few::One(value));
    }
}

fn remove<K: Hash + Eq + Clone, V: Ord + Clone>(
    index: &mut HashMap<K, Few<V>>,
    key: &K,
    value: &V,
) {
    if index.get_mut(key).is_some_and(|values| values.remove(value) == Left::None) {
        index.remove(key);
    }
}

#[cfg(test)]
mod tests;
