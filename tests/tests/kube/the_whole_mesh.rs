//! The chart is installed, a namespace is labelled, and that is all: the pods of the chart run as it says, with the
//! rights that it gives them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::Pod,
};
use kube::{Api, api::ListParams};
use serde_json::json;
use weft_tests::{
    kube::{Apply, Binder, Chart, Cluster, Kubelet, Relay, eventually},
    lab::{Capture, Captured, LONG, Lab, binary},
};

use crate::mesh::MESH;

const MARKER: &str = "secret-2b8c";
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Two replicas, two nodes with their proxies, and all begin at once.
const UP: Duration = LONG.saturating_mul(3);

/// Dropped from the first to the last.
struct Scene {
    kubelets: [Kubelet; 2],
    _binder: Binder,
    _relay: Relay,
    lab: Lab,
    cluster: Cluster,
}

/// A pod by its namespace, its name and its node.
type At = (&'static str, &'static str, usize);

const CLIENT: At = ("shop", "client", 0);
const INTRUDER: At = ("shop", "intruder", 0);
const WEB: At = ("shop", "web", 1);
const OUTSIDER: At = ("plain", "outsider", 0);

impl Scene {
    /// The chart is installed and runs; nobody is in the mesh.
    async fn new() -> Result<Self> {
        let mut cluster = Cluster::own().await?;
        cluster.control()?;
        cluster.namespace(MESH, &[]).await?;
        cluster.apply(&definition("authorizationpolicies", "AuthorizationPolicy"))?;
        cluster.apply(&definition("peerauthentications", "PeerAuthentication"))?;
        let lab = Lab::new()?;
        let (relay, _) = cluster.relay_on(lab.wire())?;
        let kubelets = [
            Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?,
            Kubelet::start(&cluster, lab.bare_node(2)?, "zone-b").await?,
        ];
        let binder = Binder::start(&cluster, &["node-1", "node-2"])?;
        let scene = Self { kubelets, _binder: binder, _relay: relay, lab, cluster };
        let chart = Chart::render(MESH, &json!({"node": {"proxy": {"workers": 1}}}))?;
        scene.cluster.install(chart.objects(), Apply::Really)?;
        scene.is_up().await.with_context(|| scene.pods_say())?;
        scene.cast().await?;
        Ok(scene)
    }

    async fn is_up(&self) -> Result<()> {
        let client = self.cluster.client()?;
        let control = Api::<Deployment>::namespaced(client.clone(), MESH);
        eventually("both replicas of the control plane are ready", UP, async || {
            let status = control.get("weft-control").await.ok()?.status?;
            (status.ready_replicas == Some(2)).then_some(())
        })
        .await?;
        let node = Api::<DaemonSet>::namespaced(client, MESH);
        eventually("agent and proxy are ready on both nodes", UP, async || {
            let status = node.get("weft-node").await.ok()?.status?;
            (status.number_ready == 2).then_some(())
        })
        .await
    }

