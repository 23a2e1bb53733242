//! Now and then, what is served is compared with everything compiled anew.

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::{mesh::Known, metrics::Metrics};

/// Compares every `every`, for ever. What was wrong is mended, counted and logged as an error: it is a defect
/// of ours.
pub(crate) async fn keep(known: Arc<Known>, metrics: Arc<Metrics>, every: Duration) {
    loop {
        time::sleep(every).await;
        let known = known.clone();
        // A compilation of all: not on a thread that nodes are served by.
        let checked = tokio::task::spawn_blocking(move || known.check());
        metrics.checked(checked.await.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
