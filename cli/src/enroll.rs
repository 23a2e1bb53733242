//! Into the mesh and out of it, by the labels that the control plane and the agents read.

use std::{collections::BTreeMap, fmt::Debug, io::Write};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use weft_model::enrollment::{Enrollment, ISTIO_LABEL, WEFT_LABEL, Wish};

use crate::{
    args::{Enroll, Format},
    cluster::{Cluster, ClusterError, MANAGER, failed_on, list},
    output::write,
    pods::{enrollment_of, label, wish},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    object: String,
    dry_run: bool,
    /// Empty when all was so already.
    changes: Vec<Change>,
    notes: Vec<String>,
}

/// `None`: without the label.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    label: &'static str,
    before: Option<String>,
    after: Option<&'static str>,
}

/// Whose labels are changed, or would be.
pub(crate) struct Target<'a> {
    /// None where the namespace itself is meant.
    pod: Option<&'a str>,
    namespace: &'a str,
    dry_run: bool,
}

impl<'a> Target<'a> {
    /// A name alone is that of a namespace, and with `-n` that of a pod in it. Errors: two namespaces are named.
    pub(crate) fn of(asked: &'a Enroll, within: Option<&'a str>) -> Result<Self> {
        let dry_run = asked.dry_run;
        let (pod, namespace) = match (asked.object.split_once('/'), within) {
            (None, None) => (None, asked.object.as_str()),
            (None, Some(namespace)) => (Some(asked.object.as_str()), namespace),
            (Some((namespace, pod)), within) => {
                if let Some(other) = within.filter(|within| *within != namespace) {
                    bail!("{} is not in the namespace of -n {other}", asked.object);
                }
                (Some(pod), namespace)
            }
        };
        Ok(Self { pod, namespace, dry_run })
    }
}

pub(crate) async fn enroll(
    cluster: &Cluster,
    direction: Direction,
    target: &Target<'_>,
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    let done = match target.pod {
        Some(name) => pod(cluster, direction, target, name).await?,
        None => namespace(cluster, direction, target).await?,
    };
    write(&done, format, out, |out| told(&done, out))
}

async fn namespace(
    cluster: &Cluster,
    direction: Direction,
    asked: &Target<'_>,
) -> Result<Done, ClusterError> {
    let (name, what) = (asked.namespace, format!("namespace {}", asked.namespace));
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let found = namespaces.get(name).await.map_err(failed_on("read", &what))?;
    let target = match direction {
        Direction::In => Some("ambient"),
        Direction::Out => None,
    };
    let changes = changes(found.metadata.labels.as_ref(), direction, target);
    let after = labelled(&namespaces, asked, name, &changes, &what).await?;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), name);
    let all = list(&pods, ListParams::default(), "the pods of the namespace").await?;
    let notes = notes(direction, wish(after.metadata.labels.as_ref()), &all);
    Ok(Done { object: what, dry_run: asked.dry_run, changes, notes })
}

async fn pod(
    cluster: &Cluster,
    direction: Direction,
    asked: &Target<'_>,
    name: &str,
) -> Result<Done, ClusterError> {
    let namespace = asked.namespace;
    let what = format!("pod {namespace}/{name}");
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let within = format!("namespace {namespace}");
    let within = namespaces.get(namespace).await.map_err(failed_on("read", &within))?;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let found = pods.get(name).await.map_err(failed_on("read", &what))?;
    let target = match direction {
        Direction::In => "ambient",
        Direction::Out => "none",
    };
    let changes = changes(found.metadata.labels.as_ref(), direction, Some(target));
    let after = labelled(&pods, asked, name, &changes, &what).await?;
    let mut notes = notes(direction, wish(within.metadata.labels.as_ref()), &[after]);
    let owners = found.metadata.owner_references.unwrap_or_default();
    if let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) {
        let (kind, name) = (&owner.kind, &owner.name);
        notes.push(format!("{kind} {name} makes the next pod without it: label its template, too"));
    }
    Ok(Done { object: what, dry_run: asked.dry_run, changes, notes })
}

/// So that the object wishes to be in or out: a label of ours that says otherwise goes.
fn changes(
    labels: Option<&BTreeMap<String, String>>,
    direction: Direction,
    target: Option<&'static str>,
) -> Vec<Change> {
    let contrary = match direction {
        Direction::In => Some("disabled"),
        Direction::Out => Some("enabled"),
    };
    let (istio, ours) = (label(labels, ISTIO_LABEL), label(labels, WEFT_LABEL));
    // One that is wished in by our own name needs no other; one that nobody asks for is out.
    let settled = match (direction, target) {
        (Direction::In, _) => wish(labels) == Wish::In,
        (Direction::Out, Some(_)) => wish(labels) == Wish::Out,
        (Direction::Out, None) => wish(labels) != Wish::In,
    };
    if settled {
        return Vec::new();
    }
    let change = |label, before: Option<&str>, after| Change {
        label,
        before: before.map(str::to_owned),
        after,
    };
    let first = (istio != target).then(|| change(ISTIO_LABEL, istio, target));
    let second = (ours == contrary && ours.is_some()).then(|| change(WEFT_LABEL, ours, None));
    first.into_iter().chain(second).collect()
}

/// Writes the changes and returns the object with them, also after a dry run.
async fn labelled<K>(
    api: &Api<K>,
    asked: &Target<'_>,
    name: &str,
    changes: &[Change],
    what: &str,
) -> Result<K, ClusterError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let labels = changes.iter().map(|change| (change.label.to_owned(), json!(change.after)));
    let labels: serde_json::Map<_, _> = labels.collect();
    let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
    let field_manager = Some(MANAGER.to_owned());
    let params = PatchParams { dry_run: asked.dry_run, field_manager, ..PatchParams::default() };
    api.patch(name, &params, &patch).await.map_err(failed_on("label", what))
}

/// How many pods follow, and which do not and why.
fn notes(direction: Direction, namespace: Wish, pods: &[Pod]) -> Vec<String> {
    let (mut inside, mut others) = (0_usize, Vec::new());
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match (enrollment_of(namespace, pod), direction) {
            (Enrollment::Enrolled, Direction::In) => inside += 1,
            (Enrollment::Enrolled, Direction::Out) => {
                others.push(format!("pod {name} stays in: its own label asks for it"));
            }
            (Enrollment::Out(reason), Direction::In) => {
                others.push(format!("pod {name} stays out: {reason}"));
            }
            (Enrollment::Out(_), Direction::Out) => {}
        }
    }
    match (direction, inside) {
        (Direction::Out, _) | (Direction::In, 0) => {}
        (Direction::In, 1) => others.insert(0, "1 pod is to be in the mesh".to_owned()),
        (Direction::In, n) => others.insert(0, format!("{n} pods are to be in the mesh")),
    }
    others
}

fn told(done: &Done, out: &mut impl Write) -> Result<()> {
    let object = &done.object;
    if done.changes.is_empty() {
        writeln!(out, "{object}: nothing to change")?;
    }
    let dry_run = if done.dry_run { " (dry run: nothing is written)" } else { "" };
    for Change { label, before, after } in &done.changes {
        match (before, after) {
            (None, Some(after)) => writeln!(out, "{object}: label {label}={after}{dry_run}")?,
            (Some(before), Some(after)) => {
                writeln!(out, "{object}: label {label}={after}, was {before}{dry_run}")?;
            }
            (before, None) => {
                let before = before.as_deref().unwrap_or_default();
                writeln!(out, "{object}: label {label}={before} removed{dry_run}")?;
            }
        }
    }
    for note in &done.notes {
        writeln!(out, "{note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