    /// What users run, before anybody speaks of a mesh.
    async fn cast(&self) -> Result<()> {
        for namespace in ["shop", "plain"] {
            self.cluster.namespace(namespace, &[]).await?;
        }
        for (namespace, name, node) in [CLIENT, INTRUDER, WEB, OUTSIDER] {
            let node = node + 1;
            self.cluster.apply(&format!(
                "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  nodeName: node-{node}
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: weft-app, args: [serve, --port, \"80\", --name, {name}]}}]
"
            ))?;
        }
        self.cluster.apply(
            "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80}]}
",
        )?;
        for (from, to) in [(CLIENT, WEB), (INTRUDER, WEB), (OUTSIDER, WEB), (CLIENT, OUTSIDER)] {
            self.becomes(from, to, Answer::Given).await.context("before the mesh")?;
        }
        Ok(())
    }

    fn kubelet(&self, node: usize) -> Result<&Kubelet> {
        self.kubelets.get(node).with_context(|| format!("there is no node {node}"))
    }

    /// How a pod is called by its own address.
    fn url(&self, (namespace, name, node): At) -> Result<String> {
        let sandbox = self.kubelet(node)?.sandbox(namespace, name)?;
        Ok(format!("http://{}/{MARKER}", sandbox.v4()))
    }

    /// What a pod is answered.
    fn curl(&self, (namespace, name, node): At, url: &str) -> Result<String> {
        self.kubelet(node)?.sandbox(namespace, name)?.curl(url)
    }

    async fn becomes(&self, from: At, to: At, wanted: Answer) -> Result<()> {
        let url = self.url(to)?;
        let what = format!("{} calls {}: {wanted:?}", from.1, to.1);
        let found = eventually(&what, LONG, async || {
            (self.curl(from, &url).is_ok() == (wanted == Answer::Given)).then_some(())
        });
        found.await.with_context(|| self.pods_say())
    }

    async fn announced(&self, (namespace, name, _): At, wanted: bool) -> Result<()> {
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
    fn watched(&self, calls: impl FnOnce() -> Result<()>) -> Result<Vec<Captured>> {
        let captures = self.kubelets.iter().map(|it| Capture::start(it.node().namespace(), MARKER));
        let captures: Vec<_> = captures.collect::<Result<_>>()?;
        calls()?;
        captures.into_iter().map(Capture::stop).collect()
    }

    /// The name of the pod with agent and proxy of a node.
    async fn mesh_pod(&self, node: usize) -> Result<String> {
        let pods = Api::<Pod>::namespaced(self.cluster.client()?, MESH);
        let name = self.kubelet(node)?.node().name();
        let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let pods = pods.list(&here.labels("app.kubernetes.io/name=weft-node")).await?;
        pods.items.into_iter().find_map(|pod| pod.metadata.name).context("a node has its pod")
    }

    /// What `weft` says in a node's proxy's place.
    async fn weft(&self, node: usize, args: &[&str]) -> Result<String> {
        let pod = self.mesh_pod(node).await?;
        let sandbox = self.kubelet(node)?.sandbox(MESH, &pod)?;
        let args = [&["--admin", "http://127.0.0.1:15000"], args].concat();
        let output = sandbox.run(&binary("weft")?.to_string_lossy(), &args)?;
        Ok(String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?)
    }

    async fn proxy_log(&self, node: usize) -> Result<String> {
        let file = format!("{MESH}-{}-ztunnel.log", self.mesh_pod(node).await?);
        Ok(std::fs::read_to_string(self.lab.dir().join(file))?)
    }

    /// What somebody would look at who finds that it does not work.
    fn pods_say(&self) -> String {
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
enum Answer {
    Given,
    Refused,
}

#[tokio::test]
async fn an_installed_chart_and_a_label_give_encryption_identity_and_policy() -> Result<()> {
    let scene = Scene::new().await?;
    let web = scene.url(WEB)?;
    let call = || {
        let answer = scene.curl(CLIENT, &web)?;
        ensure!(answer.starts_with("web "), "web answered {answer:?}");
        Ok(())
    };
    let seen = scene.watched(call)?;
    ensure!(seen.iter().all(|it| it.marked > 0), "without the mesh the marker is not to be seen");

    scene.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode=ambient"])?;
    for pod in [CLIENT, INTRUDER, WEB] {
        scene.announced(pod, true).await?;
    }
    let proxies_know = eventually("both proxies know that web is in the mesh", LONG, async || {
        for node in [0, 1] {
            let known = scene.weft(node, &["get", "workloads", "-o", "json"]).await.ok()?;
            let known: Vec<serde_json::Value> = serde_json::from_str(&known).ok()?;
            known.iter().find(|it| it["name"] == "web" && it["protocol"] == "HBONE")?;
        }
        Some(())
    });
    proxies_know.await.with_context(|| scene.pods_say())?;
    let seen = scene.watched(|| {
        call()?;
        // The service's own address leads nowhere without the mesh: no kube-proxy runs here.
        scene.curl(CLIENT, &format!("http://10.96.0.10/{MARKER}")).map(drop)
    });
    for captured in seen.with_context(|| scene.pods_say())? {
        captured.refuse_clear_text()?;
        ensure!(captured.packets > 0, "nothing passed at all");
    }
    let log = scene.proxy_log(1).await?;
    ensure!(log.contains("ns/shop/sa/client"), "the proxy of web does not say who called: {log}");

    // An outsider is let in until somebody asks for more.
    scene.becomes(OUTSIDER, WEB, Answer::Given).await?;
    scene.cluster.apply(&policy("PeerAuthentication", "strict", "{mtls: {mode: STRICT}}"))?;
    scene.becomes(OUTSIDER, WEB, Answer::Refused).await?;
    scene.becomes(CLIENT, WEB, Answer::Given).await?;

    let source = "{source: {principals: [cluster.local/ns/shop/sa/intruder]}}";
    let deny = format!("{{action: DENY, rules: [{{from: [{source}]}}]}}");
    scene.cluster.apply(&policy("AuthorizationPolicy", "no-intruders", &deny))?;
    scene.becomes(INTRUDER, WEB, Answer::Refused).await?;
    scene.becomes(CLIENT, WEB, Answer::Given).await?;
    let why = scene.weft(1, &["why", "shop/intruder", "web.shop:80"]).await?;
    ensure!(why.contains("no-intruders"), "weft why says: {why}");
    let log = scene.proxy_log(1).await?;
    let told = log.lines().any(|line| line.contains("no-intruders") && line.contains("intruder"));
    ensure!(told, "the access log does not name the policy: {log}");

    scene.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"])?;
    for pod in [CLIENT, INTRUDER, WEB] {
        scene.announced(pod, false).await?;
    }
    // Policies bind those who are in the mesh.
    scene.becomes(INTRUDER, WEB, Answer::Given).await?;
    scene.becomes(OUTSIDER, WEB, Answer::Given).await?;
    let seen = scene.watched(call)?;
    ensure!(seen.iter().all(|it| it.marked > 0), "without the label the marker is not to be seen");
    Ok(())
}

fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    )
}

/// Of Istio's kinds, without their schemas.
fn definition(plural: &str, kind: &str) -> String {
    let singular = kind.to_lowercase();
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.security.istio.io}}
spec:
  group: security.istio.io
  scope: Namespaced
  names: {{plural: {plural}, singular: {singular}, kind: {kind}}}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"
    )
}
