//! What is captured and not ours: an earlier agent left it, or a change of it failed.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Keeper;
use crate::agent::chain;
use crate::agent::wanted::{Claim, Wanted};
use crate::netns::Verdict;
use crate::pod::{Draining, PodError, PodUid};

/// Whether we know what is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pins {
    Listed,
    /// They could not be listed: we look again at each tick.
    Unseen,
}

impl Keeper {
    /// Releases a pod that is captured and not ours: it was not taken up, or a change of it failed.
    pub(super) fn resume(&mut self, uid: &PodUid) {
        let resumed = Draining::resume(&mut self.node, uid);
        self.roster.remove(uid);
        match resumed {
            Ok(Some(draining)) => self.drain(uid.clone(), draining),
            Ok(None) => {
                info!(pod = %uid, "nothing of the pod is left");
                self.forget(uid);
            }
            Err(error) => error!(pod = %uid, error = chain(&error), "pod cannot be released"),
        }
    }

    /// What is captured and not ours is taken up, or waits for that, or is released.
    pub(super) fn inherit(&mut self, wanted: &Wanted) {
        let Some(mut pinned) = self.pinned() else { return };
        for uid in
            pinned.iter().filter(|uid| !self.pods.contains_key(uid)).cloned().collect::<Vec<_>>()
        {
            match wanted.claim(&uid) {
                Claim::Wanted => {}
                Claim::Unknown => {
                    // Of one that we had, and could not change, proxies may know.
                    self.roster.remove(&uid);
                    let is_news = !self.deleted.contains_key(&uid);
                    self.bury(&uid);
                    if is_news && self.deleted.contains_key(&uid) {
                        warn!(pod = %uid, "deleted, and still there: it stays captured, and is served no more");
                    }
                }
                Claim::Out => self.resume(&uid),
            }
        }
        self.deleted.retain(|uid, _| wanted.claim(uid) == Claim::Unknown);
        pinned.retain(|uid| wanted.claim(uid) == Claim::Wanted);
        self.inheritance.expect(pinned, Instant::now());
    }

    /// Releases a deleted pod, if its namespace has gone.
    pub(super) fn bury(&mut self, uid: &PodUid) {
        let held = self.deleted.entry(uid.clone()).or_default();
        let looked = match held {
            Some(netns) => netns.verify().map(drop).map_err(PodError::from),
            None => Draining::look(&self.node, uid).map(|found| *held = found),
        };
        match looked {
            Ok(()) if held.is_some() => self.unseen.over(uid),
            Err(error) if error.verdict() != Verdict::Gone => self.unseen.tell(uid, &error),
            Ok(()) | Err(_) => {
                self.deleted.remove(uid);
                self.resume(uid);
            }
        }
    }

    /// `None`: it cannot be told who is. That is not nobody, and proxies must not be told that they know all.
    fn pinned(&mut self) -> Option<BTreeSet<PodUid>> {
        let before = self.pins;
        match self.node.pinned_pods() {
            Ok(names) => {
                self.pins = Pins::Listed;
                Some(names.iter().filter_map(|name| PodUid::parse(name).ok()).collect())
            }
            Err(error) => {
                self.pins = Pins::Unseen;
                if before == Pins::Listed {
                    error!(error = chain(&error), "pinned pods cannot be listed, trying again");
                }
                None
            }
        }
    }
}
