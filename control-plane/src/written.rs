//! The objects that users write, as the API server has them: which generation of each, and what its status says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::objects::ObjectKey;

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
    /// Counts the changes of what the user wrote.
    pub(crate) generation: i64,
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
            version: text(metadata, "resourceVersion")?,
            form: Form::Read,
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
    /// `None` until what was written has been compiled and told.
    served: Option<(u64, Instant)>,
}

/// An object that is compiled, and since which generation of the resources it is in them.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) written: Arc<Written>,
    pub(crate) since: u64,
    /// When that was.
    pub(crate) at: Instant,
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
        let served = rows.get(&key).filter(same).and_then(|row| row.served);
        rows.insert(key, Row { written: Arc::new(written), served });
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
        Some(Served { written: self.written.clone(), since, at })
    }
}
