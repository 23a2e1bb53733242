//! The API server as the source: this node's pods, as labels have them.
//!
//! ```text
//!   access   how the API server is reached
//!   watch    pods of this node, namespaces' labels ─┐            ┌─ report   annotations and events
//!   locate   where pods' namespaces are (cri, /proc) ─ cluster ──┤
//!   gate     what the CNI plugin asks ──────────────┘  a value   └─ Follower: what the keeper is to do
//! ```
//!
//! While the API server is away, what is known stays as it is.

mod access;
mod cluster;
mod cri;
mod gate;
mod listed;
mod locate;
mod objects;
mod report;
mod watch;

use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch as channel};

use super::succession::Succession;
use super::wanted::{Ask, Status, Wanted};
use crate::cni::Installation;
use crate::pod::PodUid;
use access::Access;
use cluster::Cluster;
use gate::Gate;

/// How the agent follows an API server.
#[derive(Debug, Clone)]
pub struct KubernetesSettings {
    /// How to reach it. `None`: as a pod does, or by `$KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// Where the CNI plugin asks.
    pub cni_socket: PathBuf,
    /// Where the plugin is installed. `None`: nowhere; pods are captured once they run.
    pub installation: Option<Installation>,
    /// The runtime's sockets, the first that is there is asked.
    pub runtimes: Vec<PathBuf>,
    /// The host's network namespace, which is no pod's.
    pub host_netns: PathBuf,
}

/// Why the API server cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig that was given.
    #[error("kubeconfig {path} cannot be used")]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: Box<kube::config::KubeconfigError>,
    },
    /// None was given.
    #[error("neither a pod's credentials nor a kubeconfig are there")]
    Nothing(#[source] Box<kube::config::InferConfigError>),
    /// It is no description of a server.
    #[error("no client can be made for the API server")]
    Client(#[source] Box<kube::Error>),
    /// The plugin's socket.
    #[error("CNI socket {path} cannot be used")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What is known, shared.
#[derive(Debug, Clone)]
struct Shared {
    cluster: Arc<Mutex<Cluster>>,
    /// Something else may be wanted.
    facts: channel::Sender<()>,
    /// Something became of a pod.
    states: channel::Sender<()>,
}

impl Shared {
    fn new() -> Self {
        let cluster = Arc::new(Mutex::new(Cluster::new()));
        Self { cluster, facts: channel::Sender::new(()), states: channel::Sender::new(()) }
    }

    fn look(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change of facts: all who follow look again.
    fn tell<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        let told = change(&mut self.look());
        self.facts.send_replace(());
        told
    }

    /// A change of what became of pods: the reporter looks again.
    fn note<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        let noted = change(&mut self.look());
        self.states.send_replace(());
        noted
    }
}

/// The keeper's view.
#[derive(Debug)]
pub(super) struct Follower {
    shared: Shared,
    facts: channel::Receiver<()>,
}

impl Follower {
    /// Cancel safe.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        // Both ends are ours: it is never closed.
        self.facts.changed().await.map_err(io::Error::other)
    }

    pub(super) fn wanted(&mut self) -> Wanted {
        self.facts.mark_unchanged();
        self.shared.look().wanted()
    }

    pub(super) fn say(&self, uid: &PodUid, status: Status) {
        self.shared.note(|cluster| cluster.say(uid, status));
    }

    pub(super) fn forget(&self, uid: &PodUid) {
        self.shared.note(|cluster| cluster.forget(uid));
    }

    pub(super) fn misplaced(&self, uid: &PodUid) {
        self.shared.tell(|cluster| cluster.misplaced(uid));
    }
}

/// All that goes on beside the keeper.
pub(super) struct Kubernetes {
    shared: Shared,
    client: kube::Client,
    node: String,
    gate: Gate,
    settings: KubernetesSettings,
}

impl Kubernetes {
    /// Opens the plugin's socket; nothing is asked of the API server yet.
    pub(super) async fn open(
        node: &str,
        settings: KubernetesSettings,
        asks: mpsc::Sender<Ask>,
        succession: Succession,
    ) -> Result<(Self, Follower), KubernetesError> {
        let Access { asked, followed } = Access::new(settings.kubeconfig.as_deref()).await?;
        let shared = Shared::new();
        let gate =
            Gate::open(&settings.cni_socket, shared.clone(), asked, asks, succession).map_err(
                |source| KubernetesError::Socket { path: settings.cni_socket.clone(), source },
            )?;
        let follower = Follower { facts: shared.facts.subscribe(), shared: shared.clone() };
        Ok((Self { shared, client: followed, node: node.to_owned(), gate, settings }, follower))
    }

    /// Never ends.
    pub(super) async fn run(self) {
        let Self { shared, client, node, gate, settings } = self;
        let locator = locate::Locator::new(settings.runtimes, &settings.host_netns);
        let installed = async {
            match &settings.installation {
                Some(installation) => installation.keep().await,
                None => pending().await,
            }
        };
        tokio::join!(
            watch::namespaces(client.clone(), &shared),
            watch::pods(client.clone(), &node, &shared),
            locator.run(&shared),
            report::run(client, &node, &shared),
            gate.run(),
            installed,
        );
    }
}
