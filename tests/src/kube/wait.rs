//! Waiting for something to be true of the API server, never for time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One that takes longer is asked anew.
const ONE: Duration = Duration::from_secs(15);
const BETWEEN: Duration = Duration::from_millis(50);

/// Asks until there is an answer. Errors: `what`, when `within` passes first.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        // A paused server answers nothing at all.
        if let Ok(Some(answer)) = tokio::time::timeout(within.min(ONE), ask()).await {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {within:.0?} in vain: {what}");
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
