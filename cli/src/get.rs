//! Lists: workloads, services, policies, certificates, connections.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use weft_model::{
    Action, Health, Scope, TunnelProtocol,
    dump::{
        CertificateDump, ConnectionDump, Dump, GatewayDump, PolicyDump, ServiceDump, WorkloadDump,
    },
};

use crate::{
    args::{Format, What},
    output::{Table, write},
};

pub(crate) fn get(
    dump: &Dump,
    what: What,
    namespace: Option<&str>,
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    let is = |of: &str| namespace.is_none_or(|wanted| wanted == of);
    match what {
        What::Workloads => {
            let all: Vec<_> = dump.workloads.iter().filter(|w| is(w.namespace.as_str())).collect();
            write(&all, format, out, |out| workloads(&all).write(out))
        }
        What::Services => {
            let all: Vec<_> = dump.services.iter().filter(|s| is(s.namespace.as_str())).collect();
            write(&all, format, out, |out| services(&all).write(out))
        }
        What::Policies => {
            let all: Vec<_> = dump.policies.iter().filter(|p| is(&p.namespace)).collect();
            write(&all, format, out, |out| policies(&all).write(out))
        }
        What::Certs => {
            let of = |c: &&CertificateDump| is(namespace_of(&c.identity));
            let all: Vec<_> = dump.certificates.iter().filter(of).collect();
            write(&all, format, out, |out| certificates(&all).write(out))
        }
        What::Connections => {
            let all: Vec<_> = connections(dump).into_iter().filter(|c| is(&c.namespace)).collect();
            write(&all, format, out, |out| connection_table(&all).write(out))
        }
    }
}

fn namespace_of(identity: &str) -> &str {
    identity.split_once("/ns/").and_then(|(_, rest)| rest.split('/').next()).unwrap_or("")
}

fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|v| v.to_string()).collect::<Vec<_>>().join(",")
}

fn gateway(gateway: Option<&GatewayDump>) -> String {
    gateway.map(|g| g.destination.to_string()).unwrap_or_default()
}

fn workloads(all: &[&WorkloadDump]) -> Table {
    let mut table = Table::new(&[
        "NAMESPACE",
        "NAME",
        "ADDRESSES",
        "NODE",
        "PROTOCOL",
        "ACCOUNT",
        "HEALTH",
        "WAYPOINT",
    ]);
    for w in all {
        table.row([
            w.namespace.to_string(),
            w.name.to_string(),
            joined(&w.workload_ips),
            w.node.to_string(),
            match w.protocol {
                TunnelProtocol::Hbone => "HBONE".to_owned(),
                TunnelProtocol::None => "TCP".to_owned(),
            },
            w.service_account.to_string(),
            match w.status {
                Health::Healthy => "healthy".to_owned(),
                Health::Unhealthy => "unhealthy".to_owned(),
            },
            gateway(w.waypoint.as_ref()),
        ]);
    }
    table
}

fn services(all: &[&ServiceDump]) -> Table {
    let mut table = Table::new(&[
        "NAMESPACE",
        "NAME",
        "HOSTNAME",
        "ADDRESSES",
        "PORTS",
        "ENDPOINTS",
        "WAYPOINT",
    ]);
    for s in all {
        table.row([
            s.namespace.to_string(),
            s.name.to_string(),
            s.hostname.to_string(),
            joined(s.vips.iter().map(|v| v.0.address())),
            joined(s.ports.iter().map(|(port, target)| format!("{port}->{target}"))),
            s.endpoints.len().to_string(),
            gateway(s.waypoint.as_ref()),
        ]);
    }
    table
}

fn policies(all: &[&PolicyDump]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ACTION", "SCOPE", "RULES", "ENFORCED"]);
    for p in all {
        let action = match p.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
        };
        let scope = match p.scope {
            Scope::Global => "mesh",
            Scope::Namespace => "namespace",
            Scope::Workload => "workloads that list it",
        };
        let enforced = if p.dry_run { "no, dry run" } else { "yes" };
        let rules = p.rules.len().to_string();
        table.row([
            p.namespace.to_string(),
            p.name.to_string(),
            action.to_owned(),
            scope.to_owned(),
            rules,
            enforced.to_owned(),
        ]);
    }
    table
}

fn certificates(all: &[&CertificateDump]) -> Table {
    let mut table = Table::new(&["IDENTITY", "STATE", "SERIAL", "VALID FROM", "EXPIRES"]);
    for c in all {
        let leaf = c.cert_chain.first().cloned().unwrap_or_default();
        table.row([
            c.identity.clone(),
            c.state.clone(),
            leaf.serial_number,
            leaf.valid_from,
            leaf.expiration_time,
        ]);
    }
    table
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionRow {
    namespace: String,
    pod: String,
    direction: &'static str,
    #[serde(flatten)]
    connection: ConnectionDump,
}

fn connections(dump: &Dump) -> Vec<ConnectionRow> {
    let mut rows = Vec::new();
    for state in dump.workload_state.values() {
        let both =
            [("inbound", &state.connections.inbound), ("outbound", &state.connections.outbound)];
        for (direction, connections) in both {
            rows.extend(connections.iter().map(|connection| ConnectionRow {
                namespace: state.info.namespace.clone(),
                pod: state.info.name.clone(),
                direction,
                connection: connection.clone(),
            }));
        }
    }
    rows
}

fn connection_table(all: &[ConnectionRow]) -> Table {
    let mut table = Table::new(&["POD", "DIRECTION", "SOURCE", "ASKED FOR", "GOES TO", "PROTOCOL"]);
    for row in all {
        let c = &row.connection;
        table.row([
            format!("{}/{}", row.namespace, row.pod),
            row.direction.to_owned(),
            c.src.clone(),
            c.original_dst.clone(),
            c.actual_dst.clone(),
            c.protocol.clone(),
        ]);
    }
    table
}
