//! The control plane: compiles Kubernetes objects to workload xDS and signs certificates.
//!
//! ```text
//!   dir (a folder)  ─┐  apply(Object) / delete(key)
//!   watch (later)   ─┴─> index ── dirty units ──> compile ── Change ──> serve (delta xDS) ──> nodes
//!                          │      (synchronous,      (pure)
//!                          │       explicit indexes)
//!                          └───────────────────────> ca  may this node have this identity?
//! ```
//!
//! Invariants: what was compiled step by step equals what is compiled from scratch; a policy that cannot be
//! compiled denies on its target; a node is given only identities of pods that run on it.

#![forbid(unsafe_code)]

pub mod compile;
pub mod dir;
pub mod index;
pub mod objects;
mod problem;
mod validate;

pub use problem::{FieldProblem, Problem};
pub use validate::validate;
