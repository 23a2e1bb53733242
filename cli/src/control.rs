//! Pages of the control plane's replicas, to which the API server forwards.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde::de::DeserializeOwned;

use crate::{
    cluster::{Cluster, ClusterError, list},
    forward,
    pods::is_ready,
};

const ADMIN_PORT: u16 = 15014;

/// Why a page is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "no replica of the control plane is ready in namespace {namespace}; `weft check` says why"
    )]
    NoReplica { namespace: String },
    #[error(
        "pod {pod} does not say: {reason}; it takes the right to get and create pods/portforward in its namespace, \
         and a kubelet that the API server reaches"
    )]
    Silent { pod: String, reason: String },
}

/// A page of which each replica says the same, from the first that answers.
pub(crate) async fn any<T: DeserializeOwned>(
    cluster: &Cluster,
    path: &str,
) -> Result<T, ControlError> {
    let mut failure = ControlError::NoReplica { namespace: cluster.mesh.clone() };
    for pod in replicas(cluster).await? {
        match page(cluster, pod, path).await {
            Ok(page) => return Ok(page),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A page of which each replica says something else. Errors: one of them does not answer.
pub(crate) async fn each<T: DeserializeOwned>(
    cluster: &Cluster,
    path: &str,
) -> Result<Vec<T>, ControlError> {
    let pods = replicas(cluster).await?;
    if pods.is_empty() {
        return Err(ControlError::NoReplica { namespace: cluster.mesh.clone() });
    }
    let mut pages = Vec::new();
    for pod in pods {
        pages.push(page(cluster, pod, path).await?);
    }
    Ok(pages)
}

/// The names of those that are ready.
async fn replicas(cluster: &Cluster) -> Result<Vec<String>, ClusterError> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.mesh);
    let selected = ListParams::default().labels("app.kubernetes.io/name=weft-control");
    let pods = list(&pods, selected, "the pods of the mesh").await?;
    Ok(pods.into_iter().filter(is_ready).filter_map(|pod| pod.metadata.name).collect())
}

async fn page<T: DeserializeOwned>(
    cluster: &Cluster,
    pod: String,
    path: &str,
) -> Result<T, ControlError> {
    let body = forward::page(cluster, &pod, ADMIN_PORT, path).await;
    let read = body.and_then(|body| serde_json::from_slice(&body).map_err(|e| e.to_string()));
    read.map_err(|reason| ControlError::Silent { pod, reason })
}
