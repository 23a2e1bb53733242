//! A pod of the directory mode: a sandbox, an object in the folder, and a file that enrolls it.

use std::{fs, ops::Deref, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{LONG, Manifests, Node, Sandbox, wait_for};

/// What is said of a pod to make it.
#[derive(Debug, Clone, Copy)]
pub struct PodSpec<'a> {
    pub name: &'a str,
    pub service_account: &'a str,
    /// The value of its label `app`, by which services select it.
    pub app: &'a str,
}

/// A pod in namespace `default`.
#[derive(Debug)]
pub struct Pod {
    uid: String,
    service_account: String,
    app: String,
    node: String,
    enroll: PathBuf,
    manifests: Manifests,
    sandbox: Sandbox,
}

/// What can be done in any place where a pod's programs run.
impl Deref for Pod {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.sandbox
    }
}

impl Node {
    /// Makes a pod outside of the mesh.
    pub fn pod(&self, spec: PodSpec<'_>) -> Result<Pod> {
        self.pod_at(spec, self.next_host())
    }

    /// Makes a pod with the `host`th address of its node, which may have been another's before.
    pub fn pod_at(&self, spec: PodSpec<'_>, host: u8) -> Result<Pod> {
        let name = spec.name;
        let sandbox = self.sandbox(name, name, host)?;
        let uid = format!("uid-{name}");
        let pod = Pod {
            enroll: self.pods_dir().join(format!("{uid}.json")),
            manifests: self.manifests().clone(),
            service_account: spec.service_account.to_owned(),
            app: spec.app.to_owned(),
            node: self.name().to_owned(),
            uid,
            sandbox,
        };
        pod.describe(Redirection::None)?;
        Ok(pod)
    }
}

#[derive(Clone, Copy)]
enum Redirection {
    None,
    Enabled,
}

impl Pod {
    /// The node that it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Takes it into the mesh, and waits until the proxy has taken it over.
    pub fn enroll(&self) -> Result<()> {
        self.announce()?;
        self.is_ready()
    }

    /// Waits until the proxy has taken it over.
    pub fn is_ready(&self) -> Result<()> {
        let state = self.reaches(&["ready", "failed"])?;
        ensure!(state == "ready", "pod {} is {state}: {:?}", self.name(), self.status());
        Ok(())
    }

    /// Takes it into the mesh, and waits until the kernel captures; there need not be a proxy.
    pub fn capture(&self) -> Result<()> {
        self.announce()?;
        let state = self.reaches(&["captured", "ready", "failed"])?;
        ensure!(state != "failed", "pod {} is {state}: {:?}", self.name(), self.status());
        Ok(())
    }

    /// Tells control plane and agent to take it into the mesh, and waits for nothing.
    pub fn announce(&self) -> Result<()> {
        self.describe(Redirection::Enabled)?;
        let pod = json!({
            "uid": self.uid, "namespace": "default", "name": self.name(),
            "serviceAccount": self.service_account, "netns": self.namespace().path(),
        });
        let hidden = self.enroll.with_extension("part");
        fs::write(&hidden, pod.to_string())?;
        fs::rename(&hidden, &self.enroll).with_context(|| format!("enroll {}", self.name()))
    }

    /// Takes it out of the mesh, and waits until new connections go directly.
    pub fn unenroll(&self) -> Result<()> {
        fs::remove_file(&self.enroll).with_context(|| format!("un-enroll {}", self.name()))?;
        wait_for("the agent lets the pod go", LONG, || {
            self.state().is_none_or(|state| state == "draining").then_some(())
        })?;
        self.describe(Redirection::None)
    }

    /// Deletes it: its object, its enrolment, its processes and its namespace, at once.
    pub fn delete(self) -> Result<()> {
        self.manifests.delete(&format!("pod-{}", self.name()))
    }

    fn reaches(&self, states: &[&str]) -> Result<String> {
        let what = format!("pod {} is {}", self.name(), states.join(" or "));
        wait_for(&what, LONG, || self.state().filter(|state| states.contains(&state.as_str())))
            .with_context(|| format!("its state is {:?}", self.status()))
    }

    fn state(&self) -> Option<String> {
        Some(self.status()?.get("state")?.as_str()?.to_owned())
    }

    /// What the agent says of it.
    pub fn status(&self) -> Option<Value> {
        let status = fs::read(self.enroll.with_extension("status.json")).ok()?;
        serde_json::from_slice(&status).ok()
    }

    fn describe(&self, redirection: Redirection) -> Result<()> {
        let annotations = match redirection {
            Redirection::None => "{}",
            Redirection::Enabled => "{ambient.istio.io/redirection: enabled}",
        };
        let Self { uid, app, node, service_account, .. } = self;
        let (name, v4, v6) = (self.name(), self.v4(), self.v6());
        self.manifests.apply(
            &format!("pod-{name}"),
            &format!(
                "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  uid: {uid}
  labels: {{app: {app}}}
  annotations: {annotations}
spec:
  nodeName: {node}
  serviceAccountName: {service_account}
  containers: [{{name: app, image: app}}]
status:
  phase: Running
  podIP: {v4}
  podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]
  conditions: [{{type: Ready, status: \"True\"}}]
"
            ),
        )
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.sandbox.is_kept() {
            let _ = fs::remove_file(&self.enroll);
        }
    }
}
