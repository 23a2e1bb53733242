//! The pods of this node: who they are, and who makes their sockets. What the node agent says is passed on to the
//! workers here.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::Arc,
};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use weft_certs::Priority;
use weft_model::{Identity, Network, TrustDomain};
use weft_xds::zds::SocketKind;

use crate::{
    admin::{PodState, PodStatus},
    config::Tcp,
    descriptors::Descriptors,
    dns,
    identity::{Hold, Identities},
    socket::{AgentSockets, Need, Netns, PodSockets},
    state::Views,
    telemetry::Recorder,
    threads::{NewPod, Threads},
    uid::PodUid,
};

mod enrolment;
mod listening;

use enrolment::Offered;
pub use enrolment::{Enrolment, EnrolmentError};
use listening::Listening;

/// See the module.
#[derive(Debug)]
pub struct Pods {
    known: HashMap<PodUid, Known>,
    means: Means,
    /// Each pod's DNS.
    names: JoinSet<()>,
    /// Announced, but the last attempt to serve them failed.
    failed: HashMap<PodUid, ztunnel_core::Pod>,
    roster: watch::Sender<Vec<PodState>>,
}

#[derive(Debug)]
struct Known {
    pod: ztunnel_core::Pod,
    place: Place,
    sockets: PodSockets,
    /// Keeps the certificate fresh as long as the pod is here.
    _identity: Hold,
    names: AbortHandle,
}

/// What pods are made of, besides what the agent says.
#[derive(Debug)]
pub struct Means {
    pub threads: Arc<Threads>,
    /// Go to the node agent.
    pub needs: mpsc::UnboundedSender<Need>,
    pub identities: Identities,
    pub views: Views,
    pub names: dns::Service,
    pub recorder: Recorder,
    /// Of a pod that the view does not have yet.
    pub network: Network,
    /// Likewise.
    pub trust_domain: TrustDomain,
    pub tcp: Tcp,
    pub descriptors: Descriptors,
}

/// Which namespace a pod is in; two that are equal are the same one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Cookie(u64),
    /// Device and inode, which the kernel may give to another namespace once this one is closed; `Netns` holds it.
    Inode(u64, u64),
}

impl Pods {
    pub fn new(means: Means) -> Self {
        Self {
            known: HashMap::new(),
            means,
            names: JoinSet::new(),
            failed: HashMap::new(),
            roster: watch::Sender::default(),
        }
    }

    /// Who is here, for people and for readiness.
    pub fn roster(&self) -> watch::Receiver<Vec<PodState>> {
        self.roster.subscribe()
    }

    fn publish(&self) {
        let state = |uid: &PodUid, pod: &ztunnel_core::Pod, status| PodState {
            uid: uid.0.clone(),
            pod: pod.clone(),
            trust_domain: self.identity_of(pod).trust_domain().clone(),
            status,
        };
        let up = self.known.iter().map(|(uid, known)| state(uid, &known.pod, PodStatus::Up));
        let failed = self.failed.iter().map(|(uid, pod)| state(uid, pod, PodStatus::Pending));
        self.roster.send_replace(up.chain(failed).collect());
        self.means.recorder.pods_pending(self.failed.len());
    }

    /// Serves a pod, or takes over its new listeners. Completes when every worker accepts.
    pub async fn add(&mut self, enrolment: Enrolment) -> Result<(), EnrolmentError> {
        let (uid, pod) = (enrolment.uid.clone(), enrolment.pod.clone());
        let added = self.serve(enrolment).await;
        match &added {
            Ok(()) => self.failed.remove(&uid),
            // The agent is told, and tries again.
            Err(_) => self.failed.insert(uid, pod),
        };
        self.publish();
        added
    }

    async fn serve(&mut self, enrolment: Enrolment) -> Result<(), EnrolmentError> {
        let uid = enrolment.uid.clone();
        let place = enrolment.place()?;
        if let Some(known) = self.known.get(&uid)
            && known.place == place
            && known.pod == enrolment.pod
        {
            return self.listen_anew(enrolment).await;
        }
        // Another namespace under the same uid: the pod's sandbox was made again.
        self.remove(&uid);
        let Enrolment { uid, pod, listeners, netns, offered, .. } = enrolment;
        let failed = |source| EnrolmentError::Sockets { uid: uid.clone(), source };
        let (tcp, descriptors) = (self.means.tcp.clone(), self.means.descriptors.clone());
        let (sockets, Listening { doors, names }) = match offered {
            Offered::Sockets => {
                let needs = self.means.needs.clone();
                let agent = AgentSockets::new(uid.clone(), needs, tcp, descriptors);
                (PodSockets::Agent(Arc::new(agent)), Listening::passed(listeners))
            }
            Offered::Namespace => {
                let netns = Arc::new(Netns::new(netns, tcp, descriptors).map_err(failed)?);
                let listening = if listeners.is_empty() {
                    Listening::open(&netns).map_err(failed)?
                } else {
                    Listening::passed(listeners)
                };
                (PodSockets::Netns(netns), listening)
            }
        };
        let identity = self.identity_of(&pod);
        let identity = self.means.identities.hold_for(&identity, Priority::Warmup, &uid.0);
        let new = NewPod { uid: uid.clone(), name: pod.clone(), sockets: sockets.clone() };
        self.means.threads.add(new, doors).await.map_err(failed)?;
        self.means.recorder.pod_started();
        tracing::info!(%pod, %uid, "pod enrolled");
        let names = self.answer_names(&pod, sockets.clone(), names);
        self.known.insert(uid, Known { pod, place, sockets, _identity: identity, names });
        Ok(())
    }

