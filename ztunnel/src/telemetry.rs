//! What happened, for people and for machines: metrics, access log, open connections, log level.
//!
//! ```text
//!   worker 0 .. n   Recorder -> its own shard of every number ┐
//!   the other runtime           Recorder -> one more shard    ┴ summed when `render` is asked
//!   end of a connection         Outcome  -> access line, counters
//! ```

mod access;
mod carried;
mod connections;
mod lines;
mod logging;
mod recorder;
mod registry;
mod table;
mod text;
mod traffic;

use std::{sync::Arc, time::Instant};

pub use carried::{Bytecount, Carried};
pub use connections::Connection;
use connections::Connections;
pub use logging::{Logging, LoggingError};
pub use recorder::{Accepted, Answered, DnsQuery, DnsTransport, Live, Recorder, TunnelSide};
use registry::{Registry, Shard};
use table::Id;
pub use table::{Row, reference};
pub use text::Format;

use crate::config::Metrics;

/// Every number of this process, and who may move it.
#[derive(Debug)]
pub struct Telemetry {
    registry: Arc<Registry>,
    connections: Arc<Connections>,
    recorders: Box<[Recorder]>,
    logging: Option<Arc<Logging>>,
}

impl Telemetry {
    /// For `workers` data-path threads and whatever else records. `logging` tells how many lines were lost.
    pub fn new(config: &Metrics, workers: usize, logging: Option<Arc<Logging>>) -> Arc<Self> {
        let shards = workers + 1;
        let registry = Arc::new(Registry::new(shards, config.series));
        let connections = Arc::new(Connections::new(shards));
        let recorders = (0..shards)
            .map(|index| Recorder::new(Shard::new(registry.clone(), index), connections.clone()))
            .collect();
        Arc::new(Self { registry, connections, recorders, logging })
    }

    /// The recorder of one data-path thread. A number beyond the last is the control runtime's.
    pub fn worker(&self, index: usize) -> Recorder {
        self.recorders.get(index).unwrap_or_else(|| self.last()).clone()
    }

    /// The recorder of everything that is not the data path.
    pub fn control(&self) -> Recorder {
        self.last().clone()
    }

    fn last(&self) -> &Recorder {
        self.recorders.last().expect("there is one recorder more than workers")
    }

    /// All metrics as text.
    pub fn render(&self, format: Format) -> String {
        self.connections.settle();
        self.sample();
        let snapshot = self.registry.snapshot(Instant::now());
        text::write(&snapshot, env!("CARGO_PKG_VERSION"), format)
    }

    /// Every open connection, by pod and age.
    pub fn connections(&self) -> Vec<Connection> {
        self.connections.all()
    }

    fn sample(&self) {
        let control = self.last();
        control.sample(Id::Series, self.registry.series() as u64);
        control.sample(Id::LogDropped, self.logging.as_ref().map_or(0, |l| l.dropped()));
        for (id, value) in [
            (Id::OpenFds, open_fds()),
            (Id::MaxFds, max_fds()),
            (Id::Resident, resident_bytes()),
            (Id::Allocated, allocated_bytes()),
        ] {
            if let Some(value) = value {
                control.sample(id, value);
            }
        }
    }
}

fn open_fds() -> Option<u64> {
    // The listing itself holds one.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64)
}

fn max_fds() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Memory of this process that is really there.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// What this program has allocated and not freed, as jemalloc counts it.
pub(crate) fn allocated_bytes() -> Option<u64> {
    use tikv_jemalloc_ctl::{epoch, stats};
    // Its numbers stand still until they are asked to be counted anew.
    epoch::advance().ok()?;
    Some(stats::allocated::read().ok()? as u64)
}

#[cfg(test)]
mod tests;
