//! What `weft` says of an installed mesh to somebody who has no more than a kubeconfig.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::Value;
use weft_tests::{
    kube::{Account, eventually},
    lab::{LONG, Sandbox},
};

use crate::{
    installed::{CLIENT, Installed, policy},
    mesh::MESH,
    the_command_line::{weft, weft_as},
};

fn rows(out: &str) -> Result<Vec<Value>> {
    serde_json::from_str(out).with_context(|| format!("no list: {out}"))
}

fn names(rows: &[Value], field: &str) -> Vec<String> {
    rows.iter().filter_map(|row| Some(row.get(field)?.as_str()?.to_owned())).collect()
}

/// Waits until both nodes have all that is served, and returns their rows.
async fn nodes_are_current(scene: &Installed) -> Result<Vec<Value>> {
    let mut last = String::new();
    let found = eventually("both nodes have everything", LONG, async || {
        last = weft(&scene.cluster, &["get", "nodes", "-o", "json"]).ok()?.expect(0, &[]).ok()?.out;
        let rows = rows(&last).ok()?;
        let current = rows.iter().all(|it| {
            it.pointer("/configuration/state").is_some_and(|state| state == "current")
                && it.get("certificateUntil").is_some_and(Value::is_string)
        });
        (rows.len() == 2 && current).then_some(rows)
    });
    found.await.with_context(|| format!("it last said {last}"))
}

#[tokio::test]
async fn weft_says_of_each_node_what_runs_there_and_which_rows_a_selector_means() -> Result<()> {
    let scene = Installed::new().await?;
    scene.enroll().await?;
    let nodes = nodes_are_current(&scene).await?;
    let told: Vec<_> = nodes
        .iter()
        .map(|it| ["node", "agent", "proxy", "version", "pods", "pending"].map(|field| &it[field]))
        .map(|it| it.map(ToString::to_string).join(" "))
        .collect();
    let of = |node: u8, pods: u8| format!("\"node-{node}\" \"ready\" \"ready\" \"0.1.0\" {pods} 0");
    ensure!(told == [of(1, 2), of(2, 1)], "{told:?}");

    let cluster = &scene.cluster;
    cluster.kubectl(&["label", "node", "node-2", "rack=far"])?;
    cluster.kubectl(&["label", "service", "-n", "shop", "web", "tier=front"])?;
    let selected = |what: &str, labels: &str, field: &str| -> Result<Vec<String>> {
        let said = weft(cluster, &["get", what, "-l", labels, "-o", "json"])?.expect(0, &[])?;
        Ok(names(&rows(&said.out)?, field))
    };
    ensure!(selected("nodes", "rack=far", "node")? == ["node-2"]);
    ensure!(selected("workloads", "app in (web, client)", "name")? == ["client", "web"]);
    ensure!(selected("services", "tier", "name")? == ["web"]);
    ensure!(selected("services", "!tier", "name")?.iter().all(|name| name != "web"));
    let client = "spiffe://cluster.local/ns/shop/sa/client";
    ensure!(selected("certs", "app=client", "identity")? == [client]);
    weft(cluster, &["get", "workloads", "-l", "app in (web"])?
        .expect(1, &["the API server refused to list pods: unable to parse requirement"])?;

    let from = ["--from", "shop/client"];
    let said = weft(cluster, &[&["resolve", "web"], &from[..], &["-o", "json"]].concat())?;
    let said: Value = serde_json::from_str(&said.expect(0, &[])?.out)?;
    ensure!(said["service"] == "shop/web.shop.svc.cluster.local", "{said}");
    ensure!(said["endpoints"][0]["zone"] == "zone-b", "{said}");
    weft(cluster, &[&["resolve", "web:81"], &from[..]].concat())?
        .expect(3, &["problem: ", "81"])?;
    weft(cluster, &["why", "shop/client", "web"])?.expect(0, &["10.96.0.10:80", "ALLOWED"])?;
    Ok(())
}

const VIEWER: Account<'static> = Account { namespace: "shop", name: "viewer" };

fn let_viewer(scene: &Installed, name: &str, resource: &str, verbs: &str) -> Result<()> {
    scene.cluster.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}}}
rules: [{{apiGroups: [''], resources: [{resource}], verbs: [{verbs}]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects: [{{kind: ServiceAccount, namespace: shop, name: viewer}}]
"
    ))
}

