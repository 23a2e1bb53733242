//! What an installation needs.

use futures_util::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        },
        core::v1::Node,
    },
    apimachinery::pkg::version::Info,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};

use super::{Line, Verdict};
use crate::cluster::{Cluster, ClusterError, failed, list};

/// As the chart says.
const SERVER_MIN: (u32, u32) = (1, 31);
/// What the eBPF programs need.
const KERNEL_MIN: (u32, u32) = (5, 15);
/// Group and plural of all that the chart creates.
const CREATED: [(&str, &str); 13] = [
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("", "configmaps"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "networkpolicies"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
];
/// `DaemonSet`s that capture the pods with the same label.
const OTHERS: [&str; 2] = ["istio-cni-node", "ztunnel"];
/// Group, and what its absence means.
const KINDS: [(&str, &str); 3] = [
    (
        "security.istio.io",
        "not served yet: the chart brings AuthorizationPolicy and PeerAuthentication",
    ),
    ("networking.istio.io", "not served yet: the chart brings ServiceEntry and WorkloadEntry"),
    ("gateway.networking.k8s.io", "routes are not read yet, so nothing is missing without it"),
];

/// Errors: the API server does not answer at all.
pub(super) async fn lines(cluster: &Cluster) -> Result<Vec<Line>, ClusterError> {
    let version = cluster.client.apiserver_version().await;
    let version = version.map_err(failed("ask the API server for its version"))?;
    let mut lines = vec![server(&version)];
    lines.extend(rights(cluster).await);
    match list(&Api::<Node>::all(cluster.client.clone()), ListParams::default(), "nodes").await {
        Ok(nodes) => lines.extend(nodes.iter().map(node)),
        Err(error) => lines.push(Line::unread("node", &error)),
    }
    let sets = Api::<DaemonSet>::all(cluster.client.clone());
    match list(&sets, ListParams::default(), "DaemonSets").await {
        Ok(sets) => lines.extend(others(&sets, &cluster.mesh)),
        Err(error) => lines.push(Line::unread("other mesh", &error)),
    }
    let groups = cluster.client.list_api_groups().await;
    let groups = groups.map_err(failed("list the API groups"))?;
    let served: Vec<_> = groups.groups.into_iter().map(|group| group.name).collect();
    lines.extend(KINDS.map(|(group, without)| {
        if served.iter().any(|it| it == group) {
            Line::new("kinds", group, Verdict::Fine, "served")
        } else {
            Line::new("kinds", group, Verdict::Note, without)
        }
    }));
    Ok(lines)
}

fn server(version: &Info) -> Line {
    let says = format!("version {}", version.git_version);
    // Some providers write `31+`.
    let minor = version.minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    let found = version.major.parse().ok().zip(minor.parse().ok());
    match found {
        Some(found) if found >= SERVER_MIN => Line::new("API server", "", Verdict::Fine, says),
        Some(_) => {
            let (major, minor) = SERVER_MIN;
            let says = format!("{says}; the mesh needs {major}.{minor} or newer");
            Line::new("API server", "", Verdict::Problem, says)
        }
        None => Line::new("API server", "", Verdict::Note, format!("{says} cannot be compared")),
    }
}

async fn rights(cluster: &Cluster) -> Vec<Line> {
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let asked = CREATED.map(|(group, plural)| {
        let reviews = reviews.clone();
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(plural.to_owned()),
            verb: Some("create".to_owned()),
            namespace: Some(cluster.mesh.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        async move {
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer.map_err(failed(&format!("ask for the right to create {plural}")));
            answer.map(|review| (plural, review.status.is_some_and(|status| status.allowed)))
        }
    });
    let mut lines = Vec::new();
    let mut missing = Vec::new();
    for answer in join_all(asked).await {
        match answer {
            Ok((_, true)) => {}
            Ok((plural, false)) => missing.push(plural),
            Err(error) => lines.push(Line::unread("rights", &error)),
        }
    }
    if !missing.is_empty() {
        let says = format!("you may not create {}", missing.join(", "));
        lines.push(Line::new("rights", "", Verdict::Problem, says));
    }
    if lines.is_empty() {
        lines.push(Line::new(
            "rights",
            "",
            Verdict::Fine,
            "you may create all that the chart does",
        ));
    }
    lines
}

fn node(node: &Node) -> Line {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let line = |verdict, says: String| Line::new("node", name, verdict, says);
    let Some(info) = info else {
        return line(Verdict::Note, "its kernel is not known".to_owned());
    };
    if !info.operating_system.is_empty() && info.operating_system != "linux" {
        let says = format!("{}: its pods cannot be in the mesh", info.operating_system);
        return line(Verdict::Note, says);
    }
    if !info.architecture.is_empty() && !["amd64", "arm64"].contains(&&*info.architecture) {
        return line(Verdict::Problem, format!("there is no build for {}", info.architecture));
    }
    let says = format!("kernel {}", info.kernel_version);
    match release(&info.kernel_version) {
        Some(kernel) if kernel >= KERNEL_MIN => line(Verdict::Fine, says),
        Some(_) => {
            let (major, minor) = KERNEL_MIN;
            line(Verdict::Problem, format!("{says}; the mesh needs {major}.{minor} or newer"))
        }
        None => line(Verdict::Note, format!("{says} cannot be compared")),
    }
}

/// From `6.1.0-18-amd64`.
fn release(kernel: &str) -> Option<(u32, u32)> {
    let mut parts = kernel.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn others(sets: &[DaemonSet], mesh: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for set in sets {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        if OTHERS.contains(&name) {
            let says = "it captures the pods that this mesh would capture: remove one of the two";
            lines.push(Line::new(
                "other mesh",
                format!("DaemonSet {namespace}/{name}"),
                Verdict::Problem,
                says,
            ));
        }
        if name == "weft-node" {
            let says = if namespace == mesh {
                "a mesh is installed already"
            } else {
                "a mesh is installed already, in another namespace: --mesh-namespace names it"
            };
            let object = format!("DaemonSet {namespace}/{name}");
            lines.push(Line::new("other mesh", object, Verdict::Note, says));
        }
    }
    if lines.is_empty() {
        lines.push(Line::new("other mesh", "", Verdict::Fine, "none"));
    }
    lines
}

#[cfg(test)]
mod tests;
