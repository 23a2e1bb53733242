//! A node with a kubelet, an agent and a proxy, and pods of which some are asked into the mesh.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use weft_tests::{
    kube::{Apply, Chart, Cluster, Kubelet, Relay, eventually},
    lab::{Control, LONG, Lab, Loop, Process, Sandbox},
};

use super::mesh::{MESH, NODE};

pub(crate) const AMBIENT: &[(&str, &str)] = &[("istio.io/dataplane-mode", "ambient")];
const REDIRECTION: &str = "ambient.istio.io/redirection";

/// A node with a kubelet, whose network plugins are ours too. Dropped from the first to the last.
pub(crate) struct Scene {
    pub(crate) proxy: Option<Process>,
    pub(crate) agent: Option<Process>,
    pub(crate) kubelet: Kubelet,
    control: Control,
    /// The node's way to the API server.
    pub(crate) kubeconfig: PathBuf,
    _relay: Relay,
    _lab: Lab,
    pub(crate) cluster: Cluster,
}

impl Scene {
    pub(crate) async fn new() -> Result<Self> {
        let cluster = Cluster::own().await?;
        let lab = Lab::new()?;
        let control = lab.control()?;
        let node = lab.furnished_node(1, &control)?;
        let kubelet = Kubelet::start(&cluster, node, "zone-a").await?;
        let (relay, kubeconfig) = cluster.relay_on(lab.wire())?;
        // With no more rights than an installed agent has.
        cluster.namespace(MESH, &[]).await?;
        cluster.install(&Chart::render(MESH, &Value::Null)?.rights(), Apply::Really)?;
        let kubeconfig = cluster.restricted(&kubeconfig, NODE).await?;
        let agent = Some(kubelet.start_agent(&kubeconfig)?);
        Ok(Self {
            proxy: None,
            agent,
            kubelet,
            control,
            kubeconfig,
            _relay: relay,
            _lab: lab,
            cluster,
        })
    }

    /// The same with four pods and a proxy, which has `web` and `client`.
    pub(crate) async fn in_the_mesh() -> Result<Self> {
        let mut scene = Self::new().await?;
        four_pods(&scene).await?;
        scene.start_proxy()?;
        scene.label(&["namespace", "shop"], "istio.io/dataplane-mode=ambient")?;
        for pod in ["web", "client"] {
            scene.becomes_announced("shop", pod, true).await?;
        }
        Ok(scene)
    }

    pub(crate) fn start_proxy(&mut self) -> Result<()> {
        self.proxy = Some(self.kubelet.node().spawn_proxy()?);
        Ok(())
    }

    pub(crate) fn kill_proxy(&mut self) -> Result<()> {
        self.proxy.take().context("a proxy runs")?.kill()
    }

    pub(crate) fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(self.kubelet.start_agent(&self.kubeconfig)?);
        Ok(())
    }

    pub(crate) fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("an agent runs")?.kill()
    }

    pub(crate) fn agent_log(&self) -> String {
        self.kubelet.node().agent_log()
    }

    /// Waits until agents have enrolled so many pods; one that the next agent takes up counts again.
    pub(crate) async fn has_enrolled(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} pods are enrolled"), LONG, async || {
            (self.agent_log().matches(" enrolled ").count() == count).then_some(())
        })
        .await
        .with_context(|| self.agent_log())
    }

    /// Waits until agents have released so many pods.
    pub(crate) async fn has_released(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} pods are released"), LONG, async || {
            (self.agent_log().matches(" un-enrolled").count() == count).then_some(())
        })
        .await
        .with_context(|| self.agent_log())
    }

    /// Refuses that an agent has released a pod of the namespace `shop`.
    pub(crate) async fn was_never_let_go(&self, pod: &str) -> Result<()> {
        let uid = self.pods("shop")?.get(pod).await?.metadata.uid.context("a pod has a UID")?;
        let log = self.agent_log();
        let let_go = log.lines().find(|line| line.contains("un-enrolled") && line.contains(&uid));
        ensure!(let_go.is_none(), "a captured pod was let go: {let_go:?}");
        Ok(())
    }

    pub(crate) fn proxy_log(&self) -> String {
        self.kubelet.node().proxy_log()
    }

    pub(crate) fn pods(&self, namespace: &str) -> Result<Api<Pod>> {
        Ok(Api::namespaced(self.cluster.client()?, namespace))
    }

    /// A pod that serves on port 80, and waits until it does.
    pub(crate) async fn serve(&self, namespace: &str, name: &str, more: &str) -> Result<()> {
        self.make(
            namespace,
            name,
            more,
            "weft-app",
            &format!("[serve, --port, \"80\", --name, {name}]"),
        )?;
        let pods = self.pods(namespace)?;
        eventually(&format!("{namespace}/{name} runs"), LONG, async || {
            let pod = pods.get(name).await.ok()?;
            (pod.status?.phase? == "Running").then_some(())
        })
        .await
        .with_context(|| {
            let events = self.cluster.kubectl(&["get", "events", "-n", namespace]);
            format!("{}{}", self.agent_log(), events.unwrap_or_else(|error| error.to_string()))
        })
    }

    pub(crate) fn make(
        &self,
        namespace: &str,
        name: &str,
        more: &str,
        image: &str,
        args: &str,
    ) -> Result<()> {
        self.cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}{more}}}
