//! What `/proc` says of processes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// The folder of the oldest process that is as asked. One that ends while it is looked at is not.
pub(crate) fn oldest(proc: &Path, is: impl Fn(&Path) -> bool) -> io::Result<Option<PathBuf>> {
    let mut oldest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(proc)? {
        let process = entry?.path();
        if !is_process(&process) || !is(&process) {
            continue;
        }
        let Some(start) = start_time(&process) else { continue };
        if oldest.as_ref().is_none_or(|(before, _)| start < *before) {
            oldest = Some((start, process));
        }
    }
    Ok(oldest.map(|(_, process)| process))
}

/// The file of a process's network namespace.
pub(crate) fn netns(process: &Path) -> PathBuf {
    process.join("ns/net")
}

/// Device and inode of the namespace that a process is in, unless it has ended.
pub(crate) fn netns_identity(process: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(netns(process)).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The process of which a file is the network namespace.
pub(crate) fn of_netns(path: &Path) -> Option<&Path> {
    let process = path.parent().filter(|_| path.ends_with("ns/net"))?.parent()?;
    is_process(process).then_some(process)
}

fn is_process(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().as_encoded_bytes();
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// When the process started, in ticks. Spec: proc(5), field 22; the name before it may hold anything.
fn start_time(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}
