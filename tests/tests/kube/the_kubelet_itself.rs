//! What proofs on Kubernetes stand on: a kubelet that treats pods as the real one does.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use weft_tests::{
    kube::{Binder, Cluster, Kubelet, eventually},
    lab::{LONG, Lab},
};

/// A pod of namespace `shop` that serves on port 80.
fn server(name: &str, node: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 2
  {more}
  containers:
  - name: app
    image: weft-app
    args: [serve, --port, \"80\", --name, $(NAME)]
    env: [{{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
    readinessProbe: {{httpGet: {{path: /, port: 80}}}}
"
    )
}

/// A plugin that notes how it was called, passes on what it was given, and fails as long as a file says so.
fn plugin(kubelet: &Kubelet, name: &str) -> Result<()> {
    let path = kubelet.cni_plugins().join(name);
    let script = r#"#!/usr/bin/env python3
import json, os, sys
here = os.path.dirname(__file__)
given = json.load(sys.stdin)
env = {k: v for k, v in os.environ.items() if k.startswith("CNI_")}
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps({"env": env, "given": given}) + "\n")
if os.path.exists(here + "/refuse"):
    print(json.dumps({"cniVersion": "1.0.0", "code": 11, "msg": "not yet"}))
    sys.exit(1)
if env["CNI_COMMAND"] == "ADD":
    print(json.dumps(given["prevResult"]))
"#;
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let chain = json!({
        "cniVersion": "1.0.0",
        "name": "chained",
        "plugins": [{"type": "lab"}, {"type": name, "logLevel": "debug"}],
    });
    // Before the lab's own by its name, as whoever takes a node over does it.
    Ok(fs::write(kubelet.cni_configurations().join("00-chained.conflist"), chain.to_string())?)
}

fn calls(kubelet: &Kubelet) -> Vec<Value> {
    let text = fs::read_to_string(kubelet.cni_plugins().join("calls")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn is_ready(pods: &Api<Pod>, name: &str) -> Result<Pod> {
    let what = format!("pod {name} is ready");
    let ready = eventually(&what, LONG, async || {
        let pod = pods.get(name).await.ok()?;
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
        ready.then_some(pod)
    });
    ready.await.with_context(|| format!("pod {name}"))
}

async fn is_gone(pods: &Api<Pod>, name: &str) -> Result<()> {
    let what = format!("pod {name} is gone");
    eventually(&what, LONG, async || matches!(pods.get_opt(name).await, Ok(None)).then_some(()))
        .await
}

#[tokio::test]
async fn pods_of_two_nodes_run_are_ready_call_each_other_and_go() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    let lab = Lab::new()?;
    let near = Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?;
    let far = Kubelet::start(&cluster, lab.bare_node(2)?, "zone-b").await?;
    let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
    cluster.apply(&server("client", "node-1", ""))?;
    cluster.apply(&server("web", "node-2", ""))?;
    let web = is_ready(&pods, "web").await?.status.context("a ready pod has a status")?;
    assert_eq!(web.phase.as_deref(), Some("Running"));
    assert_eq!(web.host_ip.as_deref(), Some("10.0.0.2"));
    let addresses: Vec<_> = web.pod_ips.into_iter().flatten().map(|at| at.ip).collect();
    assert_eq!(addresses, ["10.1.2.10", "fd01:2::10"]);
    is_ready(&pods, "client").await?;
    let client = near.sandbox("shop", "client")?;
    for url in
        addresses.iter().map(|at| if at.contains(':') { format!("[{at}]") } else { at.clone() })
    {
        ensure!(client.curl(&format!("http://{url}/"))?.starts_with("web "), "{url}");
    }
    let place = far.sandbox("shop", "web")?.namespace().path();
    pods.delete("web", &DeleteParams::default()).await?;
    is_gone(&pods, "web").await?;
    ensure!(!place.exists(), "the namespace of a deleted pod is there: {}", place.display());
    Ok(())
}

#[tokio::test]
async fn the_plugins_of_the_node_are_called_in_turn_and_a_refused_pod_says_why_and_waits()
-> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    let lab = Lab::new()?;
    let kubelet = Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?;
    plugin(&kubelet, "noting")?;
    let refuse = kubelet.cni_plugins().join("refuse");
    fs::write(&refuse, "")?;
    cluster.apply(&server("web", "node-1", ""))?;
    let events = Api::<Event>::namespaced(cluster.client()?, "shop");
    let said = eventually("an event says why", LONG, async || {
        let events = events.list(&ListParams::default()).await.ok()?.items;
        let refused =
            events.into_iter().find(|it| it.reason.as_deref() == Some("FailedCreatePodSandBox"));
        refused?.message
    });
    let said = said.await?;
    ensure!(said.contains("not yet (code 11)"), "{said}");
    fs::remove_file(&refuse)?;
    let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
    let pod = is_ready(&pods, "web").await?;
    kubelet.check("shop", "web")?;
    pods.delete("web", &DeleteParams::default()).await?;
    is_gone(&pods, "web").await?;

    let calls = calls(&kubelet);
    let verbs: Vec<_> =
        calls.iter().filter_map(|call| call["env"]["CNI_COMMAND"].as_str()).collect();
    assert_eq!(verbs[..2], ["ADD", "DEL"], "{verbs:?}");
    assert_eq!(verbs[verbs.len() - 3..], ["ADD", "CHECK", "DEL"], "{verbs:?}");
    let add = &calls[calls.len() - 3];
    let uid = pod.metadata.uid.unwrap_or_default();
    let arguments = add["env"]["CNI_ARGS"].as_str().unwrap_or_default();
    for argument in ["K8S_POD_NAME=web", "K8S_POD_NAMESPACE=shop", &format!("K8S_POD_UID={uid}")] {
        ensure!(arguments.split(';').any(|it| it == argument), "{argument} is not in {arguments}");
    }
    let netns = add["env"]["CNI_NETNS"].as_str().unwrap_or_default();
    ensure!(netns.contains(&uid) && !Path::new(netns).exists(), "{netns}");
    assert_eq!(add["env"]["CNI_IFNAME"], "eth0");
    assert_eq!(add["given"]["logLevel"], "debug");
    assert_eq!(add["given"]["name"], "chained");
    let ip = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
    assert_eq!(add["given"]["prevResult"]["ips"][0]["address"], format!("{ip}/24"));
    assert_eq!(calls[calls.len() - 1]["given"]["prevResult"], add["given"]["prevResult"]);
    Ok(())
}

#[tokio::test]
async fn pods_end_as_their_programs_do_and_start_again_as_their_policy_says() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    let lab = Lab::new()?;
    let kubelet = Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?;
    let pod = |name: &str, policy: &str, init: &str, main: &str| {
        cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec:
  nodeName: node-1
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 1
  initContainers: [{{name: init, image: none, command: [sh, -c, {init:?}]}}]
  containers: [{{name: app, image: none, command: [sh, -c, {main:?}]}}]
"
        ))
    };
    pod("good", "Never", "true", "exit 0")?;
    pod("bad", "OnFailure", "true", "exit 3")?;
    pod("stuck", "Never", "exit 4", "exit 0")?;
    let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
    let phase = async |name: &str, wanted: &str| {
        eventually(&format!("pod {name} is {wanted}"), LONG, async || {
            let status = pods.get(name).await.ok()?.status?;
            (status.phase.as_deref() == Some(wanted)).then_some(status)
        })
        .await
    };
    let good = phase("good", "Succeeded").await?;
    let ends = good.container_statuses.into_iter().flatten().filter_map(|it| it.state?.terminated);
    assert_eq!(ends.map(|end| end.exit_code).collect::<Vec<_>>(), [0]);
    phase("stuck", "Failed").await?;
    eventually("a program that fails is started again", LONG, async || {
        let status = pods.get("bad").await.ok()?.status?;
        status.container_statuses?.iter().any(|it| it.restart_count > 1).then_some(())
    })
    .await?;
    for name in ["good", "bad", "stuck"] {
        pods.delete(name, &DeleteParams::default()).await?;
        is_gone(&pods, name).await?;
    }
    drop(kubelet);
    Ok(())
}

