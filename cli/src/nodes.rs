//! The nodes of a cluster: their part of the mesh, and how far its configuration has come.

use std::io::Write;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::ListParams};
use serde::Serialize;
use weft_control::{Applied, Connected};
use weft_model::dump::Dump;

use crate::{
    args::Format,
    cluster::{Cluster, list},
    control,
    forward::{self, Answer},
    output::{Table, write},
    pods::label,
    source::SourceError,
};

const AGENT: &str = "weft-redirect";
const PROXY: &str = "ztunnel";

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    node: String,
    /// The pod with agent and proxy; where it is missing, the node is not in the mesh.
    pod: Option<String>,
    version: Option<String>,
    agent: Option<String>,
    proxy: Option<String>,
    #[serde(flatten)]
    said: Said,
    configuration: Configuration,
}

/// What the proxy says.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    /// Those that are captured.
    pods: Option<usize>,
    /// Those that wait for it.
    pending: Option<usize>,
    /// When the first certificate ends that it holds for a pod.
    certificate_until: Option<String>,
}

/// How far a node is with what the control plane serves.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
enum Configuration {
    /// All is acknowledged.
    Current {
        generation: u64,
    },
    Behind {
        generation: u64,
        acknowledged: Option<u64>,
    },
    /// In part; the resources' names.
    Refused {
        generation: u64,
        refused: Vec<String>,
    },
    NotConnected,
    /// The control plane does not say.
    #[default]
    Unknown,
}

/// Lists them. Errors: also when it is listed, and a proxy or the control plane did not answer.
pub(crate) async fn nodes(
    cluster: &Cluster,
    selector: Option<&str>,
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    let selected = selector.map_or_else(ListParams::default, |it| ListParams::default().labels(it));
    let nodes = list(&Api::<Node>::all(cluster.client.clone()), selected, "nodes").await?;
    let names: Vec<_> = nodes.into_iter().filter_map(|node| node.metadata.name).collect();
    let mut answers = forward::each(cluster).await?;
    answers.retain(|answer| names.iter().any(|name| name == answer.node()));
    let connected = control::each::<Connected>(cluster, "/debug/nodes").await;
    let rows: Vec<_> = names
        .iter()
        .map(|name| {
            let answer = answers.iter().find(|it| it.node() == name);
            Row::of(name, answer, connected.as_deref().ok())
        })
        .collect();
    write(&rows, format, out, |out| table(&rows, format).write(out))?;
    let of = answers.len();
    let silent = answers.into_iter().filter_map(|answer| {
        let node = answer.node().to_owned();
        Some((node, answer.said.err()?))
    });
    SourceError::of_silent(of, silent.collect())?;
    connected.context("how far the configuration has come is not known")?;
    Ok(())
}

impl Row {
    fn of(node: &str, answer: Option<&Answer>, connected: Option<&[Connected]>) -> Self {
        let configuration =
            connected.map_or(Configuration::Unknown, |all| Configuration::of(node, all));
        let row = Self { node: node.to_owned(), configuration, ..Self::default() };
        let Some(Answer { pod, said }) = answer else { return row };
        let version = label(pod.metadata.labels.as_ref(), "app.kubernetes.io/version");
        Self {
            pod: pod.metadata.name.clone(),
            version: version.map(str::to_owned),
            agent: Some(container(pod, AGENT)),
            proxy: Some(container(pod, PROXY)),
            said: said.as_ref().map(Said::of).unwrap_or_default(),
            ..row
        }
    }
}

impl Said {
    fn of(dump: &Dump) -> Self {
        let count =
            |state: &str| dump.workload_state.values().filter(|it| it.state == state).count();
        let leaves = dump.certificates.iter().filter_map(|it| it.cert_chain.first());
        let ends = leaves.filter_map(|it| it.expiration_time.parse::<Timestamp>().ok());
        Self {
            pods: Some(count("Up")),
            pending: Some(count("Pending")),
            certificate_until: ends.min().map(|end| end.to_string()),
        }
    }
}

impl Configuration {
    /// A node that changes from one replica to another may be known to both.
    fn of(node: &str, replicas: &[Connected]) -> Self {
        let mut found = Self::NotConnected;
        for Connected { generation, nodes } in replicas {
            let Some(Applied { answered, refused }) = nodes.get(node) else { continue };
            let generation = *generation;
            let here = if !refused.is_empty() {
                Self::Refused { generation, refused: refused.clone() }
            } else if *answered >= Some(generation) {
                Self::Current { generation }
            } else {
                Self::Behind { generation, acknowledged: *answered }
            };
            if !matches!(found, Self::Current { .. }) {
                found = here;
            }
        }
        found
    }
}

/// What is said of a container, which the agent's may be for as long as the pod lives, or may start before.
fn container(pod: &Pod, name: &str) -> String {
    let status = pod.status.as_ref();
    let of = |status: &k8s_openapi::api::core::v1::PodStatus| {
        let all = status.init_container_statuses.iter().chain(&status.container_statuses);
        all.flatten().find(|it| it.name == name).cloned()
    };
    let Some(found) = status.and_then(of) else { return "not started".to_owned() };
    let state = found.state.unwrap_or_default();
    if found.ready {
        "ready".to_owned()
    } else if let Some(waiting) = state.waiting {
        waiting.reason.unwrap_or_else(|| "waiting".to_owned())
    } else if let Some(ended) = state.terminated {
        format!("ended with {}", ended.exit_code)
    } else {
        "not ready".to_owned()
    }
}

fn table(rows: &[Row], format: Format) -> Table {
    let narrow =
        ["NODE", "AGENT", "PROXY", "VERSION", "PODS", "CERTIFICATES UNTIL", "CONFIGURATION"];
    let is_wide = matches!(format, Format::Wide);
    let more = if is_wide { &["POD", "PENDING", "REFUSED"][..] } else { &[] };
    let mut table = Table::new(&[&narrow[..], more].concat());
    for row in rows {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let number = |number: Option<usize>| number.map(|n| n.to_string()).unwrap_or_default();
        let narrow = [
            row.node.clone(),
            row.agent.clone().unwrap_or_else(|| "none".to_owned()),
            row.proxy.clone().unwrap_or_else(|| "none".to_owned()),
            text(&row.version),
            number(row.said.pods),
            text(&row.said.certificate_until),
            row.configuration.shown(),
        ];
        let wide = || [text(&row.pod), number(row.said.pending), row.configuration.refused()];
        table.row(narrow.into_iter().chain(is_wide.then(wide).into_iter().flatten()));
    }
    table
}

impl Configuration {
    fn shown(&self) -> String {
        match self {
            Self::Current { .. } => "current".to_owned(),
            Self::Behind { generation, acknowledged } => {
                format!("behind, {} of {generation}", acknowledged.unwrap_or(0))
            }
            Self::Refused { refused, .. } => format!("{} refused", refused.len()),
            Self::NotConnected => "not connected".to_owned(),
            Self::Unknown => "not known".to_owned(),
        }
    }

    fn refused(&self) -> String {
        match self {
            Self::Refused { refused, .. } => refused.join(","),
            Self::Current { .. } | Self::Behind { .. } | Self::NotConnected | Self::Unknown => {
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod tests;
