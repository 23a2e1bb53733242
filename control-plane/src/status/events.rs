//! Events for what a user must act on: an object that is refused, in whole or in part.
//!
//! Each is told once, whoever tells it: its name is made of what it says, so that a second one of the name is
//! refused by the API server, which forgets it after an hour or so.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use tokio::time::Instant;
use xxhash_rust::xxh64::xxh64;

use super::{
    condition::told,
    server::{Answer, Server},
};
use crate::{
    Problem, clock,
    mesh::Known,
    objects::{Kind, ObjectKey},
};

const CONTROLLER: &str = "weft.mesh/control-plane";
const REASON: &str = "Refused";
const ACTION: &str = "Compile";
/// Spec: events.k8s.io/v1: at most 1 kB.
const NOTE_BYTES_MAX: usize = 1024;
/// Spec: events.k8s.io/v1: at most 128 characters.
const INSTANCE_CHARS_MAX: usize = 128;
/// Spec: a name is at most 253 bytes, of which a dot and the hash take 17.
const NAME_BYTES_MAX: usize = 236;
/// However much is wrong, statuses must not wait for it.
const AT_ONCE_MAX: usize = 10;
const AGAIN: Duration = Duration::from_secs(1);
/// What was not taken goes behind all others.
const ASIDE: Duration = Duration::from_mins(5);

pub(super) struct Events {
    /// This replica.
    instance: String,
    /// The hash of what was told of each object last.
    told: HashMap<ObjectKey, u64>,
    /// Until when nothing is told of an object.
    aside: HashMap<ObjectKey, Instant>,
}

/// What an Event is about.
struct Regarding {
    api_version: Arc<str>,
    uid: Arc<str>,
}

impl Events {
    pub(super) fn new(replica: &str) -> Self {
        let instance = replica.chars().take(INSTANCE_CHARS_MAX).collect();
        Self { instance, told: HashMap::new(), aside: HashMap::new() }
    }

    /// Tells what is new. Returns when to tell the rest.
    pub(super) async fn tell(&mut self, known: &Known, server: &mut Server) -> Option<Instant> {
        let problems = known.problems();
        let wrong: HashSet<&ObjectKey> =
            problems.iter().filter_map(|p| p.object.as_ref()).collect();
        self.told.retain(|key, _| wrong.contains(key));
        let now = clock::instant();
        self.aside.retain(|key, until| wrong.contains(key) && *until > now);
        let mut made = 0;
        for of_object in problems.chunk_by(|a, b| a.object == b.object) {
            let Some(key) = of_object.first().and_then(|problem| problem.object.as_ref()) else {
                continue;
            };
            let Some(regarding) = regarding(known, key) else { continue };
            let (event, hash) = self.event(key, &regarding, of_object);
            if self.told.get(key) == Some(&hash) || self.aside.contains_key(key) {
                continue;
            }
            if made == AT_ONCE_MAX {
                return Some(clock::after(AGAIN));
            }
            made += 1;
            match server.make_event(&key.name.namespace, &event).await {
                // One that cannot be made now, as in a namespace that ends, is not worth another try.
                Answer::Taken(_) | Answer::There | Answer::Stale | Answer::Refused => {
                    self.told.insert(key.clone(), hash);
                }
                Answer::Deferred(_) => {
                    self.aside.insert(key.clone(), clock::after(ASIDE));
                }
                Answer::Forbidden(until) | Answer::Busy(until) => return Some(until),
            }
        }
        self.aside.values().min().copied()
    }

    fn event(&self, key: &ObjectKey, regarding: &Regarding, problems: &[Problem]) -> (Event, u64) {
        let note = told(problems, NOTE_BYTES_MAX);
        let hash = xxh64(note.as_bytes(), xxh64(regarding.uid.as_bytes(), 0));
        let (namespace, name) = (key.name.namespace.to_string(), key.name.name.to_string());
        let short = name.get(..name.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default();
        let metadata = ObjectMeta {
            name: Some(format!("{short}.{hash:016x}")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        };
        let about = ObjectReference {
            api_version: Some(regarding.api_version.to_string()),
            kind: Some(key.kind.as_str().to_owned()),
            namespace: Some(namespace),
            name: Some(name),
            uid: Some(regarding.uid.to_string()),
            ..ObjectReference::default()
        };
        let now = Timestamp::try_from(clock::now()).unwrap_or_default();
        let event = Event {
            metadata,
            event_time: Some(MicroTime(now)),
            regarding: Some(about),
            type_: Some("Warning".to_owned()),
            reason: Some(REASON.to_owned()),
            action: Some(ACTION.to_owned()),
            note: Some(note),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        (event, hash)
    }
}

/// `None` for what nobody writes by hand, and what is gone.
fn regarding(known: &Known, key: &ObjectKey) -> Option<Regarding> {
    match key.kind {
        Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::ServiceEntry
        | Kind::WorkloadEntry => {
            let written = known.written().served(key)?.written;
            Some(Regarding { api_version: written.api_version.clone(), uid: written.uid.clone() })
        }
        Kind::Service | Kind::Pod => {
            let uid = known.index().uid(key)?;
            Some(Regarding { api_version: "v1".into(), uid })
        }
        Kind::Namespace | Kind::Node | Kind::ServiceAccount | Kind::EndpointSlice => None,
    }
}
