//! What the process knows, shared by those who answer: nodes, the certificate service, the admin pages.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tracing::{error, info, warn};
use weft_model::{Change, ResourceKey};
use weft_xds::{
    codec::{ResourceType, encode},
    delta::Resources,
};

use crate::{
    Problem,
    compile::Mesh,
    dir::{Difference, Folder},
    index::Index,
    validate::problems,
};

/// The index and what is made of it.
#[derive(Debug)]
pub(crate) struct Known {
    index: Mutex<Index>,
    resources: watch::Sender<Resources>,
    problems: ArcSwap<Vec<Problem>>,
    idle_looks: AtomicU32,
}

/// Looks without a change between two comparisons with everything compiled anew: about every five minutes.
const LOOKS_PER_CHECK: u32 = 30;

impl Known {
    pub(crate) fn new(mesh: Mesh) -> Arc<Self> {
        Arc::new(Self {
            index: Mutex::new(Index::new(mesh)),
            resources: watch::Sender::new(Resources::default()),
            problems: ArcSwap::default(),
            idle_looks: AtomicU32::new(0),
        })
    }

    /// Held for as long as a change is compiled, never across an await.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        // Whoever panicked with it left at worst a unit dirty.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn resources(&self) -> watch::Receiver<Resources> {
        self.resources.subscribe()
    }

    pub(crate) fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.load_full()
    }

    /// Takes in what changed and publishes what came of it, all at once.
    pub(crate) fn take(&self, difference: &Difference, folder: &Folder) {
        let mut index = self.index();
        difference.delete.iter().for_each(|key| index.delete(key));
        difference.apply.iter().for_each(|object| index.apply(object));
        let mut changes = index.flush();
        if changes.is_empty() && self.is_check_due() {
            changes = index.check();
            if !changes.is_empty() {
                // A defect of ours in index/dirty.rs; what is served is right again from here on.
                error!(resources = changes.len(), "configuration was not what it compiles to");
            }
        }
        let found = problems(folder, &index);
        drop(index);
        if !changes.is_empty() {
            info!(
                objects = difference.apply.len() + difference.delete.len(),
                resources = changes.len(),
                "configuration changed"
            );
            self.resources.send_modify(|resources| changes.iter().for_each(|c| put(resources, c)));
        }
        self.report(found);
    }

    fn is_check_due(&self) -> bool {
        self.idle_looks.fetch_add(1, Relaxed) % LOOKS_PER_CHECK == LOOKS_PER_CHECK - 1
    }

    /// Each problem is told when it appears, not at every look.
    fn report(&self, found: Vec<Problem>) {
        let before = self.problems.load();
        for problem in found.iter().filter(|problem| !before.contains(problem)) {
            warn!(problem = %problem, "manifest refused in part");
        }
        for problem in before.iter().filter(|problem| !found.contains(problem)) {
            info!(problem = %problem, "problem is gone");
        }
        self.problems.store(Arc::new(found));
    }
}

fn put(resources: &mut Resources, change: &Change) {
    if let Some(encoded) = encode(change) {
        resources.put(encoded);
        return;
    }
    match change.key() {
        ResourceKey::Workload(uid) => resources.remove(ResourceType::Address, uid.as_str()),
        ResourceKey::Service(name) => resources.remove(ResourceType::Address, &name.to_string()),
        ResourceKey::Policy(name) => {
            resources.remove(ResourceType::Authorization, &name.to_string())
        }
    };
}
