//! The Helm chart: Helm accepts it, its schema refuses what is wrong, and an API server takes all that it renders.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use weft_tests::{
    kube::{Apply, Chart, Cluster, eventually},
    lab::LONG,
};

mod monitoring;
mod objects;
mod programs;
mod removal;

const PAGE: &str = include_str!("../../../docs/kubernetes.md");
const MESH: &str = "weft-system";
const CONTROL: (&str, &str) = ("Deployment", "weft-control");
const NODE: (&str, &str) = ("DaemonSet", "weft-node");

/// Every value another than the chart's own.
fn other_values() -> Value {
    json!({
        "image": {
            "registry": "localhost:5000/mesh", "tag": "v9", "pullPolicy": "Always", "pullSecrets": ["pull"],
        },
        "mesh": { "trustDomain": "td.example", "clusterId": "east: 1", "clusterDomain": "k8s.example" },
        "ca": { "secret": "cacerts" },
        "control": {
            "replicas": 3, "logLevel": "debug", "resources": { "limits": null },
            "nodeSelector": { "role": "control" }, "tolerations": [{ "key": "control", "operator": "Exists" }],
        },
        "node": {
            "logLevel": "warn,ztunnel::dns=debug",
            "agent": { "resources": { "requests": { "cpu": 1, "ephemeral-storage": "1Gi" } } },
            "proxy": { "workers": 2, "memory": "1GiB", "resources": { "limits": { "cpu": "1.5" } } },
            "gracePeriodSeconds": 60, "tolerations": [], "nodeSelector": { "mesh": "yes" },
        },
        "cni": { "confDir": "/etc/cni", "binDir": "/usr/libexec/cni", "excludeNamespaces": ["a", "b"] },
        "crds": { "install": false },
        "networkPolicy": { "enabled": false },
        "monitoring": { "podMonitor": true, "rules": true, "dashboard": true },
    })
}

/// The one value that does not go with the others.
fn lost_root() -> Value {
    json!({ "ca": { "resetTrust": true }, "cni": { "excludeNamespaces": [] } })
}

/// The mesh taken off the nodes.
fn removal() -> Value {
    json!({ "node": { "remove": true } })
}

/// Paths and values of all that can be set; what stands below a free form is one value.
fn leaves(values: &Value, path: &str, all: &mut Vec<(String, Value)>) {
    let free = ["resources", "nodeSelector"].iter().any(|name| path.ends_with(name));
    match values.as_object() {
        Some(fields) if !free => {
            for (name, value) in fields {
                leaves(value, &format!("{path}/{name}"), all);
            }
        }
        _ => all.push((path.to_owned(), values.clone())),
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart_whatever_the_values() -> Result<()> {
    let others = [other_values(), lost_root(), removal()];
    let mut all = Vec::new();
    leaves(&Chart::values()?, "", &mut all);
    for (path, value) in all {
        let changed = others.iter().filter_map(|other| other.pointer(&path));
        ensure!(changed.clone().any(|other| *other != value), "{path} is {value} everywhere");
    }
    for values in [json!({}), other_values(), lost_root(), removal()] {
        Chart::lint(MESH, &values)?;
        ensure!(Chart::render(MESH, &values)?.objects().len() > 10);
    }
    Ok(())
}

#[test]
fn the_values_are_those_of_their_page() -> Result<()> {
    let mut all = Vec::new();
    leaves(&Chart::values()?, "", &mut all);
    let name = |path: String| path.trim_start_matches('/').replace('/', ".");
    let there: BTreeMap<_, _> = all.into_iter().map(|(path, is)| (name(path), is)).collect();
    let table = PAGE.split("## Values").nth(1).context("the page has values")?;
    let told = table.lines().filter_map(|row| {
        let mut columns = row.strip_prefix("| `")?.split('`');
        let (name, default) = (columns.next()?, columns.nth(1)?);
        let default = serde_json::from_str(default).unwrap_or_else(|_| json!(default));
        Some((name.to_owned(), default))
    });
    assert_eq!(told.collect::<BTreeMap<String, Value>>(), there);
    Ok(())
}

#[test]
fn a_wrong_value_is_refused_by_its_name() {
    let wrong = [
        (json!({ "contrl": {} }), "contrl"),
        (json!({ "control": { "replica": 3 } }), "replica"),
        (json!({ "control": { "replicas": 0 } }), "/control/replicas"),
        (json!({ "control": { "replicas": "3" } }), "/control/replicas"),
        (json!({ "control": { "logLevel": "" } }), "/control/logLevel"),
        (json!({ "control": { "tolerations": [{ "efect": "NoExecute" }] } }), "efect"),
        (json!({ "image": { "pullPolicy": "Sometimes" } }), "/image/pullPolicy"),
        (json!({ "image": { "pullSecrets": [{ "name": "pull" }] } }), "/image/pullSecrets/0"),
        (json!({ "mesh": { "trustDomain": "spiffe://a" } }), "/mesh/trustDomain"),
        (json!({ "mesh": { "clusterId": "" } }), "/mesh/clusterId"),
        (json!({ "node": { "proxy": { "memory": "768Mi" } } }), "/node/proxy/memory"),
        (json!({ "node": { "proxy": { "workers": 257 } } }), "/node/proxy/workers"),
        (json!({ "node": { "gracePeriodSeconds": 601 } }), "/node/gracePeriodSeconds"),
        (json!({ "node": { "agent": { "resources": { "limit": {} } } } }), "limit"),
        (
            json!({ "node": { "agent": { "resources": { "limits": { "memory": "1GiB" } } } } }),
            "/node/agent/resources/limits/memory",
        ),
        (json!({ "cni": { "binDir": "opt/cni/bin" } }), "/cni/binDir"),
        (json!({ "networkPolicy": { "enabled": "false" } }), "/networkPolicy/enabled"),
    ];
    for (values, name) in wrong {
        let error = Chart::render(MESH, &values).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    }
}

/// What the Prometheus operator would define, as far as the chart uses it.
const MONITORING: &str = include_str!("the_chart/monitoring.yaml");

#[tokio::test]
async fn an_api_server_takes_all_that_the_chart_renders() -> Result<()> {
    let mut cluster = Cluster::own().await?;
    cluster.control()?;
    cluster.namespace(MESH, &[]).await?;
    cluster.apply(MONITORING)?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    cluster
        .apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-1, labels: {mesh: 'yes'}}\n")?;
    // Installed, then upgraded to other values and back: what cannot be changed must not.
    for values in [json!({}), other_values(), lost_root(), removal()] {
        let chart = Chart::render(MESH, &values)?;
        cluster.install(chart.objects(), Apply::Dry)?;
        cluster.install(chart.objects(), Apply::Really)?;
    }
    let mut wrong = Chart::render(MESH, &json!({}))?.object("DaemonSet", "weft-node")?.clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = json!({});
    let error = cluster.install(&[wrong], Apply::Dry).expect_err("an unknown field").to_string();
    ensure!(error.contains("readinesProbe: field not declared"), "{error}");
    // What the controllers make of them is admitted, too.
    let pods: Api<Pod> = Api::namespaced(cluster.client()?, MESH);
    for (name, wanted) in [("weft-control", 2), ("weft-node", 1)] {
        let of_it = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
        let made = eventually("the pods are made", LONG, async || {
            let pods = pods.list(&of_it).await.ok()?.items;
            let all = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count();
            (all >= wanted).then_some(())
        });
        made.await.with_context(|| name.to_owned())?;
    }
    Ok(())
}
