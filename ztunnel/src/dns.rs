//! Names of the mesh, answered inside of each pod; everything else passed on untouched.
//!
//! ```text
//!   serve     a pod's sockets, its queries in flight, bounded
//!     answer    (&View, asker, query) -> Answer | Forward | Drop     decides, pure
//!     forward   to the resolver that the pod asked, from the pod's own namespace
//!     datagram  where a datagram was sent to, and an answer that comes from there
//! ```
//!
//! Invariants: nothing that we do not understand is answered, changed or dropped; no query waits longer than
//! its deadline; an answer reaches only who asked for it.

mod answer;
mod datagram;
mod forward;
mod serve;
mod wire;

pub use answer::{Decision, Zone, decide, kind};
pub use datagram::RawReplies;
pub use forward::{Upstreams, resolvers};
pub use serve::{Client, Service, Sockets, serve};
