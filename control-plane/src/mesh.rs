//! What the process knows, shared by those who answer: nodes, the certificate service, the admin pages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tracing::{error, info, warn};
use weft_model::Change;
use weft_xds::{
    codec::{encode, wire_name},
    delta::Resources,
};

use crate::{
    Problem,
    compile::Mesh,
    index::Index,
    objects::{Difference, Kind, Object},
    written::Board,
};

/// The index and what is made of it.
#[derive(Debug)]
pub(crate) struct Known {
    index: Mutex<Index>,
    resources: watch::Sender<Resources>,
    /// Tells when a node has come, gone or been made again.
    nodes: watch::Sender<()>,
    complete: watch::Sender<bool>,
    problems: ArcSwap<Vec<Problem>>,
    written: Board,
}

impl Known {
    pub(crate) fn new(mesh: Mesh) -> Arc<Self> {
        Arc::new(Self {
            index: Mutex::new(Index::new(mesh)),
            resources: watch::Sender::new(Resources::default()),
            nodes: watch::Sender::new(()),
            complete: watch::Sender::new(false),
            problems: ArcSwap::default(),
            written: Board::default(),
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

    /// Tells when another answer of [`Index::is_there`] is due. It does so before the resources tell of the same change.
    pub(crate) fn nodes(&self) -> watch::Receiver<()> {
        self.nodes.subscribe()
    }

    pub(crate) fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.load_full()
    }

    /// What users have written, where an API server is watched.
    pub(crate) fn written(&self) -> &Board {
        &self.written
    }

    /// Whether something was published. Before, nothing may be served: pods without the policies that guard
    /// them would be open.
    pub(crate) fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// Returns once something was published. Cancel safe.
    pub(crate) async fn complete(&self) {
        // The sender is ours: it is there for as long as we are.
        self.complete.subscribe().wait_for(|complete| *complete).await.ok();
    }

    /// Takes in what changed. Of resources nobody is told before [`Self::publish`].
    pub(crate) fn apply(&self, difference: &Difference) {
        let mut index = self.index();
        let moved = moves_a_node(&index, difference);
        difference.delete.iter().for_each(|key| index.delete(key));
        difference.apply.iter().for_each(|object| index.apply(object));
        drop(index);
        if moved {
            self.nodes.send_replace(());
        }
    }

    /// Compiles what was taken in and tells all that came of it at once: returns how many resources.
    /// `found` says what is wrong besides.
    pub(crate) fn publish(&self, found: impl FnOnce(&Index) -> Vec<Problem>) -> usize {
        let mut index = self.index();
        let changes = index.flush();
        let found = found(&index);
        self.tell(&changes);
        drop(index);
        self.complete.send_if_modified(|complete| !std::mem::replace(complete, true));
        self.report(found);
        changes.len()
    }

    /// Compares what is served with everything compiled anew, and mends it: returns how many resources were
    /// not right. Costs a compilation of all, on the caller's thread.
    pub(crate) fn check(&self) -> usize {
        if !self.is_complete() {
            return 0;
        }
        let mut index = self.index();
        // What is not told yet is no mistake.
        let mut changes = index.flush();
        let wrong = index.check();
        if !wrong.is_empty() {
            // A defect of ours in index/dirty.rs; what is served is right again from here on.
            error!(resources = wrong.len(), "configuration was not what it compiles to");
        }
        let count = wrong.len();
        changes.extend(wrong);
        self.tell(&changes);
        count
    }

    // With the index held, so that what is told later was also compiled later.
    fn tell(&self, changes: &[Change]) {
        if !changes.is_empty() {
            self.resources.send_modify(|resources| changes.iter().for_each(|c| put(resources, c)));
        }
    }

    /// Each problem is told when it appears, not at every look.
    pub(crate) fn report(&self, found: Vec<Problem>) {
        let before = self.problems.load();
        if **before == found {
            return;
        }
        for problem in found.iter().filter(|problem| !before.contains(problem)) {
            warn!(problem = %problem, "refused in part");
        }
        for problem in before.iter().filter(|problem| !found.contains(problem)) {
            info!(problem = %problem, "problem is gone");
        }
        self.problems.store(Arc::new(found));
    }
}

/// Not each time that one says how it is, which they do often.
fn moves_a_node(index: &Index, difference: &Difference) -> bool {
    let is_other = |node: &Object| index.uid(&node.key()).as_ref() != Some(&node.meta().uid);
    difference.delete.iter().any(|key| key.kind == Kind::Node)
        || difference.apply.iter().any(|object| object.kind() == Kind::Node && is_other(object))
}

fn put(resources: &mut Resources, change: &Change) {
    if let Some(encoded) = encode(change) {
        resources.put(encoded);
        return;
    }
    let (kind, name) = wire_name(&change.key());
    resources.remove(kind, &name);
}
