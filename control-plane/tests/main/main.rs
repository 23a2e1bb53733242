//! The control plane as a node meets it: a real gRPC client over TLS.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that is surprised shall fail"
)]
#![allow(clippy::disallowed_methods, reason = "a test is a shell: it has the clock")]

mod certificates;
mod discovery;
mod killed;
mod nodes;
mod process;
mod program;
mod scene;
