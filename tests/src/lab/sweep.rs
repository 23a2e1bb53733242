//! Removing a lab by its prefix alone: after `--keep`, and after a test process that was killed.

use std::{fs, path::Path, process::Command};

use super::{cgroup, namespace::FILES};

/// Removes all that carries the prefix: processes, cgroups, namespaces, pins and files.
pub fn sweep(prefix: &str) {
    if let Ok(hierarchy) = cgroup::hierarchy() {
        cgroup::remove(&hierarchy.join(prefix));
    }
    let mine = format!("{prefix}-");
    for name in names(Path::new("/run/netns")).iter().filter(|name| name.starts_with(&mine)) {
        let _ = Command::new("ip").args(["netns", "del", name]).status();
    }
    for of_all in ["/sys/fs/bpf", FILES].map(Path::new) {
        for name in names(of_all).iter().filter(|name| name.starts_with(&mine)) {
            let _ = fs::remove_dir_all(of_all.join(name));
        }
    }
    let _ = fs::remove_dir_all(std::env::temp_dir().join(prefix));
}

/// Sweeps labs whose process is no more.
pub(super) fn dead_labs() {
    let cgroups = cgroup::hierarchy().map(|path| names(&path)).unwrap_or_default();
    let namespaces = names(Path::new("/run/netns"));
    for name in namespaces.into_iter().chain(cgroups).chain(names(&std::env::temp_dir())) {
        let mut parts = name.split('-');
        let (Some("weft"), Some(pid), Some(n)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let is_number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if is_number(pid) && is_number(n) && !Path::new("/proc").join(pid).exists() {
            sweep(&format!("weft-{pid}-{n}"));
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
