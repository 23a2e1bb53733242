//! One request to the API server, and what came of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::ConfigMap, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::Request,
};
use serde_json::{Value, json};
use tokio::time::{self, Instant};
use tracing::{debug, info, warn};

use crate::{
    clock,
    metrics::{Metrics, Told, WriteResult},
    objects::{Name, ObjectKey},
    watch::backoff::Backoff,
    written::Written,
};

/// Who writes, for the API server's own records.
const MANAGER: &str = "weft-status";
/// The ConfigMap in which each replica says how far its nodes are, by the replica's name.
const PARTS: &str = "weft-node-progress";
/// What is said of that.
const READ: &str = "weft-node-progress (get)";
const UNWRITTEN: &str = "a status or an event is not written";
const ANSWER: Duration = Duration::from_secs(10);
/// What is forbidden is tried again: rights may come later.
const FORBIDDEN: Duration = Duration::from_secs(30);
/// An object at which the server failed is tried again.
const FAILED: Duration = Duration::from_secs(10);
/// After a server that is busy or away: at first, and at most.
const BUSY: Duration = Duration::from_secs(1);
const BUSY_MAX: Duration = Duration::from_mins(1);

pub(super) struct Server {
    client: Client,
    maps: Api<ConfigMap>,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    /// By what is written: until when none of it is tried.
    forbidden: HashMap<&'static str, Instant>,
    /// By what is written: the object that was refused last for what may be the fault of all, if none was taken since.
    doubted: HashMap<&'static str, String>,
    /// What was said of a kind that is not taken.
    said: HashMap<&'static str, String>,
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The object as it is now.
    Taken(Value),
    /// It is there already.
    There,
    /// The object is another by now, or gone: its watch tells.
    Stale,
    /// Not as it is.
    Refused,
    /// Not this one, until then.
    Deferred(Instant),
    /// Nothing of its kind is, until then.
    Forbidden(Instant),
    /// Nothing is, until then.
    Busy(Instant),
}

