//! The whole of `/config_dump`: the View, and what only the proxy knows of it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls_pki_types::CertificateDer;
use weft_certs::Summary;
use weft_model::{
    Identity, View,
    dump::{Cert, CertificateDump, ConnectionDump, Dump, WorkloadInfoDump, WorkloadStateDump},
};
use ztunnel_core::{Direction, Security};

use crate::{identity::Slot, telemetry::Connection};

/// A pod of this node, as the node agent announced it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodState {
    pub uid: Arc<str>,
    pub pod: ztunnel_core::Pod,
    pub trust_domain: weft_model::TrustDomain,
    pub status: PodStatus,
}

/// How far the proxy is with a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodStatus {
    Up,
    /// Announced, but it cannot be served yet.
    Pending,
    Draining,
}

/// Puts it together. `identities` come from `Identities::all`, `connections` from `Telemetry::connections`.
pub fn dump(
    view: &View,
    identities: &[(Identity, Slot)],
    pods: &[PodState],
    connections: &[Connection],
    now: SystemTime,
) -> Dump {
    let mut dump = Dump::of(view);
    dump.certificates = identities.iter().map(|(id, slot)| certificate(id, slot, now)).collect();
    dump.workload_state = workload_state(pods, connections);
    dump
}

/// Only the chain is read; the key stays where it is.
fn certificate(identity: &Identity, slot: &Slot, now: SystemTime) -> CertificateDump {
    let failure = slot.failure().map(|failure| failure.error.to_string());
    let state = match (slot, failure) {
        (Slot::Pending, _) => "Initializing".to_owned(),
        (Slot::Failed(_) | Slot::Overdue { .. }, Some(failure)) => {
            format!("Unavailable: {failure}")
        }
        (Slot::Ready(_) | Slot::Overdue { .. } | Slot::Failed(_), _) => "Available".to_owned(),
    };
    let svid = slot.svid();
    let expired = svid.is_some_and(|svid| svid.not_after() < now);
    CertificateDump {
        identity: identity.to_string(),
        state: if expired { "Unavailable: expired".to_owned() } else { state },
        cert_chain: svid.map(|svid| certs(svid.chain())).unwrap_or_default(),
        root_certs: svid.map(|svid| certs(svid.bundle().certificates())).unwrap_or_default(),
    }
}

fn certs(chain: &[CertificateDer<'static>]) -> Vec<Cert> {
    // What was verified when it came is readable; should one not be, the others are still shown.
    chain.iter().filter_map(|der| Summary::of(der).ok()).map(cert).collect()
}

fn cert(summary: Summary) -> Cert {
    let time = |at: SystemTime| {
        jiff::Timestamp::try_from(at).map(|t| format!("{t:.0}")).unwrap_or_default()
    };
    Cert {
        pem: BASE64.encode(summary.pem),
        serial_number: summary.serial,
        valid_from: time(summary.not_before),
        expiration_time: time(summary.not_after),
    }
}

fn workload_state(
    pods: &[PodState],
    connections: &[Connection],
) -> BTreeMap<String, WorkloadStateDump> {
    let mut states: BTreeMap<String, WorkloadStateDump> =
        pods.iter().map(|pod| (pod.uid.to_string(), pod_state(pod))).collect();
    for connection in connections {
        // A pod may be gone while its last connections are still ending.
        let state = states.entry(connection.pod.to_string()).or_insert_with(|| WorkloadStateDump {
            state: "Draining".to_owned(),
            ..WorkloadStateDump::default()
        });
        let list = match connection.direction {
            Direction::Inbound => &mut state.connections.inbound,
            Direction::Outbound => &mut state.connections.outbound,
        };
        let text = |address: Option<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        list.push(ConnectionDump {
            src: text(connection.source),
            original_dst: connection.original.to_string(),
            actual_dst: text(connection.actual),
            protocol: match connection.security {
                Security::MutualTls => "HBONE",
                Security::Plaintext => "TCP",
            }
            .to_owned(),
        });
    }
    states
}

fn pod_state(pod: &PodState) -> WorkloadStateDump {
    WorkloadStateDump {
        state: match pod.status {
            PodStatus::Up => "Up",
            PodStatus::Pending => "Pending",
            PodStatus::Draining => "Draining",
        }
        .to_owned(),
        connections: weft_model::dump::ConnectionsDump::default(),
        info: WorkloadInfoDump {
            name: pod.pod.name.to_string(),
            namespace: pod.pod.namespace.to_string(),
            trust_domain: pod.trust_domain.to_string(),
            service_account: pod.pod.service_account.to_string(),
        },
    }
}
