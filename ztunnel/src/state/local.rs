//! Configuration from a file, in the form of `/config_dump`.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use weft_model::{Change, ResourceKey, dump::Dump};

/// A mounted `ConfigMap` is swapped through symbolic links, which a watch on the file itself does not see; to
/// look four times a second costs nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why the file was not taken. Nothing of it is in use then.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocalError {
    #[error("{path} cannot be read")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {bytes} bytes, more than {FILE_BYTES_MAX}")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path}: {reason}")]
    Content { path: PathBuf, reason: String },
}

/// The file, looked at until it changes.
#[derive(Debug)]
pub(super) struct LocalSource {
    path: PathBuf,
    seen: Option<Seen>,
    /// What the file put in force, to be taken away when it is no longer in it.
    keys: HashSet<ResourceKey>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    File { modified: Option<SystemTime>, bytes: u64, inode: u64 },
    Nothing(io::ErrorKind),
}

impl LocalSource {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, keys: HashSet::new() }
    }

    /// What is different from the form before, once the file is. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Vec<Change>, LocalError> {
        loop {
            let there = look(&self.path);
            if self.seen.as_ref() != Some(&there) {
                self.seen = Some(there);
                return read(&self.path).map(|changes| self.replace(changes));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn replace(&mut self, mut changes: Vec<Change>) -> Vec<Change> {
        let keys: HashSet<_> = changes.iter().map(Change::key).collect();
        changes.extend(self.keys.difference(&keys).cloned().map(Change::Remove));
        self.keys = keys;
        changes
    }
}

fn look(path: &Path) -> Seen {
    use std::os::unix::fs::MetadataExt as _;
    match fs::metadata(path) {
        Ok(m) => Seen::File { modified: m.modified().ok(), bytes: m.len(), inode: m.ino() },
        Err(e) => Seen::Nothing(e.kind()),
    }
}

fn read(path: &Path) -> Result<Vec<Change>, LocalError> {
    let failed = |source| LocalError::Io { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(LocalError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|reason| LocalError::Content { path: path.to_owned(), reason })
}

/// JSON or YAML, told apart by the first character.
fn parse(text: &str) -> Result<Vec<Change>, String> {
    let dump: Dump = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|e| e.to_string())?
    } else {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())?
    };
    dump.into_changes().map_err(|e| match std::error::Error::source(&e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use weft_model::{View, WorkloadUid};

    use super::*;

    const TWO: &str = "
workloads:
- {uid: K//Pod/shop/a, name: a, namespace: shop, serviceAccount: a, protocol: HBONE}
- {uid: K//Pod/shop/b, name: b, namespace: shop, serviceAccount: b, protocol: TCP}
";

    #[tokio::test]
    async fn what_leaves_the_file_is_removed_and_the_same_is_not_read_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, TWO).unwrap();
        let mut source = LocalSource::new(path.clone());
        let mut view: View = source.next().await.unwrap().into_iter().collect();
        assert_eq!(view.workloads().count(), 2);

        let json = r#"{"workloads":[{"uid":"K//Pod/shop/a","name":"a","namespace":"shop",
            "serviceAccount":"a","protocol":"HBONE"}]}"#;
        fs::write(&path, json).unwrap();
        for change in source.next().await.unwrap() {
            view.apply(change);
        }
        let left: Vec<_> = view.workloads().map(|w| w.uid.clone()).collect();
        assert_eq!(left, [WorkloadUid::new("K//Pod/shop/a").unwrap()]);

        let unchanged = tokio::time::timeout(LOOK_EVERY * 2, source.next()).await;
        assert!(unchanged.is_err(), "{unchanged:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_not_understood_or_not_there_is_an_error_and_forgets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, TWO).unwrap();
        let mut source = LocalSource::new(path.clone());
        source.next().await.unwrap();
        fs::write(&path, "workloads: [{uid: 1").unwrap();
        assert!(matches!(source.next().await, Err(LocalError::Content { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(source.next().await, Err(LocalError::Io { .. })));
        assert_eq!(source.keys.len(), 2);
    }
}
