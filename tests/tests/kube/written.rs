//! Objects of the kinds that users write, and what their status says.

use anyhow::{Context, Result};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use weft_tests::{
    kube::{Apply, Chart, Cluster, eventually},
    lab::LONG,
};

use crate::mesh::{MESH, cluster};

/// Kind, plural, group.
pub(crate) const KINDS: [(&str, &str, &str); 4] = [
    ("AuthorizationPolicy", "authorizationpolicies", "security.istio.io"),
    ("PeerAuthentication", "peerauthentications", "security.istio.io"),
    ("ServiceEntry", "serviceentries", "networking.istio.io"),
    ("WorkloadEntry", "workloadentries", "networking.istio.io"),
];

/// A cluster with a mesh, where the four kinds are defined as the chart does it.
pub(crate) async fn defined() -> Result<Cluster> {
    let cluster = cluster().await?;
    define(&cluster, &Chart::definitions()?)?;
    Ok(cluster)
}

/// The same, where nothing of a spec is validated.
pub(crate) async fn loosely_defined() -> Result<Cluster> {
    let cluster = cluster().await?;
    define(&cluster, &loose_definitions()?)?;
    Ok(cluster)
}

/// The chart's, but a spec may be anything, as with definitions of others: all that is wrong gets through.
pub(crate) fn loose_definitions() -> Result<Vec<Value>> {
    let mut definitions = Chart::definitions()?;
    for definition in &mut definitions {
        let versions = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
        for version in versions.context("a definition has versions")? {
            let spec = version.pointer_mut("/schema/openAPIV3Schema/properties/spec");
            *spec.context("a version has a spec")? =
                json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        }
    }
    Ok(definitions)
}

pub(crate) fn define(cluster: &Cluster, definitions: &[Value]) -> Result<()> {
    cluster.install(definitions, Apply::Really)?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    Ok(())
}

pub(crate) fn write(cluster: &Cluster, kind: &str, name: &str, spec: &str) -> Result<()> {
    let (.., group) = KINDS.iter().find(|of| of.0 == kind).context("a kind of ours")?;
    cluster.apply(&format!(
        "apiVersion: {group}/v1
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    ))
}

pub(crate) fn objects(cluster: &Cluster, kind: &str) -> Result<Api<DynamicObject>> {
    let (kind, plural, group) = KINDS.iter().find(|of| of.0 == kind).context("a kind of ours")?;
    let kind = GroupVersionKind::gvk(group, "v1", kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    Ok(Api::namespaced_with(cluster.client()?, "shop", &resource))
}

/// A condition as `<status> <reason> <generation>: <message>`.
pub(crate) fn said(object: &DynamicObject, condition: &str) -> Option<String> {
    let conditions = object.data.pointer("/status/conditions")?.as_array()?;
    let of = |found: &&Value| found.get("type").and_then(Value::as_str) == Some(condition);
    let found = conditions.iter().find(of)?;
    let text = |field| found.get(field).and_then(Value::as_str).unwrap_or_default();
    let generation = found.get("observedGeneration")?.as_i64()?;
    Some(format!("{} {} {generation}: {}", text("status"), text("reason"), text("message")))
}

/// Waits until a condition is as wanted; returns the object.
pub(crate) async fn until(
    cluster: &Cluster,
    (kind, name): (&str, &str),
    condition: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<DynamicObject> {
    let api = objects(cluster, kind)?;
    let mut last = None;
    let what = format!("{condition} of {kind} {name}");
    let found = eventually(&what, LONG, async || {
        let object = api.get(name).await.ok()?;
        last = said(&object, condition);
        last.as_deref().is_some_and(&wanted).then_some(object)
    });
    let found = found.await;
    found.with_context(|| format!("it was last: {last:?}"))
}

/// Which state of an object there is.
pub(crate) async fn version(cluster: &Cluster, kind: &str, name: &str) -> Result<String> {
    let object = objects(cluster, kind)?.get(name).await?;
    object.metadata.resource_version.context("an object has a version")
}

/// Who writes statuses.
pub(crate) async fn holder(cluster: &Cluster) -> Result<Option<String>> {
    let leases =
        Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(cluster.client()?, MESH);
    let lease = leases.get_opt("weft-status").await?;
    Ok(lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty()))
}

pub(crate) const DENY: (&str, &str) = ("AuthorizationPolicy", "deny");
pub(crate) const DENY_ALL: &str = "{action: DENY, rules: [{}]}";
pub(crate) const DENY_A_PORT: &str =
    "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}";
