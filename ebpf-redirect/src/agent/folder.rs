//! The folder of enrolled pods: one file each, and what became of it beside.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::pod::{PodUid, UidError};
use crate::sys;

/// A pod file's content. Write it under another name and rename it, so that it is never seen half.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PodFile {
    /// The pod's UID, also the file's name.
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    /// Its network namespace's file.
    pub(super) netns: PathBuf,
    /// Whether its name lookups are captured. Default: yes.
    #[serde(default = "on")]
    pub(super) dns_capture: bool,
}

fn on() -> bool {
    true
}

/// Why a file in the folder is not a pod.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("pod file {path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("pod file {path} is not what it should be")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("pod file {path} is for uid {uid:?}, which is not its name")]
    Name { path: PathBuf, uid: String },
    #[error("pod file {path} has no usable name")]
    Uid { path: PathBuf, source: UidError },
}

/// What became of a pod, written beside its file as `<uid>.status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub(super) enum Status {
    /// The kernel captures; connections wait, since no proxy has confirmed yet.
    Captured { error: Option<String> },
    /// A proxy has confirmed.
    Ready { error: Option<String> },
    /// Un-enrolled; connections that were captured before run on.
    Draining { error: Option<String> },
    /// Not captured, for this reason. Tried again.
    Failed { error: Option<String> },
}

/// The watched folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    watch: AsyncFd<OwnedFd>,
}

impl Folder {
    /// Watches from here on; what is there already is for the first [`Self::read`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, path, events)?;
        Ok(Self { path: path.to_owned(), watch: sys::watched(watch)? })
    }

    /// Waits until a pod's file came, changed or went. Cancel safe.
    pub(super) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.watch.readable().await?;
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(self.watch.get_ref(), &mut space);
            let mut pods = false;
            loop {
                match events.next() {
                    // No name: the queue overflowed, so anything may have changed.
                    Ok(event) => {
                        pods |= event.file_name().is_none_or(|name| is_pod(name.to_bytes()));
                    }
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if pods {
                return Ok(());
            }
        }
    }

    /// The pods that are to be enrolled, and the files that name none.
    pub(super) fn read(&self) -> io::Result<(BTreeMap<PodUid, PodFile>, Vec<FileError>)> {
        let (mut pods, mut bad) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if !is_pod(entry.file_name().as_encoded_bytes()) {
                continue;
            }
            match read(&entry.path()) {
                Ok((uid, pod)) => {
                    pods.insert(uid, pod);
                }
                // It went while we looked.
                Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                }
                Err(error) => bad.push(error),
            }
        }
        Ok((pods, bad))
    }

    /// Says what became of a pod.
    pub(super) fn write_status(&self, uid: &PodUid, status: &Status) -> io::Result<()> {
        let text = serde_json::to_vec(status)?;
        let hidden = self.path.join(format!(".{uid}.status.json"));
        fs::write(&hidden, text)?;
        fs::rename(&hidden, self.status(uid))
    }

    /// The pod is no concern of ours any more.
    pub(super) fn remove_status(&self, uid: &PodUid) -> io::Result<()> {
        match fs::remove_file(self.status(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn status(&self, uid: &PodUid) -> PathBuf {
        self.path.join(format!("{uid}.status.json"))
    }
}

/// Our own status files, hidden and foreign ones are none.
fn is_pod(name: &[u8]) -> bool {
    name.ends_with(b".json") && !name.ends_with(b".status.json") && !name.starts_with(b".")
}

fn read(path: &Path) -> Result<(PodUid, PodFile), FileError> {
    let path = path.to_owned();
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(FileError::Read { path, source }),
    };
    let pod: PodFile = match serde_json::from_slice(&text) {
        Ok(pod) => pod,
        Err(source) => return Err(FileError::Parse { path, source }),
    };
    if path.file_stem() != Some(OsStr::new(&pod.uid)) {
        return Err(FileError::Name { path, uid: pod.uid });
    }
    match PodUid::parse(&pod.uid) {
        Ok(uid) => Ok((uid, pod)),
        Err(source) => Err(FileError::Uid { path, source }),
    }
}
