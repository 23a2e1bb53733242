//! The mesh as a whole: what its tests, its demo and its benchmark share.

#![forbid(unsafe_code)]

pub mod bench;