#[tokio::test]
async fn weft_names_the_right_to_forward_ports_to_who_lacks_it() -> Result<()> {
    let scene = Installed::new().await?;
    scene.enroll().await?;
    nodes_are_current(&scene).await?;
    scene.cluster.account(VIEWER).await?;
    let viewer = scene.cluster.kubeconfig_of(VIEWER).await?;
    weft_as(&viewer, &["get", "nodes"])?.expect(1, &["cannot list resource \"nodes\""])?;

    let_viewer(&scene, "see", "nodes, pods", "get, list")?;
    let right = "the right to get and create pods/portforward in its namespace";
    let told = ["node-1   ready   ready", "2 of 2 proxies did not answer", right];
    let mut last = String::new();
    // Rights are read a moment after they are given.
    let found = eventually("the right that it lacks is named", LONG, async || {
        let said = weft_as(&viewer, &["get", "nodes"]).ok()?;
        said.expect(1, &told).map_err(|error| last = error.to_string()).ok()
    });
    found.await.with_context(|| last.clone())?;
    for args in [&["diff", "node/node-1"][..], &["get", "workloads"], &["resolve", "web"]] {
        weft_as(&viewer, args)?.expect(1, &[right])?;
    }

    let_viewer(&scene, "forward", "pods/portforward", "get, create")?;
    let found = eventually("with the right all is told", LONG, async || {
        weft_as(&viewer, &["get", "nodes"]).ok()?.expect(0, &["current"]).ok()
    });
    found.await?;
    weft_as(&viewer, &["diff", "node/node-1"])?.expect(0, &["holds what the control plane has"])?;
    Ok(())
}

/// The replicas' network namespaces.
async fn replicas(scene: &Installed) -> Result<Vec<Arc<Sandbox>>> {
    let pods = Api::<Pod>::namespaced(scene.cluster.client()?, MESH);
    let ours = ListParams::default().labels("app.kubernetes.io/name=weft-control");
    let mut sandboxes = Vec::new();
    for pod in pods.list(&ours).await?.items {
        let node = pod.spec.and_then(|spec| spec.node_name).context("it is on a node")?;
        let node = usize::from(node != "node-1");
        let name = pod.metadata.name.context("a pod has a name")?;
        sandboxes.push(scene.kubelet(node)?.sandbox(MESH, &name)?);
    }
    ensure!(sandboxes.len() == 2, "{} replicas", sandboxes.len());
    Ok(sandboxes)
}

#[tokio::test]
async fn weft_diff_names_what_a_node_lacks_that_the_control_plane_cannot_reach() -> Result<()> {
    let scene = Installed::new().await?;
    scene.enroll().await?;
    nodes_are_current(&scene).await?;
    let cluster = &scene.cluster;
    for node in ["node/node-1", "node/node-2"] {
        weft(cluster, &["diff", node])?.expect(0, &["holds what the control plane has"])?;
    }

    let proxy = scene.mesh_pod(CLIENT.2).await?;
    let proxy = scene.kubelet(CLIENT.2)?.sandbox(MESH, &proxy)?.v4().to_owned();
    let replicas = replicas(&scene).await?;
    let way = |what: &str| -> Result<()> {
        for replica in &replicas {
            let done = replica.run("ip", &["route", what, "blackhole", &format!("{proxy}/32")])?;
            ensure!(done.status.success(), "ip route {what}: {done:?}");
        }
        Ok(())
    };
    way("add")?;
    cluster.apply(&policy("AuthorizationPolicy", "nobody", "{action: DENY, rules: [{}]}"))?;
    let said = weft(cluster, &["diff", "node/node-1", "-o", "json"])?.expect(3, &[])?;
    let missing = |it: &Value| it["name"] == "shop/nobody" && it["how"] == "missing";
    ensure!(rows(&said.out)?.iter().any(missing), "{}", said.out);
    weft(cluster, &["diff", "node/node-1"])?.expect(3, &["shop/nobody", "lacks it"])?;
    weft(cluster, &["diff", "node/node-1", "-n", "plain"])?.expect(0, &[])?;
    weft(cluster, &["diff", "node/node-2"])?.expect(0, &[])?;

    way("del")?;
    eventually("the node has caught up", LONG, async || {
        weft(cluster, &["diff", "node/node-1"]).ok()?.expect(0, &[]).ok()
    })
    .await?;
    Ok(())
}
