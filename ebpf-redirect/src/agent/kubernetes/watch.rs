//! What the API server says, as it says it.

use std::collections::hash_map::RandomState;
use std::fmt::Debug;
use std::hash::BuildHasher;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use tokio::time::sleep;
use tracing::{error, info, warn};
use weft_model::enrollment::Wish;

use super::Shared;
use super::objects::{self, Facts, Pod};
use crate::agent::chain;
use crate::pod::PodUid;

#[cfg(test)]
mod tests;

/// How long the server may let one watch go on. It ends it then, and one that does not is dead: its connection was
/// forgotten on the way. What changes meanwhile is heard so much later at most.
pub(super) const WATCH: Duration = Duration::from_mins(2);
/// Before the next try, at first and at most: a node that hears nothing for long after an outage captures no pod that
/// was labelled meanwhile.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Follows namespaces' labels for ever.
pub(super) async fn namespaces(client: Client, shared: &Shared) {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let stream = watcher(api, config());
    follow("namespaces", stream, |event| {
        if let Some(event) = map(event, namespace) {
            shared.tell(|cluster| cluster.namespace_event(event));
        }
    })
    .await;
}

/// Follows the pods of this node for ever.
pub(super) async fn pods(client: Client, node: &str, shared: &Shared) {
    let api: Api<Pod> = Api::all(client);
    let stream = watcher(api, config().fields(&format!("spec.nodeName={node}")));
    follow("pods", stream, |event| {
        if let Some(event) = map(event, pod) {
            shared.tell(|cluster| cluster.pod_event(event));
        }
    })
    .await;
}

fn config() -> Config {
    Config::default().timeout(u32::try_from(WATCH.as_secs()).expect("it is some minutes"))
}

async fn follow<K: Debug>(
    what: &'static str,
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    mut each: impl FnMut(Event<K>),
) {
    let mut stream = Box::pin(stream);
    let (mut is_away, mut wait) = (false, FIRST_WAIT);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                // A list that has only begun proves nothing.
                if is_away && !matches!(event, Event::Init) {
                    info!(what, "the API server answers again");
                    (is_away, wait) = (false, FIRST_WAIT);
                }
                each(event);
                continue;
            }
            Err(error) if has_forgotten(&error) => {
                info!(what, "the API server has forgotten what it told; it is asked for all again");
            }
            Err(error) if is_away => tracing::debug!(what, error = chain(&error), "still away"),
            Err(error) => {
                is_away = true;
                warn!(
                    what,
                    error = chain(&error),
                    "cannot be watched; what is known stays in force"
                );
            }
        }
        sleep(wait.mul_f64(share())).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    error!(what, "the watch ended");
}

/// Between a half and all, by chance: or else all nodes that lost one API server would come back in one moment.
fn share() -> f64 {
    let [low, high, ..] = RandomState::new().hash_one(()).to_ne_bytes();
    0.5 + f64::from(u16::from_ne_bytes([low, high])) / f64::from(u16::MAX) / 2.0
}

/// Spec: 410, "Gone": what came since the last event is not known any more.
fn has_forgotten(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::WatchError(status)
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => return false,
    };
    status.code == 410
}

/// `None`: it is about an object of which nothing can be made.
fn map<K, T>(event: Event<K>, each: impl Fn(K) -> Option<T>) -> Option<Event<T>> {
    Some(match event {
        Event::Apply(object) => Event::Apply(each(object)?),
        Event::Delete(object) => Event::Delete(each(object)?),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(each(object)?),
        Event::InitDone => Event::InitDone,
    })
}

fn namespace(object: PartialObjectMeta<Namespace>) -> Option<(String, Wish)> {
    let wish = objects::wish(object.metadata.labels.as_ref());
    Some((object.metadata.name?, wish))
}

fn pod(object: Pod) -> Option<(PodUid, Facts)> {
    match objects::facts(object) {
        Ok(pod) => Some(pod),
        Err(error) => {
            error!(%error, "a pod is passed over");
            None
        }
    }
}
