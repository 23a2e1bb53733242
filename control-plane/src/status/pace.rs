//! When an object may be written again: not before our last write of it was read, and ever more rarely while
//! somebody else writes over it. No network.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::condition::{Condition, ours};
use crate::{objects::ObjectKey, written::Written};

/// Between two writes of one object.
const BETWEEN: Duration = Duration::from_secs(1);
/// And when only the words are others: how many nodes have it by now.
const WORDS: Duration = Duration::from_secs(5);
/// A write that the watch does not bring by then is taken for lost.
const ECHO: Duration = Duration::from_secs(30);
/// After somebody has written over ours: at first, and at most.
const CONTESTED: Duration = Duration::from_secs(5);
const CONTESTED_MAX: Duration = Duration::from_mins(5);

/// What was written last of each object.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<ObjectKey, Pace>);

#[derive(Debug)]
struct Pace {
    uid: Arc<str>,
    generation: i64,
    /// The state that was written over.
    based_on: Arc<str>,
    asked: Vec<Condition>,
    /// Ours as the server has kept them: it may leave out what the kind's definition does not know.
    kept: Vec<Value>,
    /// When it is tried again, should the watch bring nothing.
    retry: Instant,
    at: Instant,
    not_before: Instant,
    /// The newest state that was looked at.
    seen: Arc<str>,
    contests: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    /// Nothing is to be written until something changes.
    No,
}

impl Paces {
    /// Whether `asked`, which differs from what the object says, may be written.
    pub(super) fn due(
        &mut self,
        key: &ObjectKey,
        written: &Written,
        asked: &[Condition],
        now: Instant,
    ) -> Due {
        let Some(pace) = self.0.get_mut(key) else { return Due::Now };
        if pace.uid != written.uid {
            return Due::Now;
        }
        if pace.based_on == written.version {
            return or_now(pace.retry, now);
        }
        if pace.generation != written.generation {
            return or_now(pace.at + BETWEEN, now);
        }
        let untouched = pace.kept == ours(&written.conditions);
        if untouched && pace.asked == asked {
            return Due::No;
        }
        if pace.seen != written.version {
            pace.seen = written.version.clone();
            if !untouched {
                let wait = CONTESTED.saturating_mul(1 << pace.contests.min(8)).min(CONTESTED_MAX);
                pace.not_before = now + wait;
                pace.contests += 1;
            }
        }
        let judged = pace.asked.iter().map(Some).chain(std::iter::repeat(None));
        let same = asked.iter().zip(judged).all(|(a, b)| b.is_some_and(|b| a.judges_as(b)));
        let words = if untouched && same { pace.at + WORDS } else { pace.not_before };
        or_now(pace.not_before.max(words), now)
    }

    /// The server has taken a write over `written`, and has kept these conditions.
    pub(super) fn wrote(
        &mut self,
        key: &ObjectKey,
        written: &Written,
        asked: Vec<Condition>,
        conditions: &[Value],
        now: Instant,
    ) {
        let same = |pace: &&Pace| pace.uid == written.uid && pace.generation == written.generation;
        let contests = self.0.get(key).filter(same).map_or(0, |pace| pace.contests);
        let pace = Pace {
            uid: written.uid.clone(),
            generation: written.generation,
            based_on: written.version.clone(),
            asked,
            kept: ours(conditions),
            retry: now + ECHO,
            at: now,
            not_before: now + BETWEEN,
            seen: written.version.clone(),
            contests,
        };
        self.0.insert(key.clone(), pace);
    }

    /// The object is another by now.
    pub(super) fn stale(&mut self, key: &ObjectKey, written: &Written, now: Instant) {
        self.wrote(key, written, Vec::new(), &written.conditions, now);
    }

    /// The server does not take it as it is: this state of the object is not tried again before `retry`.
    pub(super) fn refused(
        &mut self,
        key: &ObjectKey,
        written: &Written,
        now: Instant,
        retry: Instant,
    ) {
        self.stale(key, written, now);
        if let Some(pace) = self.0.get_mut(key) {
            pace.retry = retry;
        }
    }

    /// Forgets the others.
    pub(super) fn keep(&mut self, there: impl Fn(&ObjectKey) -> bool) {
        self.0.retain(|key, _| there(key));
    }
}

fn or_now(at: Instant, now: Instant) -> Due {
    if at <= now { Due::Now } else { Due::At(at) }
}

#[cfg(test)]
mod tests;
