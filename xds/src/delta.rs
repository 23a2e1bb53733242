//! The delta protocol, without I/O: what each end says next, given what it heard.
//!
//! ```text
//!   Client   what a proxy holds            connect() -> requests      receive(response) -> changes, reply
//!   Server   what one subscriber was sent  request(..) -> Heard       advance(&Resources) -> responses
//!   Resources  all there is, encoded once; a clone is cheap and shares what did not change
//! ```
//!
//! Invariants: a server has at most one response per type under way, so what changes meanwhile is merged;
//! once all is delivered and acknowledged, client and server hold the same; what a client refuses never
//! replaces what it accepted before.

mod client;
mod resources;
mod server;

pub use client::{Answered, Client, Kept, Received, Refused};
pub use resources::{Put, Resources};
pub use server::{Heard, Refusals, Server};

/// What a refusal ends with that names less than was refused.
const CUT_OFF: char = '\u{2026}';

#[cfg(test)]
mod tests;
