//! Who says which pods are to be captured: a folder, or the API server.

use std::io;

use super::folder::Folder;
use super::kubernetes::Follower;
use super::wanted::{Status, Wanted};
use crate::pod::PodUid;

/// The two sources.
#[derive(Debug)]
pub(super) enum Source {
    Folder(Folder),
    Kubernetes(Follower),
}

impl Source {
    /// Waits until something else may be wanted. Cancel safe.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.changed().await,
            Self::Kubernetes(follower) => follower.changed().await,
        }
    }

    pub(super) fn read(&mut self) -> io::Result<Wanted> {
        match self {
            Self::Folder(folder) => folder.wanted(),
            Self::Kubernetes(follower) => Ok(follower.wanted()),
        }
    }

    /// Says what became of a pod.
    pub(super) fn say(&self, uid: &PodUid, status: &Status) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.write_status(uid, status),
            Self::Kubernetes(follower) => {
                follower.say(uid, status.clone());
                Ok(())
            }
        }
    }

    /// The pod is no concern of ours any more.
    pub(super) fn forget(&self, uid: &PodUid) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.remove_status(uid),
            Self::Kubernetes(follower) => {
                follower.forget(uid);
                Ok(())
            }
        }
    }

    /// What was said to be the pod's namespace is gone, or is another pod's.
    pub(super) fn misplaced(&self, uid: &PodUid) {
        match self {
            // A file says where, and goes on saying it.
            Self::Folder(_) => {}
            Self::Kubernetes(follower) => follower.misplaced(uid),
        }
    }
}
