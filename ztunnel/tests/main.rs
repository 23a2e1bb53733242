//! Whole proxies in one process: real TLS and HTTP/2 between them, over loopback or in-memory networks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod abuse;
mod credentials;
mod deadlines;
mod envoy;
mod exhaustion;
mod far;
mod fixture;
mod leaks;
mod lean;
mod memory;
mod policy;
mod pool;
mod program;
mod reference;
mod relay;
mod simulation;
mod slow;
mod tunnel;
mod written;
mod zds;
