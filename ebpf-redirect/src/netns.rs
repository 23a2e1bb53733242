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
    /// Whether a process is in it cannot be told.
    #[error("processes in network namespace {path} cannot be looked for")]
    Processes {
        /// By what it was known.
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

/// What an error says of a namespace that was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is not there any more.
    Gone,
    /// Nothing: we could not look, as without descriptors or memory.
    Unseen,
}

impl NetnsError {
    /// What it says of the namespace.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Replaced { .. } => Verdict::Gone,
            Self::Open { .. } if self.is_nothing() => Verdict::Gone,
            // The number may be that of a process by this time that is not for us to look at.
            Self::Open { path, source }
                if processes::of_netns(path).is_some() && processes::is_closed(source) =>
            {
                Verdict::Gone
            }
            Self::Open { .. } | Self::Processes { .. } | Self::Enter { .. } => Verdict::Unseen,
        }
    }
}

impl NetnsError {
    /// Whether nothing is at the path.
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// By what a namespace that is still there is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The path that led to it leads there.
    AsBefore,
    /// Its name went, or the process that it was known by; the path is that of a process that is in it.
    ByAProcess,
}

/// An open network namespace. Keeping it open keeps the namespace.
#[derive(Debug)]
pub struct Netns {
    /// The file that it was opened from.
    told: PathBuf,
    /// What led to it last: that file, or a process.
    path: PathBuf,
    file: File,
    cookie: u64,
    device: u64,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path` and asks the kernel for its cookie.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        Self::file(path)?.entered()
    }

    /// A namespace that was known by this path. `None`: it is gone, or nobody is left in it by whom it is known.
    ///
    /// Errors: that cannot be told.
    pub(crate) fn find(
        path: &Path,
        identity: (u64, u64),
        cookie: u64,
    ) -> Result<Option<Self>, NetnsError> {
        if let Some(netns) = Self::found(path, identity, cookie)? {
            return Ok(Some(netns));
        }
        match process_inside(path, identity)? {
            Some(process) => Self::found(&process, identity, cookie),
            None => Ok(None),
        }
    }

    /// `None`: nothing is at this path, or something else.
    fn found(path: &Path, identity: (u64, u64), cookie: u64) -> Result<Option<Self>, NetnsError> {
        let file = match Self::file(path) {
            Err(error) if error.verdict() == Verdict::Gone => return Ok(None),
            file => file?,
        };
        if file.file_identity() != identity {
            return Ok(None);
        }
        // An inode may be another one's by this time, a cookie never is.
        Ok(Some(file.entered()?).filter(|netns| netns.cookie == cookie))
    }

    /// The file at `path`, whatever it is.
    fn file(path: &Path) -> Result<Self, NetnsError> {
        let opened = || -> io::Result<Self> {
            let file = File::open(path)?;
            let meta = file.metadata()?;
            let (device, inode) = (meta.dev(), meta.ino());
            let (told, path) = (path.to_owned(), path.to_owned());
            Ok(Self { told, path, file, cookie: 0, device, inode })
        };
        opened().map_err(|source| NetnsError::Open { path: path.to_owned(), source })
    }

    fn entered(mut self) -> Result<Self, NetnsError> {
        self.cookie = self.run(own_cookie).and_then(|cookie| {
            cookie.map_err(|source| NetnsError::Enter { path: self.path.clone(), source })
        })?;
        Ok(self)
    }

    /// A file of the namespace.
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
    /// A name may go before the processes do, and a process before others: then any that is in the namespace takes its
    /// place. A name that leads elsewhere is another pod's.
    pub fn verify(&mut self) -> Result<Known, NetnsError> {
        let Err(error) = self.led_to_by(&self.told) else { return Ok(Known::AsBefore) };
        if !self.is_a_process_s() && !error.is_nothing() {
            return Err(error);
        }
        if self.path != self.told && self.led_to_by(&self.path).is_ok() {
            return Ok(Known::AsBefore);
        }
        self.path = process_inside(&self.path, self.file_identity())?.ok_or(error)?;
        Ok(Known::ByAProcess)
    }

    /// Whether it was known by a process that was in it, and not by a name.
    pub(crate) fn is_a_process_s(&self) -> bool {
        processes::of_netns(&self.told).is_some()
    }

    fn led_to_by(&self, path: &Path) -> Result<(), NetnsError> {
        let meta = std::fs::metadata(path)
            .map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        if (meta.dev(), meta.ino()) == self.file_identity() {
            Ok(())
        } else {
            Err(NetnsError::Replaced { path: path.to_owned() })
        }
    }

    /// Runs `work` inside the namespace, on a thread of its own that ends with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let inside = || -> io::Result<T> {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        thread::scope(|scope| {
            // Unlike `spawn`, it is no panic when there is no thread to be had.
            let joined = thread::Builder::new().spawn_scoped(scope, inside)?.join();
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

/// The file of the oldest process that is in a namespace that was known by this path: the number may be another
/// process's by this time, only the namespace itself counts.
fn process_inside(path: &Path, identity: (u64, u64)) -> Result<Option<PathBuf>, NetnsError> {
    let proc = processes::of_netns(path).and_then(Path::parent).unwrap_or(Path::new("/proc"));
    let is_inside = |process: &Path| Ok(processes::netns_identity(process)? == Some(identity));
    let oldest = processes::oldest(proc, is_inside)
        .map_err(|source| NetnsError::Processes { path: path.to_owned(), source })?;
    Ok(oldest.map(|process| processes::netns(&process)))
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
