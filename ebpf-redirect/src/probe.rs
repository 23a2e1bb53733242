//! What this machine lacks, by name, before anything is changed on it.
//!
//! Kernel features are probed by loading programs of two instructions, never by version: distributions
//! port features back. The version named is the one in which the feature first appeared.

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use rustix::fs::statfs;
use rustix::thread::{CapabilitySet, capabilities};

use crate::{cgroup, netns};

const CGROUP2_MAGIC: u64 = 0x6367_7270;
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The cgroup to attach to.
    pub cgroup: PathBuf,
    /// Our folder in a BPF file system; it need not exist, its parent must.
    pub bpffs: PathBuf,
    /// The kernel's own type information.
    pub btf: PathBuf,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// The kernel is too old for something.
    Kernel {
        /// What it cannot do.
        feature: &'static str,
        /// The first version that can.
        since: &'static str,
        /// Whether we can do without.
        severity: Severity,
    },
    /// The kernel was built without its type information.
    Btf {
        /// Where it would be.
        path: PathBuf,
    },
    /// A capability.
    Capability(&'static str),
    /// The cgroup to attach to is none of version 2.
    CgroupV2 {
        /// What was told.
        path: PathBuf,
        /// Where there is one.
        mounted: Option<PathBuf>,
    },
    /// The folder for pins is not in a BPF file system.
    Bpffs {
        /// What was told.
        path: PathBuf,
    },
}

/// Whether we can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// No.
    Fatal,
    /// Yes, less well.
    Degraded,
}

/// What programs may use on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// A refusing program chooses the error.
    ChoosesErrno,
    /// A refused `connect()` fails with EPERM.
    OnlyEperm,
}

impl Features {
    /// Asks the kernel.
    pub fn probe() -> Self {
        let supported = is_helper_supported(CONNECT, BpfHelper::BPF_FUNC_set_retval);
        if supported.unwrap_or(false) { Self::ChoosesErrno } else { Self::OnlyEperm }
    }

    pub(crate) fn chooses_errno(self) -> bool {
        self == Self::ChoosesErrno
    }
}

const CONNECT: ProgramType = ProgramType::CgroupSockAddr;

impl Machine {
    /// What is missing; empty if nothing is. Kernel features can only be probed with the capabilities.
    pub fn lacks(&self) -> Vec<Lack> {
        let mut lacks = missing_capabilities();
        if lacks.is_empty() {
            lacks.extend(kernel_lacks());
        }
        if !self.btf.exists() {
            lacks.push(Lack::Btf { path: self.btf.clone() });
        }
        if !is_on(&self.cgroup, CGROUP2_MAGIC) {
            let mounted = cgroup::mount(&fs::read_to_string("/proc/mounts").unwrap_or_default());
            lacks.push(Lack::CgroupV2 { path: self.cgroup.clone(), mounted });
        }
        let parent = self.bpffs.ancestors().find(|path| path.exists());
        if !parent.is_some_and(|path| is_on(path, BPF_FS_MAGIC)) {
            lacks.push(Lack::Bpffs { path: self.bpffs.clone() });
        }
        lacks
    }
}

impl Lack {
    /// Whether we can do without.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Kernel { severity, .. } => *severity,
            // Our programs take nothing from it; only tools can show less.
            Self::Btf { .. } => Severity::Degraded,
            Self::Capability(_) | Self::CgroupV2 { .. } | Self::Bpffs { .. } => Severity::Fatal,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { feature, since, severity } => {
                write!(f, "the kernel has no {feature} (Linux {since} does)")?;
                match severity {
                    Severity::Fatal => Ok(()),
                    Severity::Degraded => f.write_str("; we can do without"),
                }
            }
            Self::Btf { path } => write!(
                f,
                "the kernel's type information {} is missing (CONFIG_DEBUG_INFO_BTF); we can do without",
                path.display()
            ),
            Self::Capability(name) => write!(f, "capability {name} is missing: run as root"),
            Self::CgroupV2 { path, mounted: Some(mount) } => write!(
                f,
                "{} is no cgroup of version 2; one is mounted at {}",
                path.display(),
                mount.display()
            ),
            Self::CgroupV2 { path, mounted: None } => write!(
                f,
                "{} is no cgroup of version 2, and none is mounted: \
                 mount -t cgroup2 none /sys/fs/cgroup",
                path.display()
            ),
            Self::Bpffs { path } => write!(
                f,
                "{} is not in a BPF file system: mount -t bpf bpf /sys/fs/bpf",
                path.display()
            ),
        }
    }
}

fn missing_capabilities() -> Vec<Lack> {
    let needed = [
        ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ];
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    needed
        .into_iter()
        .filter(|(_, capability)| !effective.contains(*capability))
        .map(|(name, _)| Lack::Capability(name))
        .collect()
}

fn kernel_lacks() -> Vec<Lack> {
    let program = |kind| is_program_supported(kind).unwrap_or(false);
    let helper = |kind, helper| is_helper_supported(kind, helper).unwrap_or(false);
    let needed = [
        (program(CONNECT), "cgroup connect hooks", "4.17"),
        (program(ProgramType::SockOps), "sock_ops programs", "4.13"),
        (program(ProgramType::SkLookup), "sk_lookup programs", "5.9"),
        (program(ProgramType::SchedClassifier), "tc programs", "4.1"),
        (is_map_supported(MapType::SockMap).unwrap_or(false), "socket maps", "4.14"),
        (
            helper(CONNECT, BpfHelper::BPF_FUNC_get_netns_cookie),
            "bpf_get_netns_cookie for connect hooks",
            "5.7",
        ),
        (
            helper(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie),
            "bpf_get_netns_cookie for sock_ops programs",
            "5.15",
        ),
        (netns::own_cookie().is_ok(), "SO_NETNS_COOKIE", "5.14"),
    ];
    let fatal = needed
        .into_iter()
        .filter(|(there, ..)| !there)
        .map(|(_, feature, since)| Lack::Kernel { feature, since, severity: Severity::Fatal });
    let degraded = (!Features::probe().chooses_errno()).then_some(Lack::Kernel {
        feature: "bpf_set_retval, so refused programs see EPERM instead of ECONNREFUSED",
        since: "5.18",
        severity: Severity::Degraded,
    });
    fatal.chain(degraded).collect()
}

fn is_on(path: &Path, magic: u64) -> bool {
    let kind = |path: &Path| -> io::Result<u64> {
        let kind = statfs(path)?.f_type;
        Ok(u64::try_from(kind).unwrap_or_default() & 0xffff_ffff)
    };
    kind(path).is_ok_and(|found| found == magic)
}
