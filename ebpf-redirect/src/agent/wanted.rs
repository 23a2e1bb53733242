//! Which pods are to be captured, whoever says so, and what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::netlink::DnsCapture;
use crate::pod::PodUid;

/// A pod that is to be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    /// Its network namespace's file.
    pub(super) netns: PathBuf,
    pub(super) dns: DnsCapture,
    /// Addresses that the namespace must have, or it is another pod's. None, where nobody knows them.
    pub(super) addresses: Vec<IpAddr>,
}

/// All that are to be captured, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) pods: BTreeMap<PodUid, WantedPod>,
    /// To be captured too, but nobody knows where their namespaces are: what is captured of them stays.
    pub(super) elsewhere: BTreeSet<PodUid>,
    pub(super) out: Out,
    pub(super) standing: Standing,
}

/// Which pods are not to be captured.
#[derive(Debug, Default)]
pub(super) enum Out {
    /// All others.
    #[default]
    Others,
    /// These. The source does not know the others: they were deleted.
    These(BTreeSet<PodUid>),
}

/// What is wanted of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// That it is captured.
    Wanted,
    /// That it is not.
    Out,
    /// Nothing. It was deleted: by force, if it is still there.
    Unknown,
}

impl Wanted {
    pub(super) fn claim(&self, uid: &PodUid) -> Claim {
        if self.pods.contains_key(uid) || self.elsewhere.contains(uid) {
            return Claim::Wanted;
        }
        match &self.out {
            Out::Others => Claim::Out,
            Out::These(these) if these.contains(uid) => Claim::Out,
            Out::These(_) => Claim::Unknown,
        }
    }
}

/// Whether a pod that is not wanted is unwanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// All that is wanted is there: what an earlier agent left of others may go.
    #[default]
    Whole,
    /// The source has not told all yet.
    Partial,
}

/// What became of a pod. Of the pods folder, it is the text of `<uid>.status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub(super) enum Status {
    /// The kernel captures; connections wait, since no proxy has confirmed yet.
    Captured { error: Option<String> },
    /// A proxy has confirmed.
    Ready { error: Option<String> },
    /// Un-enrolled; connections that were captured before run on.
    Draining { error: Option<String> },
    /// Not captured, for this reason. Tried again.
    Failed { error: Option<String> },
    /// A change of it failed, for this reason: it is captured as it was before. Tried again.
    Kept { error: Option<String> },
}

/// Somebody waits until a pod is as its source says: what can be done is done, then `done` is told.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) uid: PodUid,
    pub(super) done: oneshot::Sender<()>,
}
