//! Which connections are open, for `/config_dump` and `weft get connections`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ztunnel_core::{Direction, Parties, Security};

/// One open connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The pod of this node that it belongs to, as the node agent named it.
    pub pod: Arc<str>,
    pub direction: Direction,
    pub source: Option<SocketAddr>,
    /// Where the application asked to go.
    pub original: SocketAddr,
    /// Where it goes: the tunnel's far end, or the destination itself.
    pub actual: Option<SocketAddr>,
    pub security: Security,
    pub since: Instant,
}

/// One table for each worker, so that opening a connection never waits for another worker.
#[derive(Debug)]
pub(super) struct Connections {
    shards: Box<[Mutex<Open>]>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Connection>,
}

impl Connections {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, shard: usize) -> Option<MutexGuard<'_, Open>> {
        Some(self.shards.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn open(
        &self,
        shard: usize,
        pod: Arc<str>,
        original: SocketAddr,
        parties: &Parties,
    ) -> u64 {
        let Some(mut open) = self.shard(shard) else { return 0 };
        let id = open.next;
        open.next += 1;
        let connection = Connection {
            pod,
            direction: parties.direction,
            source: parties.source.address,
            original,
            actual: parties.hbone.or(parties.destination.address),
            security: parties.security,
            since: Instant::now(),
        };
        open.connections.insert(id, connection);
        id
    }

    pub(super) fn close(&self, shard: usize, id: u64) {
        if let Some(mut open) = self.shard(shard) {
            open.connections.remove(&id);
        }
    }

    pub(super) fn all(&self) -> Vec<Connection> {
        let mut all: Vec<_> = (0..self.shards.len())
            .filter_map(|shard| self.shard(shard))
            .flat_map(|open| open.connections.values().cloned().collect::<Vec<_>>())
            .collect();
        all.sort_by(|a, b| (&a.pod, a.since).cmp(&(&b.pod, b.since)));
        all
    }
}
