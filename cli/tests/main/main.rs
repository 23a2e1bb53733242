//! The real binary on dump files, and `why` against the proxy's stages.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "an integration test is a crate of its own, which the test exceptions of clippy do not see"
)]

mod admin;
mod agree;
mod binary;
#[path = "../../../model/tests/main/random.rs"]
mod random;
