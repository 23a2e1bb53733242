//! The node's agent on Kubernetes: it follows the API server, and the kubelet's network plugins are its way in.

use std::{os::unix::net::UnixStream, path::Path};

use anyhow::Result;

use super::{Container, Kubelet};
use crate::lab::{LONG, Process, wait_for};

impl Kubelet {
    /// Starts the agent of this node, with a way to the API server from there, and waits until the CNI plugin is installed and answered.
    pub fn start_agent(&self, kubeconfig: &Path) -> Result<Process> {
        let agent = self.start_agent_for(kubeconfig, self.node().name())?;
        let ours = self.cni_configurations().join("10-lab-weft.conflist");
        wait_for("the CNI plugin is installed", LONG, || ours.exists().then_some(()))?;
        Ok(agent)
    }

    /// The same, for the pods of a node that has no kubelet.
    pub fn start_agent_for(&self, kubeconfig: &Path, node: &str) -> Result<Process> {
        let socket = self.node().dir().join("cni.sock");
        let agent = self.node().start_agent_told(&[
            format!("--node={node}"),
            "--kubernetes".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--cni-socket={}", socket.display()),
            format!("--cni-conf-dir={}", self.cni_configurations().display()),
            format!("--cni-bin-dir={}", self.cni_plugins().display()),
        ])?;
        let answers = || UnixStream::connect(&socket).ok().map(drop);
        wait_for("the agent answers the CNI plugin", LONG, answers)?;
        Ok(agent)
    }

    /// Runs the agent's program as a container that the chart starts to take the mesh off a node.
    pub fn start_cleanup(&self, container: &Container) -> Result<Process> {
        let here = |arg: &String| {
            let (conf, bin) = (self.cni_configurations(), self.cni_plugins());
            arg.replace("/host/cni/conf", &conf.to_string_lossy())
                .replace("/host/cni/bin", &bin.to_string_lossy())
        };
        self.node().start_cleanup(&container.args.iter().map(here).collect::<Vec<_>>())
    }
}
