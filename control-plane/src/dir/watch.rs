//! When to look at the folder again.

use std::{path::Path, time::Duration};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time};

/// An editor or `git checkout` writes several times; one look after it has come to rest is enough. A file that is
/// caught half written keeps its last good form, so this saves looks and no more, and every change waits for it.
const QUIET: Duration = Duration::from_millis(10);
/// A folder that never comes to rest is looked at all the same.
const DEBOUNCE_MAX: Duration = Duration::from_secs(1);
/// Looked at without any event: network file systems have none, and inotify's queue can overflow.
const UNPROMPTED: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error("cannot watch {folder}")]
pub struct WatchError {
    folder: String,
    #[source]
    source: notify::Error,
}

/// Tells when something in a folder may have changed.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Receiver<()>,
    // Holds the kernel's watch; dropped with us.
    _watch: RecommendedWatcher,
}

impl Watcher {
    /// Begin to watch before the first read, or a change between the two is seen only at the next look.
    pub fn new(folder: &Path) -> Result<Self, WatchError> {
        let failed = |source| WatchError { folder: folder.display().to_string(), source };
        let (sender, events) = mpsc::channel(1);
        // Full means that a look is due already.
        let mut watch = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|e| !e.kind.is_access()) {
                sender.try_send(()).ok();
            }
        })
        .map_err(failed)?;
        watch.watch(folder, RecursiveMode::Recursive).map_err(failed)?;
        Ok(Self { events, _watch: watch })
    }

    /// Returns when a look is due. Cancel safe.
    pub async fn changed(&mut self) {
        if time::timeout(UNPROMPTED, self.events.recv()).await.is_err() {
            return;
        }
        let settle = async {
            while time::timeout(QUIET, self.events.recv()).await.is_ok_and(|e| e.is_some()) {}
        };
        time::timeout(DEBOUNCE_MAX, settle).await.ok();
    }
}
