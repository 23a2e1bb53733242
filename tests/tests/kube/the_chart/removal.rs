//! The mesh goes from a node as it came.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::{
    kube::{Chart, Cluster, eventually},
    lab::{LONG, Signal, wait_for},
};

use super::{MESH, NODE, removal};
use crate::scene::{CLIENT, FAR, Scene, four_pods};

#[tokio::test]
async fn what_the_chart_removes_leaves_a_node_that_starts_pods_and_captures_none() -> Result<()> {
    let mut scene = Scene::new().await?;
    four_pods(&scene).await?;
    scene.start_proxy()?;
    scene.label(&["namespace", "shop"], "weft.mesh/dataplane-mode=enabled")?;
    scene.becomes_announced("shop", "client", true).await?;
    // As the DaemonSet does it: the last pod is gone before the next one begins.
    scene.kill_agent()?;
    scene.kill_proxy()?;
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod spoke without its proxy");
    let chart = Chart::render(MESH, &removal())?;
    let mut cleanup =
        scene.kubelet.start_cleanup(&chart.container(NODE, "weft-redirect", &[])?)?;
    let ended = cleanup.exit(LONG)?;
    ensure!(ended.success(), "{ended}: {}", cleanup.log());
    ensure!(scene.reaches(CLIENT, FAR)?, "a pod stayed captured: {}", cleanup.log());
    // Without its plugin a node starts pods of all namespaces.
    scene.serve("shop", "later", "").await?;

    let mut stays = scene.kubelet.start_cleanup(&chart.container(NODE, "removed", &[])?)?;
    wait_for("it has cleaned up", LONG, || {
        stays.log().contains("nothing of the mesh is left").then_some(())
    })?;
    ensure!(stays.is_running(), "{}", stays.log());
    stays.signal(Signal::Term)?;
    stays.exit(LONG).map(drop)
}

#[tokio::test]
async fn helm_installs_changes_and_takes_away_all_of_it() -> Result<()> {
    let mut cluster = Cluster::own().await?;
    cluster.control()?;
    cluster.helm_install(MESH, &Value::Null)?;
    let rendered = Chart::render(MESH, &Value::Null)?;
    // Definitions stay, since what users wrote would go with them.
    let goes = |object: &&Value| object["kind"] != "CustomResourceDefinition";
    let rendered: Vec<_> = rendered.objects().iter().filter(goes).collect();
    let kinds = rendered.iter().filter_map(|object| object["kind"].as_str());
    let kinds = kinds.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",");
    let there = || -> Result<usize> {
        let ours = ["-A", "-l", "app.kubernetes.io/part-of=weft", "-o", "name"];
        Ok(cluster.kubectl(&[&["get", &kinds][..], &ours].concat())?.lines().count())
    };
    assert_eq!(there()?, rendered.len());
    cluster.helm_install(MESH, &removal())?;
    let containers = "jsonpath={.spec.template.spec.containers[*].name}";
    let now = cluster.kubectl(&["get", "-n", MESH, "daemonset", NODE.1, "-o", containers])?;
    assert_eq!(now, "removed");
    cluster.helm_uninstall(MESH)?;
    eventually("nothing is left", LONG, async || (there().ok()? == 0).then_some(())).await
}
