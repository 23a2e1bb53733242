//! The data folder: the root's key, its certificate for all to read, the key of node tokens, and what manifests
//! said when they last were good.
//!
//! A root is made once. If half of it is missing, nodes may still trust the other half: then we say so and
//! stop, and never make a new one.
//!
//! Whoever is killed here leaves a folder that the next start finishes: the certificate is on the disk under
//! another name before the key is there at all, and the key is what makes a root exist.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use weft_certs::{Authority, IssueError};
use weft_model::TrustDomain;

use crate::{
    dir::LastGood,
    token::{KEY_BYTES, Tokens},
};

const ROOT_KEY: &str = "ca-key.pem";
const ROOT_CERTIFICATE: &str = "root-cert.pem";
const TOKEN_KEY: &str = "node-token.key";
const LAST_GOOD: &str = "last-good";

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot {doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{missing} is missing but {present} is there: nodes may trust that root. Restore the file, or, to begin \
         with a new root that every node must be given, remove {present}"
    )]
    HalfARoot { missing: PathBuf, present: PathBuf },
    #[error("{path} can be read by others (mode {mode:o}): chmod 600 it")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} holds {bytes} bytes, not {KEY_BYTES}")]
    TokenKey { path: PathBuf, bytes: usize },
    #[error("the root in {folder} cannot be used")]
    Root {
        folder: PathBuf,
        #[source]
        // Boxed: it is large, and every other error would be as large.
        source: Box<IssueError>,
    },
    #[error("no random bytes")]
    Random,
}

/// A data folder that exists.
#[derive(Debug)]
pub struct Data {
    folder: PathBuf,
}

impl Data {
    /// Makes the folder if there is none.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        // Everybody may look in: the root's certificate is for all. The keys have their own modes.
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|source| io_error("make", folder, source))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The root that is kept here, or a new one if there never was any.
    pub fn authority(&self, domain: &TrustDomain, now: SystemTime) -> Result<Authority, DataError> {
        let _alone = self.lock()?;
        let (key_path, certificate_path) = (self.path(ROOT_KEY), self.path(ROOT_CERTIFICATE));
        let unusable =
            |source| DataError::Root { folder: self.folder.clone(), source: Box::new(source) };
        let half = |missing: &Path, present: &Path| DataError::HalfARoot {
            missing: missing.to_owned(),
            present: present.to_owned(),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let from = |roots: &[u8], key: &[u8]| Authority::from_pem(domain, &text(roots), &text(key));
        let staged = staging(&certificate_path);
        let authority = match (read_secret(&key_path)?, read(&certificate_path)?) {
            (Some(key), Some(roots)) => from(&roots, &key).map_err(unusable)?,
            (None, Some(_)) => return Err(half(&key_path, &certificate_path)),
            (Some(key), None) => {
                // Killed between the two, if the certificate that waits there is this key's.
                let made = read(&staged)?.and_then(|roots| from(&roots, &key).ok());
                let authority = made.ok_or_else(|| half(&certificate_path, &key_path))?;
                publish(&staged, &certificate_path)?;
                authority
            }
            (None, None) => {
                let authority = Authority::new(domain, now).map_err(unusable)?;
                stage(&staged, authority.bundle().to_pem().as_bytes(), 0o644)?;
                write_new(&key_path, authority.key_pem().as_bytes(), 0o600)?;
                publish(&staged, &certificate_path)?;
                authority
            }
        };
        // What a killed process left: a second name of the key, or a root that never was.
        for path in [&key_path, &certificate_path] {
            remove_leftover(&staging(path))?;
        }
        Ok(authority)
    }

    /// One process at a time, until this is dropped or the process ends.
    fn lock(&self) -> Result<File, DataError> {
        let lock = || {
            let folder = File::open(&self.folder)?;
            folder.lock()?;
            Ok(folder)
        };
        lock().map_err(|source| io_error("lock", &self.folder, source))
    }

    /// Signs and verifies node tokens with the key that is kept here, made when it is first needed.
    pub fn tokens(&self) -> Result<Tokens, DataError> {
        let _alone = self.lock()?;
        let path = self.path(TOKEN_KEY);
        if read_secret(&path)?.is_none() {
            let mut key = [0; KEY_BYTES];
            aws_lc_rs::rand::fill(&mut key).map_err(|_| DataError::Random)?;
            write_new(&path, &key, 0o600)?;
        }
        remove_leftover(&staging(&path))?;
        let key = read_secret(&path)?.unwrap_or_default();
        let bytes = key.len();
        let key = key.try_into().map_err(|_| DataError::TokenKey { path, bytes })?;
        Ok(Tokens::new(&key))
    }

    /// Where the last good text of each manifest is kept.
    pub fn last_good(&self) -> Result<LastGood, DataError> {
        let path = self.path(LAST_GOOD);
        LastGood::open(&path).map_err(|source| io_error("make", &path, source))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> DataError {
    DataError::Io { doing, path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn read_secret(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    let bytes = read(path)?;
    if bytes.is_some() {
        let metadata = fs::metadata(path).map_err(|source| io_error("read", path, source))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(DataError::Exposed { path: path.to_owned(), mode });
        }
    }
    Ok(bytes)
}

/// Where a file is written before it gets its name. Only who holds the lock writes there.
fn staging(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Writes a file's bytes to the disk, over what a killed process left there.
fn stage(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DataError> {
    let write = || {
        fs::remove_file(path).or_else(absent)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        sync_folder_of(path)
    };
    write().map_err(|source| io_error("write", path, source))
}

/// Gives a staged file its name. Never over a file that is there: a link, unlike a rename, replaces nothing.
fn publish(staged: &Path, path: &Path) -> Result<(), DataError> {
    let publish = || {
        fs::hard_link(staged, path)?;
        fs::remove_file(staged)?;
        sync_folder_of(path)
    };
    publish().map_err(|source| io_error("write", path, source))
}

/// Whole or not at all, and never over a file that is there.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DataError> {
    let staged = staging(path);
    stage(&staged, bytes, mode)?;
    publish(&staged, path)
}

fn remove_leftover(path: &Path) -> Result<(), DataError> {
    fs::remove_file(path).or_else(absent).map_err(|source| io_error("remove", path, source))
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// A name is on the disk when its folder is.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests;
