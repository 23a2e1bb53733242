//! A small kubelet: the pods that are bound to its node run as programs in network namespaces of the lab.
//!
//! ```text
//!   cni        the chain of network plugins, called as a container runtime does
//!   container  a program, started again and probed
//!   image      what the images of this project hold
//!   root       the file system of a container of such an image
//!   door       where the API server knocks
//!   forward    a port of a pod, for the API server
//!   exec       a command beside a container's program, for the API server
//!   spdy       the same, for whoever speaks no WebSocket
//!   field      fields of the pod, as its containers are told
//!   files      what its containers find there
//!   volumes    folders, filled as the pod says
//!   host       the node's own file system
//!   names      services by their names
//!   report     the pod's status
//!   worker     the life of one pod, on a thread of its own
//! ```
//!
//! It speaks to the API server as `system:node:<name>`, with a node's rights and no more.
//! Not done: terminals, liveness probes, resources. An image that is none of this project's is only the name of a program
//! of the machine, which runs without volumes.

mod cni;
mod container;
mod door;
mod exec;
mod field;
mod files;
mod forward;
mod host;
mod image;
mod names;
mod report;
mod root;
mod spdy;
mod volumes;
mod worker;

use std::{
    collections::BTreeMap,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;
use tokio::sync::oneshot;

use self::{
    cni::Folders,
    door::Door,
    host::Host,
    worker::{Key, Order, Places, Worker, lock},
};
use super::Cluster;
use crate::lab::{LONG, Node, Sandbox, wait_for};

/// The kubelet of one node; its pods end when it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    node: Arc<Node>,
    folders: Folders,
    places: Arc<Places>,
    asks: Sender<Ask>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// For the worker of a pod, from outside.
type Ask = (Key, Order);

impl Kubelet {
    /// Registers the node, in this zone, and runs the pods that are bound to it.
    pub async fn start(cluster: &Cluster, node: Node, zone: &str) -> Result<Self> {
        let node = Arc::new(node);
        let user = format!("system:node:{}", node.name());
        let config = cluster.config_as(&user, &["system:nodes", "system:authenticated"])?;
        let door = Door::open()?;
        let client = Client::try_from(config.clone())?;
        register(client, &node, zone, door.address()?.port()).await?;
        // Made by the API server for a node that was never ready; a kubelet may not remove it.
        let taints = Patch::Merge(json!({"spec": {"taints": null}}));
        let nodes = Api::<NodeObject>::all(cluster.client()?);
        nodes.patch(node.name(), &PatchParams::default(), &taints).await.context("untaint")?;
        let (stop, stopped) = oneshot::channel();
        let (asks, asked) = mpsc::channel();
        let (folders, places) = (Folders::new(&node)?, Arc::new(Places::default()));
        let pods = Pods {
            node: node.clone(),
            folders: folders.clone(),
            host: Host::new(&node, [&folders.configurations, &folders.plugins])?,
            names: cluster.config(),
            places: places.clone(),
            workers: BTreeMap::new(),
            asked,
        };
        let behind = door::Pods { places: places.clone(), asks: asks.clone() };
        let thread = Some(thread::spawn(move || pods.run(config, (door, behind), stopped)));
        Ok(Self { node, folders, places, asks, stop: Some(stop), thread })
    }

    /// The node whose pods it runs.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The node's `/etc/cni/net.d`.
    pub fn cni_configurations(&self) -> &Path {
        &self.folders.configurations
    }

    /// The node's `/opt/cni/bin`.
    pub fn cni_plugins(&self) -> &Path {
        &self.folders.plugins
    }

    /// Waits until a pod has its place, and returns it; its containers may be starting.
    pub fn sandbox(&self, namespace: &str, pod: &str) -> Result<Arc<Sandbox>> {
        let key = (namespace.to_owned(), pod.to_owned());
        let what = format!("pod {namespace}/{pod} has a place on {}", self.node.name());
        wait_for(&what, LONG, || lock(&self.places).get(&key).cloned())
    }

    /// A pod's place that this kubelet does not look after.
    pub fn foreign_sandbox(&self, name: &str, uid: &str) -> Result<Sandbox> {
        self.node.sandbox(name, &format!("pod{uid}"), self.node.next_host())
    }

    /// Calls CHECK of every plugin of a pod's chain. Errors: what one complained of.
    pub fn check(&self, namespace: &str, pod: &str) -> Result<()> {
        let (answer, answered) = mpsc::channel();
        let key = (namespace.to_owned(), pod.to_owned());
        self.asks.send((key, Order::Check(answer))).context("the kubelet has ended")?;
        answered.recv_timeout(2 * LONG).with_context(|| format!("no worker of {pod} answers"))?
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn register(client: Client, node: &Node, zone: &str, port: u16) -> Result<()> {
    let name = node.name();
    let index = name.trim_start_matches("node-");
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": zone,
        }},
        "spec": {
            "podCIDR": format!("10.1.{index}.0/24"),
            "podCIDRs": [format!("10.1.{index}.0/24"), format!("fd01:{index}::/64")],
        },
    });
    let nodes = Api::<NodeObject>::all(client);
    let object: NodeObject = serde_json::from_value(object)?;
    nodes.create(&PostParams::default(), &object).await.context("register the node")?;
    let status = json!({"status": {
        "addresses": [
            {"type": "InternalIP", "address": format!("10.0.0.{index}")},
            {"type": "InternalIP", "address": format!("fd00::{index}")},
            {"type": "Hostname", "address": name},
            // Where the API server asks the kubelet, which is a part of the test.
            {"type": "ExternalIP", "address": "127.0.0.1"},
        ],
        // So that a WebSocket reaches it as one: the API server translates for others.
        "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "capacity": {"pods": "110", "cpu": "2", "memory": "8Gi"},
        "allocatable": {"pods": "110", "cpu": "2", "memory": "8Gi"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }});
    let patch = Patch::Strategic(status);
    nodes.patch_status(name, &PatchParams::default(), &patch).await.context("say it is ready")?;
    Ok(())
}

