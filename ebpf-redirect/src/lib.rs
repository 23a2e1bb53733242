//! Traffic of enrolled pods goes to the proxy, by eBPF and without iptables.
//!
//! ```text
//!            node (cgroup root)                     each enrolled pod's network namespace
//!   connect4/6 ── marks ──> rule 90 ─> table 100 ─> lo ─> steer (sk_lookup) ─> outbound listener
//!   probe, deliver ── exact tuples ──────────────────────> steer ── from outside ─> plaintext, HBONE
//!                                                          guard (tc egress): nothing marked leaves
//!
//!   Node      loads the node's programs, pins them, knows the pods     node, node/maps
//!   Pod       enrolls a namespace, repairs it, un-enrolls it           pod
//!   sockets   listeners and sockets of a pod's namespace               sockets
//!   agent     watches the pods folder, serves the proxy over ZDS       agent
//!   cni       the chained CNI plugin, by which a new pod's first packet is captured       cni
//!   probe     what this machine lacks, by name                         probe
//! ```
//!
//! Invariants:
//! * A connection of an enrolled pod is captured, exempt by rule, or refused; it never goes out unmarked.
//! * What is in the kernel is pinned: the agent's death changes nothing but that nobody repairs.
//! * A pod is its namespace's cookie; it is verified before and after anything is done in its namespace.
//! * Listeners are held here; a proxy gets copies, so its death refuses nobody.

#![deny(unsafe_code)]

pub mod agent;
mod attach;
mod cgroup;
pub mod cni;
mod inotify;
pub mod netlink;
pub mod netns;
mod node;
mod objects;
mod pod;
mod probe;
mod processes;
pub mod sockets;
mod sys;

pub use attach::AttachError;
pub use cgroup::above_ours as cgroup_above_ours;
pub use node::{Node, NodeConfig, NodeError, ProbeExemption};
pub use objects::ObjectError;
pub use pod::{
    Drained, Draining, Enrolment, Pod, PodError, PodUid, UidError, counters as pod_counters,
};
pub use probe::{Features, Lack, Machine, Severity};
