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
    args::Format,
    output::{Table, write},
    picture::{Breadth, Picture},
    select::{Rows, Selected},
};

/// Whom it takes to know them.
pub(crate) fn breadth(rows: Rows) -> Breadth {
    match rows {
        Rows::Workloads | Rows::Services | Rows::Policies => Breadth::Mesh,
        Rows::Certs | Rows::Connections => Breadth::EachProxy,
    }
}

/// Which of the rows are asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) namespace: Option<&'a str>,
    pub(crate) selected: Option<Selected>,
}

impl Wanted<'_> {
    fn has(&self, namespace: &str, name: &str) -> bool {
        self.namespace.is_none_or(|wanted| wanted == namespace)
            && self.selected.as_ref().is_none_or(|selected| selected.has(namespace, name))
    }
}

/// A row, and the node whose proxy knows it, where several were asked. Not called a node: workloads have their own.
#[derive(Serialize)]
struct On<'a, T> {
    #[serde(skip_serializing_if = "str::is_empty")]
    proxy: &'a str,
    #[serde(flatten)]
    row: T,
}

pub(crate) fn get(
    picture: &Picture,
    rows_of: Rows,
    wanted: &Wanted<'_>,
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    match rows_of {
        Rows::Workloads => {
            let is = |w: &WorkloadDump| wanted.has(w.namespace.as_str(), &w.name);
            let all = rows(picture, |dump| &dump.workloads, is);
            list(&all, format, out, workloads)
        }
        Rows::Services => {
            let is = |s: &ServiceDump| wanted.has(s.namespace.as_str(), &s.name);
            let all = rows(picture, |dump| &dump.services, is);
            list(&all, format, out, services)
        }
        Rows::Policies => {
            let is = |p: &PolicyDump| wanted.has(&p.namespace, &p.name);
            let all = rows(picture, |dump| &dump.policies, is);
            list(&all, format, out, policies)
        }
        Rows::Certs => {
            let is = |c: &CertificateDump| {
                let (namespace, account) = account_of(&c.identity);
                wanted.has(namespace, account)
            };
            let all = rows(picture, |dump| &dump.certificates, is);
            list(&all, format, out, certificates)
        }
        Rows::Connections => {
            let of = |(node, dump)| connections(dump).map(move |row| On { proxy: node, row });
            let all = picture.dumps().into_iter().flat_map(of);
            let all: Vec<_> = all.filter(|on| wanted.has(on.row.namespace, on.row.pod)).collect();
            list(&all, format, out, connection_table)
        }
    }
}

fn rows<'a, T>(
    picture: &'a Picture,
    of: impl Fn(&'a Dump) -> &'a Vec<T>,
    is: impl Fn(&T) -> bool,
) -> Vec<On<'a, &'a T>> {
    let mut all = Vec::new();
    for (node, dump) in picture.dumps() {
        all.extend(of(dump).iter().filter(|row| is(row)).map(|row| On { proxy: node, row }));
    }
    all
}

fn list<T: Serialize>(
    all: &[On<'_, T>],
    format: Format,
    out: &mut impl Write,
    table: impl FnOnce(&[On<'_, T>], Format) -> Table,
) -> Result<()> {
    write(&all, format, out, |out| {
        let table = table(all, format);
        if all.iter().all(|on| on.proxy.is_empty()) {
            return table.write(out);
        }
        table.led_by("PROXY", all.iter().map(|on| on.proxy).collect()).write(out)
    })
}

/// Namespace and name.
fn account_of(identity: &str) -> (&str, &str) {
    identity.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/")).unwrap_or_default()
}

fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|v| v.to_string()).collect::<Vec<_>>().join(",")
}

fn gateway(gateway: Option<&GatewayDump>) -> String {
    gateway.map(|g| g.destination.to_string()).unwrap_or_default()
}

fn workloads(all: &[On<'_, &WorkloadDump>], format: Format) -> Table {
    let narrow =
        ["NAMESPACE", "NAME", "ADDRESSES", "NODE", "PROTOCOL", "ACCOUNT", "HEALTH", "WAYPOINT"];
    let wide = ["NETWORK", "ZONE", "TRUST DOMAIN", "POLICIES", "UID"];
    let is_wide = matches!(format, Format::Wide);
    let more = if is_wide { &wide[..] } else { &[] };
    let mut table = Table::new(&[&narrow[..], more].concat());
    for On { row: w, .. } in all {
        let narrow = [
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
        ];
        let wide = || {
            [
                w.network.to_string(),
                w.locality.zone.to_string(),
                w.trust_domain.to_string(),
                joined(&w.authorization_policies),
                w.uid.to_string(),
            ]
        };
        table.row(narrow.into_iter().chain(is_wide.then(wide).into_iter().flatten()));
    }
    table
}

fn services(all: &[On<'_, &ServiceDump>], format: Format) -> Table {
    let narrow = ["NAMESPACE", "NAME", "HOSTNAME", "ADDRESSES", "PORTS", "ENDPOINTS", "WAYPOINT"];
    let is_wide = matches!(format, Format::Wide);
    let more = if is_wide { &["WORKLOADS"][..] } else { &[] };
    let mut table = Table::new(&[&narrow[..], more].concat());
    for On { row: s, .. } in all {
        let narrow = [
            s.namespace.to_string(),
            s.name.to_string(),
            s.hostname.to_string(),
            joined(s.vips.iter().map(|v| v.0.address())),
            joined(s.ports.iter().map(|(port, target)| format!("{port}->{target}"))),
            s.endpoints.len().to_string(),
            gateway(s.waypoint.as_ref()),
        ];
        table.row(narrow.into_iter().chain(is_wide.then(|| joined(s.endpoints.keys()))));
    }
    table
}

fn policies(all: &[On<'_, &PolicyDump>], _: Format) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ACTION", "SCOPE", "RULES", "ENFORCED"]);
    for On { row: p, .. } in all {
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

fn certificates(all: &[On<'_, &CertificateDump>], _: Format) -> Table {
    let mut table = Table::new(&["IDENTITY", "STATE", "SERIAL", "VALID FROM", "EXPIRES"]);
    for On { row: c, .. } in all {
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
struct ConnectionRow<'a> {
    namespace: &'a str,
    pod: &'a str,
    direction: &'static str,
    #[serde(flatten)]
    connection: &'a ConnectionDump,
}

fn connections(dump: &Dump) -> impl Iterator<Item = ConnectionRow<'_>> {
    dump.workload_state.values().flat_map(|state| {
        let (all, info) = (&state.connections, &state.info);
        let both = [("inbound", &all.inbound), ("outbound", &all.outbound)];
        both.into_iter().flat_map(move |(direction, connections)| {
            connections.iter().map(move |connection| ConnectionRow {
                namespace: &info.namespace,
                pod: &info.name,
                direction,
                connection,
            })
        })
    })
}

fn connection_table(all: &[On<'_, ConnectionRow<'_>>], _: Format) -> Table {
    let mut table = Table::new(&["POD", "DIRECTION", "SOURCE", "ASKED FOR", "GOES TO", "PROTOCOL"]);
    for On { row, .. } in all {
        let c = row.connection;
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

#[cfg(test)]
mod tests;