    /// Answers the pod's DNS queries, beside everything else.
    fn answer_names(
        &mut self,
        pod: &ztunnel_core::Pod,
        sockets: PodSockets,
        listening: dns::Sockets,
    ) -> AbortHandle {
        while self.names.try_join_next().is_some() {}
        let view = self.means.views.current();
        let workload = view.pod(&pod.namespace, &pod.name);
        let client = dns::Client {
            namespace: pod.namespace.clone(),
            network: workload.map_or_else(|| self.means.network.clone(), |w| w.network.clone()),
            canonical_service: workload.map_or_else(|| "".into(), |w| w.canonical_name.clone()),
            canonical_revision: workload
                .map_or_else(|| "".into(), |w| w.canonical_revision.clone()),
        };
        let (service, pod) = (self.means.names.clone(), pod.clone());
        self.names.spawn_local(async move {
            // The agent captures no DNS of this pod.
            if listening.udp.is_empty() && listening.tcp.is_empty() {
                return;
            }
            let raw = sockets.raw_replies().await;
            let listening = dns::Sockets { raw, ..listening };
            if let Err(error) = dns::serve(service, client, listening, sockets).await {
                tracing::error!(%pod, %error, "the pod's DNS is not answered");
            }
        })
    }

    /// The agent has started again: its new listeners take the place of the old.
    async fn listen_anew(&mut self, enrolment: Enrolment) -> Result<(), EnrolmentError> {
        let Enrolment { uid, pod, listeners, .. } = enrolment;
        // A stock agent repeats itself, without listeners: ours are open already.
        if listeners.is_empty() {
            return Ok(());
        }
        let Listening { doors, names } = Listening::passed(listeners);
        let failed = |source| EnrolmentError::Sockets { uid: uid.clone(), source };
        self.means.threads.replace(&uid, doors).await.map_err(failed)?;
        if let Some(sockets) = self.known.get(&uid).map(|known| known.sockets.clone()) {
            let names = self.answer_names(&pod, sockets, names);
            if let Some(known) = self.known.get_mut(&uid) {
                std::mem::replace(&mut known.names, names).abort();
            }
        }
        tracing::info!(%pod, %uid, "pod has new listeners");
        Ok(())
    }

    /// Still there. Errors: it was never added, so it is not served.
    pub fn keep(&self, uid: &PodUid) -> Result<(), EnrolmentError> {
        let known = self.known.contains_key(uid);
        known.then_some(()).ok_or_else(|| EnrolmentError::Unknown { uid: uid.clone() })
    }

    /// Serves a pod's open connections to their end, and no others.
    pub fn remove(&mut self, uid: &PodUid) {
        let failed = self.failed.remove(uid);
        if let Some(gone) = self.known.remove(uid) {
            self.means.recorder.pod_stopped();
            self.means.threads.remove(uid);
            gone.names.abort();
            tracing::info!(pod = %gone.pod, %uid, "pod left");
            self.publish();
        } else if failed.is_some() {
            self.publish();
        }
    }

    /// Removes all that the agent did not tell of.
    pub fn retain(&mut self, told: &HashSet<PodUid>) {
        let all = self.known.keys().chain(self.failed.keys());
        let gone: Vec<_> = all.filter(|uid| !told.contains(uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// What the agent passed on request. Sockets of a pod that has left are closed.
    pub fn put_sockets(&self, uid: &PodUid, kind: SocketKind, sockets: Vec<OwnedFd>) {
        match self.known.get(uid).map(|known| &known.sockets) {
            Some(PodSockets::Agent(agent)) => agent.put(kind, sockets),
            Some(PodSockets::Netns(_)) | None => {
                tracing::debug!(%uid, count = sockets.len(), "sockets that nobody asked for");
            }
        }
    }

    /// Of an agent that has just told of a pod, what the one before was asked for.
    pub fn ask_again(&self, uid: &PodUid) {
        match self.known.get(uid).map(|known| &known.sockets) {
            Some(PodSockets::Agent(agent)) => agent.ask_again(),
            Some(PodSockets::Netns(_)) | None => {}
        }
    }

    fn identity_of(&self, pod: &ztunnel_core::Pod) -> Identity {
        let view = self.means.views.current();
        let workload = view.pod(&pod.namespace, &pod.name);
        match workload.filter(|w| w.service_account == pod.service_account) {
            Some(workload) => workload.identity(),
            None => Identity::new(
                self.means.trust_domain.clone(),
                pod.namespace.clone(),
                pod.service_account.clone(),
            ),
        }
    }
}
