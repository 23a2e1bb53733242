//! Which connections are open, for `/config_dump` and `weft get connections`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ztunnel_core::{Direction, Parties, Security};

use super::{carried::Carried, registry::Cells, table::Id};

/// One open connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The pod of this node that it belongs to, as the node agent named it.
    pub pod: Arc<str>,
    pub direction: Direction,
    pub source: Option<SocketAddr>,
    /// Where the caller asked to go; of an inbound tunnel, where it came to.
    pub original: SocketAddr,
    /// Where it goes: out to the tunnel's far end or the destination itself, in to the pod's application.
    pub actual: Option<SocketAddr>,
    pub security: Security,
    pub since: Instant,
    pub bytes_to_server: u64,
    pub bytes_to_client: u64,
}

/// One table for each worker, so that opening a connection never waits for another worker.
#[derive(Debug)]
pub(super) struct Connections {
    shards: Box<[Mutex<Open>]>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    carried: Arc<Carried>,
    cells: Arc<Cells>,
    /// What of `carried` the cells have: to the server, to the client.
    counted: (u64, u64),
}

impl Entry {
    /// Counts the bytes that passed since the last time. As the reporter sees them: outbound sends to the
    /// server, inbound sends back to the client.
    fn settle(&mut self, shard: usize) {
        let now = (self.carried.to_server.get(), self.carried.to_client.get());
        let (server, client) = (now.0 - self.counted.0, now.1 - self.counted.1);
        self.counted = now;
        let (sent, received) = match self.connection.direction {
            Direction::Outbound => (server, client),
            Direction::Inbound => (client, server),
        };
        self.cells.add(shard, Id::Sent, sent);
        self.cells.add(shard, Id::Received, received);
    }
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
        (carried, cells): (Arc<Carried>, Arc<Cells>),
    ) -> u64 {
        let Some(mut open) = self.shard(shard) else { return 0 };
        let id = open.next;
        open.next += 1;
        let connection = Connection {
            pod,
            direction: parties.direction,
            source: parties.source.address,
            original,
            actual: match parties.direction {
                Direction::Outbound => parties.hbone.or(parties.destination.address),
                // The tunnel's own port is the same for all and would tell nothing.
                Direction::Inbound => parties.destination.address,
            },
            security: parties.security,
            since: Instant::now(),
            bytes_to_server: 0,
            bytes_to_client: 0,
        };
        open.connections.insert(id, Entry { connection, carried, cells, counted: (0, 0) });
        id
    }

    pub(super) fn close(&self, shard: usize, id: u64) {
        let entry = self.shard(shard).and_then(|mut open| open.connections.remove(&id));
        if let Some(mut entry) = entry {
            entry.settle(shard);
        }
    }

    /// Counts the bytes of what is still open: a connection of days would else be silent until its end.
    pub(super) fn settle(&self) {
        for shard in 0..self.shards.len() {
            if let Some(mut open) = self.shard(shard) {
                open.connections.values_mut().for_each(|entry| entry.settle(shard));
            }
        }
    }

    pub(super) fn all(&self) -> Vec<Connection> {
        let mut all: Vec<_> = (0..self.shards.len())
            .filter_map(|shard| self.shard(shard))
            .flat_map(|open| connections(&open))
            .collect();
        all.sort_by(|a, b| (&a.pod, a.since).cmp(&(&b.pod, b.since)));
        all
    }
}

fn connections(open: &Open) -> Vec<Connection> {
    let now = |entry: &Entry| Connection {
        bytes_to_server: entry.carried.to_server.get(),
        bytes_to_client: entry.carried.to_client.get(),
        ..entry.connection.clone()
    };
    open.connections.values().map(now).collect()
}
