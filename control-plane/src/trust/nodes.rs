//! What all replicas have heard of nodes, in one ConfigMap: each replica adds what it heard itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Map, Value, json};

use super::rotation::{NODE_FORGOTTEN_AFTER, Node};
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
    written: Mutex<HashMap<Arc<str>, Word>>,
}

impl Nodes {
    pub(super) fn new(maps: Api<ConfigMap>, heard: Arc<Heard>) -> Self {
        Self { maps, heard, written: Mutex::default() }
    }

    /// Writes what is new since the last time.
    pub(super) async fn write(&self) -> Result<(), kube::Error> {
        let fresh: Vec<(Arc<str>, Word)> = {
            let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = |node: &Arc<str>, word: &Word| {
                written.get(node).is_none_or(|before| {
                    before.bundle != word.bundle || word.seen >= before.seen + SEEN_EVERY
                })
            };
            self.heard.all().into_iter().filter(|(node, word)| is_new(node, word)).collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let lines = fresh.iter().map(|(node, word)| (node.to_string(), json!(line(word))));
        self.patch(lines.collect()).await?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend(fresh);
        Ok(())
    }

    /// All nodes that were heard of lately, by whichever replica.
    pub(super) async fn all(&self, now: SystemTime) -> Result<Vec<Node>, kube::Error> {
        Ok(self.read().await?.filter(|node| !is_forgotten(node, now)).collect())
    }

    /// Takes out the others.
    pub(super) async fn forget(&self, now: SystemTime) -> Result<(), kube::Error> {
        let gone = self.read().await?.filter(|node| is_forgotten(node, now));
        let gone: Map<_, _> = gone.map(|node| (node.name, Value::Null)).collect();
        if gone.is_empty() { Ok(()) } else { self.patch(gone).await }
    }

    async fn read(&self) -> Result<impl Iterator<Item = Node>, kube::Error> {
        let map = self.maps.get_opt(MAP).await?;
        let lines = map.and_then(|map| map.data).unwrap_or_default();
        Ok(lines.into_iter().filter_map(|(name, line)| read(name, &line)))
    }

    async fn patch(&self, lines: Map<String, Value>) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({ "data": lines }));
        let params = PatchParams::default();
        match self.maps.patch(MAP, &params, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let metadata = ObjectMeta { name: Some(MAP.to_owned()), ..ObjectMeta::default() };
                let empty = ConfigMap { metadata, ..ConfigMap::default() };
                // Another replica may have been faster: then it is there all the same.
                self.maps.create(&PostParams::default(), &empty).await.ok();
                self.maps.patch(MAP, &params, &patch).await.map(drop)
            }
            other => other.map(drop),
        }
    }
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
