//! The files of a pod's containers.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    host::Host,
    image::Image,
    root::{self, Mount},
    volumes::{self, Filler},
};
use crate::lab::{Node, Sandbox};

/// It is told where its host's namespace is: a lab's nodes share the machine's processes, and the first of these is
/// of no node.
const AGENT: &str = "/weft-redirect";
/// And for the same reason it sees namespaces here, not through that process.
const NAMESPACES: &str = "/run/netns";

/// What one pod's containers find on their disks.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) node: Arc<Node>,
    /// By the volumes' names.
    volumes: BTreeMap<String, PathBuf>,
    dir: PathBuf,
}

impl Files {
    pub(super) fn of(node: &Arc<Node>, pod: &Pod) -> Self {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let dir = node.dir().join("kubelet").join(uid);
        Self { node: node.clone(), volumes: BTreeMap::new(), dir }
    }

    /// Makes the pod's volumes, or writes what has changed in them. Pods of other images need none.
    pub(super) async fn fill(&mut self, filler: &Filler<'_>, host: &Host) -> Result<()> {
        let spec = filler.pod.spec.as_ref().context("a pod has a spec")?;
        if !spec
            .containers
            .iter()
            .any(|it| Image::of(it.image.as_deref().unwrap_or_default()).is_some())
        {
            return Ok(());
        }
        for volume in spec.volumes.iter().flatten() {
            let made = volumes::make(filler, volume, host, &self.dir.join("volumes")).await;
            let path = made.with_context(|| {
                format!("MountVolume.SetUp failed for volume {:?}", volume.name)
            })?;
            self.volumes.insert(volume.name.clone(), path);
        }
        Ok(())
    }

    /// What a program is told here beside its own arguments.
    pub(super) fn told(&self, program: Option<&str>) -> Option<String> {
        let namespace = self.node.namespace().path();
        (program == Some(AGENT)).then(|| format!("--host-netns={}", namespace.display()))
    }

    /// How a container is started in a root of its own.
    pub(super) fn scripts(
        &self,
        pod: &Pod,
        container: &Container,
        image: &Image,
        sandbox: &Sandbox,
    ) -> Result<[String; 2]> {
        let scratch = self.dir.join("roots").join(&container.name);
        fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
        for mount in container.volume_mounts.iter().flatten() {
            ensure!(self.volumes.contains_key(&mount.name), "there is no volume {:?}", mount.name);
        }
        let volume = |name: &str| self.volumes.get(name).cloned();
        let hosts = hosts(self.node.dir());
        let mut mounts = root::mounts(container, image.files()?, |it| volume(&it.name), hosts);
        if image.entry_point == [AGENT] {
            let [from, to] = [NAMESPACES; 2].map(PathBuf::from);
            mounts.push(Mount { from, to, read_only: false });
        }
        let spec = pod.spec.as_ref().context("a pod has a spec")?;
        let cgroup = sandbox.cgroup_of(&container.name)?;
        Ok(root::scripts(spec, container, &cgroup, &scratch, &mounts))
    }
}

/// Where the names of services are, instead of in a DNS server.
pub(super) fn hosts(node: &Path) -> PathBuf {
    node.join("hosts")
}
