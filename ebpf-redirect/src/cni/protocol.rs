//! What the plugin and the agent say to each other: one line of JSON each way.
//!
//! Either may be older than the other for a while, so what one does not know of the other's is passed over.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// No line is longer, in bytes.
pub const LINE_MAX: usize = 64 * 1024;

/// How long a line may take to be said.
pub const LINE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the agent may take to find its answer.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(35);
/// How long the plugin waits: it hears from the agent why a pod is not captured, unless that hangs.
pub const PATIENCE: Duration = Duration::from_secs(50);
/// How long a kubelet waits for a pod's network, with all of its plugins.
const KUBELET_PATIENCE: Duration = Duration::from_mins(2);

const _: () = assert!(2 * LINE_DEADLINE.as_secs() + ANSWER_DEADLINE.as_secs() < PATIENCE.as_secs());
const _: () = assert!(PATIENCE.as_secs() < KUBELET_PATIENCE.as_secs());

/// A pod, as a runtime names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which another pod may have after it.
    pub name: String,
    /// Its UID. Old runtimes do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What a runtime has made for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The sandbox's id.
    pub container: String,
    /// Its network namespace's file. Away when the runtime has lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// The addresses that the plugins before us gave it.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What the plugin asks, or another agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase")]
pub enum Request {
    /// The pod has its network: capture it, if it is to be enrolled.
    Add {
        /// Which pod.
        pod: PodName,
        /// What it has.
        attachment: Attachment,
    },
    /// Is it as it should be?
    Check {
        /// Which pod.
        pod: PodName,
        /// What it has.
        attachment: Attachment,
    },
    /// The pod's network goes.
    Del {
        /// Which pod.
        pod: PodName,
        /// What it had.
        attachment: Attachment,
    },
    /// Asked by another agent, which takes over.
    Yield,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum Reply {
    /// It is to be captured, and is.
    Captured,
    /// It is not to be captured.
    Out {
        /// Why not.
        reason: String,
    },
    /// Nothing of it is captured any more.
    Released,
    /// The other agent may begin, as soon as it has the lock.
    Yielded {
        /// The cgroups of proxies that finish their connections.
        proxy_cgroups: Vec<PathBuf>,
    },
    /// Whether it is to be captured cannot be told: the API server is away, or knows another pod.
    Unknown {
        /// Why.
        reason: String,
    },
    /// It is to be captured and is not.
    Failed {
        /// Why.
        reason: String,
    },
}
