//! The authority in force, for all who sign with it; it changes while they work.

use std::sync::Arc;

use tokio::sync::watch;
use weft_certs::Authority;

/// Puts another authority in force.
#[derive(Debug)]
pub(crate) struct Signer(watch::Sender<Arc<Authority>>);

/// The authority in force.
#[derive(Debug, Clone)]
pub(crate) struct Signing(watch::Receiver<Arc<Authority>>);

pub(crate) fn signing(authority: Authority) -> (Signer, Signing) {
    let (sender, receiver) = watch::channel(Arc::new(authority));
    (Signer(sender), Signing(receiver))
}

impl Signer {
    pub(crate) fn replace(&self, authority: Authority) {
        self.0.send_replace(Arc::new(authority));
    }
}

impl Signing {
    pub(crate) fn current(&self) -> Arc<Authority> {
        self.0.borrow().clone()
    }

    /// Returns once another one is in force; never, if none ever will be. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
