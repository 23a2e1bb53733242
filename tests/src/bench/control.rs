//! What the control plane costs on a large cluster: a real API server with its objects, and nodes that subscribe.
//!
//! `population` is the cluster's objects, `fleet` the nodes with real delta streams that they answer.

mod fleet;
mod population;

pub use fleet::{Fleet, Latencies};
pub use population::Population;
