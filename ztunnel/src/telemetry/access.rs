//! The access log: one line for each connection, in Istio's fields.

use std::{net::SocketAddr, time::Duration};

use tracing::{Level as L, event};
use weft_model::{Identity, Workload};
use ztunnel_core::{Direction, Level, Outcome, Parties};

/// What every line says of a connection's two ends.
struct Ends<'a> {
    src_addr: Option<String>,
    src: Named<'a>,
    dst_addr: Option<String>,
    dst: Named<'a>,
    hbone_addr: Option<String>,
    service: Option<&'a str>,
    direction: &'static str,
}

/// Fields that a side without a workload leaves out of the line.
struct Named<'a> {
    workload: Option<&'a str>,
    namespace: Option<&'a str>,
    cluster: Option<&'a str>,
    identity: Option<String>,
}

impl<'a> Named<'a> {
    fn new(workload: Option<&'a Workload>, identity: Option<&Identity>) -> Self {
        Self {
            workload: workload.map(|w| &*w.name),
            namespace: workload.map(|w| w.namespace.as_str()),
            cluster: workload.map(|w| &*w.cluster_id),
            identity: identity.map(ToString::to_string),
        }
    }
}

impl<'a> Ends<'a> {
    fn new(parties: &'a Parties) -> Self {
        let text = |address: Option<SocketAddr>| address.map(|a| a.to_string());
        let named = |side: &'a ztunnel_core::Side| {
            Named::new(side.workload.as_deref(), side.identity.as_ref())
        };
        Self {
            src_addr: text(parties.source.address),
            src: named(&parties.source),
            dst_addr: text(parties.destination.address),
            dst: named(&parties.destination),
            hbone_addr: text(parties.hbone),
            service: parties.service.as_ref().map(|s| s.hostname.as_str()),
            direction: direction(parties.direction),
        }
    }
}

pub(super) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}

/// `event!` needs a constant level and its fields spelled out, so the three levels share them here.
macro_rules! line {
    ($level:expr, $ends:expr, $message:expr $(, $($more:tt)+)?) => {
        event!(
            target: "access",
            $level,
            src.addr = $ends.src_addr.as_deref().map(tracing::field::display),
            src.workload = $ends.src.workload,
            src.namespace = $ends.src.namespace,
            src.identity = $ends.src.identity.as_deref(),
            src.cluster = $ends.src.cluster,
            dst.addr = $ends.dst_addr.as_deref().map(tracing::field::display),
            dst.hbone_addr = $ends.hbone_addr.as_deref().map(tracing::field::display),
            dst.service = $ends.service,
            dst.workload = $ends.dst.workload,
            dst.namespace = $ends.dst.namespace,
            dst.identity = $ends.dst.identity.as_deref(),
            dst.cluster = $ends.dst.cluster,
            direction = $ends.direction,
            $($($more)+,)?
            "{}", $message
        )
    };
}

pub(super) fn opened(parties: &Parties) {
    if tracing::enabled!(target: "access", L::DEBUG) {
        let ends = Ends::new(parties);
        line!(L::DEBUG, ends, "connection opened");
    }
}

pub(super) fn ended(outcome: &Outcome) {
    let level = outcome.end.level();
    let on = match level {
        Level::Info => tracing::enabled!(target: "access", L::INFO),
        Level::Warn => tracing::enabled!(target: "access", L::WARN),
        Level::Error => tracing::enabled!(target: "access", L::ERROR),
    };
    if !on {
        return;
    }
    let ends = Ends::new(&outcome.parties);
    let (sent, recv) = sent_and_received(outcome);
    let duration = took(outcome.duration);
    let error = outcome.end.error();
    let error = error.as_deref();
    let message = outcome.end.message();
    match level {
        Level::Info => line!(
            L::INFO,
            ends,
            message,
            bytes_sent = sent,
            bytes_recv = recv,
            duration = duration.as_str(),
            error = error
        ),
        Level::Warn => line!(
            L::WARN,
            ends,
            message,
            bytes_sent = sent,
            bytes_recv = recv,
            duration = duration.as_str(),
            error = error
        ),
        Level::Error => line!(
            L::ERROR,
            ends,
            message,
            bytes_sent = sent,
            bytes_recv = recv,
            duration = duration.as_str(),
            error = error
        ),
    }
}

fn took(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// As the reporter sees it: outbound sends to the server, inbound sends back to the client.
pub(super) fn sent_and_received(outcome: &Outcome) -> (u64, u64) {
    let (server, client) = (outcome.bytes_to_server(), outcome.bytes_to_client());
    match outcome.parties.direction {
        Direction::Outbound => (server, client),
        Direction::Inbound => (client, server),
    }
}

#[cfg(test)]
mod tests;
