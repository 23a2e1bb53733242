//! The node proxy: takes captured connections and carries them with identity, mutual TLS and policy.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
mod causes;
pub mod config;
pub mod descriptors;
pub mod dns;
pub mod identity;
pub mod inbound;
pub mod memory;
pub mod outbound;
pub mod outcome;
pub mod pod;
pub mod pods;
pub mod relay;
pub mod remote;
pub mod socket;
pub mod state;
pub mod telemetry;
pub mod threads;
pub mod tunnel;
pub mod uid;
pub mod worker;
pub mod zds;
