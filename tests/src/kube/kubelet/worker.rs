//! The life of one pod on its node, on a thread of its own: place, init containers, containers, end.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{Event, ObjectReference, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::Value;
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    cni::{Attachment, Chain, Folders},
    container::{Container, State},
    files::Files,
    host::Host,
    report::{Phase, dated, report},
    volumes::Filler,
};
use crate::lab::{Node, Sandbox};

const TICK: Duration = Duration::from_millis(50);
/// Between two tries to make a place; also how long the API server may take to answer.
const AGAIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// By which a test chooses the last byte of a pod's address, such as one that was another's a moment ago.
const HOST: &str = "test.weft.mesh/host";

/// A `resolv.conf` of Kubernetes' default. Nobody has the name server's address: in the mesh the pod's proxy answers.
fn cluster_first(namespace: &str) -> String {
    format!(
        "nameserver 10.96.255.254
search {namespace}.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"
    )
}

/// What a pod is by its namespace and name.
pub(super) type Key = (String, String);

/// Where the pods of a node run.
pub(super) type Places = Mutex<BTreeMap<Key, Arc<Sandbox>>>;

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Order {
    /// This is the pod now.
    Update(Box<Pod>),
    /// The pod is not there any more.
    Gone,
    /// Ask every plugin of its chain.
    Check(std::sync::mpsc::Sender<Result<()>>),
    /// Find the process of this container.
    Find(String, oneshot::Sender<Result<u32>>),
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The API server says when.
    Graceful(Duration),
    /// It is gone from the API server.
    Forced,
    /// The kubelet ends, and everything with it.
    Stopped,
}

pub(super) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) folders: Folders,
    pub(super) host: Host,
    pub(super) places: Arc<Places>,
    pub(super) client: Client,
    /// Of the kubelet, whose thread drives what is waited for here.
    pub(super) runtime: Handle,
    pub(super) orders: Receiver<Order>,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) pod: Pod,
}

/// A pod that has its place.
struct Placed {
    sandbox: Arc<Sandbox>,
    /// None in the node's own namespace, of which no plugin is told.
    network: Option<(Chain, Value)>,
}

struct Life {
    worker: Worker,
    ending: Option<Ending>,
    placed: Option<Placed>,
    init: Vec<Container>,
    main: Vec<Container>,
    files: Files,
    filled: Instant,
    said: Option<Value>,
}

impl Worker {
    pub(super) fn run(self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.clone().unwrap_or_default();
        let mut life = Life {
            init: init.into_iter().map(Container::new).collect(),
            main: spec.containers.iter().cloned().map(Container::new).collect(),
            files: Files::of(&self.node, &self.pod),
            filled: Instant::now(),
            worker: self,
            ending: None,
            placed: None,
            said: None,
        };
        life.place(&spec);
        life.fill_at_first();
        let end = life.live(&spec);
        life.leave(end);
    }

    /// Of its place.
    fn id(&self) -> String {
        format!("pod{}", self.uid)
    }

    fn attachment<'a>(&'a self, sandbox: &'a Sandbox) -> Attachment<'a> {
        let (namespace, pod) = (&self.key.0, &self.key.1);
        let (node, folders, host, uid) = (&self.node, &self.folders, &self.host, &self.uid);
        Attachment { node, folders, host, sandbox, namespace, pod, uid }
    }

    /// One that failed half-way is taken apart, so that the next try finds nothing of it.
    fn make(&self, spec: &PodSpec) -> Result<Placed> {
        let (name, id) = (format!("{}-{}", self.key.0, self.key.1), self.id());
        if spec.host_network == Some(true) {
            let sandbox = Arc::new(self.node.host_sandbox(&name, &id)?);
            return Ok(Placed { sandbox, network: None });
        }
        let chain = self.folders.chain()?;
        let wanted = self.pod.metadata.annotations.as_ref().and_then(|all| all.get(HOST));
        let host =
            wanted.map(|host| host.parse()).transpose().context("read the wanted address")?;
        let host = host.unwrap_or_else(|| self.node.next_host());
        let sandbox = Arc::new(self.node.sandbox(&name, &id, host)?);
        sandbox.namespace().resolve_by(&cluster_first(&self.key.0))?;
        match chain.add(&self.attachment(&sandbox)) {
            Ok(result) => Ok(Placed { sandbox, network: Some((chain, result)) }),
            Err(error) => {
                let _ = chain.del(&self.attachment(&sandbox), None);
                self.clear(&sandbox);
                Err(error)
            }
        }
    }

    /// What a runtime and its main plugin do at a pod's end.
    fn clear(&self, sandbox: &Sandbox) {
        sandbox.evict();
        if let Err(error) = self.node.unplug(&self.id(), sandbox) {
            self.complain("FailedKillPod", &error);
        }
        sandbox.namespace().delete();
    }

