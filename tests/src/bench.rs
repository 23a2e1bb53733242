//! Speed and memory as ratios: direct, through a plain relay pair (the floor), and through Weft, in one run.
//!
//! `load` makes traffic and times it, `relay` is the floor, `cpu` reads what a process spent, `restart`
//! times what waits for a proxy, `control` is a large cluster for the control plane. The machine is
//! shared and noisy: only ratios of interleaved rounds are reported, never a bare number as a verdict.

pub mod control;
pub mod cpu;
pub mod load;
pub mod relay;
pub mod restart;
pub mod run;
pub mod server;
pub mod table;

/// A way between a client and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Direct,
    /// Through a plain relay in each pod.
    Floor,
    Weft,
}
