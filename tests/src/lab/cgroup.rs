//! A cgroup: what the redirect programs are attached to, and by which its processes are found again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};

use super::{Ground, SHORT, wait_for};

/// A cgroup of the v2 hierarchy; its processes are killed and it is removed when dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    ground: Arc<Ground>,
}

impl Cgroup {
    /// `name` below the lab's prefix, such as `a/pods/client`.
    pub(super) fn new(ground: &Arc<Ground>, name: &str) -> Result<Self> {
        let path = hierarchy()?.join(&ground.prefix).join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path, ground: ground.clone() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Kills its processes and removes it.
    pub(super) fn clear(&self) {
        remove(&self.path);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.ground.is_kept() {
            self.clear();
        }
    }
}

/// Where cgroup v2 is mounted: alone, or beside v1 as on a hybrid machine.
pub(super) fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
    });
    found.context("no cgroup v2 is mounted: run `cargo xtask setup`")
}

/// Kills what is inside and removes the cgroup with those below it.
pub(super) fn remove(path: &Path) {
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path());
    }
    // A killed process leaves its cgroup only when the kernel has buried it.
    let _ = wait_for("the cgroup is empty", SHORT, || fs::remove_dir(path).ok());
}
