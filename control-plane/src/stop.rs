//! The word that the process is to end.

use tokio::sync::watch;

/// Says it.
#[derive(Debug)]
pub(crate) struct Stopper(watch::Sender<bool>);

/// Hears it.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

pub(crate) fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns once it was said, or when there is nobody left to say it. Cancel safe.
    pub(crate) async fn stopped(&mut self) {
        self.0.wait_for(|stop| *stop).await.ok();
    }
}
