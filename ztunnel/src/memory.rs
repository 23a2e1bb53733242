//! How much memory this process uses, and whether that leaves room for new connections.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

use crate::telemetry::resident_bytes;

/// Whether new connections are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressure {
    Normal,
    /// New ones wait in the listeners' backlogs, and callers that have not proved themselves are cut.
    Full,
}

/// Between two looks: a connection's buffers fill in about this time at most.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Tells `pressure` of each change, for ever. `limit_bytes` is of resident memory.
pub async fn watch_over(limit_bytes: u64, pressure: watch::Sender<Pressure>) {
    loop {
        if let Some(used) = resident_bytes() {
            let next = judge(*pressure.borrow(), used, limit_bytes);
            pressure.send_if_modified(|now| std::mem::replace(now, next) != next);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Full at the limit, and until a tenth of it is free again: else each freed buffer would let one connection in.
fn judge(now: Pressure, used: u64, limit: u64) -> Pressure {
    match now {
        Pressure::Normal if used < limit => Pressure::Normal,
        Pressure::Full if used < limit - limit / 10 => Pressure::Normal,
        Pressure::Normal | Pressure::Full => Pressure::Full,
    }
}

#[cfg(test)]
mod tests;