    /// Waits for an answer of the API server, no longer than anybody would.
    fn wait<T>(&self, answer: impl Future<Output = kube::Result<T>>) -> Result<T> {
        let answer = async { tokio::time::timeout(PATIENCE, answer).await };
        Ok(self.runtime.block_on(answer).context("the API server does not answer")??)
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.key.0)
    }

    /// Tells users what hinders a pod.
    fn complain(&self, reason: &str, error: &anyhow::Error) {
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", self.key.1)),
                ..ObjectMeta::default()
            },
            action: Some("Create".to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(self.key.0.clone()),
                name: Some(self.key.1.clone()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            },
            message: Some(format!("{error:#}")),
            reason: Some(reason.to_owned()),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.name().to_owned()),
            type_: Some("Warning".to_owned()),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &self.key.0);
        // Without it the pod still waits; its status says so, too.
        let _ = self.wait(api.create(&PostParams::default(), &event));
    }
}

impl Life {
    /// Makes the pod's place, again and again until its network has it.
    fn place(&mut self, spec: &PodSpec) {
        while self.ending.is_none() {
            match self.worker.make(spec) {
                Ok(placed) => {
                    let sandbox = placed.sandbox.clone();
                    lock(&self.worker.places).insert(self.worker.key.clone(), sandbox);
                    self.placed = Some(placed);
                    return;
                }
                Err(error) => {
                    self.worker.complain("FailedCreatePodSandBox", &error);
                    self.say(Phase::Pending);
                    self.listen(AGAIN);
                }
            }
        }
    }

    /// Makes its volumes, again and again until all that they are made of is there.
    fn fill_at_first(&mut self) {
        while self.ending.is_none() {
            let Err(error) = self.fill() else { return };
            self.worker.complain("FailedMount", &error);
            self.say(Phase::Pending);
            self.listen(AGAIN);
        }
    }

    fn fill(&mut self) -> Result<()> {
        let Some(placed) = &self.placed else { return Ok(()) };
        let Worker { client, pod, host, runtime, .. } = &self.worker;
        let filler = Filler { client: client.clone(), pod, sandbox: &placed.sandbox };
        let answer = async { tokio::time::timeout(PATIENCE, self.files.fill(&filler, host)).await };
        self.filled = Instant::now();
        runtime.block_on(answer).context("the API server does not answer")?
    }

    /// Runs its containers until it ends, by itself or because it is to.
    fn live(&mut self, spec: &PodSpec) -> Phase {
        let policy = spec.restart_policy.clone().unwrap_or_default();
        self.say(Phase::Pending);
        for at in 0..self.init.len() {
            if let Some(phase) = self.initialize(at, &policy) {
                return phase;
            }
        }
        if self.ending.is_none() {
            let Some(placed) = &self.placed else { return Phase::Pending };
            for container in &mut self.main {
                container.start(&self.worker.pod, &placed.sandbox, &self.files);
            }
        }
        while self.ending.is_none() {
            let node = self.worker.node.clone();
            self.each(|container, _, sandbox, _| container.look(&node, sandbox));
            if self.main.iter().all(|it| is_final(&it.state, &policy)) {
                let good = self.main.iter().all(|it| it.state == State::Ended(0));
                return if good { Phase::Succeeded } else { Phase::Failed };
            }
            self.each(|container, pod, sandbox, files| {
                let policy = if container.is_sidecar() { "Always" } else { &policy };
                if !container.is_running() && !is_final(&container.state, policy) {
                    container.start_again(pod, sandbox, files);
                }
            });
            if self.filled.elapsed() > AGAIN {
                // What is not to be had just now stays as it was.
                let _ = self.fill();
            }
            self.say(Phase::Running);
            self.listen(TICK);
        }
        Phase::Running
    }

    /// Runs one init container to its good end. Returns how the pod ends when there is none.
    fn initialize(&mut self, at: usize, policy: &str) -> Option<Phase> {
        let placed = self.placed.as_ref()?.sandbox.clone();
        let pod = self.worker.pod.clone();
        self.init.get_mut(at)?.start(&pod, &placed, &self.files);
        while self.ending.is_none() {
            self.say(Phase::Pending);
            self.listen(TICK);
            let container = self.init.get_mut(at)?;
            container.look(&self.worker.node, &placed);
            match container.state {
                State::Ended(0) if !container.is_sidecar() => {
                    container.ready = true;
                    return None;
                }
                State::Ended(_) if policy == "Never" => return Some(Phase::Failed),
                State::Ended(_) | State::Waiting(_) => {
                    container.start_again(&pod, &placed, &self.files);
                }
                State::Running if container.is_sidecar() => return None,
                State::Running => {}
            }
        }
        None
    }

