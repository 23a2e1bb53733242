//! One worker: a thread of its own on which a connection, its tunnel and that tunnel's streams all live.
//!
//! Nothing here is shared with another worker but views and certificates, by `Arc`. All that a worker needs from
//! the world comes in through [`Shared`] and [`Sockets`], so a whole worker also runs in a simulation: put it on a
//! `LocalSet` of a paused current-thread runtime, with sockets that are in-memory pipes, as `tests/simulation` does.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

mod accept;

pub use accept::Entrance;

use crate::{
    memory,
    pod::{Generation, Phase},
    socket::Sockets,
};
pub use crate::{
    pod::{Pod, Shared, Svids},
    uid::PodUid,
};

/// Between two looks for tunnels that are idle or whose endpoint is gone.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// The pods of this node, as one worker serves them.
pub struct Worker<S: Sockets> {
    shared: Rc<Shared>,
    pods: RefCell<HashMap<PodUid, Rc<Pod<S>>>>,
    phase: watch::Sender<Phase>,
    /// Removed pods whose connections go on to their end.
    leaving: RefCell<Vec<Rc<Pod<S>>>>,
}

impl<S: Sockets> Worker<S> {
    pub fn new(shared: Rc<Shared>) -> Self {
        let phase = watch::Sender::new(Phase::Serving);
        Self { shared, pods: RefCell::default(), phase, leaving: RefCell::default() }
    }

    /// Serves a pod from now on. One with the same uid is replaced: its connections go on, its listeners close.
    /// Must be called within a `LocalSet`.
    pub fn add(
        &self,
        uid: PodUid,
        name: ztunnel_core::Pod,
        sockets: S,
        listeners: Vec<(Entrance, S::Listener)>,
    ) {
        self.remove(&uid);
        let pod = Pod::new(uid.clone(), name, sockets, self.shared.clone(), self.phase.subscribe());
        let pod = Rc::new(pod);
        listen(&pod, listeners);
        self.pods.borrow_mut().insert(uid, pod);
    }

    /// Accepts a pod's connections on these from now on. What waits in its listeners of before is served, then
    /// they close. A pod that is not served is ignored.
    pub fn replace_listeners(&self, uid: &PodUid, listeners: Vec<(Entrance, S::Listener)>) {
        if let Some(pod) = self.pods.borrow().get(uid) {
            pod.listeners.send_modify(|Generation(n)| *n += 1);
            listen(pod, listeners);
        }
    }

    /// Takes no more connections of a pod. Those that are open go on until they end: with the pod, whose processes
    /// and addresses are gone, or on their own when the pod only left the mesh.
    pub fn remove(&self, uid: &PodUid) {
        if let Some(pod) = self.pods.borrow_mut().remove(uid) {
            pod.phase.send_replace(Phase::Draining);
            pod.pool.retain(|_| false);
            // A key is not kept for longer than its pod; who still needs one makes it again.
            self.shared.forget_servers();
            self.leaving.borrow_mut().push(pod);
        }
    }

    /// Does what is due from time to time. Runs until dropped.
    pub async fn tend(&self) {
        let mut views = self.shared.views.clone();
        let mut pressure = self.shared.pressure.clone();
        loop {
            tokio::select! {
                // Biased: memory is short now; a removed endpoint's tunnels are to go at once, idle ones have time.
                biased;
                () = memory::over(&mut pressure) => self.shared.shed_streams(),
                changed = views.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(SWEEP_INTERVAL) => {}
            }
            let view = views.borrow_and_update().clone();
            let now = Instant::now();
            for pod in self.pods.borrow().values() {
                pod.pool.retain(|key| {
                    key.endpoint.as_ref().is_none_or(|uid| view.workload(uid).is_some())
                });
                pod.pool.sweep(now);
            }
            self.leaving.borrow_mut().retain(|pod| !pod.tasks.is_empty());
        }
    }

    /// Takes no more connections and waits until the open ones have ended, at most until `deadline`. What is
    /// still open then is cut.
    pub async fn drain(&self, deadline: Instant) {
        self.phase.send_replace(Phase::Draining);
        let pods: Vec<_> = self.pods.borrow_mut().drain().map(|(_, pod)| pod).collect();
        let pods: Vec<_> = pods.into_iter().chain(self.leaving.take()).collect();
        let all = async {
            for pod in &pods {
                pod.pool.retain(|_| false);
                pod.tasks.idle().await;
            }
        };
        if timeout_at(deadline, all).await.is_err() {
            // Aborted tasks end when they are polled; their outcomes are part of this drain.
            for pod in &pods {
                pod.tasks.abort();
                pod.tasks.idle().await;
            }
        }
    }

    pub fn pods(&self) -> Vec<Rc<Pod<S>>> {
        self.pods.borrow().values().cloned().collect()
    }
}

fn listen<S: Sockets>(pod: &Rc<Pod<S>>, listeners: Vec<(Entrance, S::Listener)>) {
    for (entrance, listener) in listeners {
        pod.tasks.spawn(accept::accept(pod.clone(), entrance, listener));
    }
}

impl<S: Sockets> std::fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("pods", &self.pods.borrow().len()).finish_non_exhaustive()
    }
}
