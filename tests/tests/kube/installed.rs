//! The chart, installed on a real API server and run by two nodes as it says, with the rights that it gives; and pods
//! of users who have not heard of it.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::Pod,
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use weft_tests::{
    kube::{Apply, Binder, Chart, Cluster, Kubelet, Relay, eventually},
    lab::{Capture, Captured, LONG, Lab, Loop, binary},
};

use crate::mesh::MESH;

/// Of service `web`.
pub(crate) const VIRTUAL: &str = "10.96.0.10";
pub(crate) const MARKER: &str = "secret-2b8c";
const NODE_PODS: &str = "app.kubernetes.io/name=weft-node";
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Two replicas, two nodes with their proxies, and all begin at once.
const UP: Duration = LONG.saturating_mul(3);

/// Dropped from the first to the last.
pub(crate) struct Installed {
    kubelets: [Kubelet; 2],
    _binder: Binder,
    _relay: Relay,
    lab: Lab,
    pub(crate) cluster: Cluster,
}

/// A pod by its namespace, its name and its node.
pub(crate) type At = (&'static str, &'static str, usize);

pub(crate) const CLIENT: At = ("shop", "client", 0);
pub(crate) const INTRUDER: At = ("shop", "intruder", 0);
pub(crate) const WEB: At = ("shop", "web", 1);
/// Not there at first.
pub(crate) const HEIR: At = ("shop", "heir", 1);
pub(crate) const OUTSIDER: At = ("plain", "outsider", 0);

impl Installed {
    /// The chart is installed and runs; nobody is in the mesh.
    pub(crate) async fn new() -> Result<Self> {
        let mut cluster = Cluster::own().await?;
        cluster.control()?;
        cluster.namespace(MESH, &[]).await?;
        let lab = Lab::new()?;
        let (relay, _) = cluster.relay_on(lab.wire())?;
        let kubelets = [
            Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?,
            Kubelet::start(&cluster, lab.bare_node(2)?, "zone-b").await?,
        ];
        let binder = Binder::start(&cluster, &["node-1", "node-2"])?;
        let scene = Self { kubelets, _binder: binder, _relay: relay, lab, cluster };
        scene.install(&json!({"node": {"proxy": {"workers": 1}}})).await?;
        scene.cast().await?;
        Ok(scene)
    }

    /// Installs the chart, or what has changed in it with these values, and waits until all of it runs.
    pub(crate) async fn install(&self, values: &Value) -> Result<()> {
        let chart = Chart::render(MESH, values)?;
        self.cluster.install(chart.objects(), Apply::Really)?;
        self.is_up().await.with_context(|| self.pods_say())
    }

    /// Waits until every pod of the chart is as it says now and ready, and no other is left.
    async fn is_up(&self) -> Result<()> {
        let client = self.cluster.client()?;
        let control = Api::<Deployment>::namespaced(client.clone(), MESH);
        eventually("both replicas of the control plane are ready", UP, async || {
            let control = control.get("weft-control").await.ok()?;
            let status = control.status?;
            (status.observed_generation == control.metadata.generation
                && [status.updated_replicas, status.ready_replicas, status.replicas]
                    == [Some(2); 3])
                .then_some(())
        })
        .await?;
        let node = Api::<DaemonSet>::namespaced(client.clone(), MESH);
        let pods = Api::<Pod>::namespaced(client, MESH);
        eventually("agent and proxy are ready on both nodes", UP, async || {
            let node = node.get("weft-node").await.ok()?;
            let status = node.status?;
            let is_new = status.observed_generation == node.metadata.generation;
            let all = [status.updated_number_scheduled, status.number_available] == [Some(2); 2];
            let pods = pods.list(&ListParams::default().labels(NODE_PODS)).await.ok()?;
            (is_new && all && pods.items.len() == 2).then_some(())
        })
        .await
    }

    /// Takes the users' namespace into the mesh, and waits until everybody knows.
    pub(crate) async fn enroll(&self) -> Result<()> {
        self.label("istio.io/dataplane-mode=ambient")?;
        for pod in [CLIENT, INTRUDER, WEB] {
            self.announced(pod, true).await?;
        }
        let what = "both proxies know that web is in the mesh";
        let known = eventually(what, LONG, async || {
            for node in [0, 1] {
                let known = self.weft(node, &["get", "workloads", "-o", "json"]).await.ok()?;
                let known: Vec<Value> = serde_json::from_str(&known).ok()?;
                known.iter().find(|it| {
                    it.get("name").is_some_and(|name| name == "web")
                        && it.get("protocol").is_some_and(|protocol| protocol == "HBONE")
                })?;
            }
            Some(())
        });
        known.await.with_context(|| self.pods_say())
    }

    /// Takes it out of the mesh.
    pub(crate) async fn un_enroll(&self) -> Result<()> {
        self.label("istio.io/dataplane-mode-")?;
        for pod in [CLIENT, INTRUDER, WEB] {
            self.announced(pod, false).await?;
        }
        Ok(())
    }

    fn label(&self, label: &str) -> Result<()> {
        self.cluster.kubectl(&["label", "namespace", "shop", label]).map(drop)
    }

    /// Clients in one pod that call another, connection after connection.
    pub(crate) fn load(&self, from: At, to: At, threads: u8) -> Result<Loop> {
        self.load_by(from, &self.address(to)?, to.1, threads)
    }

    /// The same by an address; whoever answers must be the one of this name.
    pub(crate) fn load_by(&self, from: At, address: &str, name: &str, threads: u8) -> Result<Loop> {
        let from = self.kubelet(from.2)?.sandbox(from.0, from.1)?;
        from.hammer_for(&format!("{address}:80"), threads, MARKER, name)
    }

