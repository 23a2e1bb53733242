//! A resolution, for people and for programs.

use std::{io::Write, net::IpAddr};

use anyhow::Result;
use weft_model::{Health, Hostname};

use super::{Found, Resolution, Row};
use crate::{
    End,
    args::Format,
    output::{Table, write},
};

/// Writes it; what a connection would fail for is something found.
pub(crate) fn show(resolution: &Resolution, format: Format, out: &mut impl Write) -> Result<End> {
    write(resolution, format, out, |out| told(resolution, out))?;
    Ok(if resolution.problem.is_some() { End::Found } else { End::Fine })
}

fn told(resolution: &Resolution, out: &mut impl Write) -> Result<()> {
    let Resolution { asked, from, namespace, found, problem, .. } = resolution;
    let to = match from {
        Some(from) => from.to_string(),
        None => format!("pods of namespace {namespace}"),
    };
    match found {
        Found::Service { service, name, addresses, ports, endpoints } => {
            writeln!(out, "{asked} is service {service} to {to}")?;
            told_addresses(name.as_ref(), addresses, out)?;
            let shown = ports.iter().map(|(port, target)| match target {
                0 => port.to_string(),
                target => format!("{port}->{target}"),
            });
            writeln!(out, "ports: {}\n", shown.collect::<Vec<_>>().join(", "))?;
            table(endpoints, ports.len()).write(out)?;
        }
        Found::Workload { name, addresses, endpoints } => {
            writeln!(out, "{asked} is a workload to {to}")?;
            told_addresses(name.as_ref(), addresses, out)?;
            writeln!(out)?;
            table(endpoints, 0).write(out)?;
        }
        Found::Unknown => writeln!(out, "{asked} is not of the mesh to {to}")?,
    }
    if let Some(problem) = problem {
        writeln!(out, "problem: {problem}")?;
    }
    Ok(())
}

fn told_addresses(
    name: Option<&Hostname>,
    addresses: &[IpAddr],
    out: &mut impl Write,
) -> Result<()> {
    if let Some(name) = name {
        writeln!(out, "name: {name}")?;
    }
    let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    Ok(writeln!(out, "addresses: {}", shown.join(", "))?)
}

fn table(rows: &[Row], ports: usize) -> Table {
    let mut table =
        Table::new(&["ENDPOINT", "ADDRESSES", "HEALTH", "NODE", "LOCALITY", "LEFT OUT"]);
    for row in rows {
        let addresses: Vec<_> = row.addresses.iter().map(ToString::to_string).collect();
        let health = match row.health {
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        };
        table.row([
            row.workload.to_string(),
            addresses.join(","),
            health.to_owned(),
            row.node.to_string(),
            row.locality(),
            row.why(ports),
        ]);
    }
    table
}

impl Row {
    fn locality(&self) -> String {
        let all = [&self.region, &self.zone, &self.subzone].map(ToString::to_string);
        all.join("/").trim_end_matches('/').to_owned()
    }

    /// One reason, where it is the same for all ports.
    fn why(&self, ports: usize) -> String {
        let mut reasons: Vec<_> = self.left_out.values().collect();
        reasons.dedup();
        match reasons.as_slice() {
            [reason] if self.left_out.len() == ports => reason.to_string(),
            _ => {
                let each = self.left_out.iter().map(|(port, reason)| format!("{port}: {reason}"));
                each.collect::<Vec<_>>().join(", ")
            }
        }
    }
}
