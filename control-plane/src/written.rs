//! The objects that users write, as the API server has them: which generation of each, and what its status says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::{sync::watch, time::Instant};
use xxhash_rust::xxh64::xxh64;

use crate::objects::{ObjectKey, is_known_annotation};

/// What could be made of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// It is compiled, if perhaps to less than was meant.
    Read,
    /// It could not be read, and what is served under its name is older.
    Unreadable,
}

/// One object as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    /// With its group.
    pub(crate) api_version: Arc<str>,
    pub(crate) plural: &'static str,
    pub(crate) uid: Arc<str>,
    /// Counts the changes of what the user wrote, labels and annotations apart.
    pub(crate) generation: i64,
    /// Of those labels and annotations that may mean something to us.
    pub(crate) marks: u64,
    /// Names this very state, status and all. Opaque.
    pub(crate) version: Arc<str>,
    pub(crate) form: Form,
    /// Also those of others.
    pub(crate) conditions: Vec<Value>,
}

impl Written {
    /// As if it could be read. `None` for what was never in an API server.
    pub(crate) fn read(plural: &'static str, object: &Value) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let text = |value: &Value, field| value.get(field)?.as_str().map(Arc::<str>::from);
        Some(Self {
            api_version: text(object, "apiVersion")?,
            plural,
            uid: text(metadata, "uid")?,
            generation: metadata.get("generation").and_then(Value::as_i64).unwrap_or_default(),
            marks: marks(metadata),
            version: text(metadata, "resourceVersion")?,
            form: Form::Read,
            conditions: conditions(object),
        })
    }
}

/// The same for the same marks, whoever reads them.
fn marks(metadata: &Value) -> u64 {
    let of = |field| metadata.get(field).and_then(Value::as_object).into_iter().flatten();
    let annotations = of("annotations").filter(|(key, _)| is_known_annotation(key));
    let mut all: Vec<_> = of("labels").chain(annotations).collect();
    all.sort_by_key(|(key, _)| *key);
    all.iter().fold(0, |hash, (key, value)| {
        let value = value.as_str().unwrap_or_default();
        xxh64(value.as_bytes(), xxh64(key.as_bytes(), hash))
    })
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
    /// `None` until what was written has been compiled and told.
    served: Option<(u64, Instant)>,
    reach: Reach,
}

/// Whether what an object's status says of its reach can be about the object as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    AsSaid,
    /// Its marks were others since, and its generation counts no marks.
    InDoubt,
}

/// An object that is compiled, and since which generation of the resources it is in them.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) written: Arc<Written>,
    pub(crate) since: u64,
    /// When that was.
    pub(crate) at: Instant,
    pub(crate) reach: Reach,
}

impl Default for Board {
    fn default() -> Self {
        Self { rows: Mutex::default(), moved: watch::Sender::new(()) }
    }
}

impl Board {
    pub(crate) fn put(&self, key: ObjectKey, written: Written) {
        let mut rows = self.rows();
        let same = |row: &&Row| {
            row.written.uid == written.uid && row.written.generation == written.generation
        };
        let (served, reach) = match rows.get(&key).filter(same) {
            // What somebody has put into the status compiles to nothing.
            Some(row) if row.written.marks == written.marks => (row.served, row.reach),
            Some(_) => (None, Reach::InDoubt),
            None => (None, Reach::AsSaid),
        };
        rows.insert(key, Row { written: Arc::new(written), served, reach });
    }

    /// All nodes have an object in this state, and its status says so.
    pub(crate) fn has_reached_all(&self, key: &ObjectKey, written: &Written) {
        let mut rows = self.rows();
        if let Some(row) = rows.get_mut(key).filter(|row| *row.written == *written) {
            row.reach = Reach::AsSaid;
        }
    }

    pub(crate) fn remove(&self, key: &ObjectKey) {
        self.rows().remove(key);
    }

    /// What was put before is in this generation of the resources, and what is wrong with it is known.
    pub(crate) fn published(&self, generation: u64, now: Instant) {
        for row in self.rows().values_mut() {
            row.served.get_or_insert((generation, now));
        }
        self.moved.send_replace(());
    }

    pub(crate) fn served(&self, key: &ObjectKey) -> Option<Served> {
        self.rows().get(key).and_then(Row::served)
    }

    /// In their order.
    pub(crate) fn all_served(&self) -> Vec<(ObjectKey, Served)> {
        let rows = self.rows();
        rows.iter().filter_map(|(key, row)| Some((key.clone(), row.served()?))).collect()
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
    fn served(&self) -> Option<Served> {
        let (since, at) = self.served?;
        Some(Served { written: self.written.clone(), since, at, reach: self.reach })
    }
}

#[cfg(test)]
mod tests;
