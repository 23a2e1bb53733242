//! The last good configuration on disk, so that a restart needs no control plane.
//!
//! One file, 0600, replaced whole: resources as they were received, with their versions, so that the next
//! stream brings only differences. Its modification time says until when it was known to be the newest.
//! A file that cannot be used for any reason is as good as none.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use prost::Message;
use weft_xds::{codec::ResourceType, delta::Kept};
use xxhash_rust::xxh64::xxh64;

const FILE_NAME: &str = "configuration";
/// Says what the file is; the number changes with the form.
const MAGIC: &[u8; 8] = b"weftcfg1";
const HEADER_BYTES: usize = 16;
/// What a control plane may send at once, and room for names.
const FILE_BYTES_MAX: u64 = 512 << 20;

#[derive(Clone, PartialEq, Message)]
struct Record {
    /// Of another cluster's configuration nothing would be right.
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<ResourceRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceRecord {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "bytes", tag = "4")]
    body: Bytes,
}

/// Why there is nothing to start with. None of it stops the proxy.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("cannot be read")]
    Io(#[from] io::Error),
    #[error("{0} bytes, more than {FILE_BYTES_MAX}")]
    TooLarge(u64),
    #[error("is not a file of ours, or of another version")]
    NotOurs,
    #[error("is damaged")]
    Damaged,
    #[error("is of cluster `{0}`")]
    OtherCluster(String),
}

/// What was kept, and until when it was the newest.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) resources: Vec<Kept>,
    pub(super) until: SystemTime,
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    path: PathBuf,
    cluster_id: String,
}

impl Disk {
    /// Opens the directory, making it if need be.
    pub(super) fn open(dir: &Path, cluster_id: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { path: dir.join(FILE_NAME), cluster_id: cluster_id.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `None` when nothing was ever kept.
    pub(super) fn load(&self) -> Result<Option<Loaded>, LoadError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let metadata = file.metadata()?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(LoadError::TooLarge(metadata.len()));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let record = decode(bytes.into())?;
        if record.cluster_id != self.cluster_id {
            return Err(LoadError::OtherCluster(record.cluster_id));
        }
        let resources = record.resources.into_iter().filter_map(kept).collect();
        Ok(Some(Loaded { resources, until: metadata.modified()? }))
    }

    /// The bytes of a file that holds these.
    pub(super) fn encode(&self, resources: impl Iterator<Item = Kept>) -> Vec<u8> {
        let mut kept: Vec<_> = resources.collect();
        let url = |kept: &Kept| kept.kind.type_url();
        kept.sort_by(|a, b| (url(a), &a.name).cmp(&(url(b), &b.name)));
        let mut bytes = vec![0; HEADER_BYTES];
        let of_cluster = Record { cluster_id: self.cluster_id.clone(), resources: Vec::new() };
        bytes.extend(of_cluster.encode_to_vec());
        // One by one, as fields of one message: as a value it would be the mesh once more, beside these bytes.
        for kept in kept {
            let resources = vec![ResourceRecord {
                type_url: url(&kept).to_owned(),
                name: kept.name.to_string(),
                version: kept.version.to_string(),
                body: Bytes::copy_from_slice(&kept.body),
            }];
            let one = Record { cluster_id: String::new(), resources };
            bytes.reserve(one.encoded_len());
            one.encode_raw(&mut bytes);
        }
        let (header, body) = bytes.split_at_mut(HEADER_BYTES);
        let (magic, checksum) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        checksum.copy_from_slice(&xxh64(body, 0).to_be_bytes());
        bytes
    }

    /// Replaces the file: a reader, and a start after a power cut, finds the old or the new.
    pub(super) fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        let options =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
        let mut file = options.open(&aside)?;
        file.write_all(bytes)?;
        // Else the name may reach the disk before the content.
        file.sync_all()?;
        fs::rename(&aside, &self.path)
    }

    /// Takes note that what is kept is still the newest.
    pub(super) fn touch(&self, now: SystemTime) -> io::Result<()> {
        File::open(&self.path)?.set_modified(now)
    }
}

/// Bytes in, record or reason out.
fn decode(mut bytes: Bytes) -> Result<Record, LoadError> {
    if bytes.len() < HEADER_BYTES {
        return Err(LoadError::Damaged);
    }
    let header = bytes.split_to(HEADER_BYTES);
    let (magic, checksum) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(LoadError::NotOurs);
    }
    if checksum != xxh64(&bytes, 0).to_be_bytes() {
        return Err(LoadError::Damaged);
    }
    Record::decode(bytes).map_err(|_| LoadError::Damaged)
}

/// A type that we no longer know is passed over.
fn kept(record: ResourceRecord) -> Option<Kept> {
    Some(Kept {
        kind: ResourceType::from_type_url(&record.type_url)?,
        name: record.name.into(),
        version: record.version.into(),
        body: record.body.as_ref().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept_one() -> Kept {
        Kept {
            kind: ResourceType::Address,
            name: "a".into(),
            version: "1".into(),
            body: b"body".as_slice().into(),
        }
    }

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("state"), "c1").unwrap();
        (dir, disk)
    }

    #[test]
    fn what_is_kept_is_found_again_and_only_by_its_cluster() {
        let (_dir, disk) = disk();
        assert!(disk.load().unwrap().is_none());
        disk.replace(&disk.encode([kept_one()].into_iter())).unwrap();
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        disk.touch(then).unwrap();
        let loaded = disk.load().unwrap().unwrap();
        assert_eq!((loaded.resources, loaded.until), (vec![kept_one()], then));

        let other = Disk { cluster_id: "c2".into(), ..disk };
        assert_eq!(other.load().unwrap_err().to_string(), "is of cluster `c1`");
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_is_refused() {
        let (_dir, disk) = disk();
        let whole = disk.encode([kept_one()].into_iter());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(decode(changed.into()).is_err(), "byte {at} changed");
            assert!(decode(whole[..at].to_vec().into()).is_err(), "cut at {at}");
        }
        assert!(decode(whole.into()).is_ok());
    }
}
