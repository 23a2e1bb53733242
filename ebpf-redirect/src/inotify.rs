//! What changes in a folder.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Watched folders. Files count when they are whole: closed, moved, or gone.
#[derive(Debug)]
pub(crate) struct Inotify(AsyncFd<OwnedFd>);

impl Inotify {
    /// Watches from here on.
    pub(crate) fn open(folders: &[&Path]) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        for folder in folders {
            inotify::add_watch(&watch, *folder, events)?;
        }
        Ok(Self(sys::watched(watch)?))
    }

    /// Waits until a file came, changed or went whose name counts. Cancel safe.
    pub(crate) async fn changed(&self, counts: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(self.0.get_ref(), &mut space);
            let mut any = false;
            loop {
                match events.next() {
                    // No name: the queue overflowed, so anything may have changed.
                    Ok(event) => {
                        any |= event.file_name().is_none_or(|name| counts(name.to_bytes()));
                    }
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}
