//! How a stream reaches the other node.
//!
//! `hbone` speaks the protocol (client and server), `pool` shares tunnels among the connections of one pod, `nested`
//! runs one tunnel inside another, through the gateway of another network.
//! Only `hbone` knows which HTTP/2 library frames the bytes.

pub mod hbone;
mod nested;
mod pool;

pub use nested::Nested;
pub use pool::{Place, Pool, PoolKey, Reused};
