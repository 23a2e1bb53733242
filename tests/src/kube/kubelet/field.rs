//! Fields of a pod that its containers are told.

use k8s_openapi::api::core::v1::{ObjectFieldSelector, Pod};

use crate::lab::Sandbox;

/// The value of a field; empty, if it has none or nobody here asks for it.
pub(super) fn lookup(field: &ObjectFieldSelector, pod: &Pod, sandbox: &Sandbox) -> String {
    let spec = pod.spec.as_ref();
    let found = match field.field_path.as_str() {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" => Some(sandbox.v4().to_owned()),
        "status.podIPs" => Some(format!("{},{}", sandbox.v4(), sandbox.v6())),
        _ => None,
    };
    found.unwrap_or_default()
}
