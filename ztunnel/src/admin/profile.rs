//! Where the processor's time goes.

use std::{
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
