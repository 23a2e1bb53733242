//! When to ask for which certificate: a state machine without clock, randomness or I/O.
//!
//! ```text
//!            hold, want            next                 fetched
//!   unknown ------------> Due ---------------> Asking ----------> Settled { renew_at }
//!                          ^     (at most 8)     | failed             | half its life is over
//!                          |                     v                    v
//!                          +--- its time ---- BackingOff         Due, or forgotten when nobody holds it
//! ```
//!
//! The certificate that is held keeps being served through all of it, until it expires.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use weft_model::Identity;

/// Most requests under way at once, as a stock ztunnel has it: a CA serves many nodes.
pub const REQUESTS_MAX: usize = 8;

const BACK_OFF_FIRST: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(150);

/// Least time between two requests for one identity, whatever life its certificates have.
const RENEW_GAP_MIN: Duration = Duration::from_secs(1);

/// Certificates live by the wall clock and sleepers by the steady one. Looking this often, a step of the
/// wall clock is noticed within seconds.
const WALL_CLOCK_CHECK: Duration = Duration::from_secs(5);

/// One instant on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// What certificates are dated by. May step.
    pub wall: SystemTime,
    /// Time since any fixed instant. Never goes back.
    pub steady: Duration,
}

/// How urgent a request is. Only orders those that wait for one of the [`REQUESTS_MAX`] places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Renewal of a certificate that is still good.
    Background,
    /// A local workload exists and will need it.
    Warmup,
    /// A connection waits for it.
    RealTime,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Request certificates for these; report each by [`Renewal::fetched`] or [`Renewal::failed`].
    pub ask: Vec<Identity>,
    /// Nobody holds these and half their life is over: drop certificate and key.
    pub forget: Vec<Identity>,
    /// Call [`Renewal::next`] again after this time, or as soon as anything was reported.
    pub wake_in: Option<Duration>,
}

/// What is left of an identity after a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// Other local workloads have it.
    StillHeld,
    /// The last one is gone: drop certificate and key.
    Forgotten,
}

/// All identities of a node, and where each is in its renewal.
#[derive(Debug, Default)]
pub struct Renewal {
    entries: BTreeMap<Identity, Entry>,
    /// Order of arrival, for fairness among equal priorities.
    arrivals: u64,
}

#[derive(Debug)]
struct Entry {
    /// How many local workloads have this identity.
    holds: usize,
    priority: Priority,
    /// Failures since the last success.
    failures: u32,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Due { arrival: u64 },
    Asking,
    BackingOff { until: Duration },
    Settled { renew_at: SystemTime },
}

impl Renewal {
    /// A local workload has this identity: keep a certificate for it until [`Renewal::release`].
    pub fn hold(&mut self, identity: &Identity, priority: Priority) {
        self.entry(identity, priority).holds += 1;
    }

    /// A local workload is gone.
    pub fn release(&mut self, identity: &Identity) -> Released {
        let Some(entry) = self.entries.get_mut(identity) else { return Released::Forgotten };
        entry.holds = entry.holds.saturating_sub(1);
        if entry.holds > 0 {
            return Released::StillHeld;
        }
        self.entries.remove(identity);
        Released::Forgotten
    }

    /// Somebody waits for it. One that nobody holds is served once and not renewed.
    ///
    /// It raises the priority, but never shortens a back-off: a CA in trouble is not helped by a crowd.
    pub fn want(&mut self, identity: &Identity, priority: Priority) {
        self.entry(identity, priority);
    }

    /// A certificate with this validity is held, from an earlier life of the process. `draw` is in 0..1.
    pub fn restored(
        &mut self,
        identity: &Identity,
        not_before: SystemTime,
        not_after: SystemTime,
        draw: f64,
    ) {
        if let Some(entry) = self.entries.get_mut(identity) {
            entry.phase = Phase::Settled { renew_at: half_life(not_before, not_after, draw) };
        }
    }