#[tokio::test]
async fn a_host_network_pod_has_the_nodes_address_and_an_address_can_be_anothers_at_once()
-> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    let lab = Lab::new()?;
    let kubelet = Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?;
    let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
    cluster.apply(&server("host", "node-1", "hostNetwork: true"))?;
    let host = is_ready(&pods, "host").await?.status.unwrap_or_default();
    assert_eq!(host.pod_ip.as_deref(), Some("10.0.0.1"));
    let first = server("first", "node-1", "")
        .replace("labels:", "annotations: {test.weft.mesh/host: \"77\"}, labels:");
    cluster.apply(&first)?;
    is_ready(&pods, "first").await?;
    pods.delete("first", &DeleteParams::default().grace_period(0)).await?;
    is_gone(&pods, "first").await?;
    cluster.apply(&first.replace("first", "second"))?;
    let second = is_ready(&pods, "second").await?.status.unwrap_or_default();
    assert_eq!(second.pod_ip.as_deref(), Some("10.1.1.77"));
    let answer = kubelet.sandbox("shop", "second")?.curl("http://10.1.1.77/")?;
    ensure!(answer.starts_with("second "), "{answer}");
    pods.delete("host", &DeleteParams::default()).await?;
    is_gone(&pods, "host").await?;
    ensure!(kubelet.node().namespace().path().exists(), "the node went with its pod");
    Ok(())
}

#[tokio::test]
async fn a_deployment_is_spread_over_the_nodes_and_a_daemon_set_is_on_each() -> Result<()> {
    let mut cluster = Cluster::own().await?;
    cluster.control()?;
    cluster.namespace("shop", &[]).await?;
    let lab = Lab::new()?;
    let _kubelets = [
        Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?,
        Kubelet::start(&cluster, lab.bare_node(2)?, "zone-b").await?,
    ];
    let _binder = Binder::start(&cluster, &["node-1", "node-2"])?;
    for (kind, more) in [("Deployment", "replicas: 2,"), ("DaemonSet", "")] {
        let app = kind.to_lowercase();
        cluster.apply(&format!(
            "apiVersion: apps/v1
kind: {kind}
metadata: {{name: {app}, namespace: shop}}
spec: {{{more} selector: {{matchLabels: {{app: {app}}}}}, template: {{
  metadata: {{labels: {{app: {app}}}}},
  spec: {{containers: [{{name: app, image: none, command: [sleep, \"1000\"]}}]}}}}}}
"
        ))?;
        let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
        let on = eventually("two pods run", LONG, async || {
            let of_app = ListParams::default().labels(&format!("app={app}"));
            let pods = pods.list(&of_app).await.ok()?.items;
            let running = pods.into_iter().filter(|pod| {
                pod.status.as_ref().is_some_and(|it| it.phase.as_deref() == Some("Running"))
            });
            let mut on: Vec<_> = running.filter_map(|pod| pod.spec?.node_name).collect();
            on.sort();
            (on.len() == 2).then_some(on)
        });
        assert_eq!(on.await?, ["node-1", "node-2"], "{kind}");
    }
    Ok(())
}
