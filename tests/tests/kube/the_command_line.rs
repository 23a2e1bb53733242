//! What `weft` says and does of a cluster.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::{
    kube::{Account, Cluster, eventually},
    lab::{LONG, binary},
};

use crate::{
    mesh::{Control, MESH},
    written::{defined, loosely_defined, write},
};

pub(crate) struct Said {
    code: Option<i32>,
    pub(crate) out: String,
    error: String,
}

pub(crate) fn weft(cluster: &Cluster, args: &[&str]) -> Result<Said> {
    weft_as(cluster.kubeconfig(), args)
}

pub(crate) fn weft_as(kubeconfig: &Path, args: &[&str]) -> Result<Said> {
    let mut command = Command::new(binary("weft")?);
    let output = command.arg("--kubeconfig").arg(kubeconfig).args(args).output()?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        error: String::from_utf8(output.stderr)?,
    })
}

impl Said {
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Result<Self> {
        let Self { code: found, out, error } = &self;
        ensure!(*found == Some(code), "exit code {found:?} instead of {code}: {out}{error}");
        for word in words {
            let all = format!("{out}{error}");
            ensure!(all.contains(word), "it says nothing of {word:?}: {all}");
        }
        Ok(self)
    }
}

fn label(cluster: &Cluster, object: &[&str]) -> Result<Value> {
    let found = cluster.kubectl(&[&["get", "-o", "json"], object].concat())?;
    let found: Value = serde_json::from_str(&found)?;
    let label = found.pointer("/metadata/labels/istio.io~1dataplane-mode");
    Ok(label.cloned().unwrap_or_default())
}

async fn two_pods(cluster: &Cluster) -> Result<()> {
    cluster.namespace("shop", &[]).await?;
    for (name, more) in [("web", ""), ("ingress", "hostNetwork: true, ")] {
        cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec: {{{more}containers: [{{name: app, image: app}}]}}
"
        ))?;
    }
    Ok(())
}

#[tokio::test]
async fn weft_enrolls_by_labels_and_says_what_it_changed() -> Result<()> {
    let cluster = Cluster::own().await?;
    two_pods(&cluster).await?;
    let shop = ["namespace", "shop"];

    let said = weft(&cluster, &["enroll", "shop", "--dry-run"])?;
    said.expect(0, &["label istio.io/dataplane-mode=ambient (dry run"])?;
    ensure!(label(&cluster, &shop)?.is_null(), "a dry run has labelled");

    let changed = ["shop: label istio.io/dataplane-mode=ambient\n", "1 pod is to be"];
    let said = weft(&cluster, &["enroll", "shop"])?.expect(0, &changed)?;
    let host = "pod ingress stays out: it is on the host's network";
    ensure!(said.out.contains(host), "the pod that cannot follow is not named: {}", said.out);
    ensure!(label(&cluster, &shop)? == "ambient", "the namespace is not labelled");
    weft(&cluster, &["enroll", "shop"])?.expect(0, &["nothing to change"])?;

    weft(&cluster, &["unenroll", "shop/web"])?.expect(0, &["dataplane-mode=none"])?;
    ensure!(label(&cluster, &["pod", "-n", "shop", "web"])? == "none", "the pod is not let out");
    weft(&cluster, &["enroll", "shop/web"])?.expect(0, &["=ambient, was none"])?;
    weft(&cluster, &["unenroll", "shop"])?
        .expect(0, &["dataplane-mode=ambient removed", "pod web stays in: its own label"])?;
    ensure!(label(&cluster, &shop)?.is_null(), "the namespace is still labelled");

    weft(&cluster, &["enroll", "shup"])?.expect(1, &["namespace shup does not exist"])?;
    weft(&cluster, &["enroll", "shop/wob"])?.expect(1, &["pod shop/wob does not exist"])?;
    weft(&cluster, &["enroll"])?.expect(2, &["NAMESPACE"])?;
    Ok(())
}

#[tokio::test]
async fn weft_names_the_right_that_it_lacks() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    let nobody = cluster.kubeconfig_of(Account { namespace: "shop", name: "default" }).await?;
    let why = ["refused to read namespace shop", "cannot get resource \"namespaces\""];
    weft_as(&nobody, &["enroll", "shop"])?.expect(1, &why)?;
    Ok(())
}

