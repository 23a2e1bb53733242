//! The kinds that an API server may or may not have, in whichever version it prefers.

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};

use crate::cluster::{self, Cluster, ClusterError, failed};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) plural: &'static str,
}

/// Istio's, with a status that the control plane writes.
pub(crate) const ISTIO: [Kind; 4] = [
    kind("security.istio.io", "AuthorizationPolicy", "authorizationpolicies"),
    kind("security.istio.io", "PeerAuthentication", "peerauthentications"),
    kind("networking.istio.io", "ServiceEntry", "serviceentries"),
    kind("networking.istio.io", "WorkloadEntry", "workloadentries"),
];

pub(crate) const fn kind(group: &'static str, name: &'static str, plural: &'static str) -> Kind {
    Kind { group, name, plural }
}

/// The objects of a kind that are selected, in one namespace or in all. `None`: the API server has no such kind.
pub(crate) async fn list(
    cluster: &Cluster,
    kind: &Kind,
    namespace: Option<&str>,
    selected: ListParams,
) -> Result<Option<Vec<DynamicObject>>, ClusterError> {
    let Some(version) = version(cluster, kind).await? else { return Ok(None) };
    let gvk = GroupVersionKind::gvk(kind.group, &version, kind.name);
    let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
    let client = cluster.client.clone();
    let api = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    cluster::list(&api, selected, kind.plural).await.map(Some)
}

async fn version(cluster: &Cluster, kind: &Kind) -> Result<Option<String>, ClusterError> {
    if kind.group.is_empty() {
        return Ok(Some("v1".to_owned()));
    }
    let groups = cluster.client.list_api_groups().await.map_err(failed("list the API groups"))?;
    let group = groups.groups.into_iter().find(|it| it.name == kind.group);
    for version in group.into_iter().flat_map(|it| it.versions) {
        let served = cluster.client.list_api_group_resources(&version.group_version).await;
        let served = served.map_err(failed(&format!("list what {} has", version.group_version)))?;
        if served.resources.iter().any(|it| it.name == kind.plural) {
            return Ok(Some(version.version));
        }
    }
    Ok(None)
}
