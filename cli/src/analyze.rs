//! What is wrong with what users wrote, in a cluster or in files, by the control plane's own compiler.

use std::{io::Write, path::Path};

use anyhow::{Result, bail};
use kube::api::ListParams;
use serde_json::Value;
use weft_control::{Problem, objects};

use crate::{
    End,
    args::Format,
    cluster::{Cluster, ClusterError},
    kinds::{self, ISTIO, Kind, kind},
    output::write,
};

/// What policies are about. Nodes say nothing that could be wrong.
const BUILT_IN: [Kind; 4] = [
    kind("", "Namespace", "namespaces"),
    kind("", "Service", "services"),
    kind("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    kind("", "Pod", "pods"),
];

/// Of a file, or of all files in a folder; or of one of their namespaces.
pub(crate) fn files(
    path: &Path,
    namespace: Option<&str>,
    format: Format,
    out: &mut impl Write,
) -> Result<End> {
    if !path.exists() {
        bail!("{} does not exist; give a file of manifests, or a folder of them", path.display());
    }
    let problems = only_of(namespace, weft_control::validate(path));
    told(&problems, &path.display().to_string(), format, out)
}

/// Of a cluster, or of one of its namespaces: all is read, since objects mean something only together.
pub(crate) async fn cluster(
    cluster: &Cluster,
    namespace: Option<&str>,
    format: Format,
    out: &mut impl Write,
) -> Result<End> {
    let problems = only_of(namespace, weft_control::analyze(read(cluster).await?));
    let whose = namespace.map_or("the cluster".to_owned(), |name| format!("namespace {name}"));
    told(&problems, &whose, format, out)
}

/// What cannot be read as an object may be of any namespace.
fn only_of(namespace: Option<&str>, mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.retain(|problem| {
        let of = problem.object.as_ref().map(|object| &*object.name.namespace);
        namespace.is_none_or(|wanted| of.is_none_or(|of| of == wanted))
    });
    problems
}

async fn read(cluster: &Cluster) -> Result<Vec<(objects::Kind, Value)>, ClusterError> {
    let mut all = Vec::new();
    for kind in BUILT_IN.iter().chain(&ISTIO) {
        // In any version that is served.
        let Some(known) = objects::Kind::of(&format!("{}/", kind.group), kind.name) else {
            continue;
        };
        let found =
            kinds::list(cluster, kind, None, ListParams::default()).await?.unwrap_or_default();
        let values = found.into_iter().filter_map(|object| serde_json::to_value(object).ok());
        all.extend(values.map(|value| (known, value)));
    }
    Ok(all)
}

/// Lists them; any is something found.
fn told(problems: &[Problem], whose: &str, format: Format, out: &mut impl Write) -> Result<End> {
    write(&problems, format, out, |out| {
        for problem in problems {
            writeln!(out, "{problem}")?;
        }
        let count = match problems.len() {
            0 => "no problems".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        Ok(writeln!(out, "{count} in {whose}")?)
    })?;
    Ok(if problems.is_empty() { End::Fine } else { End::Found })
}
