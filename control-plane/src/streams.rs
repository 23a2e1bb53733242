//! Which nodes are connected, and how far each has come with what it is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use weft_model::ResourceKey;
use weft_xds::{
    codec::wire_name,
    delta::{Refusals, Server},
};

use crate::config::Applied;

/// All open streams.
#[derive(Debug)]
pub(crate) struct Streams {
    open: Mutex<Open>,
    moved: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Open {
    opened: u64,
    streams: BTreeMap<u64, One>,
}

#[derive(Debug)]
struct One {
    node: Arc<str>,
    at: At,
}

/// Where a stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct At {
    answered: Option<u64>,
    refusals: Refusals,
}

/// One open stream; gone when dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    id: u64,
    all: Arc<Streams>,
}

/// All nodes at one moment. A node that has two streams is as far as the one that is behind.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    nodes: BTreeMap<Arc<str>, Vec<At>>,
    refused: bool,
}

/// How many nodes have something, of how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) nodes: usize,
    pub(crate) applied: usize,
    /// One that refused it, and its words.
    pub(crate) refused: Option<(Arc<str>, Arc<str>)>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: Mutex::default(), moved: watch::Sender::new(()) }
    }
}

impl Streams {
    pub(crate) fn open(all: &Arc<Self>, node: &Arc<str>) -> Stream {
        let id = {
            let mut open = all.lock();
            open.opened += 1;
            let id = open.opened;
            open.streams.insert(id, One { node: node.clone(), at: At::default() });
            id
        };
        all.moved.send_replace(());
        Stream { id, all: all.clone() }
    }

    pub(crate) fn progress(&self) -> Progress {
        let mut nodes: BTreeMap<Arc<str>, Vec<At>> = BTreeMap::new();
        for One { node, at } in self.lock().streams.values() {
            nodes.entry(node.clone()).or_default().push(at.clone());
        }
        let refused = nodes.values().flatten().any(|at| !at.refusals.is_empty());
        Progress { nodes, refused }
    }

    /// Tells when any of it may be otherwise.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// Takes note of where its server is.
    pub(crate) fn note(&self, server: &Server) {
        let at = At { answered: server.answered(), refusals: server.refusals().clone() };
        let mut open = self.all.lock();
        let Some(one) = open.streams.get_mut(&self.id) else { return };
        if one.at != at {
            one.at = at;
            drop(open);
            self.all.moved.send_replace(());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.all.lock().streams.remove(&self.id);
        self.all.moved.send_replace(());
    }
}

impl Progress {
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How far each node is.
    pub(crate) fn applied(&self) -> BTreeMap<String, Applied> {
        let of = |(node, streams): (&Arc<str>, &Vec<At>)| {
            let refused = streams.iter().flat_map(|at| at.refusals.names()).map(|(_, it)| &**it);
            let refused: BTreeSet<_> = refused.map(str::to_owned).collect();
            let answered = streams.iter().map(|at| at.answered).min().flatten();
            (node.to_string(), Applied { answered, refused: refused.into_iter().collect() })
        };
        self.nodes.iter().map(of).collect()
    }

    /// Whether any node has refused anything.
    pub(crate) fn any_refused(&self) -> bool {
        self.refused
    }

    /// How far these resources have come in the form that they have since a generation.
    pub(crate) fn reached(&self, since: u64, resources: &[ResourceKey]) -> Reached {
        let mut reached = Reached { nodes: self.nodes(), ..Reached::default() };
        let names: Vec<_> = resources.iter().map(wire_name).collect();
        for (node, streams) in &self.nodes {
            let refused = names
                .iter()
                .find_map(|(kind, name)| streams.iter().find_map(|at| at.refusals.of(*kind, name)));
            if let Some(message) = refused {
                reached.refused.get_or_insert((node.clone(), message.clone()));
            } else if streams.iter().all(|at| at.answered >= Some(since)) {
                reached.applied += 1;
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests;
