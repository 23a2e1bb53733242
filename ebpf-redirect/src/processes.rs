//! What `/proc` says of processes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// The folder of the oldest process that is as asked. One that ends while it is looked at is not.
///
/// Errors: it cannot be told, as without descriptors. Never that there is none.
pub(crate) fn oldest(
    proc: &Path,
    is: impl Fn(&Path) -> io::Result<bool>,
) -> io::Result<Option<PathBuf>> {
    let mut oldest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(proc)? {
        let process = entry?.path();
        if !is_process(&process) || !is(&process)? {
            continue;
        }
        let Some(start) = start_time(&process)? else { continue };
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
pub(crate) fn netns_identity(process: &Path) -> io::Result<Option<(u64, u64)>> {
    let meta = unless_ended(fs::metadata(netns(process)))?;
    Ok(meta.map(|meta| (meta.dev(), meta.ino())))
}

/// What a process was asked, unless it has ended meanwhile, or is none that we may look at.
pub(crate) fn unless_ended<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_closed(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error is an answer: this process cannot be asked, and will not be.
///
/// The kernel has several words for one that ends in the middle, "forbidden" is among them.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(libc::ESRCH)
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
fn start_time(process: &Path) -> io::Result<Option<u64>> {
    let Some(stat) = unless_ended(fs::read_to_string(process.join("stat")))? else {
        return Ok(None);
    };
    let started = || {
        let (_, behind_name) = stat.rsplit_once(')')?;
        behind_name.split_whitespace().nth(19)?.parse().ok()
    };
    Ok(started())
}
