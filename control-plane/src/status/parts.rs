//! How far objects have come, of all replicas' nodes: each replica says so of its own, in one ConfigMap that the
//! writer reads. No network.
//!
//! A replica knows the nodes that are connected to it and no others. It lists what waits for nodes, newest first,
//! and what was refused; of what it does not list, the writer assumes that none of its nodes has it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::condition::{Reached, is_programmed};
use crate::{
    escape::shown,
    mesh::Known,
    objects::ObjectKey,
    streams::{Progress, Streams},
    written::{Form, Reach, Served, Written},
};

/// Of a part, so that ten replicas have room in one ConfigMap.
const OBJECTS_MAX: usize = 500;
/// A replica whose part stays as it is for so long is gone: it says that it is there every 10 s.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// What was read longer ago says nothing of now.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What one replica says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Another each time: whoever says the same for ever may be gone.
    pub(super) beat: u64,
    nodes: usize,
    /// By uid, generation and marks.
    objects: BTreeMap<String, Of>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    applied: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// Of an object as it was written.
fn id(written: &Written) -> String {
    format!("{}/{}/{:x}", written.uid, written.generation, written.marks)
}

/// Where an object is at the nodes that are connected here; `None` when that is said already, and still true,
/// or when there is nothing to be sent.
pub(super) fn own(
    known: &Known,
    progress: &Progress,
    key: &ObjectKey,
    served: &Served,
) -> Option<Reached> {
    if served.written.form == Form::Unreadable {
        return None;
    }
    let waits = match served.reach {
        Reach::AsSaid => !is_programmed(&served.written.conditions, served.written.generation),
        Reach::InDoubt => true,
    };
    if !waits && !progress.any_refused() {
        return None;
    }
    let resources = if progress.any_refused() { known.index().made_of(key) } else { Vec::new() };
    let reached = progress.reached(served.since, &resources);
    let refused = reached.refused.map(|(node, words)| {
        // Shortened apart, so that a node's name does not go for its words.
        format!("{node} refused it: {}", shown(&words))
    });
    (waits || refused.is_some()).then_some(Reached {
        nodes: reached.nodes,
        applied: reached.applied,
        refused,
    })
}

impl Part {
    /// What this replica has to say.
    pub(super) fn of(known: &Known, streams: &Streams) -> Self {
        let progress = streams.progress();
        let mut said: Vec<(ObjectKey, Served, Reached)> = Vec::new();
        for (key, served) in known.written().all_served() {
            if let Some(reached) = own(known, &progress, &key, &served) {
                said.push((key, served, reached));
            }
        }
        said.sort_by_key(|(_, served, reached)| {
            (reached.refused.is_none(), std::cmp::Reverse(served.since))
        });
        let of = |(_, served, Reached { applied, refused, .. }): (_, Served, Reached)| {
            (id(&served.written), Of { applied, refused })
        };
        let objects = said.into_iter().take(OBJECTS_MAX).map(of).collect();
        Self { beat: 0, nodes: progress.nodes(), objects }
    }

    /// `unsaid`: how many nodes have what is not listed.
    fn reached(&self, id: &str, unsaid: usize) -> Reached {
        let of = self.objects.get(id);
        Reached {
            nodes: self.nodes,
            applied: of.map_or(unsaid, |of| of.applied).min(self.nodes),
            refused: of.and_then(|of| of.refused.clone()),
        }
    }
}

impl Reached {
    fn and(self, other: Self) -> Self {
        Self {
            nodes: self.nodes + other.nodes,
            applied: self.applied + other.applied,
            refused: self.refused.or(other.refused),
        }
    }
}

/// The other replicas' parts as they were read.
#[derive(Debug, Default)]
pub(super) struct Others {
    parts: HashMap<String, Other>,
    read_at: Option<Instant>,
}

#[derive(Debug)]
struct Other {
    text: String,
    part: Part,
    since: Instant,
}

impl Others {
    /// Takes what is in the ConfigMap now; returns the names of those that are gone.
    pub(super) fn read(
        &mut self,
        own: &str,
        parts: BTreeMap<String, String>,
        now: Instant,
    ) -> Vec<String> {
        self.read_at = Some(now);
        self.parts.retain(|name, _| parts.contains_key(name));
        for (name, text) in parts {
            if name == own || self.parts.get(&name).is_some_and(|other| other.text == text) {
                continue;
            }
            // One that cannot be read is of another version of us: nothing is known of its nodes.
            let part = serde_json::from_str(&text).unwrap_or_default();
            self.parts.insert(name, Other { text, part, since: now });
        }
        let gone = |other: &Other| now >= other.since + GONE_AFTER;
        let gone = self.parts.iter().filter(|(_, other)| gone(other));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.parts.remove(name);
        }
        gone
    }

    /// Whether they were read after something happened.
    pub(super) fn covers(&self, then: Instant) -> bool {
        self.read_at.is_some_and(|at| at > then)
    }

    /// Whether any has a refusal to tell of an object.
    fn refused(&self, id: &str) -> bool {
        let of = |other: &Other| other.part.objects.get(id).is_some_and(|of| of.refused.is_some());
        self.parts.values().any(of)
    }

    /// Where an object is at all nodes; `None` when nothing is to be said of it now: it is said already, or what
    /// others know is not known.
    pub(super) fn with(
        &self,
        own: Option<Reached>,
        nodes: usize,
        served: &Served,
        now: Instant,
    ) -> Option<Reached> {
        if !self.covers(served.at) || self.read_at.is_none_or(|at| now > at + READ_WITHIN) {
            return None;
        }
        let id = id(&served.written);
        let (own, unsaid) = match own {
            Some(own) => (own, 0),
            // All had it when that was said last.
            None if self.refused(&id) => {
                (Reached { nodes, applied: nodes, refused: None }, usize::MAX)
            }
            None => return None,
        };
        let others = self.parts.values().map(|other| other.part.reached(&id, unsaid));
        Some(others.fold(own, Reached::and))
    }
}

#[cfg(test)]
mod tests;
