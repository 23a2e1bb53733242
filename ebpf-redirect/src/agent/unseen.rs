//! Pods of which it cannot be told whether they are there: said once, however often we look.

use std::collections::HashSet;
use std::error::Error;

use tracing::{info, warn};

use super::chain;
use crate::pod::PodUid;

#[derive(Debug, Default)]
pub(super) struct Unseen(HashSet<PodUid>);

impl Unseen {
    /// We could not look.
    pub(super) fn tell(&mut self, uid: &PodUid, error: &dyn Error) {
        if self.0.insert(uid.clone()) {
            let error = chain(error);
            warn!(pod = %uid, error, "whether the pod is there cannot be told: it stays as it is");
        }
    }

    /// We could.
    pub(super) fn over(&mut self, uid: &PodUid) {
        if self.0.remove(uid) {
            info!(pod = %uid, "the pod can be looked at again");
        }
    }

    /// The others are not looked at any more.
    pub(super) fn retain(&mut self, is_looked_at: impl Fn(&PodUid) -> bool) {
        self.0.retain(is_looked_at);
    }
}
