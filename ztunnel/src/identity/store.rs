//! Keys and certificates on disk, so that a restart needs no CA.
//!
//! One file an identity, 0600, in a directory of 0700, replaced whole. A file that cannot be used for any
//! reason (torn, expired, of another identity) is as good as none: it is deleted and the CA is asked.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tracing::warn;
use weft_certs::{KeyPair, Svid};
use weft_model::Identity;
use zeroize::{Zeroize as _, Zeroizing};

use super::error::StoreError;
use crate::causes::chain;

const EXTENSION: &str = "svid";

/// Longest file name that every file system takes, less the extension.
const NAME_BYTES_MAX: usize = 240;

/// The largest file that is read: a chain of the largest size, thrice.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// A directory of certificates.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    identity: Identity,
    key: String,
    /// Leaf, intermediates, and last the roots.
    chain: Vec<String>,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Store {
    /// Opens the directory, making it if need be; nobody else may look into it afterwards.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// All that is good at `now`. The rest is deleted: a key without use is only a risk.
    pub(super) fn load(&self, now: SystemTime) -> HashMap<Identity, Arc<Svid>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(dir = %self.dir.display(), %error, "certificates on disk cannot be listed");
                return HashMap::new();
            }
        };
        let mut found = HashMap::new();
        for path in entries.filter_map(Result::ok).map(|e| e.path()) {
            match read(&path, now) {
                Ok(svid) => {
                    found.insert(svid.identity().clone(), Arc::new(svid));
                }
                Err(reason) => {
                    warn!(file = %path.display(), reason, "certificate on disk is not usable");
                    // Nothing follows from a failure: the file is refused again at the next start.
                    let _ = fs::remove_file(&path);
                }
            }
        }
        found
    }

    pub(super) fn save(&self, svid: &Svid) -> Result<(), StoreError> {
        let path = self.path(svid.identity());
        let record = Record {
            identity: svid.identity().clone(),
            key: svid.key_pem().to_string(),
            chain: svid.chain_pem(),
        };
        replace(&path, &record).map_err(|source| StoreError::Io { path, source })
    }

    pub(super) fn remove(&self, identity: &Identity) -> Result<(), StoreError> {
        let path = self.path(identity);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    fn path(&self, identity: &Identity) -> PathBuf {
        self.dir.join(format!("{}.{EXTENSION}", file_name(identity)))
    }
}

/// Readable, and one path component whatever is in it: no part of an identity may hold a `+` or a `/`.
fn file_name(identity: &Identity) -> String {
    let name = identity.principal().replace('/', "+");
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    // Two names may share a file then; the record says whose it is, so this costs a request, no more.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    name.chars().take(NAME_BYTES_MAX - 17).chain(format!("+{hash:016x}").chars()).collect()
}

fn read(path: &Path, now: SystemTime) -> Result<Svid, String> {
    // A file that was being written when the process ended.
    if path.extension().is_none_or(|e| e != EXTENSION) {
        return Err("it was not finished".to_owned());
    }
    let bytes = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{bytes} bytes, more than {FILE_BYTES_MAX}"));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|e| e.to_string())?);
    // The reader's error is not shown with its value: it could be the key.
    let record: Record = serde_json::from_str(&text)
        .map_err(|e| format!("line {} column {} cannot be read", e.line(), e.column()))?;
    let key = KeyPair::from_pem(&record.key).map_err(|e| e.to_string())?;
    Svid::from_pem(&record.identity, key, &record.chain, now).map_err(|e| chain(&e))
}

/// Written aside and renamed, so that a reader sees the old or the new. Not synced: after a power cut the
/// CA is asked again.
fn replace(path: &Path, record: &Record) -> io::Result<()> {
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    // Room for all of it at once: a buffer that grows leaves copies of the key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(64 * 1024));
    serde_json::to_writer(&mut *text, record)?;
    file.write_all(&text)?;
    fs::rename(&aside, path)
}
