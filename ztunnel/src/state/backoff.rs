//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(15);

/// Doubles from 10 ms to 15 s. Reset only by a stream that worked, or a server that accepts and hangs up
/// would be dialled a hundred times a second.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// `draw` in 0..1 spreads the nodes of a mesh whose control plane restarts.
    pub(super) fn after_failure(&mut self, draw: f64) -> Duration {
        let wait = self.next.mul_f64(0.75 + draw / 4.0);
        self.next = LONGEST.min(self.next * 2);
        wait
    }

    pub(super) fn worked(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_ceiling_and_start_over_after_success() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..12).map(|_| backoff.after_failure(1.0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 15_000]);
        assert_eq!(backoff.after_failure(0.0).as_millis(), 11_250);
        backoff.worked();
        assert_eq!(backoff.after_failure(1.0), FIRST);
    }
}
