//! How often one node may ask.

use std::time::{Duration, SystemTime};

/// At once, after a quiet time: a node that restarts asks for all its identities.
const BURST: f64 = 500.0;
const PER_SECOND: f64 = 10.0;

#[derive(Debug)]
pub(super) struct Bucket {
    left: f64,
    at: SystemTime,
}

impl Bucket {
    pub(super) fn full(now: SystemTime) -> Self {
        Self { left: BURST, at: now }
    }

    pub(super) fn take(&mut self, now: SystemTime) -> bool {
        // A clock that went back gives nothing and takes nothing.
        let passed = now.duration_since(self.at).unwrap_or(Duration::ZERO);
        self.at = now;
        self.left = (self.left + passed.as_secs_f64() * PER_SECOND).min(BURST);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_and_then_a_steady_rate() {
        let start = SystemTime::UNIX_EPOCH;
        let mut bucket = Bucket::full(start);
        let granted = (0..1000).filter(|_| bucket.take(start)).count();
        assert_eq!(granted, 500);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..1000).filter(|_| bucket.take(later)).count(), 20);
        assert!(!bucket.take(start), "a clock that goes back grants nothing");
    }
}
