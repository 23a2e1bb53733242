//! The mesh's CA: what it is, and the wish for another root.

use std::io::Write;

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::ConfigMap},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    args::Format,
    cluster::{Cluster, ClusterError, MANAGER, failed_on},
    control,
    output::write,
    roots::{self, BUNDLE, Root},
};

/// On the published roots: whoever sets it, to whatever value, wants another root. The control plane takes it off
/// when that has begun.
const ROTATE: &str = "weft.mesh/rotate-root";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    roots: Vec<Root>,
    /// Since when another root is wished for, and nobody has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tended_by: Option<String>,
    /// What the control plane says of itself.
    #[serde(skip_serializing_if = "Value::is_null")]
    control_plane: Value,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    unheard: Option<String>,
}

pub(crate) async fn status(cluster: &Cluster, format: Format, out: &mut impl Write) -> Result<()> {
    let map = bundle(cluster).await?;
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), &cluster.mesh);
    let lease = leases.get_opt("weft-ca").await;
    let lease = lease.map_err(failed_on("read", &format!("Lease {}/weft-ca", cluster.mesh)))?;
    // Each asks the API server.
    let (control_plane, unheard) = match control::any(cluster, "/ca").await {
        Ok(page) => (page, None),
        Err(error) => (Value::Null, Some(error.to_string())),
    };
    let status = Status {
        roots: roots::of(&map).with_context(|| format!("ConfigMap {}/{BUNDLE}", cluster.mesh))?,
        asked: wish(&map),
        tended_by: lease.and_then(|lease| lease.spec?.holder_identity),
        control_plane,
        unheard,
    };
    write(&status, format, out, |out| told(&status, out))
}

/// Asks for another root. The change takes its steps by itself from there.
pub(crate) async fn rotate(cluster: &Cluster, out: &mut impl Write) -> Result<()> {
    let named = format!("Deployment {}/weft-control", cluster.mesh);
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), &cluster.mesh);
    let deployment = deployments.get("weft-control").await.map_err(failed_on("read", &named))?;
    if let Some(secret) = kept_by_others(&deployment) {
        bail!("the CA is that of Secret {secret}, which others keep: change it there");
    }
    let map = bundle(cluster).await?;
    if let Some(since) = wish(&map) {
        bail!("another root was asked for already ({since}); `weft ca status` says how far it is");
    }
    // Over the very state that was read: of two who ask at once, one is told.
    let version = map.metadata.resource_version;
    let annotations = json!({ROTATE: Timestamp::now().to_string()});
    let patch = json!({"metadata": {"resourceVersion": version, "annotations": annotations}});
    let field_manager = Some(MANAGER.to_owned());
    let params = PatchParams { field_manager, ..PatchParams::default() };
    let named = format!("ConfigMap {}/{BUNDLE}", cluster.mesh);
    let patched = maps(cluster).patch(BUNDLE, &params, &Patch::Merge(patch)).await;
    patched.map_err(failed_on("annotate", &named))?;
    writeln!(out, "another root is asked for; `weft ca status` says how far it is")?;
    Ok(())
}

fn maps(cluster: &Cluster) -> Api<ConfigMap> {
    Api::namespaced(cluster.client.clone(), &cluster.mesh)
}

async fn bundle(cluster: &Cluster) -> Result<ConfigMap, ClusterError> {
    let named = format!("ConfigMap {}/{BUNDLE}", cluster.mesh);
    maps(cluster).get(BUNDLE).await.map_err(failed_on("read", &named))
}

fn wish(map: &ConfigMap) -> Option<String> {
    map.metadata.annotations.as_ref()?.get(ROTATE).cloned()
}

fn kept_by_others(deployment: &Deployment) -> Option<&str> {
    let containers = &deployment.spec.template.spec.as_ref()?.containers;
    let mut args = containers.iter().filter_map(|it| it.args.as_ref()).flatten();
    args.find_map(|arg| arg.strip_prefix("--ca-secret="))
}

fn told(status: &Status, out: &mut impl Write) -> Result<()> {
    for root in &status.roots {
        writeln!(out, "root {} ({}) until {}", root.name, root.serial, root.until)?;
    }
    if let Some(since) = &status.asked {
        writeln!(out, "another root is asked for ({since}), and nobody has begun")?;
    }
    let tended = status.tended_by.as_deref().filter(|holder| !holder.is_empty());
    writeln!(out, "tended by {}", tended.unwrap_or("nobody"))?;
    if let Some(reason) = &status.unheard {
        return Ok(writeln!(out, "the control plane cannot be asked: {reason}")?);
    }
    let page = &status.control_plane;
    for (work, reason) in page.get("failing").and_then(Value::as_object).into_iter().flatten() {
        let reason = reason.as_str().unwrap_or_default();
        writeln!(out, "the replica that was asked fails to {work}: {reason}")?;
    }
    if let Some(error) = page.get("error").and_then(Value::as_str) {
        return Ok(writeln!(out, "the control plane cannot read it: {error}")?);
    }
    let text = |path: &str| page.pointer(path).and_then(Value::as_str).unwrap_or("-");
    writeln!(out, "kept by {}, stage {}", text("/source"), text("/stage/name"))?;
    let waiting = page.get("waiting").and_then(Value::as_array).into_iter().flatten();
    let waiting: Vec<_> = waiting.filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        writeln!(out, "waits for nodes to trust the new root: {}", waiting.join(", "))?;
    }
    if let Some(until) = page.get("waitingUntil").and_then(Value::as_i64) {
        let until = Timestamp::from_second(until)?;
        writeln!(out, "waits until {until} for nodes that were never heard")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
