//! Tasks with an owner.

use std::{cell::RefCell, task::Poll};

use tokio::task::{AbortHandle, JoinError, JoinSet};

/// The connections of one pod on one worker. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: RefCell<JoinSet<()>>,
}

impl Tasks {
    /// Must be called within a `LocalSet`.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        // As many leave as come, so the set stays as small as what runs.
        self.let_ended_go();
        self.running.borrow_mut().spawn_local(task)
    }

    fn let_ended_go(&self) {
        while let Some(ended) = self.running.borrow_mut().try_join_next() {
            tell(ended);
        }
    }

    /// Completes when all have ended, also those that are spawned meanwhile.
    pub(crate) async fn idle(&self) {
        std::future::poll_fn(|cx| {
            loop {
                // Not borrowed while the end is told.
                let ended = self.running.borrow_mut().poll_join_next(cx);
                match ended {
                    Poll::Ready(Some(ended)) => tell(ended),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// Whether all have ended.
    pub(crate) fn is_empty(&self) -> bool {
        // A set counts one that has ended until it is taken out.
        self.let_ended_go();
        self.running.borrow().is_empty()
    }

    /// Ends all at once.
    pub(crate) fn abort(&self) {
        self.running.borrow_mut().abort_all();
    }
}

fn tell(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked: this is a bug");
    }
}