    /// Ends what runs, takes the place apart, says how it ended, and waits until it is to be deleted.
    fn leave(mut self, end: Phase) {
        let grace = match self.ending {
            Some(Ending::Graceful(grace)) => grace,
            // A pod that ended by itself has nothing left to wait for.
            Some(Ending::Forced | Ending::Stopped) | None => Duration::ZERO,
        };
        self.main.iter().for_each(Container::terminate);
        let deadline = Instant::now() + grace;
        let node = self.worker.node.clone();
        while self.main.iter().any(Container::is_running) && Instant::now() < deadline {
            self.each(|container, _, sandbox, _| container.look(&node, sandbox));
            self.listen(TICK);
        }
        // Sidecars are there until the last of those that they serve has ended.
        self.init.iter().for_each(Container::terminate);
        while self.init.iter().any(Container::is_running) && Instant::now() < deadline {
            self.each(|container, _, sandbox, _| container.look(&node, sandbox));
            self.listen(TICK);
        }
        self.dismantle();
        while self.ending.is_none() {
            self.say(end);
            self.listen(AGAIN);
        }
        if let Some(Ending::Graceful(_)) = self.ending {
            let uid = Some(self.worker.uid.clone());
            let at_once = DeleteParams::default().grace_period(0);
            let at_once = at_once.preconditions(Preconditions { uid, resource_version: None });
            // Until it is gone: the name is free for its successor only then.
            while self.ending != Some(Ending::Forced) && self.ending != Some(Ending::Stopped) {
                let api = self.worker.api();
                let _ = self.worker.wait(api.delete(&self.worker.key.1, &at_once));
                self.listen(AGAIN);
            }
        }
    }

    fn dismantle(&mut self) {
        let Some(placed) = self.placed.take() else { return };
        if let (Some((chain, result)), true) =
            (&placed.network, self.ending != Some(Ending::Stopped))
        {
            let from = self.worker.attachment(&placed.sandbox);
            if let Err(error) = chain.del(&from, Some(result)) {
                self.worker.complain("FailedKillPod", &error);
            }
        }
        if placed.network.is_some() {
            self.worker.clear(&placed.sandbox);
        } else {
            placed.sandbox.evict();
        }
        for container in &mut self.main {
            container.look(&self.worker.node, &placed.sandbox);
        }
        let mut all = lock(&self.worker.places);
        // Its successor may be there already.
        if all.get(&self.worker.key).is_some_and(|it| Arc::ptr_eq(it, &placed.sandbox)) {
            all.remove(&self.worker.key);
        }
    }

    /// All that run side by side.
    fn each(&mut self, mut act: impl FnMut(&mut Container, &Pod, &Sandbox, &Files)) {
        let Some(placed) = &self.placed else { return };
        let sidecars = self.init.iter_mut().filter(|it| it.is_sidecar());
        for container in sidecars.chain(&mut self.main) {
            act(container, &self.worker.pod, &placed.sandbox, &self.files);
        }
    }

    /// Follows orders for a while.
    fn listen(&mut self, within: Duration) {
        match self.worker.orders.recv_timeout(within) {
            Ok(Order::Update(pod)) => {
                let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
                let grace = Duration::from_secs(grace.try_into().unwrap_or_default());
                if pod.metadata.deletion_timestamp.is_some() && self.ending.is_none() {
                    self.ending = Some(Ending::Graceful(grace));
                }
                self.worker.pod = *pod;
            }
            Ok(Order::Gone) => self.ending = Some(Ending::Forced),
            Ok(Order::Check(answer)) => {
                // Whoever asked may have given up.
                let _ = answer.send(self.check());
            }
            Ok(Order::Find(container, answer)) => {
                let _ = answer.send(self.find(&container));
            }
            Err(RecvTimeoutError::Disconnected) => self.ending = Some(Ending::Stopped),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }

    fn check(&self) -> Result<()> {
        let placed = self.placed.as_ref().context("the pod has no place yet")?;
        let (chain, result) = placed.network.as_ref().context("it is on its node's network")?;
        chain.check(&self.worker.attachment(&placed.sandbox), result)
    }

    fn find(&self, container: &str) -> Result<u32> {
        let mut all = self.init.iter().chain(&self.main).filter(|it| it.spec.name == container);
        let process = all.next().with_context(|| format!("no container {container:?}"))?.process();
        process.with_context(|| format!("container {container:?} does not run"))
    }

    /// Reports what has changed since it was last said.
    fn say(&mut self, phase: Phase) {
        let sandbox = self.placed.as_ref().map(|placed| placed.sandbox.as_ref());
        let index = self.worker.node.name().trim_start_matches("node-");
        let (v4, v6) = (format!("10.0.0.{index}"), format!("fd00::{index}"));
        let patch = report(&self.worker.pod, phase, [&v4, &v6], sandbox, [&self.init, &self.main]);
        if self.said.as_ref() == Some(&patch) {
            return;
        }
        let dated = Patch::Strategic(dated(patch.clone(), &self.worker.pod));
        let (api, params) = (self.worker.api(), PatchParams::default());
        // What could not be said is tried again on the next tick.
        let said = self.worker.wait(api.patch_status(&self.worker.key.1, &params, &dated));
        self.said = said.is_ok().then_some(patch);
    }
}

/// Whether a container that is in this state stays in it.
fn is_final(state: &State, policy: &str) -> bool {
    match (state, policy) {
        (State::Ended(_), "Never") | (State::Ended(0), "OnFailure") => true,
        (State::Ended(_) | State::Waiting(_) | State::Running, _) => false,
    }
}

pub(super) fn lock(places: &Places) -> std::sync::MutexGuard<'_, BTreeMap<Key, Arc<Sandbox>>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}
