//! What the API server is told: that a pod is captured, and why one is not.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Shared;
use super::cluster::{Announcement, Complaint};
use super::objects::{Announced, ENABLED, ENROLLED, Facts, Pod, REDIRECTION};
use crate::agent::chain;
use crate::pod::PodUid;

/// An API server that takes no longer than this is asked again.
const DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
const AGENT: &str = "weft-redirect";
const REASON: &str = "WeftEnrollmentFailed";
/// Spec: events.k8s.io/v1: at most 1 kB.
const NOTE_MAX: usize = 1024;

/// Tells for ever.
pub(super) async fn run(client: Client, node: &str, shared: &Shared) {
    let reporter = Reporter { controller: AGENT.to_owned(), instance: Some(node.to_owned()) };
    let mut report = Report {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        told: HashMap::new(),
        delay: RETRY,
    };
    let (mut facts, mut states) = (shared.facts.subscribe(), shared.states.subscribe());
    loop {
        facts.mark_unchanged();
        states.mark_unchanged();
        let mut all_told = report.announce(shared).await;
        all_told &= report.complain(shared).await;
        all_told &= report.set_conditions(shared).await;
        let news = async {
            tokio::select! {
                _ = facts.changed() => {}
                _ = states.changed() => {}
            }
        };
        if all_told {
            report.delay = RETRY;
            news.await;
        } else {
            // News does not make an API server answer sooner, but a pod that is let go must not wait for it.
            let _ = timeout(report.delay, news).await;
            report.delay = (report.delay * 2).min(RETRY_MAX);
        }
    }
}

struct Report {
    client: Client,
    recorder: Recorder,
    /// The trouble that each pod's last event told.
    told: HashMap<PodUid, String>,
    delay: Duration,
}

impl Report {
    /// Whether all is said.
    async fn announce(&self, shared: &Shared) -> bool {
        let due = shared.look().announcements();
        let mut all = true;
        for announcement in due {
            match timeout(DEADLINE, self.patch(&announcement)).await {
                Ok(Ok(())) => {
                    info!(
                        pod = %announcement.uid, namespace = announcement.namespace,
                        name = announcement.name, announced = ?announcement.announced, "pod announced"
                    );
                    shared.look().announced(&announcement);
                }
                Ok(Err(error)) if is_gone(&error) => {
                    debug!(pod = %announcement.uid, error = chain(&error), "gone before it was announced");
                    shared.look().announced(&announcement);
                }
                Ok(Err(error)) => {
                    warn!(pod = %announcement.uid, error = chain(&error), "cannot be announced");
                    all = false;
                }
                Err(_) => {
                    warn!(pod = %announcement.uid, "cannot be announced: no answer in {DEADLINE:?}");
                    all = false;
                }
            }
        }
        all
    }

    async fn patch(&self, announcement: &Announcement) -> kube::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &announcement.namespace);
        let patch = Patch::Merge(patch(announcement));
        api.patch_metadata(&announcement.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Whether all is said.
    async fn complain(&mut self, shared: &Shared) -> bool {
        let troubles = shared.look().troubles();
        let standing = |uid: &PodUid| troubles.iter().any(|(troubled, ..)| troubled == uid);
        self.told.retain(|uid, _| standing(uid));
        let mut all = true;
        for (uid, facts, trouble) in troubles {
            if self.told.get(&uid) == Some(&trouble) {
                continue;
            }
            let (event, about) = (event(&trouble), reference(&uid, &facts));
            match timeout(DEADLINE, self.recorder.publish(&event, &about)).await {
                Ok(Ok(())) => {
                    self.told.insert(uid, trouble);
                }
                Ok(Err(error)) => {
                    warn!(pod = %uid, error = chain(&error), trouble, "no event could be made");
                    all = false;
                }
                Err(_) => all = false,
            }
        }
        all
    }
}

impl Report {
    /// Whether all is said.
    async fn set_conditions(&self, shared: &Shared) -> bool {
        let due = shared.look().complaints();
        let mut all = true;
        for complaint in due {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &complaint.namespace);
            let patch = Patch::Strategic(condition(&complaint));
            let params = PatchParams::default();
            let patched = timeout(DEADLINE, api.patch_status(&complaint.name, &params, &patch));
            match patched.await {
                Ok(Ok(_)) => shared.look().complained(&complaint),
                Ok(Err(error)) if is_gone(&error) => {
                    debug!(pod = %complaint.uid, error = chain(&error), "gone before its condition");
                    shared.look().complained(&complaint);
                }
                Ok(Err(error)) => {
                    warn!(pod = %complaint.uid, error = chain(&error), "no condition could be set");
                    all = false;
                }
                Err(_) => all = false,
            }
        }
        all
    }
}

fn condition(complaint: &Complaint) -> Value {
    let condition = match &complaint.trouble {
        Some(trouble) => json!({
            "type": ENROLLED, "status": "False", "reason": REASON, "message": trouble,
            "lastTransitionTime": Timestamp::now().to_string(),
        }),
        None => json!({ "type": ENROLLED, "$patch": "delete" }),
    };
    json!({
        "metadata": { "uid": complaint.uid.as_str() },
        "status": { "conditions": [condition] },
    })
}

/// With the UID, so that another pod of the name is never meant.
fn patch(announcement: &Announcement) -> Value {
    let value = match announcement.announced {
        Announced::Yes => json!(ENABLED),
        Announced::No => Value::Null,
    };
    json!({ "metadata": { "uid": announcement.uid.as_str(), "annotations": { REDIRECTION: value } } })
}

/// Not found, or another pod's UID.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

fn event(trouble: &str) -> Event {
    let mut note = format!("the pod cannot be enrolled in the mesh: {trouble}");
    note.truncate(note.floor_char_boundary(NOTE_MAX));
    Event {
        type_: EventType::Warning,
        reason: REASON.to_owned(),
        note: Some(note),
        action: "Enroll".to_owned(),
        secondary: None,
    }
}

fn reference(uid: &PodUid, facts: &Facts) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(facts.namespace.clone()),
        name: Some(facts.name.clone()),
        uid: Some(uid.as_str().to_owned()),
        ..ObjectReference::default()
    }
}
