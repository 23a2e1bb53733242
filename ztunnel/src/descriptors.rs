//! File descriptors: pods' connections may take all but the last, which keep the proxy itself alive.
//!
//! The kernel hands out the lowest number that is free, so the number of a descriptor just made tells how many are
//! in use: nothing is counted, and a connection costs nothing more.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    process::{Resource, getrlimit, setrlimit},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// Kept for readiness, metrics, admin, the control plane and certificates; an eighth where there are few.
const RESERVED_MAX: u64 = 128;

/// Descriptors come back when connections end, which is at any time.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How far pods' connections may go. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Descriptors {
    /// The first that is not for a pod's connection.
    reserved: RawFd,
    short: Arc<AtomicBool>,
    /// Asked for, and still to come.
    promised: Arc<AtomicU32>,
}

/// So many descriptors will come; until it is dropped nobody else counts on the room for them.
#[derive(Debug)]
pub(crate) struct Promise {
    descriptors: Descriptors,
    count: u32,
}

impl Promise {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.descriptors.promised.fetch_sub(self.count, Relaxed);
    }
}

impl Descriptors {
    /// Raises the limit of this process as far as it may: two descriptors a connection and a few thousand in stock
    /// are more than the soft limit of old, which is for programs that `select`.
    pub fn raise() -> io::Result<Self> {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
        Ok(Self::of(limit.current))
    }

    /// Of a limit; `None` is none.
    pub fn of(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        let reserved = limit - RESERVED_MAX.min(limit / 8);
        let reserved = RawFd::try_from(reserved).unwrap_or(RawFd::MAX);
        Self { reserved, short: Arc::default(), promised: Arc::default() }
    }

    /// A pod's connection was given this one.
    pub(crate) fn taken(&self, fd: impl AsFd) {
        if fd.as_fd().as_raw_fd() >= self.reserved {
            self.short.store(true, Relaxed);
        }
    }

    /// Whether only reserved ones are left. Costs nothing until one of them was taken.
    pub(crate) fn are_short(&self) -> bool {
        if !self.short.load(Relaxed) {
            return false;
        }
        let short = self.room() == 0;
        self.short.store(short, Relaxed);
        short
    }

    /// Accepts for a pod. Errors: also when somebody calls and only reserved descriptors are left. Cancel safe:
    /// dropping it loses no connection.
    pub(crate) async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        // Each time that it is woken: by then others may have taken what was left.
        let unreserved = |cx: &mut Context<'_>| {
            if self.are_short() {
                Poll::Ready(Err(Errno::MFILE.into()))
            } else {
                listener.poll_accept(cx)
            }
        };
        loop {
            match poll_fn(unreserved).await {
                // The kernel takes a descriptor before it looks whether anybody waits. Without a caller the want of
                // one is nobody's, and must not cost those who were just let in.
                Err(error) if wants_descriptor(&error) && !is_called(listener)? => {
                    sleep(LOOK_AGAIN_AFTER).await;
                }
                Ok((stream, peer)) => {
                    self.taken(&stream);
                    return Ok((stream, peer));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Room for `wanted` more, or for as many as there is room for; `None` where that is none.
    pub(crate) fn promise(&self, wanted: u32) -> Option<Promise> {
        let count = wanted.min(self.room());
        if count == 0 {
            return None;
        }
        self.promised.fetch_add(count, Relaxed);
        Some(Promise { descriptors: self.clone(), count })
    }

    /// How many more pods' connections may take: as many, or fewer where some of those that follow are in use.
    fn room(&self) -> u32 {
        let lowest = eventfd(0, EventfdFlags::CLOEXEC).map_or(RawFd::MAX, |fd| fd.as_raw_fd());
        let free = u32::try_from(self.reserved.saturating_sub(lowest)).unwrap_or(0);
        free.saturating_sub(self.promised.load(Relaxed))
    }
}

fn wants_descriptor(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Whether a connection waits to be accepted.
fn is_called(listener: &TcpListener) -> io::Result<bool> {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    Ok(poll(&mut asked, Some(&Timespec::default()))? > 0)
}

#[cfg(test)]
mod tests;