impl Server {
    pub(super) fn new(client: Client, namespace: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            maps: Api::namespaced(client.clone(), namespace),
            client,
            metrics,
            backoff: Backoff::new(BUSY, BUSY_MAX),
            forbidden: HashMap::new(),
            doubted: HashMap::new(),
            said: HashMap::new(),
        }
    }

    /// Puts these conditions into the status of an object, if it is still the one that was read.
    pub(super) async fn put_status(
        &mut self,
        key: &ObjectKey,
        written: &Written,
        conditions: &[Value],
    ) -> Answer {
        let Name { namespace, name } = &key.name;
        let path =
            format!("/apis/{}/namespaces/{namespace}/{}", written.api_version, written.plural);
        // With the version, so that nothing that others have written since is lost: lists are replaced whole.
        let change = Patch::Merge(json!({
            "metadata": { "uid": written.uid, "resourceVersion": written.version },
            "status": { "conditions": conditions },
        }));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
        let request = Request::new(path).patch_subresource("status", name, &params, &change);
        let client = self.client.clone();
        let ask = async move { client.request(request.map_err(kube::Error::BuildRequest)?).await };
        self.ask(Told::Condition, written.plural, &key.name.to_string(), ask).await
    }

    /// Until when nothing of a kind is taken.
    pub(super) fn forbidden(&self, plural: &str) -> Option<Instant> {
        self.forbidden.get(plural).copied().filter(|until| *until > clock::instant())
    }

    /// Makes an Event, unless one of its name is there.
    pub(super) async fn make_event(&mut self, namespace: &str, event: &Event) -> Answer {
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
        let ask = async move { events.create(&params, event).await.map(|_| Value::Null) };
        let name = event.metadata.name.as_deref().unwrap_or_default();
        self.ask(Told::Event, "events", &format!("{namespace}/{name}"), ask).await
    }

    /// Puts one line into the ConfigMap of parts, or takes it out.
    pub(super) async fn put_part(&mut self, name: &str, part: Option<&str>) -> Answer {
        let maps = self.maps.clone();
        let change = Patch::Merge(json!({ "data": { name: part } }));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
        let ask = async move {
            let gone = |error: &kube::Error| matches!(error, kube::Error::Api(s) if s.code == 404);
            let mut put = maps.patch(PARTS, &params, &change).await;
            if put.as_ref().is_err_and(gone) && part.is_some() {
                let metadata = ObjectMeta { name: Some(PARTS.to_owned()), ..Default::default() };
                let empty = ConfigMap { metadata, ..ConfigMap::default() };
                // Another replica may have been faster: then it is there all the same.
                maps.create(&PostParams::default(), &empty).await.ok();
                put = maps.patch(PARTS, &params, &change).await;
            }
            put.map(|_| Value::Null)
        };
        self.ask(Told::Progress, PARTS, PARTS, ask).await
    }

    /// What is in the ConfigMap of parts; `None` if that cannot be told now.
    pub(super) async fn parts(&mut self) -> Option<BTreeMap<String, String>> {
        match time::timeout(ANSWER, self.maps.get_opt(PARTS)).await {
            Ok(Ok(map)) => {
                self.said.remove(READ);
                Some(map.and_then(|map| map.data).unwrap_or_default())
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                self.say(READ, &status, "how far the nodes of other replicas are is not read");
                None
            }
            Ok(Err(error)) => {
                debug!(%error, "the replicas' parts are not read");
                None
            }
            Err(_) => None,
        }
    }

    /// `object`: its name among those of the kind.
    async fn ask(
        &mut self,
        told: Told,
        plural: &'static str,
        object: &str,
        ask: impl Future<Output = kube::Result<Value>>,
    ) -> Answer {
        if let Some(until) = self.forbidden(plural) {
            return Answer::Forbidden(until);
        }
        let (answer, result) = match time::timeout(ANSWER, ask).await {
            Ok(Ok(value)) => {
                self.taken(plural);
                (Answer::Taken(value), WriteResult::Written)
            }
            Ok(Err(kube::Error::Api(status))) => self.answered(told, (plural, object), &status),
            Ok(Err(error)) => self.busy(Duration::ZERO, &error),
            Err(_) => self.busy(Duration::ZERO, &"no answer in time"),
        };
        self.metrics.told(told, result);
        answer
    }

    fn answered(
        &mut self,
        told: Told,
        (plural, object): (&'static str, &str),
        status: &kube::core::Status,
    ) -> (Answer, WriteResult) {
        let wait = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        match (status.code, told) {
            // Its name is made of what it says.
            (409, Told::Event) => (Answer::There, WriteResult::There),
            (409, Told::Condition | Told::Progress) => (Answer::Stale, WriteResult::Stale),
            // Not for a lack of rights: it takes nothing new.
            (403, _) if in_ending_namespace(status) => {
                debug!(error = status.message, "not written");
                (Answer::Refused, WriteResult::Refused)
            }
            (401 | 403, _) => {
                self.say(plural, status, UNWRITTEN);
                let until = clock::after(FORBIDDEN);
                let answer = if status.code == 403 && self.is_of_one(told, plural, object) {
                    Answer::Deferred(until)
                } else {
                    self.forbidden.insert(plural, until);
                    Answer::Forbidden(until)
                };
                (answer, WriteResult::Forbidden)
            }
            // Of a definition without status, every object is not found.
            (400..=428, _) => {
                self.say(plural, status, UNWRITTEN);
                (Answer::Refused, WriteResult::Refused)
            }
            // As when a webhook that judges this object cannot be reached.
            (500, _) if self.is_of_one(told, plural, object) => {
                self.say(plural, status, UNWRITTEN);
                (Answer::Deferred(clock::after(FAILED)), WriteResult::Refused)
            }
            _ => self.busy(Duration::from_secs(wait.into()), status),
        }
    }

    /// Whether what was answered may be about this object only: no other one was answered so since any was taken.
    fn is_of_one(&mut self, told: Told, plural: &'static str, object: &str) -> bool {
        match told {
            Told::Condition | Told::Event => {
                let before = self.doubted.insert(plural, object.to_owned());
                before.is_none_or(|before| before == object)
            }
            // There is only one.
            Told::Progress => false,
        }
    }

    fn taken(&mut self, plural: &'static str) {
        self.backoff.reset();
        self.forbidden.remove(plural);
        self.doubted.remove(plural);
        if self.said.remove(plural).is_some() {
            info!(resource = plural, "statuses are written again");
        }
    }

    /// Once, as long as it stays so.
    fn say(&mut self, plural: &'static str, status: &kube::core::Status, what: &'static str) {
        let reason = format!("{} {}", status.code, status.reason);
        let error = crate::escape::shown(&status.message);
        if self.said.get(plural) == Some(&reason) {
            return debug!(resource = plural, error, "{what}");
        }
        warn!(resource = plural, code = status.code, error, "{what}");
        self.said.insert(plural, reason);
    }

    fn busy(&mut self, least: Duration, error: &dyn std::fmt::Display) -> (Answer, WriteResult) {
        let wait = self.backoff.wait(rand::random()).max(least);
        debug!(%error, wait_ms = wait.as_millis(), "the API server takes no statuses for now");
        (Answer::Busy(clock::after(wait)), WriteResult::Busy)
    }
}

/// Whether it is because the namespace is being deleted.
fn in_ending_namespace(status: &kube::core::Status) -> bool {
    let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests;
