//! Tasks with an owner.

use std::{cell::RefCell, task::Poll};

use tokio::task::{AbortHandle, JoinSet};

/// The connections of one pod on one worker. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: RefCell<JoinSet<()>>,
}

impl Tasks {
    /// Must be called within a `LocalSet`.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        let mut running = self.running.borrow_mut();
        // Those that have ended leave here: as many as come, so the set stays as small as what runs.
        while let Some(ended) = running.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a connection's task panicked: this is a bug");
            }
        }
        running.spawn_local(task)
    }

    /// Completes when all have ended, also those that are spawned meanwhile.
    pub(crate) async fn idle(&self) {
        std::future::poll_fn(|cx| {
            while let Poll::Ready(Some(_)) = self.running.borrow_mut().poll_join_next(cx) {}
            if self.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.borrow().is_empty()
    }

    /// Ends all at once.
    pub(crate) fn abort(&self) {
        self.running.borrow_mut().abort_all();
    }
}
