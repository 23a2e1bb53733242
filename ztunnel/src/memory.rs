//! How much memory this process uses, and whether that leaves room for new connections.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

use crate::telemetry::{Recorder, allocated_bytes};

/// Whether new connections are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressure {
    Normal,
    /// New ones wait in the listeners' backlogs, and callers that have not proved themselves are cut.
    Full,
}

/// Between two looks: a connection's buffers fill in about this time at most, and a look costs some 10 us.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Tells `pressure` of each change, for ever. `limit_bytes` is of what the program has allocated: pages that the
/// allocator keeps for later would look like use long after the connections that filled them have left.
pub async fn watch_over(limit_bytes: u64, pressure: watch::Sender<Pressure>, recorder: Recorder) {
    loop {
        if let Some(used) = allocated_bytes() {
            tell(used, limit_bytes, &pressure, &recorder);
        }
        sleep(LOOK_EVERY).await;
    }
}

fn tell(used: u64, limit: u64, pressure: &watch::Sender<Pressure>, recorder: &Recorder) {
    let next = judge(*pressure.borrow(), used, limit);
    if !pressure.send_if_modified(|now| std::mem::replace(now, next) != next) {
        return;
    }
    match next {
        Pressure::Normal => {
            tracing::info!(allocated_bytes = used, limit_bytes = limit, "memory is free again");
        }
        Pressure::Full => {
            recorder.memory_full();
            tracing::warn!(
                allocated_bytes = used,
                limit_bytes = limit,
                "limits.memory is reached: new connections wait, callers without a certificate are cut"
            );
        }
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
