//! What holds for any view.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an integration test is a crate of its own, which the test exceptions of clippy do not see"
)]

mod dump;
mod random;
