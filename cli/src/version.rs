//! Which versions run: of this program, and of the mesh where a cluster tells.

use std::{collections::BTreeMap, io::Write};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde::Serialize;

use crate::{
    args::{Access, Format},
    cluster::{ClusterError, list},
    output::write,
    pods::label,
};

const CLIENT: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh: Option<Mesh>,
    /// Why the mesh's are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

/// How many pods of each version.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mesh {
    control_plane: BTreeMap<String, usize>,
    nodes: BTreeMap<String, usize>,
}

/// A cluster that does not answer is no error: this program's version is known all the same.
pub(crate) async fn version(
    access: Option<&Access>,
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    let mut versions = Versions { client: CLIENT, mesh: None, unknown: None };
    if let Some(access) = access {
        match mesh(access).await {
            Ok(mesh) => versions.mesh = Some(mesh),
            Err(error) => versions.unknown = Some(error.to_string()),
        }
    }
    write(&versions, format, out, |out| told(&versions, out))
}

async fn mesh(access: &Access) -> Result<Mesh, ClusterError> {
    let cluster = access.connect().await?;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.mesh);
    let of = async |name: &str| {
        let selected = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
        let mut count = BTreeMap::<String, usize>::new();
        for pod in list(&pods, selected, "the pods of the mesh").await? {
            let version = label(pod.metadata.labels.as_ref(), "app.kubernetes.io/version");
            *count.entry(version.unwrap_or("unknown").to_owned()).or_default() += 1;
        }
        Ok(count)
    };
    Ok(Mesh { control_plane: of("weft-control").await?, nodes: of("weft-node").await? })
}

fn told(versions: &Versions, out: &mut impl Write) -> Result<()> {
    writeln!(out, "weft: {}", versions.client)?;
    if let Some(mesh) = &versions.mesh {
        for (what, count) in [("control plane", &mesh.control_plane), ("nodes", &mesh.nodes)] {
            let all: Vec<_> = count.iter().map(|(version, n)| format!("{version} ({n})")).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            writeln!(out, "{what}: {all}")?;
        }
    }
    if let Some(unknown) = &versions.unknown {
        writeln!(out, "mesh: not known: {unknown}")?;
    }
    Ok(())
}
