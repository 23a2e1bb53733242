//! The agent's side of the CNI plugin: a pod passes when it is captured, or is not to be.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};
use weft_model::enrollment::Enrollment;

use super::Shared;
use super::cluster::Place;
use super::locate::as_the_host_sees;
use super::objects::{self, Pod};
use crate::agent::chain;
use crate::agent::succession::Succession;
use crate::agent::wanted::{Ask, Status};
use crate::cni::protocol::{
    ANSWER_DEADLINE, Attachment, LINE_DEADLINE, LINE_MAX, PodName, Reply, Request,
};
use crate::pod::PodUid;

/// How long the API server may take to answer each of two questions.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long an enrolment may take: 20 ms, and those of other pods before it.
const PATIENCE: Duration = Duration::from_secs(20);
const _: () = assert!(2 * DEADLINE.as_secs() + PATIENCE.as_secs() < ANSWER_DEADLINE.as_secs());
/// Plugins served at once; a kubelet starts some ten pods at a time.
const PLUGINS_MAX: usize = 64;
const PAUSE: Duration = Duration::from_millis(200);

/// Where plugins ask.
pub(super) struct Gate {
    listener: UnixListener,
    keeper: Keeper,
}

impl Gate {
    /// Only root may connect.
    pub(super) fn open(
        path: &Path,
        shared: Shared,
        client: Client,
        asks: mpsc::Sender<Ask>,
        succession: Succession,
    ) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Bound beside and renamed: a plugin finds a socket that has its permissions already.
        let hidden = path.with_extension("new");
        match std::fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&hidden)?;
        std::fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
        std::fs::rename(&hidden, path)?;
        Ok(Self { listener, keeper: Keeper { shared, client, asks, succession } })
    }

    /// Serves plugins for ever.
    pub(super) async fn run(self) {
        let mut plugins = JoinSet::new();
        loop {
            // Biased: ended ones make room for new ones.
            tokio::select! {
                biased;
                Some(ended) = plugins.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "a plugin's task ended badly");
                    }
                }
                accepted = self.listener.accept(), if plugins.len() < PLUGINS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let keeper = self.keeper.clone();
                        plugins.spawn(async move {
                            if let Err(error) = keeper.serve(stream).await {
                                warn!(%error, "a CNI plugin was not served");
                            }
                        });
                    }
                    Err(error) => {
                        warn!(%error, "a CNI plugin could not be accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }
}

/// Who keeps the gate: knows, asks and answers.
#[derive(Clone)]
struct Keeper {
    shared: Shared,
    client: Client,
    asks: mpsc::Sender<Ask>,
    succession: Succession,
}

impl Keeper {
    async fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        if uid != 0 {
            return Err(io::Error::other(format!("user {uid} is not root")));
        }
        let mut line = String::new();
        let most = u64::try_from(LINE_MAX).expect("a line's length fits");
        let mut reader = BufReader::new((&mut stream).take(most));
        timeout(LINE_DEADLINE, reader.read_line(&mut line)).await??;
        let reply = match serde_json::from_str(&line) {
            Ok(request) => self.answer(request).await,
            Err(error) => {
                Reply::Failed { reason: format!("weft-redirect cannot read it: {error}") }
            }
        };
        let mut answer = serde_json::to_vec(&reply)?;
        answer.push(b'\n');
        timeout(LINE_DEADLINE, stream.write_all(&answer)).await??;
        if let Reply::Yielded { .. } = reply {
            self.succession.yielded.notify_one();
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Add { pod, attachment } => {
                let reply = self.admit(&pod, attachment).await.unwrap_or_else(failed);
                tell(&pod, &reply);
                reply
            }
            Request::Check { pod, .. } => self.check(&pod).await.unwrap_or_else(failed),
            Request::Del { pod, attachment } => {
                let gone = self.shared.tell(|cluster| cluster.detach(&pod, &attachment));
                if let Some(uid) = gone
                    && let Err(reason) = self.settle(&uid).await
                {
                    return failed(reason);
                }
                Reply::Released
            }
            Request::Yield => {
                Reply::Yielded { proxy_cgroups: self.succession.proxy_cgroups.clone() }
            }
        }
    }

    async fn admit(&self, pod: &PodName, attachment: Attachment) -> Result<Reply, String> {
        let (uid, decision) = match self.decide(pod).await {
            Ok(decided) => decided,
            Err(reason) => return Ok(Reply::Unknown { reason }),
        };
        let netns = attachment.netns.ok_or("its network namespace was not told")?;
        let place = Place {
            container: Some(attachment.container),
            netns: as_the_host_sees(&netns),
            addresses: attachment.addresses,
        };
        // Also of a pod that stays out: its label may come later.
        self.shared.tell(|cluster| cluster.attach(&uid, place));
        match decision {
            Enrollment::Out(reason) => Ok(Reply::Out { reason: reason.to_string() }),
            Enrollment::Enrolled => {
                self.settle(&uid).await?;
                self.captured(&uid)
            }
        }
    }

    async fn check(&self, pod: &PodName) -> Result<Reply, String> {
        match self.decide(pod).await {
            Ok((_, Enrollment::Out(reason))) => Ok(Reply::Out { reason: reason.to_string() }),
            Ok((uid, Enrollment::Enrolled)) => self.captured(&uid),
            Err(reason) => Ok(Reply::Unknown { reason }),
        }
    }

    fn captured(&self, uid: &PodUid) -> Result<Reply, String> {
        match self.shared.look().state(uid) {
            Some(Status::Captured { .. } | Status::Ready { .. }) => Ok(Reply::Captured),
            // What is kept may be another sandbox of it.
            Some(
                Status::Failed { error } | Status::Kept { error } | Status::Draining { error },
            ) => Err(error.clone().unwrap_or_else(|| "it is being released".to_owned())),
            None => Err("its sandbox went meanwhile".to_owned()),
        }
    }

    /// The pod that is meant, and whether it is to be captured. What the watches have not brought yet is asked.
    async fn decide(&self, pod: &PodName) -> Result<(PodUid, Enrollment), String> {
        if let Some(decided) = self.known(pod) {
            return Ok(decided);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let object = ask("the pod", api.get(&pod.name)).await?;
        let (uid, facts) = objects::facts(object).map_err(|error| chain(&error))?;
        if !facts.is_meant(&uid, pod) {
            let asked = pod.uid.as_deref().unwrap_or_default();
            return Err(format!("the API server has {uid} of that name, not {asked}"));
        }
        let name = pod.namespace.as_str();
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let namespace = ask("the namespace", api.get_metadata(name)).await?;
        let wish = objects::wish(namespace.metadata.labels.as_ref());
        let decision = self.shared.tell(|cluster| {
            cluster.learn_namespace(name, wish);
            cluster.learn_pod(&uid, &facts);
            cluster.decide(&facts)
        });
        Ok((uid, decision.ok_or("its namespace is not known")?))
    }

    /// Without a UID, what is known may be an older pod of the name.
    fn known(&self, pod: &PodName) -> Option<(PodUid, Enrollment)> {
        pod.uid.as_ref()?;
        let cluster = self.shared.look();
        let (uid, facts) = cluster.find(pod)?;
        Some((uid.clone(), cluster.decide(facts)?))
    }

    /// Waits until the keeper has done what can be done.
    async fn settle(&self, uid: &PodUid) -> Result<(), String> {
        let (done, heard) = oneshot::channel();
        let asked = async {
            self.asks.send(Ask { uid: uid.clone(), done }).await.map_err(|_| "stopped")?;
            heard.await.map_err(|_| "stopped")
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("weft-redirect is stopping".to_owned()),
            Err(_) => Err(format!("weft-redirect has not enrolled it in {PATIENCE:?}")),
        }
    }
}

async fn ask<T>(what: &str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("the API server did not tell {what}: {}", chain(&error))),
        Err(_) => Err(format!("the API server did not tell {what} in {DEADLINE:?}")),
    }
}

fn failed(reason: String) -> Reply {
    Reply::Failed { reason }
}

fn tell(pod: &PodName, reply: &Reply) {
    match reply {
        Reply::Failed { reason } | Reply::Unknown { reason } => {
            warn!(namespace = pod.namespace, name = pod.name, reason, "a new pod is turned away");
        }
        Reply::Captured | Reply::Out { .. } | Reply::Released | Reply::Yielded { .. } => {
            info!(namespace = pod.namespace, name = pod.name, ?reply, "a new pod has its network");
        }
    }
}
