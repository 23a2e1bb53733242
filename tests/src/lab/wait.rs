//! Waiting for something to be true, never for time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// For what takes milliseconds on an idle machine.
pub const SHORT: Duration = Duration::from_secs(10);
/// For what takes seconds, such as a process coming up or a certificate being renewed.
pub const LONG: Duration = Duration::from_mins(1);

const BETWEEN: Duration = Duration::from_millis(20);

/// Asks until there is an answer. Errors: `what`, when `within` passes first.
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {within:.0?} in vain: {what}");
        }
        std::thread::park_timeout(BETWEEN);
    }
}