/// All pods of a node.
struct Pods {
    node: Arc<Node>,
    folders: Folders,
    host: Host,
    /// By whom the names of services are asked for.
    names: Config,
    places: Arc<Places>,
    /// By the pods' ids.
    workers: BTreeMap<String, Running>,
    asked: mpsc::Receiver<Ask>,
}

struct Running {
    key: Key,
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

impl Pods {
    fn run(
        mut self,
        config: Config,
        (door, behind): (Door, door::Pods),
        stopped: oneshot::Receiver<()>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime needs only file descriptors");
        runtime.block_on(async {
            let client = Client::try_from(config).expect("the node registered with it");
            // Biased: what is to end does not wait for a stream that has more.
            tokio::select! {
                biased;
                _ = stopped => {}
                () = names::follow(self.names.clone(), files::hosts(self.node.dir())) => {}
                () = door.serve(behind) => {}
                () = self.follow(client) => {}
            }
            // The workers' own calls are driven here, until they have ended.
            let threads: Vec<_> =
                std::mem::take(&mut self.workers).into_values().map(|it| it.thread).collect();
            let joined =
                tokio::task::spawn_blocking(|| threads.into_iter().try_for_each(JoinHandle::join));
            if joined.await.is_ok_and(|joined| joined.is_err()) {
                eprintln!("the worker of a pod panicked");
            }
        });
    }

    async fn follow(&mut self, client: Client) {
        let here = format!("spec.nodeName={}", self.node.name());
        let config = watcher::Config::default().fields(&here);
        let events = watcher(Api::<Pod>::all(client.clone()), config).default_backoff();
        let mut events = pin!(events);
        let mut seen = Vec::new();
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Init)) => seen.clear(),
                    Some(Ok(Event::InitApply(pod))) => {
                        seen.extend(pod.metadata.uid.clone());
                        self.apply(&client, pod);
                    }
                    Some(Ok(Event::Apply(pod))) => self.apply(&client, pod),
                    Some(Ok(Event::Delete(pod))) => {
                        self.gone(|uid| Some(uid) == pod.metadata.uid.as_ref());
                    }
                    Some(Ok(Event::InitDone)) => self.gone(|uid| !seen.contains(uid)),
                    // It comes back: the API server may be away for a while.
                    Some(Err(error)) => eprintln!("{} hears nothing: {error}", self.node.name()),
                    None => return,
                },
                _ = tick.tick() => self.pass_on(),
            }
        }
    }

    fn apply(&mut self, client: &Client, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(running) = self.workers.get(&uid) {
            // One that has ended needs no order.
            let _ = running.orders.send(Order::Update(Box::new(pod)));
            return;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed"))
            && pod.metadata.deletion_timestamp.is_none()
        {
            return;
        }
        let key = (
            pod.metadata.namespace.clone().unwrap_or_default(),
            pod.metadata.name.clone().unwrap_or_default(),
        );
        let (orders, received) = mpsc::channel();
        // What is to end says so by the same way as later.
        let _ = orders.send(Order::Update(Box::new(pod.clone())));
        let worker = Worker {
            node: self.node.clone(),
            folders: self.folders.clone(),
            host: self.host.clone(),
            places: self.places.clone(),
            client: client.clone(),
            runtime: tokio::runtime::Handle::current(),
            orders: received,
            key: key.clone(),
            uid: uid.clone(),
            pod,
        };
        let thread = thread::spawn(move || worker.run());
        self.workers.insert(uid, Running { key, orders, thread });
    }

    fn gone(&mut self, is_gone: impl Fn(&String) -> bool) {
        for (_, running) in self.workers.iter().filter(|(uid, _)| is_gone(uid)) {
            let _ = running.orders.send(Order::Gone);
        }
    }

    /// Gives questions to the youngest pod of the name.
    fn pass_on(&mut self) {
        for (key, order) in self.asked.try_iter() {
            let running =
                self.workers.values().rfind(|it| it.key == key && !it.thread.is_finished());
            match (running, order) {
                (Some(running), order) => drop(running.orders.send(order)),
                (None, Order::Check(answer)) => {
                    drop(answer.send(Err(anyhow!("pod {}/{} is not here", key.0, key.1))));
                }
                // Its end is told by what is dropped here.
                (None, Order::Update(_) | Order::Gone | Order::Find(..)) => {}
            }
        }
    }
}
