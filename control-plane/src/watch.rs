//! A Kubernetes API server as the source of objects. Nothing else here talks to it to read them.
//!
//! ```text
//!   resource  what is watched, and how it is asked for
//!   decode    an answer's bytes to events        (an object that cannot be read is told, and stops nothing)
//!   failure   why an answer came to nothing more
//!   tracker   where one watch is, what it knows  (events in, differences out; no clock, no network)
//!   stream    one watch for ever: asks, hears, waits, asks again
//!   gather    all watches into the index; publishes once each has been read once
//!   watches   how each is doing, for the admin pages
//! ```
//!
//! Invariants: nothing that was deleted is kept and nothing that exists is dropped, whatever is interrupted;
//! a list replaces what was known in one step, when it is whole; what is known is served however long the API
//! server is away.

use std::{path::PathBuf, sync::Arc};

use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::mesh::Known;

pub(crate) mod backoff;
mod decode;
mod failure;
mod gather;
mod resource;
mod stream;
mod tracker;
mod watches;

use gather::Gather;
use resource::RESOURCES;
use stream::Watch;
pub(crate) use watches::Watches;

/// Differences that wait to be taken in. A watch waits when there are more: the API server holds its events.
const QUEUE_MAX: usize = 64;

/// How the API server is reached.
#[derive(Debug, Clone)]
pub enum Access {
    /// As kubectl would, or with the service account of the pod that this runs in.
    Found,
    /// With a kubeconfig file and its current context.
    Kubeconfig(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("cannot read the kubeconfig {file}")]
    Kubeconfig {
        file: PathBuf,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error("neither a kubeconfig nor the service account of a pod is found")]
    NotFound(#[source] kube::config::InferConfigError),
    #[error("the API server cannot be reached with what is configured")]
    Client(#[source] kube::Error),
}

/// A client of the API server. Sends nothing yet.
pub(crate) async fn connect(access: &Access) -> Result<Client, AccessError> {
    let mut config = match access {
        Access::Found => Config::infer().await.map_err(AccessError::NotFound)?,
        Access::Kubeconfig(file) => {
            let failed = |source| AccessError::Kubeconfig { file: file.clone(), source };
            let read = Kubeconfig::read_from(file).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(read, &options).await.map_err(failed)?
        }
    };
    // Each watch waits and tries again by itself, and tells that it does.
    config.default_retry = false;
    Client::try_from(config).map_err(AccessError::Client)
}

/// Watches for ever. Cancel safe: what was read stays.
pub(crate) async fn follow(client: Client, known: Arc<Known>, watches: Arc<Watches>) {
    let (tell, told) = mpsc::channel(QUEUE_MAX);
    let (define, defined) = watch::channel(None);
    let mut tasks = JoinSet::new();
    for resource in &RESOURCES {
        watches.begun(resource.plural);
        let watch =
            Watch::new(resource, client.clone(), tell.clone(), defined.clone(), watches.clone());
        tasks.spawn(watch.run());
    }
    drop(tell);
    Gather::new(known, watches, define).run(told).await;
}

#[cfg(test)]
mod tests;
