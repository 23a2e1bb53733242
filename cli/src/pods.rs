//! What the API server says of a pod's place in the mesh, read as the control plane and the agents read it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use weft_model::enrollment::{Candidate, Enrollment, PodLife, PodNetwork, Wish, enrollment};

pub(crate) fn label<'a>(
    labels: Option<&'a BTreeMap<String, String>>,
    key: &str,
) -> Option<&'a str> {
    labels?.get(key).map(String::as_str)
}

/// What the labels of a namespace or of a pod ask for.
pub(crate) fn wish(labels: Option<&BTreeMap<String, String>>) -> Wish {
    Wish::of(|key| label(labels, key))
}

/// Whether a pod is to be in the mesh, in a namespace with this wish.
pub(crate) fn enrollment_of(namespace: Wish, pod: &Pod) -> Enrollment {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network);
    enrollment(Candidate {
        namespace,
        pod: wish(pod.metadata.labels.as_ref()),
        network: if host_network == Some(true) { PodNetwork::Host } else { PodNetwork::Own },
        life: PodLife::of(pod.status.as_ref().and_then(|status| status.phase.as_deref())),
    })
}

pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}
