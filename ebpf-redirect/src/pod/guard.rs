//! The guard on a pod's interfaces: nothing that is captured leaves by them.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::tc::{
    NlOptions, TcAttachOptions, TcAttachType, TcError, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::PodError;
use crate::attach::{AttachError, attach_or_replace};
use crate::netlink::Link;

/// The program's name, and that of its pins.
pub(super) const GUARD: &str = "guard";
const EGRESS: TcAttachType = TcAttachType::Egress;
/// Before all other filters: one of them may end the search.
const FIRST: u16 = 1;

/// Where the guard is attached without a link, by the interface's index: before Linux 6.6.
pub(super) type Linkless = HashSet<u32>;

/// Attaches the guard to all interfaces that do not have it yet. Call it inside the namespace: the kernel
/// resolves an interface's index in the namespace of whoever attaches.
pub(super) fn attach(
    program: &mut SchedClassifier,
    folder: &Path,
    links: &[Link],
    linkless: &mut Linkless,
) -> Result<(), PodError> {
    for link in links {
        if linkless.contains(&link.index) {
            continue;
        }
        match by_link(program, &folder.join(format!("{GUARD}-{}", link.index)), link) {
            Err(AttachError::Program { source, .. }) if is_unknown(&source) => {
                by_filter(program, link)
                    .map_err(|source| AttachError::Program { program: GUARD, source })?;
                linkless.insert(link.index);
            }
            done => done?,
        }
    }
    Ok(())
}

fn by_link(program: &mut SchedClassifier, pin: &Path, link: &Link) -> Result<(), AttachError> {
    let failed = |source| AttachError::Program { program: GUARD, source };
    let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(failed)?;
    attach_or_replace(GUARD, pin, &fd, || {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(&link.name, EGRESS, options).map_err(failed)?;
        let taken = program.take_link(id).map_err(failed)?;
        FdLink::try_from(taken).map_err(|source| AttachError::Link { program: GUARD, source })
    })
}

/// Whether the kernel has no links for this hook.
fn is_unknown(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    error.io_error.raw_os_error() == Some(libc::EINVAL)
}

/// A filter stays where it is until somebody removes it: there is no link to be pinned, or to be lost.
fn by_filter(program: &mut SchedClassifier, link: &Link) -> Result<(), ProgramError> {
    match qdisc_add_clsact(&link.name) {
        // There already, ours or another's; if not, attaching says so.
        Err(TcError::NetlinkError(_)) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    remove_filter(link)?;
    let options = NlOptions { priority: FIRST, ..NlOptions::default() };
    let id = program.attach_with_options(&link.name, EGRESS, TcAttachOptions::Netlink(options))?;
    // Dropped, it would be detached.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Removes what was attached without a link from an interface. Call it inside the namespace.
pub(super) fn remove_filter(link: &Link) -> Result<(), TcError> {
    match qdisc_detach_program(&link.name, EGRESS, GUARD) {
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // An interface that has no place for filters has none of ours.
        Err(TcError::NetlinkError(_)) => Ok(()),
        done => done,
    }
}

/// Whether any interface of the pod is guarded by a link.
pub(super) fn has_links(folder: &Path) -> bool {
    let pins = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_guard = |pin: &PathBuf| {
        pin.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"guard-"))
    };
    pins.filter(is_guard).count() > 0
}
