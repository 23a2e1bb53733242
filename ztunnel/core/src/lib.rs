//! What the proxy decides about a connection. It never acts.
//!
//! ```text
//!   resolve    (&View, Captured | Tunnelled | Plain) -> Resolved  | Refusal    who calls whom
//!   authorize  (&View, Resolved)                     -> Permit    | Refusal    layer 4 policy; the only maker of a Permit
//!   balance    (&View, &Permit, &Load, tried, Draw)  -> Endpoint  | Refusal    which of several
//!   next_hop   (&Permit, &Endpoint)                  -> Hop                    Plaintext | Hbone | Nested | Deliver
//!   Outcome    Carried | Refusal | Failure           one for each connection: log line, metrics and reply come from it
//!   why        the same stages, with every step written down
//!   names      (&View, Asker, name)              -> Found                  what a name means to a client
//!   choices    (&View, client, service, port)    -> Choice                 each endpoint, and why it is left out
//! ```
//!
//! Plain functions over immutable data: no I/O, no clock, no chance. Chance is an argument ([`Draw`]), and so
//! is load ([`Load`]).
//!
//! Invariants: an identity in a decision is one that a peer proved or that the node agent announced, never
//! one found by an address; nothing that cannot be decided is permitted; the stages may be given any view
//! and never panic.

#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

mod arrival;
mod authority;
mod authorize;
mod balance;
mod choices;
mod draw;
mod hop;
mod left_out;
mod load;
pub mod names;
mod outcome;
mod policy;
mod refusal;
mod resolve;
mod trace;
mod why;

pub use arrival::{Arrival, Captured, Peer, Plain, Pod, Tunnelled};
pub use authority::{Authority, AuthorityError};
pub use authorize::{Permit, authorize};
pub use balance::{Endpoint, Reach, balance};
pub use choices::{Choice, choices};
pub use draw::Draw;
pub use hop::{Bind, Carrier, Hop, Preamble, next_hop};
pub use left_out::LeftOut;
pub use load::Load;
pub use outcome::{
    Carried, Direction, End, Failure, Finish, Level, Outcome, Parties, ResponseFlag, Security, Side,
};
pub use policy::{Denial, Ground};
pub use refusal::{Fault, Refusal, Retry};
pub use resolve::{Delivery, Inbound, Outbound, Resolved, Target, resolve};
pub use why::{Answer, Effect, Encryption, Explanation, PolicyStep, Route, Skipped, why};

/// Where a proxy accepts tunnels.
pub const HBONE_PORT: u16 = 15008;

/// Ports of every enrolled pod on which the proxy listens: never a destination, or the proxy would call itself.
pub const PROXY_PORTS: [u16; 4] = [15001, 15006, HBONE_PORT, 15053];

#[cfg(test)]
mod fixture;
#[cfg(test)]
#[path = "../../../model/tests/main/random.rs"]
mod random;
