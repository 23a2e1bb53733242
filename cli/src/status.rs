//! The state of a proxy in a few lines, and what is wrong with it.

use std::{collections::HashSet, io::Write};

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use weft_model::{PolicyName, dump::Dump};

use crate::{
    End,
    args::Format,
    output::{Table, write},
    picture::Picture,
    source::SourceError,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    /// Its node, where several were asked.
    #[serde(skip_serializing_if = "str::is_empty")]
    proxy: &'a str,
    workloads: usize,
    services: usize,
    policies: usize,
    pods: usize,
    connections: usize,
    certificates: usize,
    problems: Vec<String>,
}

/// Of one proxy, or of each.
pub(crate) fn status(picture: &Picture, format: Format, out: &mut impl Write) -> Result<End> {
    let now = Timestamp::now();
    let all = picture.dumps().into_iter().map(|(node, dump)| of(node, dump, now));
    let silent = picture.silent().iter().map(|(node, error)| Status::silent(node, error));
    let mut all: Vec<_> = all.chain(silent).collect();
    all.sort_by_key(|status| status.proxy);
    let found = all.iter().any(|status| !status.problems.is_empty());
    match (picture, all.as_slice()) {
        (Picture::One(_), [one]) => write(one, format, out, |out| told(&all, out))?,
        (Picture::One(_) | Picture::Nodes { .. }, _) => {
            write(&all, format, out, |out| told(&all, out))?;
        }
    }
    Ok(if found { End::Found } else { End::Fine })
}

impl<'a> Status<'a> {
    /// Of a proxy that does not answer.
    fn silent(proxy: &'a str, error: &SourceError) -> Self {
        let problems = vec![error.to_string()];
        let (workloads, services, policies) = (0, 0, 0);
        let (pods, connections, certificates) = (0, 0, 0);
        Self { proxy, workloads, services, policies, pods, connections, certificates, problems }
    }
}

fn of<'a>(node: &'a str, dump: &Dump, now: Timestamp) -> Status<'a> {
    let connections = dump.workload_state.values().map(|s| &s.connections);
    let connections = connections.map(|c| c.inbound.len() + c.outbound.len());
    Status {
        proxy: node,
        workloads: dump.workloads.len(),
        services: dump.services.len(),
        policies: dump.policies.len(),
        pods: dump.workload_state.len(),
        connections: connections.sum(),
        certificates: dump.certificates.len(),
        problems: problems(dump, now),
    }
}

fn told(all: &[Status<'_>], out: &mut impl Write) -> Result<()> {
    let mut table =
        Table::new(&["WORKLOADS", "SERVICES", "POLICIES", "PODS", "CONNECTIONS", "CERTIFICATES"]);
    for s in all {
        let counts = [s.workloads, s.services, s.policies, s.pods, s.connections, s.certificates];
        table.row(counts.map(|n| n.to_string()));
    }
    if all.iter().any(|status| !status.proxy.is_empty()) {
        table = table.led_by("PROXY", all.iter().map(|status| status.proxy).collect());
    }
    table.write(out)?;
    for status in all {
        let on =
            if status.proxy.is_empty() { String::new() } else { format!("{}: ", status.proxy) };
        for problem in &status.problems {
            writeln!(out, "problem: {on}{problem}")?;
        }
    }
    Ok(())
}

fn problems(dump: &Dump, now: Timestamp) -> Vec<String> {
    let mut problems = Vec::new();
    for c in &dump.certificates {
        if c.state != "Available" {
            problems.push(format!("certificate of {} is not available: {}", c.identity, c.state));
        }
        let expires =
            c.cert_chain.first().and_then(|c| c.expiration_time.parse::<Timestamp>().ok());
        if let Some(expired) = expires.filter(|expires| *expires <= now) {
            problems.push(format!("certificate of {} expired at {expired}", c.identity));
        }
    }
    let known: HashSet<PolicyName> =
        dump.policies.iter().filter_map(|p| PolicyName::new(&p.namespace, &p.name).ok()).collect();
    for w in &dump.workloads {
        for policy in w.authorization_policies.iter().filter(|p| !known.contains(p)) {
            let (namespace, name) = (&w.namespace, &w.name);
            problems.push(format!(
                "{namespace}/{name} lists policy {policy}, which is not known, so all calls to it are denied"
            ));
        }
    }
    let pending = dump.workload_state.values().filter(|s| s.state == "Pending");
    problems.extend(
        pending.map(|s| format!("pod {}/{} waits to be captured", s.info.namespace, s.info.name)),
    );
    problems
}

#[cfg(test)]
mod tests;
