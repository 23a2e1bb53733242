//! Listens to the node agent: which pods there are, their sockets, and what became of them.
//!
//! The agent listens on a `SOCK_SEQPACKET` socket; we dial it, say hello, and answer each request but `Sockets`.
//! A stock istio-cni speaks the same and sends only a pod's namespace; ours sends listeners and more sockets.

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use weft_xds::zds::{
    Ack, NeedSockets, Version, WorkloadRequest, WorkloadResponse, ZdsHello,
    workload_request::Payload, workload_response,
};

use crate::{
    causes::chain,
    pods::{Enrolment, EnrolmentError, Pods},
    socket::Need,
    uid::PodUid,
};

mod packets;

use packets::Packets;

const BACK_OFF_FIRST: Duration = Duration::from_millis(5);
/// Asking a Unix socket costs nothing, and pods wait for an agent that is back.
const BACK_OFF_LAST: Duration = Duration::from_millis(500);

/// What this process wants of the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Pods, and sockets for their connections.
    Serving,
    /// Only sockets, for the connections that it still has: it leaves.
    Draining,
}

/// What is known about the node's pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knowledge {
    /// The agent has not told of all pods yet since this process began.
    Incomplete,
    /// Every pod that the agent knows is served.
    Complete,
}

/// Why a connection to the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum ZdsError {
    #[error("cannot reach the node agent at {}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the node agent's connection failed")]
    Packet(#[source] io::Error),
    #[error("the node agent closed the connection")]
    Closed,
    #[error("a packet of the node agent is not a WorkloadRequest")]
    Decode(#[source] prost::DecodeError),
    #[error("a request of the node agent is empty or of a kind that is not known")]
    UnknownRequest,
    #[error("this proxy drains, and says so in a new connection")]
    Drains,
}

/// The client of the node agent.
#[derive(Debug)]
pub struct Zds {
    path: PathBuf,
    pods: Pods,
    needs: mpsc::UnboundedReceiver<Need>,
    knowledge: watch::Sender<Knowledge>,
}

impl Zds {
    /// `needs` are the sockets that pods have run out of.
    pub fn new(path: &Path, pods: Pods, needs: mpsc::UnboundedReceiver<Need>) -> Self {
        let knowledge = watch::Sender::new(Knowledge::Incomplete);
        Self { path: path.to_owned(), pods, needs, knowledge }
    }

    pub fn knowledge(&self) -> watch::Receiver<Knowledge> {
        self.knowledge.subscribe()
    }

    /// Keeps a connection to the agent until dropped. Pods are served on while there is none.
    pub async fn run(mut self, phase: watch::Receiver<Phase>) {
        let mut back_off = BACK_OFF_FIRST;
        loop {
            let mut greeted = false;
            let error = match self.session(&mut greeted, &phase).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            if matches!(error, ZdsError::Drains) {
                tracing::info!("telling the node agent that this proxy drains");
                continue;
            }
            // An agent that answered and went is back in a moment; one that never did may take long.
            if greeted {
                back_off = BACK_OFF_FIRST;
                tracing::warn!(error = chain(&error), "lost the node agent");
            } else {
                tracing::debug!(error = chain(&error), "no node agent");
            }
            sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_LAST);
        }
    }

    async fn session(
        &mut self,
        greeted: &mut bool,
        phase: &watch::Receiver<Phase>,
    ) -> Result<std::convert::Infallible, ZdsError> {
        let connecting = Packets::connect(&self.path);
        let packets =
            connecting.map_err(|source| ZdsError::Connect { path: self.path.clone(), source })?;
        let mut phase = phase.clone();
        let greeted_as = *phase.borrow_and_update();
        let draining = greeted_as == Phase::Draining;
        let hello = ZdsHello { version: Version::V1.into(), takes_fds: true, draining };
        packets.send(&hello.encode_to_vec()).await.map_err(ZdsError::Packet)?;
        // What was asked for while there was no agent is asked for again, once this one has told of the pod: until
        // then it knows none, and would answer that it cannot make any.
        while self.needs.try_recv().is_ok() {}
        let mut session =
            Session { told: HashSet::new(), snapshot: Snapshot::Coming, agent: Agent::Unknown };
        loop {
            let (packet, descriptors) = tokio::select! {
                // Biased: the next proxy is waited for by new pods; and what the agent says decides which needs
                // still make sense.
                biased;
                Ok(()) = phase.changed(), if session.agent == Agent::Ours => {
                    return Err(ZdsError::Drains);
                }
                received = packets.receive() => {
                    received.map_err(ZdsError::Packet)?.ok_or(ZdsError::Closed)?
                }
                Some(need) = self.needs.recv() => {
                    if !session.told.contains(&need.pod) {
                        continue;
                    }
                    packets.send(&encode_need(&need)).await.map_err(ZdsError::Packet)?;
                    continue;
                }
            };
            *greeted = true;
            let request = WorkloadRequest::decode(&*packet).map_err(ZdsError::Decode)?;
            let payload = request.payload.ok_or(ZdsError::UnknownRequest)?;
            let current = *phase.borrow();
            if let Some(ack) = self.answer(payload, descriptors, &mut session, current).await {
                packets.send(&ack.encode_to_vec()).await.map_err(ZdsError::Packet)?;
            }
        }
    }

    /// Does what is asked.
    async fn answer(
        &mut self,
        request: Payload,
        descriptors: Vec<OwnedFd>,
        session: &mut Session,
        phase: Phase,
    ) -> Option<WorkloadResponse> {
        let done = match request {
            Payload::Add(add) => {
                self.told(&add.uid, session);
                if add.sockets_offered {
                    session.agent = Agent::Ours;
                }
                if phase == Phase::Draining {
                    return Some(acknowledge(Err(EnrolmentError::Draining { uid: add.uid })));
                }
                match Enrolment::read(add, descriptors) {
                    Ok(enrolment) => self.pods.add(enrolment).await,
                    Err(error) => Err(error),
                }
            }
            Payload::Keep(keep) => {
                self.told(&keep.uid, session);
                if phase == Phase::Draining {
                    return Some(acknowledge(Err(EnrolmentError::Draining { uid: keep.uid })));
                }
                self.pods.keep(&PodUid(keep.uid.into()))
            }
            Payload::Del(del) => {
                let uid = PodUid(del.uid.into());
                session.told.remove(&uid);
                self.pods.remove(&uid);
                Ok(())
            }
            Payload::SnapshotSent(_) => {
                if std::mem::replace(&mut session.snapshot, Snapshot::Complete) == Snapshot::Coming
                {
                    self.pods.retain(&session.told);
                }
                self.knowledge.send_replace(Knowledge::Complete);
                Ok(())
            }
            Payload::Sockets(sockets) => {
                let kind = sockets.kind();
                self.pods.put_sockets(&PodUid(sockets.uid.into()), kind, descriptors);
                return None;
            }
        };
        if let Err(error) = &done {
            tracing::error!(error = chain(error), "a pod cannot be served");
        }
        Some(acknowledge(done))
    }

    fn told(&self, uid: &str, session: &mut Session) {
        let uid = PodUid(uid.into());
        self.pods.ask_again(&uid);
        session.told.insert(uid);
    }
}

/// What one connection to an agent has told.
struct Session {
    /// The pods that it knows.
    told: HashSet<PodUid>,
    snapshot: Snapshot,
    agent: Agent,
}

/// Whether the agent knows what a draining proxy is. To a stock one, whoever dials last is the newest proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agent {
    Unknown,
    Ours,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    Coming,
    Complete,
}

fn acknowledge(done: Result<(), EnrolmentError>) -> WorkloadResponse {
    let error = done.err().map(|error| chain(&error)).unwrap_or_default();
    WorkloadResponse { payload: Some(workload_response::Payload::Ack(Ack { error })) }
}

fn encode_need(need: &Need) -> Vec<u8> {
    let Need { pod, kind, count } = need;
    let need = NeedSockets { uid: pod.to_string(), kind: (*kind).into(), count: *count };
    WorkloadResponse { payload: Some(workload_response::Payload::Need(need)) }.encode_to_vec()
}
