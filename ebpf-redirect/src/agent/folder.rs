//! The folder of enrolled pods: one file each, and what became of it beside.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tracing::error;

use super::chain;
use super::wanted::{Status, Wanted, WantedPod};
use crate::inotify::Inotify;
use crate::netlink::DnsCapture;
use crate::pod::{PodUid, UidError};

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
    /// Addresses that the namespace must have, or it is another pod's. Default: whatever it has.
    #[serde(default)]
    pub(super) addresses: Vec<IpAddr>,
}

fn on() -> bool {
    true
}

impl From<PodFile> for WantedPod {
    fn from(file: PodFile) -> Self {
        Self {
            namespace: file.namespace,
            name: file.name,
            service_account: file.service_account,
            netns: file.netns,
            dns: if file.dns_capture { DnsCapture::On } else { DnsCapture::Off },
            addresses: file.addresses,
        }
    }
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

impl FileError {
    /// The pod that the file is for, by its name.
    fn uid(&self) -> Option<PodUid> {
        let (Self::Read { path, .. }
        | Self::Parse { path, .. }
        | Self::Name { path, .. }
        | Self::Uid { path, .. }) = self;
        PodUid::parse(path.file_stem()?.to_str()?).ok()
    }
}

/// The watched folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    watch: Inotify,
    /// Said already.
    bad: HashSet<String>,
}

impl Folder {
    /// Watches from here on; what is there already is for the first [`Self::read`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), watch: Inotify::open(&[path])?, bad: HashSet::new() })
    }

    /// Waits until a pod's file came, changed or went. Cancel safe.
    pub(super) async fn changed(&self) -> io::Result<()> {
        self.watch.changed(is_pod).await
    }

    /// The pods that are to be enrolled. A file that names none is reported once; the pod whose it is stays as it is,
    /// since what cannot be read is not gone.
    pub(super) fn wanted(&mut self) -> io::Result<Wanted> {
        let (pods, bad) = self.read()?;
        let elsewhere = bad.iter().filter_map(FileError::uid).collect();
        let bad: HashSet<String> = bad.iter().map(|error| chain(error)).collect();
        for error in bad.difference(&self.bad) {
            error!(
                error,
                "a file in the pods folder is no pod's: what was captured by its name stays"
            );
        }
        self.bad = bad;
        let pods = pods.into_iter().map(|(uid, file)| (uid, file.into())).collect();
        Ok(Wanted { pods, elsewhere, ..Wanted::default() })
    }

    /// The pods' files, and those that are none.
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
