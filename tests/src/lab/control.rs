//! The control plane of a lab: `weft-control` in a namespace of its own on the wire.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};

use super::{
    Cgroup, Ground, LONG, Lab, Manifests, Namespace, Process, User, binary, process::Place,
    wait_for, ways_to_pods,
};

/// Its address on the wire.
pub(super) const ADDRESS: &str = "10.0.0.100:15012";
const HOST: u8 = 100;
const ADMIN: &str = "127.0.0.1:15014";

/// Control plane and certificate service.
#[derive(Debug)]
pub struct Control {
    process: Option<Process>,
    manifests: Manifests,
    data: PathBuf,
    cgroup: Cgroup,
    namespace: Namespace,
    ground: Arc<Ground>,
}

impl Lab {
    /// Starts a control plane over an empty folder of manifests.
    pub fn control(&self) -> Result<Control> {
        let ground = self.ground.clone();
        let namespace = Namespace::new(&ground, "control")?;
        self.plug(&namespace, "control", HOST)?;
        // The way back to pods, whose nodes are on the wire.
        namespace.ip(&ways_to_pods(|_| true))?;
        let cgroup = Cgroup::new(&ground, "control")?;
        let manifests = self.manifests().clone();
        let data = ground.dir.join("control");
        let mut control = Control { process: None, manifests, data, cgroup, namespace, ground };
        control.start()?;
        Ok(control)
    }
}

impl Control {
    /// The folder that it reads.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Where it keeps its key and writes its root certificate.
    pub(super) fn root_certificate(&self) -> PathBuf {
        self.data.join("root-cert.pem")
    }

    /// Starts it (again) and waits until it listens.
    pub fn start(&mut self) -> Result<()> {
        let args = [
            "run".to_owned(),
            format!("--dir={}", self.manifests.dir().display()),
            format!("--data={}", self.data.display()),
            format!("--listen={ADDRESS}"),
            "--trust-domain=cluster.local".to_owned(),
            "--cluster-id=Kubernetes".to_owned(),
            format!("--admin={ADMIN}"),
        ];
        let program = binary("weft-control")?;
        let process =
            self.place().start("weft-control", &program.to_string_lossy(), |command| {
                command.args(&args);
            })?;
        self.process = Some(process);
        let listening = wait_for("the control plane listens", LONG, || self.is_listening());
        listening.with_context(|| self.log())
    }

    /// Kills it, certificate service and all.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the control plane is not running")?.kill()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// A token with which the node's proxy may ask for configuration and certificates.
    pub(super) fn token(&self, node: &str) -> Result<String> {
        let (program, data) = (binary("weft-control")?, self.data.display().to_string());
        let program = program.to_string_lossy();
        let output = self.place().output(&program, &["token", "--data", &data, "--node", node])?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weft-control token failed: {}", error.trim());
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn is_listening(&self) -> Option<()> {
        let address = ADDRESS.to_owned();
        let connect = move || std::net::TcpStream::connect(address).is_ok();
        let listens = self.namespace.enter(connect).unwrap_or(false);
        (listens && self.root_certificate().exists()).then_some(())
    }

    fn place(&self) -> Place<'_> {
        Place {
            ground: &self.ground,
            namespace: &self.namespace,
            cgroup: &self.cgroup,
            user: User::Root,
        }
    }
}
