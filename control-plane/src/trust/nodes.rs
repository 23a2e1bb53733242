//! What all replicas have heard of nodes, in one ConfigMap: each replica adds what it heard itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Map, Value, json};

use super::rotation::{Census, NODE_FORGOTTEN_AFTER, Node};
use crate::{
    clock::seconds,
    heard::{Heard, Word},
};

/// Holds a line of about 80 bytes a node; an object has room for ten thousand.
const MAP: &str = "weft-node-trust";
/// That a node is still there is written this often, what it trusts at once.
const SEEN_EVERY: Duration = Duration::from_hours(1);
/// What a stock node is said to trust.
const UNSAID: &str = "-";

pub(super) struct Nodes {
    maps: Api<ConfigMap>,
    heard: Arc<Heard>,
    written: Mutex<Written>,
}

/// What this replica has written.
#[derive(Default)]
struct Written {
    /// The uid of the map.
    map: Option<String>,
    words: HashMap<Arc<str>, Word>,
}

impl Written {
    /// Another map than before lacks what that one held: it is written again.
    fn is_in(&mut self, map: &ConfigMap) {
        if self.map != map.metadata.uid {
            self.words.clear();
            self.map.clone_from(&map.metadata.uid);
        }
    }

    fn is_new(&self, node: &Arc<str>, word: &Word) -> bool {
        self.words.get(node).is_none_or(|before| {
            before.bundle != word.bundle || word.seen >= before.seen + SEEN_EVERY
        })
    }
}

impl Nodes {
    pub(super) fn new(maps: Api<ConfigMap>, heard: Arc<Heard>) -> Self {
        Self { maps, heard, written: Mutex::default() }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the map if there is none. Before the first root is made: no node can have spoken by then.
    pub(super) async fn make(&self) -> Result<(), kube::Error> {
        if let Some(map) = self.maps.get_opt(MAP).await? {
            self.written().is_in(&map);
            return Ok(());
        }
        let metadata = ObjectMeta { name: Some(MAP.to_owned()), ..ObjectMeta::default() };
        let empty = ConfigMap { metadata, ..ConfigMap::default() };
        match self.maps.create(&PostParams::default(), &empty).await {
            Ok(map) => self.written().is_in(&map),
            // Another replica was faster: it is there all the same.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes what is new since the last time.
    pub(super) async fn write(&self) -> Result<(), kube::Error> {
        let heard = self.heard.all();
        let fresh: Vec<(Arc<str>, Word)> = {
            let mut written = self.written();
            if written.words.len() > heard.len() {
                let there: HashSet<&Arc<str>> = heard.iter().map(|(node, _)| node).collect();
                written.words.retain(|node, _| there.contains(node));
            }
            heard.into_iter().filter(|(node, word)| written.is_new(node, word)).collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let lines = fresh.iter().map(|(node, word)| (node.to_string(), json!(line(word))));
        let map = self.patch(lines.collect()).await?;
        let mut written = self.written();
        written.is_in(&map);
        written.words.extend(fresh);
        Ok(())
    }

    /// All nodes that were heard of lately, by whichever replica. They are all that can have been heard of if the
    /// map is as old as what they have to know.
    pub(super) async fn census(
        &self,
        known_since: Option<&Time>,
        now: SystemTime,
    ) -> Result<Census, kube::Error> {
        let map = self.maps.get_opt(MAP).await?;
        if let Some(map) = &map {
            self.written().is_in(map);
        }
        let made = map.as_ref().and_then(|map| map.metadata.creation_timestamp.clone());
        let whole_from = match (made, known_since) {
            (Some(made), Some(since)) if made <= *since => UNIX_EPOCH,
            // Whoever was not heard of for so long since has no certificate that is still good.
            (Some(made), _) => SystemTime::from(made.0) + NODE_FORGOTTEN_AFTER,
            (None, _) => now + NODE_FORGOTTEN_AFTER,
        };
        let nodes = nodes(map).filter(|node| !is_forgotten(node, now)).collect();
        Ok(Census { nodes, whole_from })
    }

    /// Takes out the others.
    pub(super) async fn forget(&self, now: SystemTime) -> Result<(), kube::Error> {
        let gone = nodes(self.maps.get_opt(MAP).await?).filter(|node| is_forgotten(node, now));
        let gone: Map<_, _> = gone.map(|node| (node.name, Value::Null)).collect();
        if gone.is_empty() { Ok(()) } else { self.patch(gone).await.map(drop) }
    }

    async fn patch(&self, lines: Map<String, Value>) -> Result<ConfigMap, kube::Error> {
        let patch = Patch::Merge(json!({ "data": lines }));
        let params = PatchParams::default();
        match self.maps.patch(MAP, &params, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.make().await?;
                self.maps.patch(MAP, &params, &patch).await
            }
            other => other,
        }
    }
}

fn nodes(map: Option<ConfigMap>) -> impl Iterator<Item = Node> {
    let lines = map.and_then(|map| map.data).unwrap_or_default();
    lines.into_iter().filter_map(|(name, line)| read(name, &line))
}

fn is_forgotten(node: &Node, now: SystemTime) -> bool {
    now >= node.seen + 2 * NODE_FORGOTTEN_AFTER
}

fn line(word: &Word) -> String {
    format!("{} {}", word.bundle.as_deref().unwrap_or(UNSAID), seconds(word.seen))
}

fn read(name: String, line: &str) -> Option<Node> {
    let (bundle, seen) = line.split_once(' ')?;
    let seen = UNIX_EPOCH + Duration::from_secs(u64::from(seen.parse::<u32>().ok()?));
    let bundle = Some(bundle.to_owned()).filter(|bundle| bundle != UNSAID);
    Some(Node { name, seen, bundle })
}
