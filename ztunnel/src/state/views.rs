//! The picture of the mesh in use, for all who decide by it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_model::View;

use super::status::{Readiness, Status};

/// A handle on the newest View. Cheap to clone, and good on any thread and runtime.
#[derive(Clone, Debug)]
pub struct Views {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Beside the channel, which takes a lock: every connection asks for the current View.
    current: ArcSwap<View>,
    newest: watch::Sender<Arc<View>>,
    status: watch::Sender<Status>,
}

/// The only maker of newer Views.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
}

impl Views {
    /// Starts with a View, and hands out the means to replace it.
    pub fn new(view: View, status: Status) -> (Self, Publisher) {
        let view = Arc::new(view);
        let shared = Arc::new(Shared {
            current: ArcSwap::new(view.clone()),
            newest: watch::Sender::new(view),
            status: watch::Sender::new(status),
        });
        (Self { shared: shared.clone() }, Publisher { shared })
    }

    /// The View to decide everything of one connection or exchange by. No lock is taken.
    pub fn current(&self) -> Arc<View> {
        self.shared.current.load_full()
    }

    /// Waits for a View newer than `generation`. Cancel safe. Bound it: a newer one may never come.
    pub async fn newer(&self, generation: u64) -> Arc<View> {
        let mut views = self.subscribe();
        match views.wait_for(|view| view.generation() > generation).await {
            Ok(view) => view.clone(),
            // Cannot be: the sender lives as long as this handle.
            Err(_) => self.current(),
        }
    }

    /// Every View from now on; ones that nobody looked at in time are skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.shared.newest.subscribe()
    }

    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    pub fn subscribe_status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    pub fn readiness(&self) -> Readiness {
        self.shared.status.borrow().readiness()
    }

    /// How long the configuration has been without confirmation; `None` when there is none.
    pub fn config_age(&self, now: SystemTime) -> Option<Duration> {
        self.shared.status.borrow().current.age(now)
    }
}

impl Publisher {
    /// Replaces the View. One that is not newer is the same, and wakes nobody.
    pub fn publish(&self, view: &View) {
        if view.generation() == self.shared.current.load().generation() {
            return;
        }
        let view = Arc::new(view.clone());
        self.shared.current.store(view.clone());
        self.shared.newest.send_replace(view);
    }

    /// Wakes whoever waits for a status, if this one is different.
    pub fn set_status(&self, status: &Status) {
        self.shared.status.send_if_modified(|shown| {
            let different = shown != status;
            if different {
                shown.clone_from(status);
            }
            different
        });
    }
}
