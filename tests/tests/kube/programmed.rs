//! Whether users are told that the nodes have what they wrote.

use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::Value;
use weft_tests::{
    kube::{Cluster, eventually},
    lab::LONG,
};

use crate::{
    mesh::{Control, MESH, pod},
    subscriber::Subscriber,
    written::{DENY, DENY_A_PORT, DENY_ALL, defined, holder, until, version, write},
};

/// A node's stream of configuration, by the certificate that its proxy's token is exchanged for.
async fn node(cluster: &Cluster, control: &Control, number: u8) -> Result<Subscriber> {
    let (proxy, name) = match number {
        1 => ("proxy".to_owned(), "node-1".to_owned()),
        _ => (format!("proxy-{number}"), format!("node-{number}")),
    };
    let svid = control.node_svid_of(cluster, &proxy, &name).await?;
    Subscriber::new(control, cluster, &svid).await
}

#[tokio::test]
async fn programmed_waits_for_every_connected_node_says_how_many_have_it_and_names_who_refused()
-> Result<()> {
    let cluster = defined().await?;
    pod(&cluster, MESH, "proxy-2", "weft-node", "node-2")?;
    let control = Control::start(&cluster).await?;
    write(&cluster, DENY.0, "early", DENY_ALL)?;
    let nobody = |said: &str| said == "False NoNodes 1: no node is connected";
    until(&cluster, (DENY.0, "early"), "Programmed", nobody).await?;
    let (mut one, mut two) =
        (node(&cluster, &control, 1).await?, node(&cluster, &control, 2).await?);
    let both = |said: &str| said == "True Programmed 1: 2/2 nodes";
    until(&cluster, (DENY.0, "early"), "Programmed", both).await?;

    write(&cluster, DENY.0, DENY.1, DENY_ALL)?;
    let (of_one, of_two) = (one.answer().await?, two.answer().await?);
    until(&cluster, DENY, "Programmed", |said| said == "False Pending 1: 0/2 nodes").await?;
    until(&cluster, DENY, "Accepted", |said| said == "True Accepted 1: ").await?;
    one.send(of_one)?;
    until(&cluster, DENY, "Programmed", |said| said == "False Pending 1: 1/2 nodes").await?;
    two.refuse(of_two, "shop/deny: action DENY is not known")?;
    let refused =
        "False Refused 1: 1/2 nodes; node-2 refused it: shop/deny: action DENY is not known";
    until(&cluster, DENY, "Programmed", |said| said == refused).await?;

    write(&cluster, DENY.0, DENY.1, DENY_A_PORT)?;
    for stream in [&mut one, &mut two] {
        let answer = stream.answer().await?;
        stream.send(answer)?;
    }
    let both = |said: &str| said == "True Programmed 2: 2/2 nodes";
    until(&cluster, DENY, "Programmed", both).await?;

    // An annotation makes another policy of it, and no other generation.
    let dry = ["annotate", "-n", "shop", "authorizationpolicy", "deny", "istio.io/dry-run=true"];
    cluster.kubectl(&dry)?;
    let (of_one, of_two) = (one.answer().await?, two.answer().await?);
    until(&cluster, DENY, "Programmed", |said| said == "False Pending 2: 0/2 nodes").await?;
    one.send(of_one)?;
    two.send(of_two)?;
    let object = until(&cluster, DENY, "Programmed", both).await?;

    // A node that comes again has to be sent everything first; that is no news of what all had.
    drop(two);
    let two = node(&cluster, &control, 2).await?;
    write(&cluster, DENY.0, "late", DENY_ALL)?;
    let pending = |said: &str| said.starts_with("False Pending 1: 0/");
    until(&cluster, (DENY.0, "late"), "Programmed", pending).await?;
    let now = version(&cluster, DENY.0, DENY.1).await?;
    assert_eq!(object.metadata.resource_version, Some(now));
    drop((one, two));
    control.stop().await
}

/// Waits until the replicas together have said that they serve so many nodes.
async fn serving(cluster: &Cluster, nodes: &[u64]) -> Result<()> {
    let maps = Api::<ConfigMap>::namespaced(cluster.client()?, MESH);
    let said = eventually("the replicas say which nodes they serve", LONG, async || {
        let parts = maps.get("weft-node-progress").await.ok()?.data.unwrap_or_default();
        let nodes_of = |text: &String| {
            serde_json::from_str::<Value>(text).ok()?.get("nodes").and_then(Value::as_u64)
        };
        let mut said: Vec<u64> = parts.values().filter_map(nodes_of).collect();
        said.sort_unstable();
        (said == nodes).then_some(())
    });
    said.await
}

#[tokio::test]
async fn nodes_of_all_replicas_are_waited_for_but_not_those_of_one_that_is_gone() -> Result<()> {
    let cluster = defined().await?;
    pod(&cluster, MESH, "proxy-2", "weft-node", "node-2")?;
    let writer = Control::start(&cluster).await?;
    eventually("one has the duty", LONG, async || holder(&cluster).await.ok()?).await?;
    let other = Control::start(&cluster).await?;
    let (mut near, mut far) = (node(&cluster, &writer, 1).await?, node(&cluster, &other, 2).await?);
    serving(&cluster, &[1, 1]).await?;

    write(&cluster, DENY.0, DENY.1, DENY_ALL)?;
    let answer = near.answer().await?;
    near.send(answer)?;
    until(&cluster, DENY, "Programmed", |said| said == "False Pending 1: 1/2 nodes").await?;
    let answer = far.answer().await?;
    far.refuse(answer, "shop/deny: no")?;
    let refused = "False Refused 1: 1/2 nodes; node-2 refused it: shop/deny: no";
    until(&cluster, DENY, "Programmed", |said| said == refused).await?;
    write(&cluster, DENY.0, DENY.1, DENY_A_PORT)?;
    for stream in [&mut near, &mut far] {
        let answer = stream.answer().await?;
        stream.send(answer)?;
    }
    until(&cluster, DENY, "Programmed", |said| said == "True Programmed 2: 2/2 nodes").await?;

    // Without a word: what it said last stays for a while.
    other.kill();
    write(&cluster, DENY.0, "late", DENY_ALL)?;
    let answer = near.answer().await?;
    near.send(answer)?;
    let alone = |said: &str| said == "True Programmed 1: 1/1 nodes";
    until(&cluster, (DENY.0, "late"), "Programmed", alone).await?;
    serving(&cluster, &[1]).await?;
    // One that is stopped takes its leave.
    writer.stop().await?;
    serving(&cluster, &[]).await
}
