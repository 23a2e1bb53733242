//! How a program gets to its hook and stays there: pinned links, replaced in place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{ProgramError, ProgramFd};

use crate::sys;

/// Why a program is not at its hook.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Our own build is inconsistent.
    #[error("eBPF program {program} is not in its object")]
    Missing {
        /// Which.
        program: &'static str,
    },
    /// The kernel's verifier refused it, or the hook.
    #[error("eBPF program {program} cannot be loaded or attached")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// The kernel gave no link.
    #[error("eBPF program {program} was attached without a link")]
    Link {
        /// Which.
        program: &'static str,
        /// Why.
        source: LinkError,
    },
    /// The link cannot be kept.
    #[error("link of eBPF program {program} cannot be pinned")]
    Pin {
        /// Which.
        program: &'static str,
        /// Why.
        source: PinError,
    },
    /// The program behind a pinned link cannot be replaced, or the pin cannot be read.
    #[error("program behind {path} cannot be replaced")]
    Replace {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Attaches a program and pins its link; or, where one is pinned, puts this program behind it.
///
/// There is no instant without a program: the kernel swaps the pointer.
pub(crate) fn attach_or_replace(
    name: &'static str,
    pin: &Path,
    program: &ProgramFd,
    attach: impl FnOnce() -> Result<FdLink, AttachError>,
) -> Result<(), AttachError> {
    let failed = |source| AttachError::Replace { path: pin.to_owned(), source };
    match sys::pinned(pin) {
        Ok(link) => match sys::replace_program(link.as_fd(), borrowed(program)) {
            Ok(()) => return Ok(()),
            // What it was attached to is gone, as a cgroup that was made anew: attach again.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                std::fs::remove_file(pin).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    attach()?.pin(pin).map_err(|source| AttachError::Pin { program: name, source })?;
    Ok(())
}

fn borrowed(program: &ProgramFd) -> BorrowedFd<'_> {
    program.as_fd()
}