#[tokio::test]
async fn weft_check_before_an_installation_names_what_is_in_its_way() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    let fine = ["API server", "you may create all that the chart does", "no problems"];
    weft(&cluster, &["check", "--pre"])?.expect(0, &fine)?;

    cluster.apply(
        "apiVersion: v1
kind: Node
metadata: {name: old}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: istio-cni-node, namespace: shop}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: a, image: a}]}
",
    )?;
    let info = serde_json::json!({
        "kernelVersion": "4.19.0", "operatingSystem": "linux", "architecture": "amd64",
        "bootID": "", "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "",
        "machineID": "", "osImage": "", "systemUUID": "",
    });
    let patch = format!("-p={}", serde_json::json!({"status": {"nodeInfo": info}}));
    cluster.kubectl(&["patch", "node", "old", "--subresource=status", "--type=merge", &patch])?;
    let found = ["kernel 4.19.0; the mesh needs 5.15", "shop/istio-cni-node", "2 problems"];
    weft(&cluster, &["check", "--pre"])?.expect(3, &found)?;

    let nobody = cluster.kubeconfig_of(Account { namespace: "shop", name: "default" }).await?;
    weft_as(&nobody, &["check", "--pre"])?
        .expect(3, &["you may not create customresourcedefinitions, namespaces, "])?;
    Ok(())
}

/// Check, object, verdict, and how what it says begins.
const TOLD: [(&str, &str, &str, &str); 8] = [
    ("trust", "ConfigMap weft-system/weft-trust-bundle", "fine", "root "),
    ("duty", "Lease weft-system/weft-ca", "fine", "held by "),
    ("duty", "Lease weft-system/weft-status", "fine", "held by "),
    ("node", "node-1", "problem", "pod weft-node-1 is not ready: "),
    ("node", "node-2", "problem", "no pod of the mesh runs here"),
    ("pod", "shop/web", "problem", "it runs and is not captured"),
    ("policy", "AuthorizationPolicy shop/typo", "problem", "spec.rules[0]"),
    // No node is connected here.
    ("policy", "AuthorizationPolicy shop/good", "note", "it is on its way: "),
];

/// One that no kubelet has started, on a node without a kubelet that could be asked.
fn pod_of_a_proxy(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: weft-node-1, namespace: {MESH}, labels: {{app.kubernetes.io/name: weft-node}}}}
spec: {{nodeName: node-1, containers: [{{name: ztunnel, image: app}}]}}
"
    ))
}

#[tokio::test]
async fn weft_check_names_what_is_wrong_with_a_mesh() -> Result<()> {
    let cluster = defined().await?;
    let missing = ["Deployment weft-system/weft-control does not exist", "weft-ca does not exist"];
    weft(&cluster, &["check"])?.expect(3, &missing)?;

    let control = Control::start(&cluster).await?;
    write(&cluster, "AuthorizationPolicy", "typo", "{action: DENY, rules: [{form: []}]}")?;
    write(&cluster, "AuthorizationPolicy", "good", "{action: DENY, rules: [{}]}")?;
    pod_of_a_proxy(&cluster)?;
    let running = "-p={\"status\": {\"phase\": \"Running\"}}";
    let patch = ["patch", "pod", "web", "-n", "shop", "--subresource=status", "--type=merge"];
    cluster.kubectl(&[&patch[..], &[running]].concat())?;
    let mut last = String::new();
    let told = eventually("weft check tells of everything", LONG, async || {
        last = weft(&cluster, &["check", "-o", "json"]).ok()?.expect(3, &[]).ok()?.out;
        let lines: Vec<Value> = serde_json::from_str(&last).ok()?;
        let is_told = |(check, object, verdict, says): &(&str, &str, &str, &str)| {
            lines.iter().any(|line| {
                line["check"] == *check
                    && line["object"] == *object
                    && line["verdict"] == *verdict
                    && line["says"].as_str().is_some_and(|it| it.starts_with(says))
            })
        };
        TOLD.iter().all(is_told).then_some(())
    });
    told.await.with_context(|| format!("it last said {last}"))?;
    control.stop().await
}

