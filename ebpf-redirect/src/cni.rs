//! The chained CNI plugin `weft-cni`: a pod's first packet is captured already.
//!
//! ```text
//!   kubelet -> runtime -> network plugin -> weft-cni ── protocol, a Unix socket ──> agent (agent/cni)
//!                                              plugin   what the runtime asks, and how it is answered
//!   agent ── install: a copy of the network's configuration with weft-cni behind it, in front of the original
//!                         merge   how that copy is made, and whether it still holds
//! ```
//!
//! The plugin knows nothing and decides nothing. It is started for each pod, so it has no runtime, reads its
//! input, asks one question, and ends.

mod install;
mod merge;
pub mod plugin;
pub mod protocol;

pub use install::{InstallError, Installation};
pub use merge::{ConfError, Entry};
