//! The mesh as a whole.
//!
//! ```text
//!   lab           nodes and pods as network namespaces, and the real binaries in them
//!   kube          a real API server, and a small kubelet that runs pods in the lab
//!   bench         load, its server, and the relay that is the floor of the comparison
//!   bin/weft-demo the narrated tour: `cargo xtask demo`
//!   bin/weft-app  small honest programs that know nothing of the mesh: a server, looping clients
//!   tests/        one file a promise: `cargo xtask test --lane e2e`
//! ```
//!
//! Invariants: whatever a lab makes carries its prefix and goes when it is dropped, also after a panic;
//! nothing here sleeps, everything waits for an event with a deadline.

#![forbid(unsafe_code)]

pub mod bench;
pub mod kube;
pub mod lab;
