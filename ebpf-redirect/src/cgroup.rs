//! Cgroups of version 2, as folders.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder of the cgroup that we are in.
pub(crate) fn of_ourselves() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no cgroup of version 2");
    let mount = mount(&mounts).ok_or_else(missing)?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).ok_or_else(missing)?;
    Ok(mount.join(path))
}

/// The folder of the cgroup above the one that we are in: of our pod, where we are one of its containers.
pub fn above_ours() -> io::Result<PathBuf> {
    let ours = of_ourselves()?;
    let above = ours.parent().filter(|above| above.join("cgroup.procs").exists());
    let top = || io::Error::new(io::ErrorKind::NotFound, "our own cgroup is the topmost");
    above.map(Path::to_owned).ok_or_else(top)
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

/// The ids of a cgroup and of all below it: the inodes of their folders. None, if it is not there.
pub(crate) fn ids_below(cgroup: &Path) -> io::Result<Vec<u64>> {
    let (mut pending, mut ids) = (vec![cgroup.to_owned()], Vec::new());
    while let Some(path) = pending.pop() {
        let looked = fs::metadata(&path).and_then(|meta| Ok((meta.ino(), fs::read_dir(&path)?)));
        let (id, entries) = match looked {
            // One may go while we look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            looked => looked?,
        };
        ids.push(id);
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(ids)
}
