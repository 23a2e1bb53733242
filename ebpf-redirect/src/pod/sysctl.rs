//! What capture needs of a pod's sysctls, and what they were before.

use std::fs;
use std::io;
use std::path::Path;

/// In the order of the bits of a record. Not all kernels have all of them.
const TURNED_ON: [&str; 4] = [
    // What the application accepts takes the mark of the SYN: answers to a delivery stay in the pod.
    "/proc/sys/net/ipv4/tcp_fwmark_accept",
    // Answers without a socket (resets) stay in the pod too.
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
    // Handshakes that a restarted agent's old listeners have begun go on with the new ones.
    "/proc/sys/net/ipv4/tcp_migrate_req",
];

/// Turns them on in this thread's namespace. A bit for each that was off.
pub(super) fn turn_on() -> io::Result<u64> {
    let mut turned_on = 0;
    for (bit, sysctl) in TURNED_ON.iter().enumerate() {
        if !Path::new(sysctl).exists() || fs::read_to_string(sysctl)?.trim() != "0" {
            continue;
        }
        fs::write(sysctl, "1")
            .map_err(|error| io::Error::new(error.kind(), format!("{sysctl}: {error}")))?;
        turned_on |= 1 << bit;
    }
    Ok(turned_on)
}

/// Turns off in this thread's namespace what enrolment had turned on.
pub(super) fn restore(turned_on: u64) -> io::Result<()> {
    for (bit, sysctl) in TURNED_ON.iter().enumerate() {
        if turned_on & (1 << bit) != 0 {
            fs::write(sysctl, "0")?;
        }
    }
    Ok(())
}
