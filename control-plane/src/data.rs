//! The data folder: the root's key, its certificate for all to read, the key of node tokens, and what manifests
//! said when they last were good.
//!
//! A root is made once. If half of it is missing, nodes may still trust the other half: then we say so and
//! stop, and never make a new one.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
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
        let (key_path, certificate_path) = (self.path(ROOT_KEY), self.path(ROOT_CERTIFICATE));
        let unusable =
            |source| DataError::Root { folder: self.folder.clone(), source: Box::new(source) };
        let half = |missing: &Path, present: &Path| DataError::HalfARoot {
            missing: missing.to_owned(),
            present: present.to_owned(),
        };
        match (read_secret(&key_path)?, read(&certificate_path)?) {
            (Some(key), Some(roots)) => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                Authority::from_pem(domain, &text(&roots), &text(&key)).map_err(unusable)
            }
            (None, Some(_)) => Err(half(&key_path, &certificate_path)),
            (Some(_), None) => Err(half(&certificate_path, &key_path)),
            (None, None) => {
                let authority = Authority::new(domain, now).map_err(unusable)?;
                write_new(&key_path, authority.key_pem().as_bytes(), 0o600)?;
                write_new(&certificate_path, authority.bundle().to_pem().as_bytes(), 0o644)?;
                Ok(authority)
            }
        }
    }

    /// Signs and verifies node tokens with the key that is kept here, made when it is first needed.
    pub fn tokens(&self) -> Result<Tokens, DataError> {
        let path = self.path(TOKEN_KEY);
        if read_secret(&path)?.is_none() {
            let mut key = [0; KEY_BYTES];
            aws_lc_rs::rand::fill(&mut key).map_err(|_| DataError::Random)?;
            match write_new(&path, &key, 0o600) {
                // Another process was first: its key counts.
                Err(DataError::Io { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
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

/// Whole or not at all, and never over a file that is there: a link, unlike a rename, replaces nothing.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DataError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || {
        // Left over from a process with our id, at best.
        fs::remove_file(&temporary).ok();
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary)?;
        linked
    };
    write().map_err(|source| io_error("write", path, source))
}

#[cfg(test)]
mod tests;
