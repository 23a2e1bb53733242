//! Where the node's programs are attached.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SockOps};

use super::{NodeConfig, NodeError, ProbeExemption};
use crate::attach::{AttachError, attach_or_replace};
use crate::cgroup;

/// Attaches all programs, or puts them behind the links of an earlier agent.
pub(super) fn attach(root: &Path, object: &mut Ebpf, config: &NodeConfig) -> Result<(), NodeError> {
    let all = Cgroup::open(&config.cgroup)?;
    let probing = match &config.probes {
        ProbeExemption::Host => Cgroup::open(&config.cgroup)?,
        ProbeExemption::Cgroup(path) => Cgroup::open(path)?,
    };
    let links = root.join("links");
    let mut kept = vec![
        attach_sock_ops(&links, object, "probe", &probing)?,
        attach_sock_ops(&links, object, "deliver", &all)?,
    ];
    for cgroup in delivering(config)? {
        kept.push(attach_sock_ops(&links, object, "deliver", &Cgroup::open(&cgroup)?)?);
    }
    // Last: from here on pods are captured, and exemptions must be known.
    kept.push(attach_connect(&links, object, "connect4", &all)?);
    kept.push(attach_connect(&links, object, "connect6", &all)?);
    detach_all_but(&links, &kept)
}

/// The cgroups, outside of the one for all, in which sockets are made that deliver to applications.
///
/// A socket keeps the cgroup in which it was made: the agent's, or with a stock agent the proxy's own.
fn delivering(config: &NodeConfig) -> Result<Vec<PathBuf>, NodeError> {
    let own = cgroup::of_ourselves()
        .map_err(|source| NodeError::Path { path: "/proc/self/cgroup".into(), source })?;
    let there = config.proxy_cgroups.iter().filter(|cgroup| cgroup.exists());
    let makers = there.chain([&own]);
    Ok(makers.filter(|maker| !cgroup::is_below(maker, &config.cgroup)).cloned().collect())
}

fn attach_connect(
    links: &Path,
    object: &mut Ebpf,
    name: &'static str,
    cgroup: &Cgroup,
) -> Result<PathBuf, AttachError> {
    let failed = |source| AttachError::Program { program: name, source };
    let program = object.program_mut(name).ok_or(AttachError::Missing { program: name })?;
    let program: &mut CgroupSockAddr = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(failed)?;
    let pin = cgroup.pin(links, name);
    attach_or_replace(name, &pin, &fd, || {
        let id = program.attach(&cgroup.file, CgroupAttachMode::Single).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        FdLink::try_from(link).map_err(|source| AttachError::Link { program: name, source })
    })?;
    Ok(pin)
}

fn attach_sock_ops(
    links: &Path,
    object: &mut Ebpf,
    name: &'static str,
    cgroup: &Cgroup,
) -> Result<PathBuf, AttachError> {
    let failed = |source| AttachError::Program { program: name, source };
    let program = object.program_mut(name).ok_or(AttachError::Missing { program: name })?;
    let program: &mut SockOps = program.try_into().map_err(failed)?;
    // One program may be attached to several cgroups.
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(failed)?;
    let pin = cgroup.pin(links, name);
    attach_or_replace(name, &pin, &fd, || {
        let id = program.attach(&cgroup.file, CgroupAttachMode::Single).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        FdLink::try_from(link).map_err(|source| AttachError::Link { program: name, source })
    })?;
    Ok(pin)
}

/// Takes away the links that an agent with another configuration left.
fn detach_all_but(links: &Path, kept: &[PathBuf]) -> Result<(), NodeError> {
    let failed = |source| NodeError::Path { path: links.to_owned(), source };
    for entry in fs::read_dir(links).map_err(failed)? {
        let pin = entry.map_err(failed)?.path();
        if !kept.contains(&pin) {
            fs::remove_file(&pin).map_err(failed)?;
        }
    }
    Ok(())
}

/// An open cgroup.
#[derive(Debug)]
struct Cgroup {
    file: File,
    id: u64,
}

impl Cgroup {
    fn open(path: &Path) -> Result<Self, NodeError> {
        let opened = || -> io::Result<Self> {
            let file = File::open(path)?;
            let id = file.metadata()?.ino();
            Ok(Self { file, id })
        };
        opened().map_err(|source| NodeError::Path { path: path.to_owned(), source })
    }

    /// The cgroup is part of the name, so that an agent told another one attaches there.
    fn pin(&self, links: &Path, program: &str) -> PathBuf {
        links.join(format!("{program}-{}", self.id))
    }
}
