//! How much memory this process uses, and whether that leaves room for new connections.

use std::time::Duration;

use tikv_jemalloc_ctl::{Access as _, AsName as _};
use tokio::{sync::watch, time::sleep};

use crate::telemetry::{Recorder, allocated_bytes};

/// Whether new connections are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressure {
    Normal,
    /// New ones wait in the listeners' backlogs, and callers that have not proved themselves are cut.
    Full,
    /// That was not enough: at each look, the newest streams of whoever has most are cut too.
    Over {
        look: u64,
    },
}

/// Between two looks: a connection's buffers fill in about this time at most, and a look costs some 10 us.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long pages that were freed wait to be used again before the kernel has them back. The allocator's own 10 s
/// would show a burst, such as a dump of the whole mesh, as use long after it; a busy relay takes its buffers
/// again within milliseconds.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(1);

/// Sets how soon freed memory goes back, for the threads that are started from here on and for this one.
pub fn give_back_soon() {
    let within = isize::try_from(GIVEN_BACK_WITHIN.as_millis()).unwrap_or(isize::MAX);
    for setting in ["arenas.dirty_decay_ms\0", "arena.0.dirty_decay_ms\0"] {
        if let Err(error) = setting.name().write(within) {
            tracing::warn!(setting, %error, "the allocator gives memory back as late as it likes");
        }
    }
}

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

/// Completes at each look that finds memory over its limit.
pub(crate) async fn over(pressure: &mut watch::Receiver<Pressure>) {
    while pressure.changed().await.is_ok() {
        if matches!(*pressure.borrow_and_update(), Pressure::Over { .. }) {
            return;
        }
    }
    // Nobody watches over it, as in a simulation.
    std::future::pending::<()>().await;
}

fn tell(used: u64, limit: u64, pressure: &watch::Sender<Pressure>, recorder: &Recorder) {
    let before = *pressure.borrow();
    let next = judge(before, used, limit);
    if !pressure.send_if_modified(|now| std::mem::replace(now, next) != next) {
        return;
    }
    match (before, next) {
        (_, Pressure::Normal) => {
            tracing::info!(allocated_bytes = used, limit_bytes = limit, "memory is free again");
        }
        (Pressure::Normal, Pressure::Full | Pressure::Over { .. }) => {
            recorder.memory_full();
            tracing::warn!(
                allocated_bytes = used,
                limit_bytes = limit,
                "limits.memory is reached: new connections wait, callers without a certificate are cut"
            );
        }
        // Each cut is told by the worker that makes it.
        (Pressure::Full | Pressure::Over { .. }, Pressure::Full | Pressure::Over { .. }) => {}
    }
}

/// Full at the limit, and until a tenth of it is free again: else each freed buffer would let one connection in.
/// Over a tenth above it: streams that are open go on growing while new ones wait.
fn judge(now: Pressure, used: u64, limit: u64) -> Pressure {
    let tenth = limit / 10;
    match now {
        Pressure::Over { look } if used >= limit + tenth => Pressure::Over { look: look + 1 },
        Pressure::Normal | Pressure::Full if used >= limit + tenth => Pressure::Over { look: 0 },
        Pressure::Normal if used < limit => Pressure::Normal,
        Pressure::Full | Pressure::Over { .. } if used < limit - tenth => Pressure::Normal,
        Pressure::Normal | Pressure::Full | Pressure::Over { .. } => Pressure::Full,
    }
}

#[cfg(test)]
mod tests;
