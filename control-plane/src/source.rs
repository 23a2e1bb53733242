//! Where the objects come from: a folder or an API server, into the same index.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use anyhow::{Context, Result};
use tracing::{info, warn};

use crate::{
    data::Data,
    dir::{Folder, Watcher},
    mesh::Known,
    validate::problems,
    watch::{self, Access, Watches},
};

/// One of two.
#[derive(Debug, Clone)]
pub enum Source {
    /// A folder of manifests; it is watched.
    Folder(PathBuf),
    Kubernetes(Access),
}

/// Brings what is there and what changes into the index, until it is dropped or can go on no more.
pub(crate) type Feed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Begins to read. A folder has been read when this returns; a cluster is read by the feed.
pub(crate) async fn begin(
    source: &Source,
    data: &Data,
    known: Arc<Known>,
    watches: Arc<Watches>,
) -> Result<(&'static str, Feed)> {
    match source {
        Source::Folder(dir) => {
            let events = Watcher::new(dir)?;
            let folder = Folder::new(dir).remembering(data.last_good()?);
            let folder = look(folder, &known).await?;
            info!(dir = %dir.display(), "folder is read");
            Ok(("the watch of the folder", Box::pin(follow(folder, events, known))))
        }
        Source::Kubernetes(access) => {
            let client = watch::connect(access).await?;
            Ok(("the watch of the API server", Box::pin(watch::follow(client, known, watches))))
        }
    }
}

/// Looks at the folder whenever something may have changed; ends only when it can look no more.
async fn follow(mut folder: Folder, mut events: Watcher, known: Arc<Known>) {
    let mut readable = true;
    loop {
        events.changed().await;
        let root = folder.root().to_owned();
        let (back, result) = look_once(folder, &known).await;
        let Some(back) = back else { return };
        folder = back;
        if let Err(error) = &result
            && readable
        {
            let root = root.display();
            warn!(%root, error = %error, "folder cannot be read: its last good state stays");
        }
        readable = result.is_ok();
    }
}

async fn look(folder: Folder, known: &Arc<Known>) -> Result<Folder> {
    let root = folder.root().to_owned();
    let (folder, result) = look_once(folder, known).await;
    result.with_context(|| format!("cannot read the folder {}", root.display()))?;
    folder.context("reading the folder has failed")
}

/// On a thread that may block. `None`: it panicked, and the folder with it.
async fn look_once(
    mut folder: Folder,
    known: &Arc<Known>,
) -> (Option<Folder>, std::io::Result<()>) {
    let known = known.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let result = folder.read().map(|difference| {
            known.apply(&difference);
            let resources = known.publish(|index| problems(&folder, index));
            if resources > 0 {
                let objects = difference.apply.len() + difference.delete.len();
                info!(objects, resources, "configuration changed");
            }
        });
        (folder, result)
    });
    match looked.await {
        Ok((folder, result)) => (Some(folder), result),
        Err(error) => (None, Err(std::io::Error::other(error))),
    }
}
