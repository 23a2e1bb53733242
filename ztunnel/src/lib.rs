//! The node proxy: takes captured connections and carries them with identity, mutual TLS and policy.

#![deny(unsafe_code)]

pub mod config;
pub mod identity;
pub mod telemetry;
