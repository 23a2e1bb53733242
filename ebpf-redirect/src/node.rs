//! The node's programs: loaded, pinned, and replaced in place by a later agent.

mod maps;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SockOps};
use weft_redirect_abi::{NodeCounter, VERSION};

use crate::attach::{AttachError, attach_or_replace};
use crate::cgroup;
use crate::netns::{Netns, NetnsError};
use crate::objects::{Constant, Object, ObjectError};
use crate::probe::Features;

pub(crate) use maps::{NodeMaps, pin, typed};

/// Why the node's programs are not in place.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An object cannot be had.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A program is not at its hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The host's namespace cannot be used.
    #[error(transparent)]
    Host(#[from] NetnsError),
    /// A map cannot be read or written.
    #[error("map {map} of the node cannot be used")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// A folder or cgroup cannot be used.
    #[error("{path} cannot be used")]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Which processes of the host may reach enrolled pods without being captured, as probes do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeExemption {
    /// Every process of the host's network namespace.
    Host,
    /// Only those of the host's namespace that are in this cgroup: the kubelet's.
    Cgroup(PathBuf),
}

/// Where the node's programs go.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// A folder of ours in a BPF file system.
    pub bpffs: PathBuf,
    /// The cgroup (v2) below which all pods are.
    pub cgroup: PathBuf,
    /// The cgroups whose processes are the proxy; those below them too.
    pub proxy_cgroups: Vec<PathBuf>,
    /// The host's network namespace.
    pub host_netns: PathBuf,
    /// Whom probes may come from.
    pub probes: ProbeExemption,
}

/// The node's programs and maps, in place.
#[derive(Debug)]
pub struct Node {
    root: PathBuf,
    maps: NodeMaps,
    /// Below which a process is the proxy.
    proxy_cgroups: Vec<PathBuf>,
}

