//! The one place that looks at the clock; everything else is told the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

#[expect(
    clippy::disallowed_methods,
    reason = "the shell's clock, from which the time is handed down"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Of the clock that tests can move.
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// The instant that is so far from now. Far enough to be for ever, if that is what it comes to.
pub(crate) fn after(time: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_hours(365 * 24);
    Instant::now() + time.min(FOR_EVER)
}

/// Whole seconds since 1970; none before it.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
