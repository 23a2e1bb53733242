//! The node agent: pods come and go by a folder or an API server, proxies by a socket.
//!
//! ```text
//!   folder      which pods are enrolled: one file each      keeper      owns node and pods, repairs them
//!   kubernetes  the same, as labels have it                 connection  one proxy, over ZDS
//!   source      one of the two                              roster      what proxies are to be told
//!   succession  one agent a node
//! ```
//!
//! One thread. What blocks it is short: a pod's enrolment takes some 20 ms, a batch of sockets one.

mod capture;
mod connection;
mod folder;
mod inheritance;
mod keeper;
mod kubernetes;
mod packet;
mod roster;
mod source;
mod succession;
mod unseen;
mod wanted;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt::Write as _;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Gid, Mode, Uid, chmod, chown};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use crate::cni::InstallError;
use crate::node::{Node, NodeConfig, NodeError};
use crate::pod::{Draining, PodError, PodUid};
use crate::probe::{Features, Lack, Machine, Severity};
use folder::Folder;
use keeper::Keeper;
use kubernetes::Kubernetes;
pub use kubernetes::{KubernetesError, KubernetesSettings};
use packet::PacketListener;
use roster::Roster;
use source::Source;
use succession::{Office, Succession, with_inherited};

/// News for the keeper that waits to be read: more than there are pods, so nobody waits.
const NEWS_MAX: usize = 16 * 1024;
/// Plugins that wait for the keeper.
const ASKS_MAX: usize = 64;

