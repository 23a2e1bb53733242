//! What the memory is held by.
//!
//! jemalloc is compiled to sample allocations, and started so that it samples none until it is asked to
//! (`.cargo/config.toml`): until then an allocation costs what it did. One in 512 KiB of them is then kept with
//! its stack until it is freed.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use jemalloc_pprof::{JemallocProfCtl, PROF_CTL};
use tokio::{sync::OwnedMutexGuard, task::spawn_blocking, time::sleep};

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeapError {
    #[error(
        "jemalloc was not started to sample: start this program with the environment variable \
         MALLOC_CONF=prof:true,prof_active:false"
    )]
    Off,
    #[error("a heap profile is being taken already")]
    Busy,
    #[error("jemalloc cannot be told to sample, or to stop: {0}")]
    Refused(#[from] tikv_jemalloc_ctl::Error),
    /// It is written to a file in the folder for temporary ones first.
    #[error("the heap profile could not be written or read: {0}")]
    Dump(String),
}

type Control = OwnedMutexGuard<JemallocProfCtl>;

fn control() -> Result<Control, HeapError> {
    let control = PROF_CTL.clone().ok_or(HeapError::Off)?;
    control.try_lock_owned().map_err(|_| HeapError::Busy)
}

/// Samples until it is dropped, also where the one who asked has gone.
struct Sampling(Control);

impl Deref for Sampling {
    type Target = JemallocProfCtl;

    fn deref(&self) -> &JemallocProfCtl {
        &self.0
    }
}

impl DerefMut for Sampling {
    fn deref_mut(&mut self) -> &mut JemallocProfCtl {
        &mut self.0
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        if let Err(error) = self.0.deactivate() {
            tracing::error!(%error, "allocations are still sampled");
        }
    }
}

/// In pprof's format. Where sampling is on (`keep_sampling`): all that is held of what was allocated since.
/// Where it is off: what is allocated from now on and still held after `during`.
pub(super) async fn profile(during: Duration) -> Result<Vec<u8>, HeapError> {
    let mut control = control()?;
    if control.activated() {
        return dump(control).await;
    }
    control.activate()?;
    let sampling = Sampling(control);
    sleep(during).await;
    dump(sampling).await
}

/// Samples until it is stopped.
pub(super) fn keep_sampling() -> Result<(), HeapError> {
    Ok(control()?.activate()?)
}

/// What was sampled is forgotten.
pub(super) fn stop_sampling() -> Result<(), HeapError> {
    Ok(control()?.deactivate()?)
}

/// Finding the functions' names takes seconds, on a thread that may block.
async fn dump(
    mut control: impl DerefMut<Target = JemallocProfCtl> + Send + 'static,
) -> Result<Vec<u8>, HeapError> {
    let dumped = spawn_blocking(move || control.dump_pprof()).await;
    let dumped = dumped.map_err(|error| HeapError::Dump(error.to_string()))?;
    dumped.map_err(|error| HeapError::Dump(format!("{error:#}")))
}
