//! What a list and a watch tell, as one map: nothing that was deleted is kept, nothing known is forgotten while
//! a list is under way.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// Objects of one kind, by key.
#[derive(Debug)]
pub(super) struct Listed<K, V> {
    known: BTreeMap<K, V>,
    /// What a list has told so far. An interrupted one is started anew.
    listing: Option<BTreeMap<K, V>>,
    complete: bool,
}

impl<K: Ord + Clone, V: Clone> Listed<K, V> {
    pub(super) fn new() -> Self {
        Self { known: BTreeMap::new(), listing: None, complete: false }
    }

    /// What goes by this event.
    pub(super) fn apply(&mut self, event: Event<(K, V)>) -> Vec<(K, V)> {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply((key, value)) => {
                self.listing.get_or_insert_default().insert(key, value);
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.complete = true;
                let before = std::mem::replace(&mut self.known, listed);
                return before
                    .into_iter()
                    .filter(|(key, _)| !self.known.contains_key(key))
                    .collect();
            }
            Event::Apply((key, value)) => {
                self.known.insert(key, value);
            }
            Event::Delete((key, _)) => {
                return self.known.remove_entry(&key).into_iter().collect();
            }
        }
        Vec::new()
    }

    /// What was asked for beside the watch. The watch knows better, if it knows at all.
    pub(super) fn learn(&mut self, key: &K, value: &V) {
        // A list that is under way may have begun before the object was there; its watch then brings it.
        for map in [Some(&mut self.known), self.listing.as_mut()].into_iter().flatten() {
            map.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Keeps something that went.
    pub(super) fn keep(&mut self, key: K, value: V) {
        self.known.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.known.remove(key);
    }

    /// Whether a whole list has come.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.known.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.known.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.known.iter()
    }
}