/// Why the agent cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The machine lacks something.
    #[error("this machine cannot redirect: {}", .0.iter().map(Lack::to_string).collect::<Vec<_>>().join("; "))]
    Lacks(Vec<Lack>),
    /// The node's programs are not in place.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A pod cannot be released.
    #[error("pod {uid} cannot be released")]
    Pod {
        /// Which.
        uid: String,
        /// Why.
        source: Box<PodError>,
    },
    /// A file or socket of ours cannot be used.
    #[error("{what} {path} cannot be used")]
    Path {
        /// What it is for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has the folder.
    #[error("another weft-redirect watches {0}")]
    Taken(PathBuf),
    /// The API server cannot be followed.
    #[error("the API server cannot be followed")]
    Kubernetes(#[from] KubernetesError),
    /// The CNI plugin cannot be removed.
    #[error("the CNI plugin cannot be removed")]
    Plugin(#[from] InstallError),
    /// The process itself.
    #[error("{what} cannot be had")]
    Process {
        /// What of it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Who the proxy is, for the socket's permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyUser {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Who says which pods are enrolled.
#[derive(Debug, Clone)]
pub enum SourceSettings {
    /// A folder, with a file for each.
    Folder(PathBuf),
    /// Labels of pods and namespaces.
    Kubernetes(Box<KubernetesSettings>),
}

/// What the agent is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name, for logs.
    pub node: String,
    /// Where programs go.
    pub programs: NodeConfig,
    /// The socket that proxies dial.
    pub zds: PathBuf,
    /// Who says which pods are enrolled.
    pub source: SourceSettings,
    /// Who may dial, besides root.
    pub proxy: ProxyUser,
}

/// Runs until SIGTERM or SIGINT. Pods stay captured afterwards, by what is pinned.
pub async fn run(settings: Settings) -> Result<(), AgentError> {
    let machine = Machine {
        cgroup: settings.programs.cgroup.clone(),
        bpffs: settings.programs.bpffs.clone(),
        btf: PathBuf::from("/sys/kernel/btf/vmlinux"),
    };
    let (fatal, degraded): (Vec<_>, Vec<_>) =
        machine.lacks().into_iter().partition(|lack| lack.severity() == Severity::Fatal);
    for lack in degraded {
        warn!(%lack, "the machine lacks something that we can do without");
    }
    if !fatal.is_empty() {
        return Err(AgentError::Lacks(fatal));
    }
    let office = match &settings.source {
        SourceSettings::Folder(pods) => Office::take(pods)?,
        SourceSettings::Kubernetes(told) => {
            let folder = told.cni_socket.parent().unwrap_or(Path::new("/"));
            Office::succeed(folder, &told.cni_socket).await?
        }
    };
    let mut programs = settings.programs;
    programs.proxy_cgroups = with_inherited(programs.proxy_cgroups, office.inherited.clone());
    let node = Node::load(&programs, Features::probe())?;
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let yielded = Arc::new(Notify::new());
    let (source, kubernetes) = match settings.source {
        SourceSettings::Folder(path) => {
            let failed =
                |source| AgentError::Path { what: "pods folder", path: path.clone(), source };
            (Source::Folder(Folder::open(&path).map_err(failed)?), None)
        }
        SourceSettings::Kubernetes(told) => {
            let succession =
                Succession { proxy_cgroups: programs.proxy_cgroups, yielded: yielded.clone() };
            let (kubernetes, follower) =
                Kubernetes::open(&settings.node, *told, asks.clone(), succession).await?;
            (Source::Kubernetes(follower), Some(kubernetes))
        }
    };
    let listener = listen(&settings.zds, settings.proxy)?;
    info!(node = settings.node, zds = %settings.zds.display(), "node programs are in place");
    let (news, heard) = mpsc::channel(NEWS_MAX);
    let roster = Roster::new(news.clone());
    let mut keeper = Keeper::new(node, source, roster.clone(), news);
    let active = async move {
        let followed = async {
            match kubernetes {
                Some(kubernetes) => Box::pin(kubernetes.run()).await,
                None => pending().await,
            }
        };
        tokio::join!(keeper.keep(heard, asked), followed);
    };
    let mut stop = Stop::new()?;
    // Biased: to stop must win over a stream of news; the other sides never end by themselves.
    tokio::select! {
        biased;
        () = stop.asked() => {}
        () = until_replaced(active, &yielded, office) => {}
        () = connection::accept(listener, settings.proxy, roster) => {}
    }
    info!(node = settings.node, "stopped; enrolled pods stay captured");
    Ok(())
}

/// An error and its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(line, ": {cause}");
        source = cause.source();
    }
    line
}

/// Releases all pods at once, and takes all programs and pins away.
pub fn cleanup(bpffs: &Path) -> Result<(), AgentError> {
    let Some(mut node) = Node::pinned(bpffs)? else {
        info!(bpffs = %bpffs.display(), "nothing is pinned");
        return Ok(());
    };
    for name in node.pinned_pods()? {
        let failed = |source| AgentError::Pod { uid: name.clone(), source: Box::new(source) };
        let Ok(uid) = PodUid::parse(&name) else { continue };
        if let Some(draining) = Draining::resume(&mut node, &uid).map_err(failed)? {
            draining.finish_now(&mut node).map_err(failed)?;
        }
        info!(pod = name, "released");
    }
    Ok(node.remove()?)
}

/// Follows pods until another agent takes over, then waits until that one is gone.
async fn until_replaced(active: impl Future<Output = ()>, yielded: &Notify, office: Office) {
    // Whichever ends, what was followed is dropped: two would replace each other's listeners for ever.
    tokio::select! {
        () = active => {}
        () = yielded.notified() => {}
    }
    office.yield_and_wait().await;
}

/// The socket belongs to the proxy's user, and to nobody else.
fn listen(path: &Path, proxy: ProxyUser) -> Result<PacketListener, AgentError> {
    let bound = || -> io::Result<PacketListener> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Bound beside and renamed: a socket that is there can be dialled.
        let hidden = path.with_extension("new");
        match std::fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = PacketListener::bind(&hidden)?;
        chown(&hidden, Some(Uid::from_raw(proxy.uid)), Some(Gid::from_raw(proxy.gid)))?;
        chmod(&hidden, Mode::RUSR | Mode::WUSR)?;
        listener.listen()?;
        std::fs::rename(&hidden, path)?;
        Ok(listener)
    };
    bound().map_err(|source| AgentError::Path { what: "ZDS socket", path: path.to_owned(), source })
}

/// SIGTERM or SIGINT.
#[derive(Debug)]
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, AgentError> {
        let failed = |source| AgentError::Process { what: "a signal handler", source };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
