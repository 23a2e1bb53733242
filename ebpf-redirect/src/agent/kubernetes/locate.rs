//! Where the network namespace of a pod is that was there before us: the runtime is asked, else `/proc` searched.
//!
//! Nothing is believed: a namespace that has not the pod's addresses is another pod's (istio#61211).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::Shared;
use super::cluster::Place;
use super::cri::{self, CriError};
use super::objects::{End, Facts};
use crate::agent::chain;
use crate::netns::Netns;
use crate::pod::{PodError, PodUid, check_addresses};
use crate::processes;

#[cfg(test)]
mod tests;

/// How soon a pod that was not found is looked for again, at first; then after twice as long, and so on.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why a pod's namespace is not known.
#[derive(Debug, thiserror::Error)]
enum LocateError {
    #[error("its network namespace is not found: no process of it is in /proc{}", told(.runtime.as_ref()))]
    Nowhere { runtime: Option<CriError> },
    #[error("its network namespace is not found: /proc cannot be read")]
    Proc(#[source] io::Error),
    #[error("what seemed to be its network namespace is not")]
    Another(#[source] PodError),
}

fn told(runtime: Option<&CriError>) -> String {
    runtime.map_or_else(String::new, |error| format!(", and {}", chain(error)))
}

/// Looks for pods' namespaces.
#[derive(Debug)]
pub(super) struct Locator {
    runtimes: Vec<PathBuf>,
    /// The host's own namespace, which is no pod's.
    host: Option<(u64, u64)>,
    /// Pods that were looked for: when to look again, and how long to wait after that.
    tries: HashMap<PodUid, (Instant, Duration)>,
}

impl Locator {
    pub(super) fn new(runtimes: Vec<PathBuf>, host_netns: &Path) -> Self {
        let host = fs::metadata(host_netns).map(|meta| (meta.dev(), meta.ino())).ok();
        Self { runtimes, host, tries: HashMap::new() }
    }

    /// Looks for ever.
    pub(super) async fn run(mut self, shared: &Shared) {
        let mut facts = shared.facts.subscribe();
        loop {
            facts.mark_unchanged();
            let unplaced = shared.look().unplaced();
            let next = self.look_for(&unplaced, shared).await;
            tokio::select! {
                _ = facts.changed() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Looks for those whose time has come. When to look again, if at all.
    async fn look_for(&mut self, unplaced: &[(PodUid, Facts)], shared: &Shared) -> Option<Instant> {
        // Who has been captured meanwhile, and is lost again, is looked for at once.
        self.tries.retain(|uid, _| {
            let cluster = shared.look();
            cluster.knows(uid) && !cluster.is_captured(uid)
        });
        for (uid, facts) in unplaced {
            let (due, delay) = self.tries.get(uid).copied().unwrap_or((Instant::now(), RETRY));
            if due > Instant::now() {
                continue;
            }
            let again = (Instant::now() + delay, (delay * 2).min(RETRY_MAX));
            self.tries.insert(uid.clone(), again);
            match self.locate(uid, facts).await {
                Ok(place) => {
                    info!(pod = %uid, netns = %place.netns.display(), "the pod's namespace is found");
                    shared.tell(|cluster| cluster.place(uid, place));
                }
                // It is going: no wonder.
                Err(error) if facts.end != End::Unseen => debug!(pod = %uid, error = chain(&error)),
                Err(error) => {
                    let error = chain(&error);
                    warn!(pod = %uid, error, "the pod is not captured, trying again");
                    shared.note(|cluster| cluster.not_found(uid, error));
                }
            }
        }
        let of_unplaced = |(uid, _): &(PodUid, Facts)| self.tries.get(uid).map(|(due, _)| *due);
        unplaced.iter().filter_map(of_unplaced).min()
    }

    async fn locate(&self, uid: &PodUid, facts: &Facts) -> Result<Place, LocateError> {
        let ids = [Some(uid.as_str()), facts.static_uid.as_deref()];
        let ids: Vec<&str> = ids.into_iter().flatten().collect();
        let mut runtime = None;
        let mut sockets = self.runtimes.iter().map(|socket| as_the_host_sees(socket));
        if let Some(socket) = sockets.find(|socket| socket.exists()) {
            match cri::sandbox(&socket, &ids).await {
                Ok(found) => {
                    let netns = as_the_host_sees(&found.netns);
                    match check(&netns, &facts.addresses) {
                        Ok(()) => return Ok(place(Some(found.container), netns, facts)),
                        Err(error) => {
                            warn!(pod = %uid, error = chain(&error), "the runtime is wrong");
                        }
                    }
                }
                Err(error) => runtime = Some(error),
            }
        }
        let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
        let host = self.host;
        // Not on the agent's one thread: there may be many processes, and many pods to look for.
        let found = spawn_blocking(move || search(Path::new("/proc"), &ids, host)).await;
        let found = found.unwrap_or_else(|error| Err(io::Error::other(error)));
        let netns = found.map_err(LocateError::Proc)?.ok_or(LocateError::Nowhere { runtime })?;
        check(&netns, &facts.addresses).map_err(LocateError::Another)?;
        Ok(place(None, netns, facts))
    }
}

fn place(container: Option<String>, netns: PathBuf, facts: &Facts) -> Place {
    Place { container, netns, addresses: facts.addresses.clone() }
}

fn check(netns: &Path, addresses: &[IpAddr]) -> Result<(), PodError> {
    check_addresses(&Netns::open(netns)?, addresses)
}

/// A runtime's paths are the host's. In a container of ours they lead through the host's first process.
pub(super) fn as_the_host_sees(path: &Path) -> PathBuf {
    through(Path::new("/proc/1/root"), path)
}

fn through(root: &Path, path: &Path) -> PathBuf {
    // Mostly a link, and one that would lead to where we are, not below `root`.
    let run = path.strip_prefix("/var/run").map(|rest| Path::new("/run").join(rest));
    let told = [path.to_owned(), run.unwrap_or_else(|_| path.to_owned())];
    let below = told.clone().map(|path| root.join(path.strip_prefix("/").unwrap_or(&path)));
    let mut all = told.into_iter().chain(below);
    all.find(|path| path.exists()).unwrap_or_else(|| path.to_owned())
}

/// The namespace of the pod's oldest process: the one that holds the sandbox, and that ends with it.
///
/// Never the newest of a name (istio#55139): a process is the pod's by its cgroup, which has the pod's UID.
fn search(
    proc: &Path,
    ids: &[impl AsRef<str>],
    host: Option<(u64, u64)>,
) -> io::Result<Option<PathBuf>> {
    // The systemd driver writes the UID with underscores.
    let both = |id: &str| [format!("pod{id}"), format!("pod{}", id.replace('-', "_"))];
    let names: Vec<String> = ids.iter().flat_map(|id| both(id.as_ref())).collect();
    let found = processes::oldest(proc, |process| {
        let cgroup = fs::read_to_string(process.join("cgroup"));
        let cgroup = processes::unless_ended(cgroup)?;
        if !cgroup.is_some_and(|cgroup| is_in(&cgroup, &names)) {
            return Ok(false);
        }
        let netns = processes::netns_identity(process)?;
        Ok(netns.is_some() && netns != host)
    });
    Ok(found?.map(|process| processes::netns(&process)))
}

/// Whether a part of a cgroup's path is the pod's: `pod<uid>`, or `kubepods-burstable-pod<uid>.slice`.
fn is_in(cgroup: &str, names: &[String]) -> bool {
    let parts = cgroup.split(['/', '\n']);
    let mut parts = parts.map(|part| part.strip_suffix(".slice").unwrap_or(part));
    parts.any(|part| {
        names.iter().any(|name| {
            part.strip_suffix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('-'))
        })
    })
}
