//! The folder from which the control plane reads: Kubernetes objects, one file each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A folder of manifests. Every change is one rename, as a careful editor does it.
#[derive(Debug, Clone)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    pub(super) fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `<name>.yaml`, whether it was there or not.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        // Hidden until it is whole: the control plane watches the folder.
        let (hidden, path) = (self.dir.join(format!(".{name}.part")), self.path(name));
        fs::write(&hidden, yaml).with_context(|| format!("write {}", hidden.display()))?;
        fs::rename(&hidden, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Removes `<name>.yaml`.
    pub fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.yaml"))
    }
}
