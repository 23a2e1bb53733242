//! One agent a node, also while one replaces another.
//!
//! A `DaemonSet` starts the next agent before the last one ends. The next one asks it to yield: it follows no pods
//! any more, lets go of the lock, and goes on giving sockets to the proxies that it has, which finish their
//! connections. Should the next one fail, it ends, and whoever supervises it starts it anew.

use std::fs::File;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::AgentError;
use crate::cni::protocol::{LINE_MAX, Reply, Request};

#[cfg(test)]
mod tests;

/// How long an agent may take to yield.
const DEADLINE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// How long whoever was yielded to may take to begin, before he counts as gone.
const BEGIN: Duration = Duration::from_secs(30);

/// What the gate is told of it.
#[derive(Debug, Clone)]
pub(super) struct Succession {
    /// Whose connections must stay exempt while those proxies finish.
    pub(super) proxy_cgroups: Vec<PathBuf>,
    /// Another agent asked, and was answered.
    pub(super) yielded: Arc<Notify>,
}

/// The lock of the only agent, and the cgroups of proxies that an earlier one leaves.
#[derive(Debug)]
pub(super) struct Office {
    lock: File,
    folder: PathBuf,
    pub(super) inherited: Vec<PathBuf>,
}

impl Office {
    /// Errors: somebody else has it.
    pub(super) fn take(folder: &Path) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Path { what: "lock of", path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::open(folder).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { lock, folder: folder.to_owned(), inherited: Vec::new() }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(AgentError::Taken(folder.to_owned())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The same, but who has it is asked to yield.
    pub(super) async fn succeed(folder: &Path, socket: &Path) -> Result<Self, AgentError> {
        match Self::take(folder) {
            Err(AgentError::Taken(_)) => {}
            taken => return taken,
        }
        let asked = timeout(DEADLINE, ask_to_yield(socket)).await;
        let inherited = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let inherited = inherited.map_err(|source| AgentError::Path {
            what: "socket of the agent that is to yield,",
            path: socket.to_owned(),
            source,
        })?;
        info!("another agent yields");
        let freed = async {
            loop {
                match Self::take(folder) {
                    Err(AgentError::Taken(_)) => sleep(LOOK).await,
                    taken => return taken,
                }
            }
        };
        let office = timeout(DEADLINE, freed).await;
        let office = office.unwrap_or_else(|_| Err(AgentError::Taken(folder.to_owned())))?;
        Ok(Self { inherited, ..office })
    }

    /// Lets go of it, and waits until whoever took it is gone.
    pub(super) async fn yield_and_wait(self) {
        let Self { lock, folder, .. } = self;
        drop(lock);
        info!("yielded to another agent; proxies that are here finish their connections");
        sleep(BEGIN).await;
        loop {
            match Self::take(&folder) {
                Ok(_) => return warn!("the other agent is gone"),
                Err(AgentError::Taken(_)) => sleep(BEGIN).await,
                Err(error) => {
                    warn!(%error, "whether the other agent is there cannot be told");
                    pending::<()>().await;
                }
            }
        }
    }
}

/// Our proxies' cgroups, and those that an earlier agent told of as far as they are still there. Each agent of a
/// `DaemonSet` has another one: they would become ever more.
pub(super) fn with_inherited(own: Vec<PathBuf>, inherited: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut all = own;
    for cgroup in inherited {
        if cgroup.exists() && !all.contains(&cgroup) {
            all.push(cgroup);
        }
    }
    all
}

async fn ask_to_yield(socket: &Path) -> io::Result<Vec<PathBuf>> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(&Request::Yield)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    let most = u64::try_from(LINE_MAX).expect("a line's length fits");
    BufReader::new(stream.take(most)).read_line(&mut answer).await?;
    match serde_json::from_str(&answer)? {
        Reply::Yielded { proxy_cgroups } => Ok(proxy_cgroups),
        Reply::Captured
        | Reply::Out { .. }
        | Reply::Released
        | Reply::Unknown { .. }
        | Reply::Failed { .. } => Err(io::Error::other(format!("it answered {}", answer.trim()))),
    }
}
