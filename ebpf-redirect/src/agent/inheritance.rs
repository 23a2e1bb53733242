//! How far we are with the pods that an earlier agent captured, and so whether we know all.
//!
//! A proxy drops whatever it was not told of. Until all is known it keeps what it has.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::pod::PodUid;

#[cfg(test)]
mod tests;

/// For so long pods are waited for that an earlier agent captured: some attempts to find them. A pod that cannot be
/// found must not keep new proxies from being ready for ever; it stays captured, and so closed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) enum Inheritance {
    /// The source has not told all yet.
    Unknown,
    /// These are to stay captured, and we have not taken them up yet. They are waited for until then.
    Missing { pods: BTreeSet<PodUid>, until: Instant },
    /// We know all.
    Settled,
}

impl Inheritance {
    /// The source has told all: these of the pods that an earlier agent captured are to stay.
    pub(super) fn expect(&mut self, wanted: BTreeSet<PodUid>, now: Instant) {
        match self {
            Self::Unknown => *self = Self::Missing { pods: wanted, until: now + PATIENCE },
            Self::Missing { pods, .. } => *pods = wanted,
            Self::Settled => {}
        }
    }

    /// Who is still missing, once, when all have been taken up or the time is over.
    pub(super) fn settle(
        &mut self,
        is_taken_up: impl Fn(&PodUid) -> bool,
        now: Instant,
    ) -> Option<BTreeSet<PodUid>> {
        let Self::Missing { pods, until } = self else { return None };
        pods.retain(|uid| !is_taken_up(uid));
        if !pods.is_empty() && now < *until {
            return None;
        }
        let missing = std::mem::take(pods);
        *self = Self::Settled;
        Some(missing)
    }
}
