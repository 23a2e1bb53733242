//! What the control plane has for a node against what the proxy of that node holds, by the versions of resources.

use std::{collections::BTreeSet, io::Write, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::{self, Instant};
use weft_control::{Config, Versions};

use crate::{
    End,
    args::Format,
    cluster::Cluster,
    control, forward,
    output::{Table, write},
};

/// For so long what differs may be on its way.
const GRACE: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    resource: Resource,
    name: String,
    #[serde(flatten)]
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Resource {
    /// A workload or a service.
    Address,
    Authorization,
}

/// Seen from the node, with the versions of both ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "how")]
enum How {
    Missing {
        served: String,
    },
    /// The control plane has no such resource.
    Added {
        held: String,
    },
    Differs {
        served: String,
        held: String,
    },
}

/// Compares until all is the same, or for the grace: what counts is what differed in the same way at each look.
pub(crate) async fn diff(
    cluster: &Cluster,
    node: &str,
    namespace: Option<&str>,
    format: Format,
    out: &mut impl Write,
) -> Result<End> {
    let until = Instant::now() + GRACE;
    let mut lasting = look(cluster, node).await?;
    while !lasting.is_empty() && Instant::now() < until {
        time::sleep(BETWEEN).await;
        let found = look(cluster, node).await?;
        lasting.retain(|difference| found.contains(difference));
    }
    lasting.retain(|difference| namespace.is_none_or(|wanted| difference.is_of(wanted)));
    write(&lasting, format, out, |out| told(&lasting, node, out))?;
    Ok(if lasting.is_empty() { End::Fine } else { End::Found })
}

async fn look(cluster: &Cluster, node: &str) -> Result<BTreeSet<Difference>> {
    let served: Config = control::any(cluster, "/debug/config")
        .await
        .context("what the control plane has is not known")?;
    let held = forward::of_node(cluster, node).await?.into_changes();
    let held = held.with_context(|| format!("the proxy of node {node} contradicts itself"))?;
    Ok(differences(&served, &Config::of_changes(&held)))
}

fn differences(served: &Config, held: &Config) -> BTreeSet<Difference> {
    let addresses = between(Resource::Address, &served.addresses, &held.addresses);
    let policies = between(Resource::Authorization, &served.authorizations, &held.authorizations);
    addresses.chain(policies).collect()
}

fn between<'a>(
    resource: Resource,
    served: &'a Versions,
    held: &'a Versions,
) -> impl Iterator<Item = Difference> + 'a {
    let names: BTreeSet<&String> = served.keys().chain(held.keys()).collect();
    names.into_iter().filter_map(move |name| {
        let how = match (served.get(name).cloned(), held.get(name).cloned()) {
            (Some(served), Some(held)) if served != held => How::Differs { served, held },
            (Some(served), None) => How::Missing { served },
            (None, Some(held)) => How::Added { held },
            (Some(_), Some(_)) | (None, None) => return None,
        };
        Some(Difference { resource, name: name.clone(), how })
    })
}

impl Difference {
    /// Names are made in several ways, and all have their namespace between strokes.
    fn is_of(&self, namespace: &str) -> bool {
        self.name.split('/').any(|part| part == namespace)
    }
}

fn told(found: &BTreeSet<Difference>, node: &str, out: &mut impl Write) -> Result<()> {
    if found.is_empty() {
        return Ok(writeln!(out, "the proxy of node {node} holds what the control plane has")?);
    }
    let mut table = Table::new(&["RESOURCE", "NAME", "NODE", "CONTROL PLANE HAS", "NODE HOLDS"]);
    for Difference { resource, name, how } in found {
        let resource = match resource {
            Resource::Address => "address",
            Resource::Authorization => "authorization",
        };
        let nothing = String::new();
        let (how, served, held) = match how {
            How::Missing { served } => ("lacks it", served, &nothing),
            How::Added { held } => ("has it alone", &nothing, held),
            How::Differs { served, held } => ("has another", served, held),
        };
        let cells = [resource, name.as_str(), how, served.as_str(), held.as_str()];
        table.row(cells.map(str::to_owned));
    }
    table.write(out)
}

#[cfg(test)]
mod tests;
