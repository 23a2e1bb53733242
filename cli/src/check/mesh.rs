//! The mesh itself: control plane, nodes, trust, duties.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Node, Pod},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, api::ListParams};

use super::{Line, Verdict, pod_state::trouble};
use crate::{
    cluster::{Cluster, ClusterError, failed, failed_on, list},
    pods::{is_ready, label, node_of},
    roots::{self, BUNDLE},
};

const CONTROL: &str = "weft-control";
const NODE: &str = "weft-node";
const DUTIES: [&str; 2] = ["weft-ca", "weft-status"];
/// Roots that live no longer than this ought to be changed.
const ROOT_LEFT_MIN: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Beyond a Lease's own duration: clocks differ.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(30);

/// Errors: the API server does not answer at all.
pub(super) async fn lines(cluster: &Cluster) -> Result<Vec<Line>, ClusterError> {
    let client = || cluster.client.clone();
    let version = cluster.client.apiserver_version().await;
    version.map_err(failed("ask the API server for its version"))?;
    let mut lines = Vec::new();
    let named = format!("Deployment {}/{CONTROL}", cluster.mesh);
    let deployment = Api::<Deployment>::namespaced(client(), &cluster.mesh).get(CONTROL).await;
    lines.push(match deployment.map_err(failed_on("read", &named)) {
        Ok(deployment) => control_plane(&named, &deployment),
        Err(error) => Line::unread("control plane", &error),
    });
    match nodes_and_pods(cluster).await {
        Ok((nodes, pods)) => lines.extend(on_nodes(&nodes, &pods)),
        Err(error) => lines.push(Line::unread("node", &error)),
    }
    let named = format!("ConfigMap {}/{BUNDLE}", cluster.mesh);
    let bundle = Api::<ConfigMap>::namespaced(client(), &cluster.mesh).get(BUNDLE).await;
    match bundle.map_err(failed_on("read", &named)) {
        Ok(map) => lines.extend(trust(&named, &map, Timestamp::now())),
        Err(error) => lines.push(Line::unread("trust", &error)),
    }
    let leases = Api::<Lease>::namespaced(client(), &cluster.mesh);
    for duty in DUTIES {
        let named = format!("Lease {}/{duty}", cluster.mesh);
        lines.push(match leases.get(duty).await.map_err(failed_on("read", &named)) {
            Ok(lease) => held(&named, &lease, Timestamp::now()),
            Err(error) => Line::unread("duty", &error),
        });
    }
    Ok(lines)
}

/// The nodes that are to be in the mesh, and the pods of the mesh.
async fn nodes_and_pods(cluster: &Cluster) -> Result<(Vec<Node>, Vec<Pod>), ClusterError> {
    let nodes = Api::<Node>::all(cluster.client.clone());
    let mut nodes = list(&nodes, ListParams::default(), "nodes").await?;
    let named = format!("DaemonSet {}/{NODE}", cluster.mesh);
    let sets = Api::<DaemonSet>::namespaced(cluster.client.clone(), &cluster.mesh);
    let set = sets.get_opt(NODE).await.map_err(failed_on("read", &named))?;
    nodes.retain(|node| is_wanted(set.as_ref(), node));
    Ok((nodes, cluster.proxies().await?))
}

/// Whether the chart's values put it into the mesh, and its system lets it be.
fn is_wanted(set: Option<&DaemonSet>, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selector = set.and_then(|set| set.spec.template.spec.as_ref()?.node_selector.as_ref());
    let selected =
        selector.into_iter().flatten().all(|(key, value)| label(labels, key) == Some(value));
    selected && label(labels, "kubernetes.io/os").is_none_or(|system| system == "linux")
}

fn control_plane(named: &str, deployment: &Deployment) -> Line {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let says = format!("{ready} of {wanted} replicas are ready");
    let verdict = if ready >= wanted && ready > 0 { Verdict::Fine } else { Verdict::Problem };
    Line::new("control plane", named, verdict, says)
}

/// One line for all nodes that are well, and one for each that is not.
fn on_nodes(nodes: &[Node], proxies: &[Pod]) -> Vec<Line> {
    let ready = proxies.iter().filter(|pod| is_ready(pod));
    let ready: BTreeSet<_> = ready.filter_map(node_of).collect();
    let mut lines = Vec::new();
    for node in nodes.iter().filter_map(|node| node.metadata.name.as_deref()) {
        if ready.contains(node) {
            continue;
        }
        let here = proxies.iter().find(|pod| node_of(pod) == Some(node));
        let says = match here {
            Some(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                format!("pod {name} is not ready: {}", trouble(pod))
            }
            None => "no pod of the mesh runs here: enrolled pods cannot start".to_owned(),
        };
        lines.push(Line::new("node", node, Verdict::Problem, says));
    }
    if lines.is_empty() {
        let says = match nodes.len() {
            1 => "agent and proxy are ready on the only node".to_owned(),
            n => format!("agent and proxy are ready on all {n} nodes"),
        };
        lines.push(Line::new("node", "", Verdict::Fine, says));
    }
    lines
}

fn trust(named: &str, map: &ConfigMap, now: Timestamp) -> Vec<Line> {
    let line = |verdict, says: String| Line::new("trust", named, verdict, says);
    let found = match roots::of(map) {
        Ok(found) => found,
        Err(reason) => return vec![line(Verdict::Problem, reason.to_string())],
    };
    // While one root follows another, the last one may well be at its end.
    let lasts = found.iter().any(|root| root.until.duration_since(now) >= ROOT_LEFT_MIN);
    let judged = found.iter().map(|root| {
        let says = format!("root {} until {}", root.name, root.until);
        let (verdict, more) = match (root.until.duration_since(now) < ROOT_LEFT_MIN, lasts) {
            (false, _) => (Verdict::Fine, ""),
            // It may be the one that signs to this day.
            (true, _) if root.until <= now => (Verdict::Problem, ": it has expired"),
            (true, true) => (Verdict::Note, ": another one follows it"),
            (true, false) => {
                (Verdict::Problem, ": it is to be changed; `weft ca status` says who keeps it")
            }
        };
        line(verdict, says + more)
    });
    judged.collect()
}

fn held(named: &str, lease: &Lease, now: Timestamp) -> Line {
    let line = |verdict, says: String| Line::new("duty", named, verdict, says);
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
    let Some(holder) = holder else {
        return line(Verdict::Problem, "nobody holds it".to_owned());
    };
    let Some(renewed) = spec.renew_time else {
        return line(Verdict::Problem, format!("{holder} has never renewed it"));
    };
    let lasts = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(15).into());
    if now.duration_since(renewed.0) > lasts + CLOCKS_DIFFER {
        return line(Verdict::Problem, format!("{holder} has not renewed it since {}", renewed.0));
    }
    line(Verdict::Fine, format!("held by {holder}"))
}

#[cfg(test)]
mod tests;
