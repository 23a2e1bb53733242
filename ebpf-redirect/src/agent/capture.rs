//! One pod's capture: its programs and listeners, and a watch on its network.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;
use weft_xds::zds::WorkloadInfo;

use super::roster::{News, Offer};
use super::wanted::WantedPod;
use crate::netns::{Netns, NetnsError};
use crate::node::Node;
use crate::pod::{Enrolment, Pod, PodError, PodUid};
use crate::sockets;
use crate::sys;

#[cfg(test)]
mod tests;

/// The tasks that watch the pods' networks.
#[derive(Debug, Default)]
pub(super) struct Watches(JoinSet<()>);

impl Watches {
    /// Those that have ended meanwhile are joined: pods come and go for as long as the agent lives.
    pub(super) fn begin(
        &mut self,
        watch: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        while let Some(ended) = self.0.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                warn!(%error, "a task that watched a pod's network ended badly");
            }
        }
        self.0.spawn(watch)
    }
}

/// Captures a pod, and has what proxies get of it. What `before` has open of the same namespace is kept.
pub(super) fn capture(
    node: &mut Node,
    uid: &PodUid,
    wanted: &WantedPod,
    before: Option<&Offer>,
) -> Result<(Pod, Offer), PodError> {
    let dns = wanted.dns;
    let netns = Netns::open(&wanted.netns)?;
    let offered = Netns::open(&wanted.netns)?;
    let before = before.filter(|offer| offer.netns.cookie() == netns.cookie());
    let open = before.map_or(&[][..], |offer| &offer.listeners);
    let opened = netns.run(|| sockets::listen(dns, open))?;
    let listeners = opened.map_err(|source| PodError::Inside {
        what: "opening listeners",
        netns: wanted.netns.clone(),
        source,
    })?;
    let enrolment = Enrolment { uid: uid.clone(), netns, dns, addresses: wanted.addresses.clone() };
    let pod = Pod::enroll(node, enrolment, &listeners)?;
    if offered.cookie() != pod.netns().cookie() {
        return Err(PodError::Netns(NetnsError::Replaced { path: wanted.netns.clone() }));
    }
    let info = WorkloadInfo {
        name: wanted.name.clone(),
        namespace: wanted.namespace.clone(),
        service_account: wanted.service_account.clone(),
    };
    Ok((pod, Offer { uid: uid.clone(), info, netns: offered, listeners }))
}

/// A task that says when the pod's network changed. It ends with the pod.
pub(super) fn watch(pod: &Pod, news: mpsc::Sender<News>) -> impl Future<Output = ()> + use<> {
    let uid = pod.uid().clone();
    let monitor = pod.as_fd().try_clone_to_owned();
    async move {
        let watched = async {
            let monitor: AsyncFd<OwnedFd> = sys::watched(monitor?)?;
            loop {
                monitor.readable().await?.clear_ready();
                if news.send(News::Touched(uid.clone())).await.is_err() {
                    return Ok::<(), io::Error>(());
                }
            }
        };
        if let Err(error) = watched.await {
            warn!(pod = %uid, %error, "changes of the pod's network are not noticed at once");
        }
    }
}
