//! The authority in force, for all who sign with it; it changes while they work.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use weft_certs::Authority;

use crate::clock;

/// Who has not looked for so long which authority is in force signs for nobody: a root may have been taken back
/// since, and its leaves are waited for no longer than an hour more than they live.
const STALE_AFTER: Duration = Duration::from_mins(50);

/// It is not known any more which CA is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("which CA is in force could not be read for {} minutes", STALE_AFTER.as_secs() / 60)]
pub(crate) struct Stale;

/// Puts another authority in force.
#[derive(Debug)]
pub(crate) struct Signer(watch::Sender<InForce>);

/// The authority in force.
#[derive(Debug, Clone)]
pub(crate) struct Signing(watch::Receiver<InForce>);

#[derive(Debug)]
struct InForce {
    authority: Arc<Authority>,
    seen: Seen,
}

/// When it was known last to be in force.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// Nobody else can put another one in force.
    Always,
    At(Instant),
}

/// One that stays until the process ends.
pub(crate) fn fixed(authority: Authority) -> Signing {
    signing(authority, Seen::Always).1
}

/// One that was read now, and that others may change.
pub(crate) fn changing(authority: Authority) -> (Signer, Signing) {
    signing(authority, Seen::At(clock::instant()))
}

fn signing(authority: Authority, seen: Seen) -> (Signer, Signing) {
    let (sender, receiver) = watch::channel(InForce { authority: Arc::new(authority), seen });
    (Signer(sender), Signing(receiver))
}

impl Signer {
    pub(crate) fn replace(&self, authority: Authority) {
        let seen = Seen::At(clock::instant());
        self.0.send_replace(InForce { authority: Arc::new(authority), seen });
    }

    /// The same one is still in force.
    pub(crate) fn seen(&self) {
        self.0.send_if_modified(|in_force| {
            in_force.seen = Seen::At(clock::instant());
            false
        });
    }

    /// For how long it was not looked for.
    pub(crate) fn unseen(&self) -> Duration {
        self.0.borrow().seen.ago()
    }
}

impl Signing {
    /// The newest that is known, for what we prove ourselves with.
    pub(crate) fn newest(&self) -> Arc<Authority> {
        self.0.borrow().authority.clone()
    }

    /// For what others prove themselves with.
    pub(crate) fn current(&self) -> Result<Arc<Authority>, Stale> {
        let in_force = self.0.borrow();
        if in_force.seen.ago() < STALE_AFTER { Ok(in_force.authority.clone()) } else { Err(Stale) }
    }

    /// Returns once another one is in force; never, if none ever will be. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Seen {
    fn ago(self) -> Duration {
        match self {
            Self::Always => Duration::ZERO,
            Self::At(at) => at.elapsed(),
        }
    }
}
