//! In which cgroup a process is, as a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the cgroup (version 2) that a process is in; `self` for our own.
pub(crate) fn of_process(process: &str) -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no cgroup of version 2");
    let mount = mount(&mounts).ok_or_else(missing)?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).ok_or_else(missing)?;
    Ok(mount.join(path))
}

/// Where a cgroup hierarchy of version 2 is mounted, by the text of `/proc/mounts`.
///
/// Beside version 1 that is `/sys/fs/cgroup/unified` or anywhere else, alone `/sys/fs/cgroup`.
pub(crate) fn mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// Whether a cgroup is another one or below it.
pub(crate) fn is_below(cgroup: &Path, ancestor: &Path) -> bool {
    match (cgroup.canonicalize(), ancestor.canonicalize()) {
        (Ok(cgroup), Ok(ancestor)) => cgroup.starts_with(ancestor),
        _ => false,
    }
}