    /// What users run, before anybody speaks of a mesh.
    pub(crate) async fn cast(&self) -> Result<()> {
        for namespace in ["shop", "plain"] {
            self.cluster.namespace(namespace, &[]).await?;
        }
        for pod in [CLIENT, INTRUDER, WEB, OUTSIDER] {
            self.make(pod, "{}")?;
        }
        self.cluster.apply(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{clusterIP: {VIRTUAL}, selector: {{app: web}}, ports: [{{port: 80}}]}}
"
        ))?;
        for (from, to) in [(CLIENT, WEB), (INTRUDER, WEB), (OUTSIDER, WEB), (CLIENT, OUTSIDER)] {
            self.becomes(from, to, Answer::Given).await.context("before the mesh")?;
        }
        Ok(())
    }

    pub(crate) fn kubelet(&self, node: usize) -> Result<&Kubelet> {
        self.kubelets.get(node).with_context(|| format!("there is no node {node}"))
    }

    /// Makes a pod that serves on port 80 and answers with its name.
    pub(crate) fn make(&self, (namespace, name, node): At, annotations: &str) -> Result<()> {
        let node = node + 1;
        self.cluster.apply(&format!(
            "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}, annotations: {annotations}}}
spec:
  nodeName: node-{node}
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: weft-app, args: [serve, --port, \"80\", --name, {name}]}}]
"
        ))
    }

    /// The address of a pod.
    pub(crate) fn address(&self, (namespace, name, node): At) -> Result<String> {
        Ok(self.kubelet(node)?.sandbox(namespace, name)?.v4().to_owned())
    }

    /// How a pod is called by its own address.
    pub(crate) fn url(&self, pod: At) -> Result<String> {
        Ok(format!("http://{}/{MARKER}", self.address(pod)?))
    }

    /// What a pod is answered.
    pub(crate) fn curl(&self, (namespace, name, node): At, url: &str) -> Result<String> {
        self.kubelet(node)?.sandbox(namespace, name)?.curl(url)
    }

    pub(crate) async fn becomes(&self, from: At, to: At, wanted: Answer) -> Result<()> {
        let url = self.url(to)?;
        let what = format!("{} calls {}: {wanted:?}", from.1, to.1);
        let found = eventually(&what, LONG, async || {
            (self.curl(from, &url).is_ok() == (wanted == Answer::Given)).then_some(())
        });
        found.await.with_context(|| self.pods_say())
    }

    pub(crate) async fn announced(&self, (namespace, name, _): At, wanted: bool) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.cluster.client()?, namespace);
        let what = format!("{name} is announced: {wanted}");
        let found = eventually(&what, LONG, async || {
            let annotations = pods.get(name).await.ok()?.metadata.annotations.unwrap_or_default();
            let is = annotations.get(REDIRECTION).is_some_and(|is| is == "enabled");
            (is == wanted).then_some(())
        });
        found.await.with_context(|| self.pods_say())
    }

    /// What passed between the nodes and on them while pods called each other.
    pub(crate) fn watched(&self, calls: impl FnOnce() -> Result<()>) -> Result<Vec<Captured>> {
        let captures = self.kubelets.iter().map(|it| Capture::start(it.node().namespace(), MARKER));
        let captures: Vec<_> = captures.collect::<Result<_>>()?;
        calls()?;
        captures.into_iter().map(Capture::stop).collect()
    }

    /// The name of the pod with agent and proxy of a node.
    pub(crate) async fn mesh_pod(&self, node: usize) -> Result<String> {
        let pods = Api::<Pod>::namespaced(self.cluster.client()?, MESH);
        let name = self.kubelet(node)?.node().name();
        let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let pods = pods.list(&here.labels(NODE_PODS)).await?;
        pods.items.into_iter().find_map(|pod| pod.metadata.name).context("a node has its pod")
    }

    /// What `weft` says in a node's proxy's place.
    pub(crate) async fn weft(&self, node: usize, args: &[&str]) -> Result<String> {
        let pod = self.mesh_pod(node).await?;
        let sandbox = self.kubelet(node)?.sandbox(MESH, &pod)?;
        let args = [&["--admin", "http://127.0.0.1:15000"], args].concat();
        let output = sandbox.run(&binary("weft")?.to_string_lossy(), &args)?;
        Ok(String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?)
    }

    /// What `weft` says to somebody who has no more than a kubeconfig.
    pub(crate) fn weft_outside(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("weft")?);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).args(args);
        let output = command.output().context("run weft")?;
        Ok(String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?)
    }

    pub(crate) async fn proxy_log(&self, node: usize) -> Result<String> {
        let file = format!("{MESH}-{}-ztunnel.log", self.mesh_pod(node).await?);
        Ok(std::fs::read_to_string(self.lab.dir().join(file))?)
    }

    /// What somebody would look at who finds that it does not work.
    pub(crate) fn pods_say(&self) -> String {
        let ask = |args: &[&str]| self.cluster.kubectl(args).unwrap_or_else(|e| e.to_string());
        let pods = ask(&["get", "pods", "-A", "-o", "wide"]);
        let events = ask(&["get", "events", "-A"]);
        let logs = std::fs::read_dir(self.lab.dir()).into_iter().flatten().flatten();
        let ours = logs.filter(|it| it.file_name().to_string_lossy().starts_with(MESH));
        let tail = |it: std::fs::DirEntry| {
            let text = std::fs::read_to_string(it.path()).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(8).collect();
            format!(
                "{}:\n{}\n",
                it.path().display(),
                lines.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        };
        format!("{pods}{events}{}", ours.map(tail).collect::<String>())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Given,
    Refused,
}

pub(crate) fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    )
}
