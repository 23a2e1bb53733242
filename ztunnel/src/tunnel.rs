//! How a stream reaches the other node.
//!
//! `hbone` speaks the protocol (client and server), `pool` shares tunnels among the connections of one pod.
//! Only `hbone` knows which HTTP/2 library frames the bytes.

pub mod hbone;
mod pool;

pub use pool::{Place, Pool, PoolKey, Reused};
