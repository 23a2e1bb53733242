//! The configuration: where the newest View comes from, and what it is when nobody answers.
//!
//! ```text
//!   control plane --stream-->┐
//!   local file    --file---->┤ Feed: one task --publishes--> Views --> connections, exchanges, DNS, admin
//!   last run      --kept---->┘   └--keeps what is in force--> disk
//! ```
//!
//! Invariants: no View is published before it is whole; what cannot be decoded never replaces what could;
//! a control plane that is gone, or speaks nonsense, changes nothing.

mod backoff;
mod disk;
mod feed;
mod gate;
mod link;
mod local;
mod node;
mod status;
mod views;

pub use feed::{Feed, Settings, open};
pub use link::ServerSettings;
pub use node::MetadataError;
pub use status::{ControlPlane, Current, LocalFile, Readiness, Status};
pub use views::{Publisher, Views};

impl Status {
    /// Of configuration that does not change any more, as tests have it.
    pub fn fixed() -> Self {
        Self {
            control_plane: ControlPlane::NotConfigured,
            local_file: LocalFile::NotConfigured,
            current: Current::Now,
            refused: Vec::new(),
            kept: None,
        }
    }
}

#[cfg(test)]
mod tests;
