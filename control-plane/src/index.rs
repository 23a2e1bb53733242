//! What is known, what it means for the nodes, and what of that has changed.
//!
//! Synchronous: apply, then look. A change of an object marks the units whose resources could come out
//! differently; [`Index::flush`] compiles just these. The index is always as if it were compiled from scratch.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use weft_model::{Change, Identity, ResourceKey};

use crate::{
    FieldProblem,
    caller::Caller,
    compile::{self, Compiled, Mesh, Unit},
    objects::{Kind, Name, Object, ObjectKey, Pod},
    store::Store,
};

mod dirty;
mod vips;

/// Objects in, resources out.
#[derive(Debug)]
pub struct Index {
    mesh: Mesh,
    store: Store,
    dirty: BTreeSet<Unit>,
    made: HashMap<Unit, BTreeSet<ResourceKey>>,
    resources: BTreeMap<ResourceKey, Change>,
    problems: BTreeMap<Unit, Vec<FieldProblem>>,
}

/// Why a node may not have an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotEntitled {
    #[error("{identity} is not of the trust domain {ours}")]
    TrustDomain { identity: Identity, ours: weft_model::TrustDomain },
    #[error("no enrolled pod with {identity} runs on node {node}")]
    NoSuchPod { identity: Identity, node: String },
    #[error("the caller is node {node} with uid {uid}, and no such node is there")]
    OtherNode { node: String, uid: String },
    #[error("an enrolled pod with {identity} runs on node {node}, but none with uid {pods}")]
    OtherPod { identity: Identity, node: String, pods: String },
}

impl Index {
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            store: Store::default(),
            dirty: BTreeSet::new(),
            made: HashMap::new(),
            resources: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Takes an object as it is now. Equal to what is known: nothing happens.
    pub fn apply(&mut self, object: &Object) {
        if self.store.object(&object.key()).as_ref() == Some(object) {
            return;
        }
        self.delete(&object.key());
        self.store.insert(object);
        self.dirty.extend(dirty::units(&self.store, &self.mesh, object));
    }

    pub fn delete(&mut self, key: &ObjectKey) {
        let Some(old) = self.store.object(key) else { return };
        // Before it is gone: the indexes still lead from it to what depends on it.
        self.dirty.extend(dirty::units(&self.store, &self.mesh, &old));
        self.store.remove(&old);
    }

    /// Compiles what could have changed and says what did. Policies come first, and removals of policies last,
    /// so that whoever applies the changes in order is never laxer than before and after.
    pub fn flush(&mut self) -> Vec<Change> {
        let moved = vips::assign(&mut self.store);
        self.dirty.extend(moved.into_iter().map(Unit::Service));
        let mut changes = Vec::new();
        for unit in std::mem::take(&mut self.dirty) {
            let Compiled { resources, problems } = compile::unit(&self.store, &self.mesh, &unit);
            if problems.is_empty() {
                self.problems.remove(&unit);
            } else {
                self.problems.insert(unit.clone(), problems);
            }
            self.replace(unit, resources, &mut changes);
        }
        changes.sort_by_key(order);
        changes
    }

    fn replace(&mut self, unit: Unit, resources: Vec<Change>, changes: &mut Vec<Change>) {
        let keys: BTreeSet<ResourceKey> = resources.iter().map(Change::key).collect();
        debug_assert_eq!(keys.len(), resources.len(), "{unit:?} makes a resource twice");
        let before = if keys.is_empty() {
            self.made.remove(&unit)
        } else {
            self.made.insert(unit, keys.clone())
        };
        for gone in before.iter().flatten().filter(|key| !keys.contains(key)) {
            self.resources.remove(gone);
            changes.push(Change::Remove(gone.clone()));
        }
        for resource in resources {
            let key = resource.key();
            if self.resources.get(&key) != Some(&resource) {
                self.resources.insert(key, resource.clone());
                changes.push(resource);
            }
        }
    }

    /// What the objects come to when everything is compiled anew, whatever was marked: the same as what is in
    /// force after a flush, or else an arrow is missing in `index/dirty.rs`. Costs a compilation of all.
    pub fn from_scratch(&self) -> BTreeMap<ResourceKey, Change> {
        let units = dirty::all(&self.store, &self.mesh);
        let compiled = units.iter().map(|unit| compile::unit(&self.store, &self.mesh, unit));
        let resources = compiled.flat_map(|compiled| compiled.resources);
        resources.map(|resource| (resource.key(), resource)).collect()
    }