#[tokio::test]
async fn weft_analyze_says_of_a_cluster_what_it_says_of_its_manifests() -> Result<()> {
    let cluster = loosely_defined().await?;
    weft(&cluster, &["analyze"])?.expect(0, &["no problems in the cluster"])?;

    let cidr = "{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}";
    write(&cluster, "AuthorizationPolicy", "cidr", cidr)?;
    write(&cluster, "AuthorizationPolicy", "typo", "{action: DENY, rules: [{form: []}]}")?;
    write(&cluster, "ServiceEntry", "zero", "{hosts: [a.b], ports: [{number: 0, name: tcp}]}")?;
    // Slices whose lists are null are as good as those without.
    cluster.apply(
        "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: null
ports: null
",
    )?;
    let found = weft(&cluster, &["analyze"])?.expect(
        3,
        &[
            "AuthorizationPolicy shop/cidr: spec.rules[0].from[0].source.ipBlocks[0]: ",
            "(`10.0.0.0/33`)",
            "AuthorizationPolicy shop/typo: spec.rules[0]",
            "ServiceEntry shop/zero: spec.ports[0]: ",
            "3 problems in the cluster",
        ],
    )?;
    weft(&cluster, &["analyze", "-n", "default"])?.expect(0, &["no problems"])?;

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("all.yaml");
    let kinds = "authorizationpolicies,serviceentries,endpointslices,services";
    std::fs::write(&file, cluster.kubectl(&["get", kinds, "-n", "shop", "-o", "yaml"])?)?;
    let said = weft(&cluster, &["analyze", "-f", &file.to_string_lossy()])?.expect(3, &[])?;
    let told = |out: &str| -> Vec<String> {
        let lines = out.lines().filter_map(|line| Some(line.split_once("shop/")?.1.to_owned()));
        lines.collect()
    };
    ensure!(told(&said.out) == told(&found.out), "{}\nis not\n{}", said.out, found.out);
    Ok(())
}

#[tokio::test]
async fn weft_ca_rotate_asks_for_another_root_once_and_weft_ca_status_says_how_far_it_is()
-> Result<()> {
    let cluster = defined().await?;
    let bundle = "ConfigMap weft-system/weft-trust-bundle does not exist";
    weft(&cluster, &["ca", "status"])?.expect(1, &[bundle])?;
    let control = Control::start(&cluster).await?;
    eventually("the duty is held", LONG, async || {
        let said = weft(&cluster, &["ca", "status"]).ok()?.expect(0, &["root "]).ok()?;
        (!said.out.contains("tended by nobody")).then_some(())
    })
    .await?;
    // The control plane is in this process, and no pod of the cluster.
    let alone = ["the control plane cannot be asked: no replica of the control plane is ready"];
    weft(&cluster, &["ca", "status"])?.expect(0, &alone)?;

    let missing = "Deployment weft-system/weft-control does not exist";
    weft(&cluster, &["ca", "rotate"])?.expect(1, &[missing])?;
    let deployment = |args: &str| {
        cluster.apply(&format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: weft-control, namespace: {MESH}}}
spec:
  replicas: 0
  selector: {{matchLabels: {{a: b}}}}
  template:
    metadata: {{labels: {{a: b}}}}
    spec: {{containers: [{{name: weft-control, image: app, args: [{args}]}}]}}
"
        ))
    };
    deployment("--ca-secret=cacerts")?;
    weft(&cluster, &["ca", "rotate"])?.expect(1, &["Secret cacerts, which others keep"])?;
    deployment("run")?;
    let roots = |said: &Said| said.out.lines().filter(|line| line.starts_with("root ")).count();
    let before = weft(&cluster, &["ca", "status"])?;
    ensure!(roots(&before) == 1, "before a change: {}", before.out);
    weft(&cluster, &["ca", "rotate"])?.expect(0, &["another root is asked for"])?;
    // It is published first, and the wish is gone a moment later.
    eventually("the next root is published beside the first", LONG, async || {
        let said = weft(&cluster, &["ca", "status"]).ok()?;
        (roots(&said) == 2 && !said.out.contains("is asked for")).then_some(())
    })
    .await?;
    control.stop().await?;

    // Nobody takes it up now.
    weft(&cluster, &["ca", "rotate"])?.expect(0, &[])?;
    weft(&cluster, &["ca", "rotate"])?.expect(1, &["was asked for already (20"])?;
    weft(&cluster, &["ca", "status"])?.expect(0, &["and nobody has begun"])?;
    Ok(())
}

#[tokio::test]
async fn weft_names_the_node_whose_proxy_it_cannot_reach_and_why() -> Result<()> {
    let cluster = defined().await?;
    weft(&cluster, &["status"])?.expect(1, &["no proxy is ready in namespace weft-system"])?;
    weft(&cluster, &["get", "workloads", "--node", "node-2"])?
        .expect(1, &["node node-2 has no proxy in namespace weft-system"])?;

    pod_of_a_proxy(&cluster)?;
    let why =
        ["node node-1", "pod weft-system/weft-node-1: ", "kubelet that the API server reaches"];
    weft(&cluster, &["get", "workloads", "--node", "node-1"])?.expect(1, &why)?;
    // Of several, it is one that does not answer.
    weft(&cluster, &["status"])?.expect(3, &["problem: node-1: cannot reach the proxy"])?;
    let silent = "1 of 1 proxies did not answer, as that of node node-1: cannot reach the proxy";
    weft(&cluster, &["get", "certs"])?.expect(1, &[silent])?;
    Ok(())
}
