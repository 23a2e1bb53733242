//! How much of a connection has passed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes handed on so far, readable while they flow, by other threads too, and after a relay was dropped.
#[derive(Debug, Default)]
pub struct Carried {
    pub to_server: Bytecount,
    pub to_client: Bytecount,
}

/// A number that one thread moves and any may read.
#[derive(Debug, Default)]
pub struct Bytecount(AtomicU64);

impl Bytecount {
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Not an atomic addition, which costs more: only the relay that owns the count adds to it.
    pub fn add(&self, bytes: u64) {
        self.0.store(self.get() + bytes, Relaxed);
    }
}
