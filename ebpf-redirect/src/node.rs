//! The node's programs: loaded, pinned, and replaced in place by a later agent.

mod hooks;
mod maps;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use weft_redirect_abi::{NodeCounter, VERSION};

use crate::attach::AttachError;
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
        Object::Node.built()?;
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
        node.exempt_proxies()?;
        hooks::attach(&node.root, &mut object, config)?;
        Ok(node)
    }

    /// Makes the proxy's cgroups, and those below them, exactly those whose connections are the proxy's own.
    ///
    /// A cgroup that is not there yet is looked for again when a proxy says hello.
    pub fn exempt_proxies(&mut self) -> Result<(), NodeError> {
        let mut ids = Vec::new();
        for cgroup in &self.proxy_cgroups {
            let found = cgroup::ids_below(cgroup)
                .map_err(|source| NodeError::Path { path: cgroup.clone(), source })?;
            ids.extend(found);
        }
        self.maps.exempt_exactly(&ids)
    }

    /// What the node's programs have counted since they were first loaded.
    pub fn counters(&self) -> Result<Vec<(NodeCounter, u64)>, NodeError> {
        self.maps.counters()
    }

    pub(crate) fn captures(&self, cookie: u64) -> Result<bool, NodeError> {
        self.maps.captures(cookie)
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
