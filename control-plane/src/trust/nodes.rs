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

use super::rotation::{Census, NODE_FORGOTTEN_AFTER, Node, SEEN_EVERY};
use crate::{
    clock::seconds,
    heard::{Heard, Word},
};

/// Holds a line of about 80 bytes a node; an object has room for ten thousand.
const MAP: &str = "weft-node-trust";
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
        self.map().await.map(drop)
    }

    async fn map(&self) -> Result<ConfigMap, kube::Error> {
        let map = match self.maps.get_opt(MAP).await? {
            Some(map) => map,
            None => self.made().await?,
        };
        self.written().is_in(&map);
        Ok(map)
    }

    async fn made(&self) -> Result<ConfigMap, kube::Error> {
        let metadata = ObjectMeta { name: Some(MAP.to_owned()), ..ObjectMeta::default() };
        let empty = ConfigMap { metadata, ..ConfigMap::default() };
        match self.maps.create(&PostParams::default(), &empty).await {
            // Another replica was faster: it is there all the same.
            Err(kube::Error::Api(status)) if status.code == 409 => self.maps.get(MAP).await,
            made => made,
        }
    }

    /// Writes what is new since the last time, unless another replica has heard something newer.
    pub(super) async fn write(&self) -> Result<(), kube::Error> {
        let fresh = self.fresh();
        if fresh.is_empty() {
            return Ok(());
        }
        let map = self.map().await?;
        let kept = |node: &str| map.data.as_ref()?.get(node).and_then(|line| read(line));
        let newer = fresh
            .iter()
            .filter(|(node, word)| kept(node).is_none_or(|kept| word.counts_over(&kept)))
            .map(|(node, word)| (node.to_string(), json!(line(word))));
        if let Patched::Done = self.patch(&map, newer.collect()).await? {
            self.written().words.extend(fresh);
        }
        Ok(())
    }

    fn fresh(&self) -> Vec<(Arc<str>, Word)> {
        let heard = self.heard.all();
        let mut written = self.written();
        if written.words.len() > heard.len() {
            let there: HashSet<&Arc<str>> = heard.iter().map(|(node, _)| node).collect();
            written.words.retain(|node, _| there.contains(node));
        }
        heard.into_iter().filter(|(node, word)| written.is_new(node, word)).collect()
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
        let nodes = map.iter().flat_map(nodes).filter(|node| !is_forgotten(node, now)).collect();
        Ok(Census { nodes, whole_from })
    }

    /// Takes out the others.
    pub(super) async fn forget(&self, now: SystemTime) -> Result<(), kube::Error> {
        let Some(map) = self.maps.get_opt(MAP).await? else { return Ok(()) };
        let gone = nodes(&map).filter(|node| is_forgotten(node, now));
        let gone = gone.map(|node| (node.name, Value::Null)).collect();
        self.patch(&map, gone).await.map(drop)
    }

    /// Over the version that was read, and no other: a newer word must not be lost.
    async fn patch(
        &self,
        map: &ConfigMap,
        lines: Map<String, Value>,
    ) -> Result<Patched, kube::Error> {
        if lines.is_empty() {
            return Ok(Patched::Done);
        }
        let version = &map.metadata.resource_version;
        let patch =
            Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "data": lines }));
        match self.maps.patch(MAP, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(Patched::Done),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Patched::Stale),
            Err(error) => Err(error),
        }
    }
}

/// What came of a write.
enum Patched {
    Done,
    /// Another has written since: the next look sees it.
    Stale,
}

fn nodes(map: &ConfigMap) -> impl Iterator<Item = Node> {
    map.data.iter().flatten().filter_map(|(name, line)| {
        let Word { seen, bundle } = read(line)?;
        Some(Node { name: name.clone(), seen, bundle })
    })
}

fn is_forgotten(node: &Node, now: SystemTime) -> bool {
    now >= node.seen + 2 * NODE_FORGOTTEN_AFTER
}

fn line(word: &Word) -> String {
    format!("{} {}", word.bundle.as_deref().unwrap_or(UNSAID), seconds(word.seen))
}

fn read(line: &str) -> Option<Word> {
    let (bundle, seen) = line.split_once(' ')?;
    let seen = UNIX_EPOCH + Duration::from_secs(u64::from(seen.parse::<u32>().ok()?));
    let bundle = Some(bundle.to_owned()).filter(|bundle| bundle != UNSAID);
    Some(Word { seen, bundle })
}