    /// A request succeeded. `draw` is in 0..1.
    pub fn fetched(&mut self, identity: &Identity, not_after: SystemTime, draw: f64, now: Now) {
        // Forgotten while the request was under way: nothing is left to be renewed.
        let Some(entry) = self.entries.get_mut(identity) else { return };
        // Half of what is left, not of what is written: leaves are dated back, for peers with slow clocks.
        let renew_at = half_life(now.wall, not_after, draw).max(now.wall + RENEW_GAP_MIN);
        entry.failures = 0;
        entry.priority = Priority::Background;
        entry.phase = Phase::Settled { renew_at };
    }

    /// A request failed. `draw` is in 0..1. Returns when it is tried again, if it still is wanted.
    pub fn failed(&mut self, identity: &Identity, draw: f64, now: Now) -> Option<Duration> {
        let entry = self.entries.get_mut(identity)?;
        entry.failures = entry.failures.saturating_add(1);
        let wait = back_off(entry.failures, draw);
        entry.phase = Phase::BackingOff { until: now.steady + wait };
        Some(wait)
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Now) -> Step {
        let forget = self.advance(now);
        let mut due: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(identity, entry)| match entry.phase {
                Phase::Due { arrival } => {
                    Some((Reverse(entry.priority), arrival, identity.clone()))
                }
                Phase::Asking | Phase::BackingOff { .. } | Phase::Settled { .. } => None,
            })
            .collect();
        due.sort();
        let asking = self.entries.values().filter(|e| matches!(e.phase, Phase::Asking)).count();
        let ask: Vec<_> =
            due.into_iter().take(REQUESTS_MAX.saturating_sub(asking)).map(|(.., id)| id).collect();
        for identity in &ask {
            if let Some(entry) = self.entries.get_mut(identity) {
                entry.phase = Phase::Asking;
            }
        }
        Step { ask, forget, wake_in: self.wake_in(now) }
    }

    /// Moves on what time alone moves; returns what is forgotten.
    fn advance(&mut self, now: Now) -> Vec<Identity> {
        let mut forget = Vec::new();
        for (identity, entry) in &mut self.entries {
            let due = match entry.phase {
                Phase::Due { .. } | Phase::Asking => false,
                Phase::BackingOff { until } => until <= now.steady,
                Phase::Settled { renew_at } => renew_at <= now.wall,
            };
            if !due {
                continue;
            }
            if entry.holds == 0 && matches!(entry.phase, Phase::Settled { .. }) {
                forget.push(identity.clone());
                continue;
            }
            self.arrivals += 1;
            entry.phase = Phase::Due { arrival: self.arrivals };
        }
        for identity in &forget {
            self.entries.remove(identity);
        }
        forget
    }

    fn wake_in(&self, now: Now) -> Option<Duration> {
        let waits = self.entries.values().filter_map(|entry| match entry.phase {
            // Due without a free place: the report of one under way is the wake.
            Phase::Due { .. } | Phase::Asking => None,
            Phase::BackingOff { until } => Some(until.saturating_sub(now.steady)),
            Phase::Settled { renew_at } => {
                Some(renew_at.duration_since(now.wall).unwrap_or_default().min(WALL_CLOCK_CHECK))
            }
        });
        waits.min()
    }

    fn entry(&mut self, identity: &Identity, priority: Priority) -> &mut Entry {
        let arrivals = &mut self.arrivals;
        let entry = self.entries.entry(identity.clone()).or_insert_with(|| {
            *arrivals += 1;
            let phase = Phase::Due { arrival: *arrivals };
            Entry { holds: 0, priority, failures: 0, phase }
        });
        entry.priority = entry.priority.max(priority);
        entry
    }
}

/// Half of the time from `from` to `to`, 5 % of it earlier or later, so that certificates issued together
/// are not renewed together.
fn half_life(from: SystemTime, to: SystemTime, draw: f64) -> SystemTime {
    let life = to.duration_since(from).unwrap_or_default();
    from + life.mul_f64(0.45 + 0.1 * draw.clamp(0.0, 1.0))
}

/// 500 ms, doubled for each failure, 20 % shorter or longer, never above 150 s.
fn back_off(failures: u32, draw: f64) -> Duration {
    let doubled = BACK_OFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(9));
    doubled.min(BACK_OFF_MAX).mul_f64(0.8 + 0.4 * draw.clamp(0.0, 1.0)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests;
