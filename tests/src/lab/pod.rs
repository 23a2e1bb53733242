//! A pod: a namespace with addresses on its node, a cgroup, and programs that know nothing of the mesh.

use std::{
    fs,
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Cgroup, Ground, LONG, Manifests, Namespace, Node, Process, User, binary, process::Place,
    wait_for,
};

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
    name: String,
    uid: String,
    service_account: String,
    app: String,
    node: String,
    v4: String,
    v6: String,
    enroll: PathBuf,
    manifests: Manifests,
    cgroup: Cgroup,
    namespace: Namespace,
    ground: Arc<Ground>,
}

impl Node {
    /// Makes a pod outside of the mesh.
    pub fn pod(&self, spec: PodSpec<'_>) -> Result<Pod> {
        self.pod_at(spec, self.next_host())
    }

    /// Makes a pod with the `host`th address of its node, which may have been another's before.
    pub fn pod_at(&self, spec: PodSpec<'_>, host: u8) -> Result<Pod> {
        let ground = self.ground().clone();
        let (name, index) = (spec.name, self.index());
        let namespace = Namespace::new(&ground, name)?;
        self.namespace().ip(&format!(
            "link add v-{name} type veth peer name eth0 netns {}
             link set v-{name} master br0 up",
            namespace.name()
        ))?;
        let (v4, v6) = (format!("10.1.{index}.{host}"), format!("fd01:{index}::{host}"));
        namespace.ip(&format!(
            "link set eth0 up
             addr add {v4}/24 dev eth0
             addr add {v6}/64 dev eth0 nodad
             route add default via 10.1.{index}.1
             route add default via fd01:{index}::1"
        ))?;
        let uid = format!("uid-{name}");
        let pod = Pod {
            enroll: self.pods_dir().join(format!("{uid}.json")),
            cgroup: Cgroup::new(&ground, &format!("{}/pods/{name}", self.name()))?,
            manifests: self.manifests().clone(),
            name: name.to_owned(),
            service_account: spec.service_account.to_owned(),
            app: spec.app.to_owned(),
            node: self.name().to_owned(),
            uid,
            v4,
            v6,
            namespace,
            ground,
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
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node that it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// A shell command that runs another one in this pod, its cgroup included.
    pub fn how_to_run(&self, command: &str) -> String {
        let (cgroup, namespace) = (self.cgroup.path().display(), self.namespace.name());
        format!("sh -c 'echo $$ > {cgroup}/cgroup.procs; exec ip netns exec {namespace} {command}'")
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> &str {
        &self.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> &str {
        &self.v6
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Takes it into the mesh, and waits until the proxy has taken it over.
    pub fn enroll(&self) -> Result<()> {
        self.announce()?;
        self.is_ready()
    }

    /// Waits until the proxy has taken it over.
    pub fn is_ready(&self) -> Result<()> {
        let state = self.reaches(&["ready", "failed"])?;
        ensure!(state == "ready", "pod {} is {state}: {:?}", self.name, self.status());
        Ok(())
    }

    /// Takes it into the mesh, and waits until the kernel captures; there need not be a proxy.
    pub fn capture(&self) -> Result<()> {
        self.announce()?;
        let state = self.reaches(&["captured", "ready", "failed"])?;
        ensure!(state != "failed", "pod {} is {state}: {:?}", self.name, self.status());
        Ok(())
    }

    /// Tells control plane and agent to take it into the mesh, and waits for nothing.
    pub fn announce(&self) -> Result<()> {
        self.describe(Redirection::Enabled)?;
        let pod = json!({
            "uid": self.uid, "namespace": "default", "name": self.name,
            "serviceAccount": self.service_account, "netns": self.namespace.path(),
        });
        let hidden = self.enroll.with_extension("part");
        fs::write(&hidden, pod.to_string())?;
        fs::rename(&hidden, &self.enroll).with_context(|| format!("enroll {}", self.name))
    }

    /// Takes it out of the mesh, and waits until new connections go directly.
    pub fn unenroll(&self) -> Result<()> {
        fs::remove_file(&self.enroll).with_context(|| format!("un-enroll {}", self.name))?;
        wait_for("the agent lets the pod go", LONG, || {
            self.state().is_none_or(|state| state == "draining").then_some(())
        })?;
        self.describe(Redirection::None)
    }

    /// Deletes it: its object, its enrolment, its processes and its namespace, at once.
    pub fn delete(self) -> Result<()> {
        self.manifests.delete(&format!("pod-{}", self.name))
    }

    fn reaches(&self, states: &[&str]) -> Result<String> {
        let what = format!("pod {} is {}", self.name, states.join(" or "));
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

    /// Runs a program inside to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        self.place().output(program, args)
    }

    /// Runs a program inside to its end and returns what it printed. Errors: it failed.
    pub fn says(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.run(program, args)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} in {}: {}", self.name, error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The body of a GET. Errors: what curl said.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.says("curl", &["-sS", "-m", "10", url]).with_context(|| format!("curl {url}"))
    }

    /// Starts a program inside; its output is `<pod>-<name>.log`.
    pub fn start(&self, name: &str, program: &str, args: &[&str]) -> Result<Process> {
        let name = format!("{}-{name}", self.name);
        self.place().start(&name, program, |command| {
            command.args(args);
        })
    }

    /// The same, with a pipe to its standard input: [`Process::input`].
    pub fn start_with_input(&self, name: &str, program: &str, args: &[&str]) -> Result<Process> {
        let name = format!("{}-{name}", self.name);
        self.place().start(&name, program, |command| {
            command.args(args).stdin(Stdio::piped());
        })
    }

    /// Starts our small server, which answers with this pod's name, and waits until it listens.
    pub fn serve(&self, port: u16) -> Result<Process> {
        let (program, port_arg) = (binary("weft-app")?, port.to_string());
        let args = ["serve", "--port", &port_arg, "--name", &self.name];
        self.serve_with(port, &program.to_string_lossy(), &args)
    }

    /// Starts any server and waits until it listens.
    pub fn serve_with(&self, port: u16, program: &str, args: &[&str]) -> Result<Process> {
        let server = self.start(&format!("serve-{port}"), program, args)?;
        let listens = || self.listens(port).then_some(());
        wait_for("the server listens", LONG, listens).with_context(|| server.log())?;
        Ok(server)
    }

    /// Whether a TCP listener of this port is in the pod's namespace.
    fn listens(&self, port: u16) -> bool {
        let wanted = format!(":{port:04X} ");
        let read = || {
            let v4 = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
            v4 + &fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default()
        };
        let tables = self.namespace.enter(read).unwrap_or_default();
        tables.lines().any(|line| line.contains(&wanted) && line.contains(" 0A "))
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place {
            ground: &self.ground,
            namespace: &self.namespace,
            cgroup: &self.cgroup,
            user: User::Root,
        }
    }

    fn describe(&self, redirection: Redirection) -> Result<()> {
        let annotations = match redirection {
            Redirection::None => "{}",
            Redirection::Enabled => "{ambient.istio.io/redirection: enabled}",
        };
        let Self { name, uid, app, node, service_account, v4, v6, .. } = self;
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
        if !self.ground.is_kept() {
            let _ = fs::remove_file(&self.enroll);
        }
    }
}
