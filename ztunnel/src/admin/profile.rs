//! Where the processor's time and the memory go.

use std::{
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering::AcqRel},
    time::Duration,
};

use pprof::protos::Message;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error("a profile is being taken already")]
    Busy,
    #[error("the profile could not be taken")]
    Pprof(#[from] pprof::Error),
}

static BUSY: AtomicBool = AtomicBool::new(false);

struct Turn;

impl Turn {
    fn take() -> Result<Self, ProfileError> {
        if BUSY.swap(true, AcqRel) { Err(ProfileError::Busy) } else { Ok(Self) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        BUSY.store(false, std::sync::atomic::Ordering::Release);
    }
}

/// Samples all threads for a while, in pprof's format. The timer's signal interrupts system calls meanwhile.
pub(super) async fn cpu(during: Duration, frequency: u32) -> Result<Vec<u8>, ProfileError> {
    let _turn = Turn::take()?;
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(i32::try_from(frequency).unwrap_or(i32::MAX))
        // Unwinding from within these can deadlock or crash.
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()?;
    tokio::time::sleep(during).await;
    Ok(guard.report().build()?.pprof()?.encode_to_vec())
}

/// What jemalloc says of itself. A heap profile needs jemalloc built to record every allocation's stack,
/// which slows all of them down, so it is not.
pub(super) fn heap() -> String {
    use tikv_jemalloc_ctl::{epoch, stats};
    let mut text =
        "a heap profile cannot be given: jemalloc was built without profiling\n".to_owned();
    if epoch::advance().is_err() {
        text.push_str("jemalloc's statistics cannot be read either\n");
        return text;
    }
    for (name, value) in [
        ("allocated by the program", stats::allocated::read()),
        ("in pages with anything allocated", stats::active::read()),
        ("resident", stats::resident::read()),
        ("mapped", stats::mapped::read()),
        ("kept from the system for later", stats::retained::read()),
        ("jemalloc's own", stats::metadata::read()),
    ] {
        // Writing to a String cannot fail.
        let _ = match value {
            Ok(bytes) => writeln!(text, "{bytes:>14} bytes {name}"),
            Err(error) => writeln!(text, "{name}: {error}"),
        };
    }
    text
}
