//! What nodes have said of themselves with their requests: that they are there, and which roots they trust.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// The newest of each node. Only proven callers get here, so there are no more than nodes.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HashMap<Arc<str>, Word>>);

/// A node's newest word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) seen: SystemTime,
    /// The fingerprint of the roots that it trusts; a stock node says none.
    pub(crate) bundle: Option<String>,
}

impl Heard {
    /// A request that says nothing of roots takes nothing back.
    pub(crate) fn note(&self, node: &Arc<str>, bundle: Option<&str>, now: SystemTime) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let word = words.entry(node.clone()).or_insert_with(|| Word { seen: now, bundle: None });
        word.seen = now;
        if let Some(bundle) = bundle {
            word.bundle = Some(bundle.to_owned());
        }
    }

    pub(crate) fn all(&self) -> Vec<(Arc<str>, Word)> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().map(|(node, word)| (node.clone(), word.clone())).collect()
    }
}