    /// Compares with [`Self::from_scratch`] and, where it differs, takes over what is right. Returns the
    /// changes, of which there should be none.
    pub fn check(&mut self) -> Vec<Change> {
        if self.resources == self.from_scratch() {
            return Vec::new();
        }
        self.dirty.extend(dirty::all(&self.store, &self.mesh));
        self.dirty.extend(self.made.keys().cloned());
        self.flush()
    }

    /// Everything in force, as changes to an empty view.
    pub fn resources(&self) -> impl Iterator<Item = &Change> {
        self.resources.values()
    }

    /// What could not be compiled as it was meant, in the order of objects.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut all: Vec<FieldProblem> = self.problems.values().flatten().cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// What an object that users write is compiled to.
    pub(crate) fn made_of(&self, key: &ObjectKey) -> Vec<ResourceKey> {
        let name = key.name.clone();
        let units = match key.kind {
            Kind::AuthorizationPolicy => vec![Unit::AuthorizationPolicy(name)],
            Kind::PeerAuthentication => vec![Unit::PeerAuthentication(name), Unit::StaticStrict],
            Kind::ServiceEntry => {
                let entry = self.store.service_entries.get(&name);
                let services = entry.into_iter().flat_map(|entry| compile::entry_names(entry));
                services.map(Unit::Service).chain([Unit::ServiceEntry(name)]).collect()
            }
            Kind::WorkloadEntry => vec![Unit::WorkloadEntry(name)],
            Kind::Namespace
            | Kind::Node
            | Kind::ServiceAccount
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::Pod => Vec::new(),
        };
        units.iter().filter_map(|unit| self.made.get(unit)).flatten().cloned().collect()
    }

    /// Of an object that is known.
    pub(crate) fn uid(&self, key: &ObjectKey) -> Option<Arc<str>> {
        let object = self.store.object(key)?;
        Some(object.meta().uid.clone()).filter(|uid| !uid.is_empty())
    }

    /// Whether the caller is the node that has its name now. One without a uid was named by a token of ours and
    /// not by a cluster: there is nothing to compare.
    pub fn is_there(&self, caller: &Caller) -> Result<(), NotEntitled> {
        let Some(uid) = &caller.uid else { return Ok(()) };
        match self.store.nodes.get(&Name::new("", &caller.node)) {
            Some(node) if node.metadata.uid == *uid => Ok(()),
            Some(_) | None => {
                let (node, uid) = (caller.node.to_string(), uid.to_string());
                Err(NotEntitled::OtherNode { node, uid })
            }
        }
    }

    /// Whether a node may have an identity: it [`Self::is_there`], and an enrolled pod that has the identity and
    /// is not finished runs there, and is one of `pods` (uids), unless the node did not say which it means.
    pub fn entitled(
        &self,
        caller: &Caller,
        identity: &Identity,
        pods: &[&str],
    ) -> Result<(), NotEntitled> {
        self.is_there(caller)?;
        let node = &*caller.node;
        if *identity.trust_domain() != self.mesh.trust_domain {
            return Err(NotEntitled::TrustDomain {
                identity: identity.clone(),
                ours: self.mesh.trust_domain.clone(),
            });
        }
        let mut here = self.store.pods_on(node).filter(|pod| {
            compile::is_enrolled(&self.store, pod)
                && compile::identity(&self.mesh, pod).is_ok_and(|of_pod| of_pod == *identity)
        });
        let (identity, node) = (identity.clone(), node.to_owned());
        let Some(first) = here.next() else {
            return Err(NotEntitled::NoSuchPod { identity, node });
        };
        // A manifest that was never in a cluster has no uid.
        let meant = |pod: &Pod| pod.metadata.uid.is_empty() || pods.contains(&&*pod.metadata.uid);
        if pods.is_empty() || meant(first) || here.any(|pod| meant(pod)) {
            return Ok(());
        }
        let pods = crate::escape::shown(&pods.join(" "));
        Err(NotEntitled::OtherPod { identity, node, pods })
    }
}

fn order(change: &Change) -> u8 {
    match change {
        Change::Policy(_) => 0,
        Change::Service(_) => 1,
        Change::Workload(_) => 2,
        Change::Remove(ResourceKey::Workload(_)) => 3,
        Change::Remove(ResourceKey::Service(_)) => 4,
        Change::Remove(ResourceKey::Policy(_)) => 5,
    }
}

#[cfg(test)]
mod tests;