spec:
  nodeName: node-1
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: {image}, args: {args}}}]
"
        ))
    }

    /// A running pod of the namespace `shop`, on a node that nobody looks after; and the program in it.
    pub(crate) async fn abandoned_pod(&self, node: &str, name: &str) -> Result<(Sandbox, Process)> {
        self.cluster.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n"))?;
        self.cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec: {{nodeName: {node}, containers: [{{name: app, image: app}}]}}
"
        ))?;
        let uid = self.pods("shop")?.get(name).await?.metadata.uid.context("a pod has a UID")?;
        let sandbox = self.kubelet.foreign_sandbox(name, &uid)?;
        let program = sandbox.start("app", "sleep", &["600"])?;
        let ip = sandbox.v4();
        let status = json!({ "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
        } });
        let patch = format!("-p={status}");
        let how = ["--subresource=status", "--type=merge", &patch];
        self.cluster.kubectl(&[&["patch", "-n", "shop", "pod", name], &how[..]].concat())?;
        Ok((sandbox, program))
    }

    /// Waits until an agent has logged this.
    pub(crate) async fn says(&self, what: &str) -> Result<()> {
        eventually(what, LONG, async || self.agent_log().contains(what).then_some(()))
            .await
            .with_context(|| self.agent_log())
    }

    pub(crate) fn label(&self, object: &[&str], label: &str) -> Result<()> {
        self.cluster.kubectl(&[&["label", "--overwrite"], object, &[label]].concat()).map(drop)
    }

    /// Whether the API server is told that a pod is captured.
    pub(crate) async fn announced(&self, namespace: &str, name: &str) -> Result<bool> {
        let annotations = self.pods(namespace)?.get(name).await?.metadata.annotations;
        Ok(annotations.is_some_and(|all| all.get(REDIRECTION).is_some_and(|is| is == "enabled")))
    }

    pub(crate) async fn becomes_announced(
        &self,
        namespace: &str,
        name: &str,
        wanted: bool,
    ) -> Result<()> {
        let what = format!("{namespace}/{name} is announced: {wanted}");
        eventually(&what, LONG, async || {
            (self.announced(namespace, name).await.ok()? == wanted).then_some(())
        })
        .await
        .with_context(|| self.agent_log())
    }

    /// The proxies' control plane, which reads manifests here, learns of what the API server has of these.
    pub(crate) fn tell_control_plane(&self, namespace: &str, pods: &[&str]) -> Result<()> {
        let manifests = self.control.manifests();
        let told = |object: &[&str]| {
            let manifest = self
                .cluster
                .kubectl(&[&["get", "-o", "json", "-n", namespace], object].concat())?;
            manifests.apply(&object.join("-"), &manifest)
        };
        told(&["namespace", namespace])?;
        pods.iter().try_for_each(|pod| told(&["pod", pod]))
    }

    /// Clients in a pod that call another one, connection after connection.
    pub(crate) fn load(&self, from: (&str, &str), to: (&str, &str), threads: u8) -> Result<Loop> {
        let (from, to) = (self.kubelet.sandbox(from.0, from.1)?, self.kubelet.sandbox(to.0, to.1)?);
        from.hammer(&format!("{}:80", to.v4()), threads, "in-the-clear")
    }

    /// Whether a pod gets an answer from another one, within two seconds.
    pub(crate) fn reaches(&self, from: (&str, &str), to: (&str, &str)) -> Result<bool> {
        let (from, to) = (self.kubelet.sandbox(from.0, from.1)?, self.kubelet.sandbox(to.0, to.1)?);
        let url = format!("http://{}/", to.v4());
        Ok(from.run("curl", &["-sS", "-m", "2", &url])?.status.success())
    }
}

pub(crate) const CLIENT: (&str, &str) = ("shop", "client");
pub(crate) const WEB: (&str, &str) = ("shop", "web");
pub(crate) const OUT: (&str, &str) = ("shop", "out");
pub(crate) const FAR: (&str, &str) = ("plain", "far");

/// Pods that were there before anybody asked for them.
pub(crate) async fn four_pods(scene: &Scene) -> Result<()> {
    scene.cluster.namespace("shop", &[]).await?;
    scene.cluster.namespace("plain", &[]).await?;
    scene.serve("plain", "far", "").await?;
    scene.serve("shop", "web", "").await?;
    scene.serve("shop", "client", "").await?;
    scene.serve("shop", "out", ", labels: {istio.io/dataplane-mode: none}").await
}
