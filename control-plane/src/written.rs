//! The objects that users write, as the API server has them: which generation of each, and what its status says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::sync::watch;

use crate::objects::ObjectKey;

/// One object as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    /// With its group.
    pub(crate) api_version: Arc<str>,
    pub(crate) plural: &'static str,
    pub(crate) uid: Arc<str>,
    /// Counts the changes of what the user wrote.
    pub(crate) generation: i64,
    /// Names this very state, status and all. Opaque.
    pub(crate) version: Arc<str>,
    /// Also those of others.
    pub(crate) conditions: Vec<Value>,
}

impl Written {
    /// `None` for what was never in an API server.
    pub(crate) fn read(plural: &'static str, object: &Value) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let text = |value: &Value, field| value.get(field)?.as_str().map(Arc::<str>::from);
        Some(Self {
            api_version: text(object, "apiVersion")?,
            plural,
            uid: text(metadata, "uid")?,
            generation: metadata.get("generation").and_then(Value::as_i64).unwrap_or_default(),
            version: text(metadata, "resourceVersion")?,
            conditions: conditions(object),
        })
    }
}

/// Those of an object's status.
pub(crate) fn conditions(object: &Value) -> Vec<Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.cloned().unwrap_or_default()
}

/// All that were read. Empty where a folder is served.
#[derive(Debug)]
pub(crate) struct Board {
    rows: Mutex<BTreeMap<ObjectKey, Row>>,
    moved: watch::Sender<()>,
}

#[derive(Debug)]
struct Row {
    written: Arc<Written>,
    life: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// What was written is not compiled and told yet.
    Read,
    Served,
}

impl Default for Board {
    fn default() -> Self {
        Self { rows: Mutex::default(), moved: watch::Sender::new(()) }
    }
}

impl Board {
    pub(crate) fn put(&self, key: ObjectKey, written: Written) {
        let mut rows = self.rows();
        // What somebody has put into the status compiles to nothing.
        let same = |row: &&Row| {
            row.written.uid == written.uid && row.written.generation == written.generation
        };
        let life = rows.get(&key).filter(same).map_or(Life::Read, |row| row.life);
        rows.insert(key, Row { written: Arc::new(written), life });
    }

    pub(crate) fn remove(&self, key: &ObjectKey) {
        self.rows().remove(key);
    }

    /// What was put before is served, and what is wrong with it is known.
    pub(crate) fn published(&self) {
        for row in self.rows().values_mut() {
            row.life = Life::Served;
        }
        self.moved.send_replace(());
    }

    pub(crate) fn served(&self, key: &ObjectKey) -> Option<Arc<Written>> {
        self.rows().get(key).and_then(Row::served)
    }

    /// In their order.
    pub(crate) fn all_served(&self) -> Vec<ObjectKey> {
        let rows = self.rows();
        rows.iter()
            .filter(|(_, row)| row.life == Life::Served)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Tells of everything that may change a status: what was written, and what is wrong.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    fn served(&self) -> Option<Arc<Written>> {
        match self.life {
            Life::Read => None,
            Life::Served => Some(self.written.clone()),
        }
    }
}
