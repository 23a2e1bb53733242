//! Instead of a scheduler: pods that are on no node are bound to the nodes in turn.
//!
//! A pod that names its node (`kubernetes.io/hostname`, or as daemon sets do) is bound to that one.

use std::{
    pin::pin,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::{
    Api, Client, Config,
    api::PostParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Cluster;

const AGAIN: Duration = Duration::from_millis(200);

/// Binds pods until it is dropped.
#[derive(Debug)]
pub struct Binder {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Binder {
    /// Binds pods to these nodes.
    pub fn start(cluster: &Cluster, nodes: &[&str]) -> Result<Self> {
        let config = cluster.config();
        let nodes: Vec<String> = nodes.iter().map(|&node| node.to_owned()).collect();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("make a runtime")?;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                // Biased: what is to end does not wait for a stream that has more.
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = bind(config, nodes) => {}
                }
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Binder {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn bind(config: Config, nodes: Vec<String>) {
    let client = Client::try_from(config).expect("the cluster was reached with it");
    let unbound = watcher::Config::default().fields("spec.nodeName=");
    let pods = watcher(Api::<Pod>::all(client.clone()), unbound).default_backoff();
    let mut pods = pin!(pods.applied_objects());
    let mut turn = nodes.iter().cycle();
    loop {
        match pods.try_next().await {
            Ok(Some(pod)) => {
                let wanted = pod.spec.as_ref().and_then(wanted);
                let Some(node) = wanted.or_else(|| turn.next().cloned()) else { return };
                bind_to(&client, &pod, &node).await;
            }
            Ok(None) => return,
            // It comes back: the API server may be away for a while.
            Err(error) => eprintln!("the binder hears nothing: {error}"),
        }
    }
}

/// Until it is bound, or gone: nobody tells of the pod again.
async fn bind_to(client: &Client, pod: &Pod, node: &str) {
    loop {
        match post(client, pod, node).await {
            Ok(_) => return,
            // Bound already: the stream told of it twice.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => return,
            Err(error) => eprintln!("cannot bind {:?}: {error}", pod.metadata.name),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn post(client: &Client, pod: &Pod, node: &str) -> kube::Result<Value> {
    let (name, namespace) = (pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref());
    let (name, namespace) = (name.unwrap_or_default(), namespace.unwrap_or_default());
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    api.create_subresource("binding", name, &PostParams::default(), &binding).await
}

fn wanted(spec: &PodSpec) -> Option<String> {
    let labels = spec.node_selector.as_ref();
    if let Some(name) = labels.and_then(|labels| labels.get("kubernetes.io/hostname")) {
        return Some(name.clone());
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter());
    let name = fields.flatten().find(|field| field.key == "metadata.name")?;
    name.values.as_ref()?.first().cloned()
}
