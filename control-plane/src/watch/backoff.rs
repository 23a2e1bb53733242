//! How long to wait before the next try.

use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// Twice as long each time, and of that between half and all, by `chance` (0 to 1): or else all control
    /// planes that lost one API server would come back to it in one moment.
    pub(crate) fn wait(&mut self, chance: f64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// It went well: the next wait is a short one again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_chance_spreads_them() {
        let (first, most) = (Duration::from_millis(500), Duration::from_secs(30));
        let waits = |chance: f64| {
            let mut backoff = Backoff::new(first, most);
            let waits: Vec<u128> = (0..9).map(|_| backoff.wait(chance).as_millis()).collect();
            backoff.reset();
            assert_eq!(backoff.wait(1.0), first);
            waits
        };
        assert_eq!(waits(1.0), [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(waits(0.0), [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
    }
}
