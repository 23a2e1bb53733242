//! What labels and annotations say about a workload.

use std::sync::Arc;

use weft_model::{Locality, Network};

use super::At;
use crate::objects::{Labels, Pod};

pub(super) const NETWORK: &str = "topology.istio.io/network";
const TUNNEL: &str = "networking.istio.io/tunnel";

/// The application's own name and version, or `workload` and `latest`.
pub(super) fn canonical(labels: &Labels, workload: &Arc<str>) -> (Arc<str>, Arc<str>) {
    let first = |keys: [&str; 3]| keys.iter().find_map(|key| labels.get(*key)).cloned();
    let name = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision =
        first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    (name.unwrap_or_else(|| workload.clone()), revision.unwrap_or_else(|| "latest".into()))
}

/// The workload speaks HBONE itself.
pub(super) fn speaks_hbone(labels: &Labels) -> bool {
    labels.get(TUNNEL).is_some_and(|tunnel| &**tunnel == "http")
}

/// The network of an object: its own label, then its namespace's, then the mesh's.
pub(super) fn network(at: At<'_>, labels: &Labels, namespace: &str) -> Network {
    let of_namespace = || at.store.namespace(namespace).and_then(|ns| ns.metadata.label(NETWORK));
    labels
        .get(NETWORK)
        .or_else(of_namespace)
        .and_then(|name| Network::new(name).ok())
        .unwrap_or_else(|| at.mesh.network.clone())
}

/// From the topology labels that the API server puts on pods (or the same as annotations), else those of the
/// pod's node.
pub(super) fn pod_locality(at: At<'_>, pod: &Pod) -> Locality {
    let meta = &pod.metadata;
    if let Some(all) = meta.label("istio-locality") {
        // A label's value cannot hold a slash.
        return locality(&all.replace('.', "/"));
    }
    let own = part(|key| meta.label(key).or_else(|| meta.annotation(key)));
    let of_node = node_locality(at, &pod.spec.node_name);
    Locality {
        region: or(own.region, of_node.region),
        zone: or(own.zone, of_node.zone),
        subzone: or(own.subzone, of_node.subzone),
    }
}

/// Where a node is; nowhere if it is not known.
pub(super) fn node_locality(at: At<'_>, node: &str) -> Locality {
    let node = at.store.node(node);
    node.map(|node| part(|key| node.metadata.label(key))).unwrap_or_default()
}

fn part<'a>(of: impl Fn(&str) -> Option<&'a Arc<str>>) -> Locality {
    let part = |key| of(key).cloned().unwrap_or_else(|| "".into());
    Locality {
        region: part("topology.kubernetes.io/region"),
        zone: part("topology.kubernetes.io/zone"),
        subzone: part("topology.istio.io/subzone"),
    }
}

/// The first that is said.
pub(super) fn or(first: Arc<str>, second: Arc<str>) -> Arc<str> {
    if first.is_empty() { second } else { first }
}

/// From `region/zone/subzone`, each of which may be missing.
pub(super) fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(Arc::from);
    let mut next = || parts.next().unwrap_or_else(|| "".into());
    Locality { region: next(), zone: next(), subzone: next() }
}
