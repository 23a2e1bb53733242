//! The control plane: compiles Kubernetes objects to workload xDS and signs certificates.
//!
//! ```text
//!   dir (a folder)          ─┐  apply(Object) / delete(key)
//!   watch (an API server)   ─┴─> index ── dirty units ──> compile ── Change ──> serve (delta xDS) ──> nodes
//!                                  │      (synchronous,      (pure)
//!                                  │       explicit indexes)
//!                                  └───────────────────────> ca  may this node have this identity?
//! ```
//!
//! Invariants: what was compiled step by step equals what is compiled from scratch; a policy that cannot be
//! compiled denies on its target; a node is given only identities of pods that run on it.

#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "each `expect` carries the proof that it cannot")]

mod admin;
mod attest;
mod ca;
mod caller;
mod causes;
mod check;
mod clock;
pub mod compile;
mod config;
mod credentials;
pub mod data;
pub mod dir;
mod escape;
mod heard;
pub mod index;
pub mod lease;
mod listen;
mod mesh;
mod metrics;
pub mod objects;
mod problem;
mod review;
mod run;
mod serve;
mod signing;
mod source;
mod status;
mod stop;
pub mod store;
mod streams;
pub mod token;
mod trust;
mod validate;
pub mod watch;
mod written;

pub use caller::Caller;
pub use compile::Mesh;
pub use config::{Applied, Config, Connected, Versions};
pub use credentials::Keys;
pub use problem::{FieldProblem, Problem};
pub use review::NodeAccounts;
pub use run::{Options, Running, node_token, start};
pub use source::Source;
pub use status::{Said, said};
pub use trust::{CaSource, LostRoot};
pub use validate::{analyze, validate};
