//! The last good text of each file, on disk: what a file said before it broke must outlive a restart.
//!
//! Without it a control plane that starts while a file is broken would serve nothing of that file, its policies
//! included: that fails open.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};

/// A folder of texts, one for each file of manifests.
#[derive(Debug)]
pub struct LastGood {
    folder: PathBuf,
}

impl LastGood {
    /// Makes the folder if there is none. Manifests may be nobody else's business: it is ours alone.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Of the file with this name. `None`: it never was good, or what is kept cannot be read.
    pub(super) fn text(&self, name: &Path) -> Option<Vec<u8>> {
        fs::read(self.path(name)).ok()
    }

    /// Whole or not at all, and on the disk when it returns.
    pub(super) fn keep(&self, name: &Path, text: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        // Writing wakes the disk and wears it; most starts change nothing.
        if fs::read(&path).is_ok_and(|kept| kept == text) {
            return Ok(());
        }
        let temporary = self.folder.join(format!(".{}", std::process::id()));
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Forgets all other files.
    pub(super) fn retain(&self, names: &[PathBuf]) -> io::Result<()> {
        let wanted: BTreeSet<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if !wanted.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// By hash: a name with its folders may be longer than one entry of a folder, and hold any byte.
    pub(super) fn path(&self, name: &Path) -> PathBuf {
        let hash = digest(&SHA256, name.as_os_str().as_bytes());
        let mut entry = String::with_capacity(64);
        for byte in hash.as_ref() {
            write!(entry, "{byte:02x}").ok();
        }
        self.folder.join(entry)
    }
}