impl Node {
    /// Loads the programs and attaches them; where an earlier agent's are, puts these behind their links.
    pub fn load(config: &NodeConfig, features: Features) -> Result<Self, NodeError> {
        let root = root(&config.bpffs);
        for folder in ["maps", "links", "pods"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|source| NodeError::Path { path, source })?;
        }
        maps::check_layouts(&root)?;
        let constants = [("HAVE_SET_RETVAL", Constant::U32(u32::from(features.chooses_errno())))];
        let mut object = Object::Node.load(&maps::pins(&root), &constants)?;
        let proxy_cgroups = config.proxy_cgroups.clone();
        let mut node = Self { maps: NodeMaps::open(&root)?, root, proxy_cgroups };
        // Whose sockets are exempt must be known before the first connection is judged.
        node.maps.set_host(Netns::open(&config.host_netns)?.cookie())?;
        for cgroup in &config.proxy_cgroups {
            node.exempt_proxy(cgroup)?;
        }
        node.attach(&mut object, config)?;
        Ok(node)
    }

    fn attach(&self, object: &mut Ebpf, config: &NodeConfig) -> Result<(), NodeError> {
        let all = Cgroup::open(&config.cgroup)?;
        let probing = match &config.probes {
            ProbeExemption::Host => Cgroup::open(&config.cgroup)?,
            ProbeExemption::Cgroup(path) => Cgroup::open(path)?,
        };
        let mut kept = vec![
            self.attach_sock_ops(object, "probe", &probing)?,
            self.attach_sock_ops(object, "deliver", &all)?,
        ];
        for cgroup in delivering(config)? {
            kept.push(self.attach_sock_ops(object, "deliver", &Cgroup::open(&cgroup)?)?);
        }
        // Last: from here on pods are captured, and exemptions must be known.
        kept.push(self.attach_connect(object, "connect4", &all)?);
        kept.push(self.attach_connect(object, "connect6", &all)?);
        self.detach_all_but(&kept)
    }

    fn attach_connect(
        &self,
        object: &mut Ebpf,
        name: &'static str,
        cgroup: &Cgroup,
    ) -> Result<PathBuf, AttachError> {
        let failed = |source| AttachError::Program { program: name, source };
        let program = object.program_mut(name).ok_or(AttachError::Missing { program: name })?;
        let program: &mut CgroupSockAddr = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(failed)?;
        let pin = self.link_pin(name, cgroup);
        attach_or_replace(name, &pin, &fd, || {
            let id = program.attach(&cgroup.file, CgroupAttachMode::Single).map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            FdLink::try_from(link).map_err(|source| AttachError::Link { program: name, source })
        })?;
        Ok(pin)
    }

    fn attach_sock_ops(
        &self,
        object: &mut Ebpf,
        name: &'static str,
        cgroup: &Cgroup,
    ) -> Result<PathBuf, AttachError> {
        let failed = |source| AttachError::Program { program: name, source };
        let program = object.program_mut(name).ok_or(AttachError::Missing { program: name })?;
        let program: &mut SockOps = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(failed)?;
        let pin = self.link_pin(name, cgroup);
        attach_or_replace(name, &pin, &fd, || {
            let id = program.attach(&cgroup.file, CgroupAttachMode::Single).map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            FdLink::try_from(link).map_err(|source| AttachError::Link { program: name, source })
        })?;
        Ok(pin)
    }

    /// The cgroup is part of the name, so that an agent told another one attaches there.
    fn link_pin(&self, program: &str, cgroup: &Cgroup) -> PathBuf {
        self.root.join("links").join(format!("{program}-{}", cgroup.id))
    }

    /// Takes away the links that an agent with another configuration left.
    fn detach_all_but(&self, kept: &[PathBuf]) -> Result<(), NodeError> {
        let links = self.root.join("links");
        let failed = |source| NodeError::Path { path: links.clone(), source };
        for entry in fs::read_dir(&links).map_err(failed)? {
            let pin = entry.map_err(failed)?.path();
            if !kept.contains(&pin) {
                fs::remove_file(&pin).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A proxy said hello: its cgroup may have been made after we looked.
    ///
    /// Errors: none where it is not below the proxy's cgroups; then its connections are judged as any.
    pub fn exempt_process(&mut self, pid: i32) -> Result<(), NodeError> {
        let path = cgroup::of_process(&pid.to_string()).map_err(|source| NodeError::Path {
            path: format!("/proc/{pid}/cgroup").into(),
            source,
        })?;
        if self.proxy_cgroups.iter().any(|proxy| cgroup::is_below(&path, proxy)) {
            self.exempt_proxy(&path)?;
        }
        Ok(())
    }

    /// From here on, processes in this cgroup and below it are the proxy, whose connections are its own.
    fn exempt_proxy(&mut self, cgroup: &Path) -> Result<(), NodeError> {
        let mut pending = vec![cgroup.to_owned()];
        while let Some(path) = pending.pop() {
            let failed = |source| NodeError::Path { path: path.clone(), source };
            self.maps.exempt_cgroup(fs::metadata(&path).map_err(failed)?.ino())?;
            for entry in fs::read_dir(&path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if entry.file_type().map_err(failed)?.is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// What the node's programs have counted since they were first loaded.
    pub fn counters(&self) -> Result<Vec<(NodeCounter, u64)>, NodeError> {
        self.maps.counters()
    }

    pub(crate) fn maps(&mut self) -> &mut NodeMaps {
        &mut self.maps
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The pods that have pins: enrolled, or draining.
    pub fn pinned_pods(&self) -> Result<Vec<String>, NodeError> {
        pinned_pods(&self.root)
    }

    /// Opens what an earlier agent pinned, without loading or attaching anything. `None`: nothing is there.
    pub fn pinned(bpffs: &Path) -> Result<Option<Self>, NodeError> {
        let root = root(bpffs);
        if !root.join("maps").join("PODS").exists() {
            return Ok(None);
        }
        Ok(Some(Self { maps: NodeMaps::open(&root)?, root, proxy_cgroups: Vec::new() }))
    }

    /// Detaches the node's programs and removes all pins. Pods must have been un-enrolled before.
    pub fn remove(self) -> Result<(), NodeError> {
        // The connect hooks first: without maps nobody would be found enrolled anyway.
        fs::remove_dir_all(&self.root)
            .map_err(|source| NodeError::Path { path: self.root.clone(), source })
    }
}

/// The cgroups, outside of the one for all, in which sockets are made that deliver to applications.
///
/// A socket keeps the cgroup in which it was made: the agent's, or with a stock agent the proxy's own.
fn delivering(config: &NodeConfig) -> Result<Vec<PathBuf>, NodeError> {
    let own = cgroup::of_process("self")
        .map_err(|source| NodeError::Path { path: "/proc/self/cgroup".into(), source })?;
    let makers = config.proxy_cgroups.iter().chain([&own]);
    Ok(makers.filter(|maker| !cgroup::is_below(maker, &config.cgroup)).cloned().collect())
}

/// Where our pins are: layouts of two versions never meet.
pub(crate) fn root(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{VERSION}"))
}

fn pinned_pods(root: &Path) -> Result<Vec<String>, NodeError> {
    let pods = root.join("pods");
    let failed = |source| NodeError::Path { path: pods.clone(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&pods).map_err(failed)? {
        found.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(found)
}

/// An open cgroup. Its id is the inode of its folder.
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
}
