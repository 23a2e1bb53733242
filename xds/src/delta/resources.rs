//! All resources at one instant, encoded once for every subscriber.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::codec::{Encoded, ResourceType};

pub(super) type ByName = OrdMap<Arc<str>, Arc<Encoded>>;

/// A snapshot of what there is to subscribe to. A clone is cheap and shares what did not change, so that
/// subscribers remember what they were sent as a snapshot, and comparing two costs what differs.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    generation: u64,
    addresses: ByName,
    policies: ByName,
    found_by: OrdSet<(Key, Arc<str>)>,
}

/// How a resource is found besides by its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Alias(Arc<str>),
    EndpointOf(Arc<str>),
    OnNode(Arc<str>),
}

/// Whether a resource is different from what was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    Changed,
    Same,
}

impl Resources {
    /// Counts the changes that led here.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn put(&mut self, resource: Encoded) -> Put {
        let kind = resource.kind;
        let name = resource.name.clone();
        if self.of(kind).get(&name).is_some_and(|old| **old == resource) {
            return Put::Same;
        }
        if let Some(old) = self.of(kind).get(&name).cloned() {
            self.forget_keys(&old);
        }
        for key in keys(&resource) {
            self.found_by.insert((key, name.clone()));
        }
        self.of_mut(kind).insert(name, Arc::new(resource));
        self.generation += 1;
        Put::Changed
    }

    pub fn remove(&mut self, kind: ResourceType, name: &str) -> Put {
        let Some(old) = self.of_mut(kind).remove(name) else { return Put::Same };
        self.forget_keys(&old);
        self.generation += 1;
        Put::Changed
    }

    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Encoded>> {
        self.of(kind).get(name)
    }

    pub fn iter(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Encoded>> {
        self.of(kind).values()
    }

    pub(super) fn of(&self, kind: ResourceType) -> &ByName {
        match kind {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
        }
    }

    fn of_mut(&mut self, kind: ResourceType) -> &mut ByName {
        match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        }
    }

    fn forget_keys(&mut self, old: &Encoded) {
        for key in keys(old) {
            self.found_by.remove(&(key, old.name.clone()));
        }
    }

    /// What a name that is asked for stands for: the resource of that name or alias, and for a service also
    /// its endpoints. Who asks for one address of a service goes on to connect to an endpoint.
    pub(super) fn asked(&self, kind: ResourceType, name: &Arc<str>) -> Vec<Arc<Encoded>> {
        let mut found: Vec<_> = match self.of(kind).get(name) {
            Some(resource) => vec![resource.clone()],
            None if kind == ResourceType::Address => self.under(&Key::Alias(name.clone())),
            None => Vec::new(),
        };
        let endpoints: Vec<_> = found
            .iter()
            .flat_map(|resource| self.under(&Key::EndpointOf(resource.name.clone())))
            .collect();
        found.extend(endpoints);
        found
    }

    pub(super) fn on_node(&self, node: &Arc<str>) -> Vec<Arc<Encoded>> {
        self.under(&Key::OnNode(node.clone()))
    }

    /// Only addresses have such keys.
    fn under(&self, key: &Key) -> Vec<Arc<Encoded>> {
        self.found_by
            .range((key.clone(), Arc::from(""))..)
            .take_while(|(found, _)| found == key)
            .filter_map(|(_, name)| self.addresses.get(name).cloned())
            .collect()
    }
}

fn keys(resource: &Encoded) -> impl Iterator<Item = Key> + '_ {
    let node = (!resource.node.is_empty()).then(|| Key::OnNode(resource.node.clone()));
    let aliases = resource.aliases.iter().cloned().map(Key::Alias);
    aliases.chain(resource.services.iter().cloned().map(Key::EndpointOf)).chain(node)
}
