//! What a node's own file system is in a lab, where all nodes share that of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};

use crate::lab::Node;

/// A node's paths, as a `hostPath` names them.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// From the path on the node to the one on the machine; the first that fits.
    known: Vec<(PathBuf, PathBuf)>,
    /// Where all else of it is.
    rest: PathBuf,
}

impl Host {
    /// With these folders of CNI configurations and plugins.
    pub(super) fn new(node: &Arc<Node>, [configurations, plugins]: [&Path; 2]) -> Result<Self> {
        let pins = node.pins();
        fs::create_dir_all(&pins).with_context(|| format!("make {}", pins.display()))?;
        let known = [
            ("/etc/cni/net.d", configurations.to_owned()),
            ("/opt/cni/bin", plugins.to_owned()),
            ("/sys/fs/bpf", pins),
            ("/sys/fs/cgroup", node.cgroup().to_owned()),
        ];
        let known = known.map(|(path, is)| (PathBuf::from(path), is)).to_vec();
        Ok(Self { known, rest: node.dir().join("host") })
    }

    /// Where a path of the node is on the machine.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        let known =
            self.known.iter().find_map(|(known, is)| Some(is.join(path.strip_prefix(known).ok()?)));
        known.unwrap_or_else(|| self.rest.join(path.strip_prefix("/").unwrap_or(path)))
    }
}
