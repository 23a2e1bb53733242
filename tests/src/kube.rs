//! A real Kubernetes API server on loopback, and what a test must be able to do to it.
//!
//! ```text
//!   assets     etcd, kube-apiserver, kube-controller-manager, kubectl, helm: built by xtask, or KUBEBUILDER_ASSETS
//!   authority  the cluster's certificates and its key for tokens
//!   cluster    the servers, started, paused, stopped, made to forget
//!   control_plane  the real weft-control over it
//!   agent      the node's agent, which follows the API server
//!   kubelet    runs pods in namespaces of the lab, with the network plugins of its node
//!   binder     gives pods that nobody scheduled to the nodes, in turn
//!   chart      what Helm makes of `manifests/weft`
//!   objects    namespaces, service accounts, bound tokens, manifests
//!   relay      the way to the API server, which can be held and cut: a half-open watch, a lost network
//! ```
//!
//! Every cluster has a loopback address of its own, derived from the process id: clusters run side by side,
//! and a restarted server never finds its port taken.

mod agent;
mod assets;
mod authority;
mod binder;
mod chart;
mod cluster;
mod control_plane;
mod kubelet;
mod objects;
mod relay;
mod wait;

pub use binder::Binder;
pub use chart::{Chart, Container};
pub use cluster::Cluster;
pub use control_plane::ControlPlane;
pub use kubelet::Kubelet;
pub use objects::{Account, Apply};
pub use relay::Relay;
pub use wait::eventually;
