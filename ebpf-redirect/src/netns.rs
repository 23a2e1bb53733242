//! A pod's network namespace: which one it is, and how to do something inside it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::processes;
use crate::sys;

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no such file, or it is none of ours to open. A retry helps when it appears.
    #[error("network namespace {path} cannot be opened")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no network namespace, or we may not enter it.
    #[error("network namespace {path} cannot be entered")]
    Enter {
        /// What was to be entered.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another namespace took the name meanwhile: whatever was done is undone, and retried with that one.
    #[error("network namespace {path} was replaced by another one")]
    Replaced {
        /// The name.
        path: PathBuf,
    },
}

/// By what a namespace that is still there is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The path that led to it leads there.
    AsBefore,
    /// The process that it was known by ended; the path is that of another one.
    ByAnotherProcess,
}

/// An open network namespace. Keeping it open keeps the namespace.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    cookie: u64,
    device: u64,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path` and asks the kernel for its cookie.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let opened = || -> io::Result<(File, u64, u64)> {
            let file = File::open(path)?;
            let meta = file.metadata()?;
            Ok((file, meta.dev(), meta.ino()))
        };
        let (file, device, inode) =
            opened().map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        let mut netns = Self { path: path.to_owned(), file, cookie: 0, device, inode };
        netns.cookie = netns.run(own_cookie).and_then(|cookie| {
            cookie.map_err(|source| NetnsError::Enter { path: path.to_owned(), source })
        })?;
        Ok(netns)
    }

    /// A namespace that was known by this path. `None`: it is gone, or nobody is left in it by whom it is known.
    pub(crate) fn find(path: &Path, identity: (u64, u64), cookie: u64) -> Option<Self> {
        // An inode may be another one's by this time, a cookie never is.
        let open = |path: &Path| Self::open(path).ok().filter(|netns| netns.cookie == cookie);
        open(path).or_else(|| open(&process_inside(path, identity)?))
    }

    /// Which file the namespace was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's name of the namespace: never reused while the machine runs, as IPs and inodes are.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Device and inode of the file.
    pub fn file_identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether the path still leads to this namespace. Asked before and after anything is done in it:
    /// a runtime may have made another pod's namespace under the same name (istio#61211).
    ///
    /// A process is no name: when it has ended, any other that is in the namespace takes its place.
    pub fn verify(&mut self) -> Result<Known, NetnsError> {
        let Err(error) = self.follow_path() else { return Ok(Known::AsBefore) };
        self.path = process_inside(&self.path, self.file_identity()).ok_or(error)?;
        Ok(Known::ByAnotherProcess)
    }

    /// Whether it is known by a process that is in it, and not by a name.
    pub(crate) fn is_a_process_s(&self) -> bool {
        processes::of_netns(&self.path).is_some()
    }

    fn follow_path(&self) -> Result<(), NetnsError> {
        let meta = std::fs::metadata(&self.path)
            .map_err(|source| NetnsError::Open { path: self.path.clone(), source })?;
        if (meta.dev(), meta.ino()) == self.file_identity() {
            Ok(())
        } else {
            Err(NetnsError::Replaced { path: self.path.clone() })
        }
    }

    /// Runs `work` inside the namespace, on a thread of its own that ends with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let inside = || -> io::Result<T> {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        thread::scope(|scope| {
            let joined = scope.spawn(inside).join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(|source| NetnsError::Enter { path: self.path.clone(), source })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Of a namespace that was known by a process, the file of the oldest that is in it: the number may be another
/// process's by this time, only the namespace itself counts.
fn process_inside(path: &Path, identity: (u64, u64)) -> Option<PathBuf> {
    let proc = processes::of_netns(path)?.parent()?;
    let is_inside =
        |process: &Path| processes::netns_identity(process).is_some_and(|it| it == identity);
    let oldest = processes::oldest(proc, is_inside).ok()??;
    Some(processes::netns(&oldest))
}

/// The cookie of the namespace that this thread is in.
pub fn own_cookie() -> io::Result<u64> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sys::netns_cookie(&socket)
}
