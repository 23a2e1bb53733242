//! What the plugin and the agent say to each other: one line of JSON each way.
//!
//! Either may be older than the other for a while, so what one does not know of the other's is passed over.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// No line is longer, in bytes.
pub const LINE_MAX: usize = 64 * 1024;

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
