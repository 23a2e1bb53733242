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
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    workloads: usize,
    services: usize,
    policies: usize,
    pods: usize,
    connections: usize,
    certificates: usize,
    problems: Vec<String>,
}

pub(crate) fn status(dump: &Dump, format: Format, out: &mut impl Write) -> Result<End> {
    let connections = dump
        .workload_state
        .values()
        .map(|s| &s.connections)
        .map(|c| c.inbound.len() + c.outbound.len());
    let status = Status {
        workloads: dump.workloads.len(),
        services: dump.services.len(),
        policies: dump.policies.len(),
        pods: dump.workload_state.len(),
        connections: connections.sum(),
        certificates: dump.certificates.len(),
        problems: problems(dump, Timestamp::now()),
    };
    write(&status, format, out, |out| {
        let mut table = Table::new(&[
            "WORKLOADS",
            "SERVICES",
            "POLICIES",
            "PODS",
            "CONNECTIONS",
            "CERTIFICATES",
        ]);
        table.row(
            [
                status.workloads,
                status.services,
                status.policies,
                status.pods,
                status.connections,
                status.certificates,
            ]
            .map(|n| n.to_string()),
        );
        table.write(out)?;
        for problem in &status.problems {
            writeln!(out, "problem: {problem}")?;
        }
        Ok(())
    })?;
    Ok(if status.problems.is_empty() { End::Fine } else { End::Found })
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
