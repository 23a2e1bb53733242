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
/// After a server that is busy or away: at first, and at most.
const BUSY: Duration = Duration::from_secs(1);
const BUSY_MAX: Duration = Duration::from_mins(1);

pub(super) struct Server {
    client: Client,
    maps: Api<ConfigMap>,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    /// By what is written: why it cannot be, and until when it is not tried.
    forbidden: HashMap<&'static str, Instant>,
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
        self.ask(Told::Condition, written.plural, ask).await
    }

    /// Makes an Event, unless one of its name is there.
    pub(super) async fn make_event(&mut self, namespace: &str, event: &Event) -> Answer {
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
        let ask = async move { events.create(&params, event).await.map(|_| Value::Null) };
        self.ask(Told::Event, "events", ask).await
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
        self.ask(Told::Progress, PARTS, ask).await
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

    async fn ask(
        &mut self,
        told: Told,
        plural: &'static str,
        ask: impl Future<Output = kube::Result<Value>>,
    ) -> Answer {
        let now = clock::instant();
        if let Some(until) = self.forbidden.get(plural).filter(|until| **until > now) {
            return Answer::Forbidden(*until);
        }
        let answer = match time::timeout(ANSWER, ask).await {
            Ok(Ok(object)) => {
                self.taken(plural);
                Answer::Taken(object)
            }
            Ok(Err(kube::Error::Api(status))) => self.answered(told, plural, &status),
            Ok(Err(error)) => self.busy(Duration::ZERO, &error),
            Err(_) => self.busy(Duration::ZERO, &"no answer in time"),
        };
        self.metrics.told(told, result(&answer));
        answer
    }

    fn answered(
        &mut self,
        told: Told,
        plural: &'static str,
        status: &kube::core::Status,
    ) -> Answer {
        let wait = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        match (status.code, told) {
            // Its name is made of what it says.
            (409, Told::Event) => Answer::There,
            (409, Told::Condition | Told::Progress) => Answer::Stale,
            (401 | 403, _) => {
                self.say(plural, status, UNWRITTEN);
                let until = clock::after(FORBIDDEN);
                self.forbidden.insert(plural, until);
                Answer::Forbidden(until)
            }
            // A namespace that ends takes no events; of a definition without status, every object is not found.
            (400..=428, _) => {
                self.say(plural, status, UNWRITTEN);
                Answer::Refused
            }
            _ => self.busy(Duration::from_secs(wait.into()), status),
        }
    }

    fn taken(&mut self, plural: &'static str) {
        self.backoff.reset();
        self.forbidden.remove(plural);
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

    fn busy(&mut self, least: Duration, error: &dyn std::fmt::Display) -> Answer {
        let wait = self.backoff.wait(rand::random()).max(least);
        debug!(%error, wait_ms = wait.as_millis(), "the API server takes no statuses for now");
        Answer::Busy(clock::after(wait))
    }
}

fn result(answer: &Answer) -> WriteResult {
    match answer {
        Answer::Taken(_) => WriteResult::Written,
        Answer::There => WriteResult::There,
        Answer::Stale => WriteResult::Stale,
        Answer::Refused => WriteResult::Refused,
        Answer::Forbidden(_) => WriteResult::Forbidden,
        Answer::Busy(_) => WriteResult::Busy,
    }
}

#[cfg(test)]
mod tests;
