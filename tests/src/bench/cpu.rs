//! What a process spent so far, read from the scheduler's own account.

use std::{fs, io, time::Duration};

/// Processor time of all threads of `pid`, those that ended excepted. Errors: the process is gone.
pub fn spent(pid: u32) -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        total += Duration::from_nanos(nanos);
    }
    Ok(total)
}

/// Proportional set size of `pid` in bytes: what would be freed if it ended.
pub fn pss_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|n| n.trim().parse::<u64>().ok())
        .ok_or_else(|| io::Error::other(format!("no Pss in smaps_rollup of {pid}")))?;
    Ok(kib * 1024)
}
