//! From the parties of a connection to Istio's labels.

use std::{collections::HashMap, sync::Arc};

use weft_model::{Hostname, Identity, Service, Workload};
use ztunnel_core::{Direction, Fault, Parties, ResponseFlag, Security, Side};

use super::{
    registry::{Cells, Key, Shard, label},
    table::Family,
};

/// Pairs kept by one worker. Beyond it the cache starts anew; the numbers themselves are kept elsewhere.
const PAIRS_MAX: usize = 4096;

/// Finds the numbers of a pair without spelling out its labels.
///
/// A resource is told by its address in memory. The cache holds what it names, so an address is not used again
/// while it is a key.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    generation: u64,
    known: HashMap<Pair, (Parties, Arc<Cells>)>,
}

#[derive(PartialEq, Eq, Hash, Debug)]
struct Pair {
    direction: Direction,
    security: Security,
    source: (usize, Option<Identity>),
    destination: (usize, Option<Identity>),
    service: usize,
}

fn address<T>(of: Option<&Arc<T>>) -> usize {
    of.map_or(0, |arc| Arc::as_ptr(arc).addr())
}

impl Pairs {
    pub(super) fn cells(&mut self, shard: &Shard, parties: &Parties) -> Arc<Cells> {
        let generation = shard.generation();
        if self.generation != generation || self.known.len() >= PAIRS_MAX {
            *self = Self { generation, known: HashMap::new() };
        }
        let side = |side: &Side| (address(side.workload.as_ref()), side.identity.clone());
        let pair = Pair {
            direction: parties.direction,
            security: parties.security,
            source: side(&parties.source),
            destination: side(&parties.destination),
            service: address(parties.service.as_ref()),
        };
        if let Some((_, cells)) = self.known.get(&pair) {
            return cells.clone();
        }
        let cells = shard.cells(&key(Family::Traffic, parties, ResponseFlag::None));
        self.known.insert(pair, (parties.clone(), cells.clone()));
        cells
    }
}

pub(super) fn reporter(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "source",
        Direction::Inbound => "destination",
    }
}

pub(super) fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Client => "client",
        Fault::Policy => "policy",
        Fault::Destination => "destination",
        Fault::Mesh => "mesh",
    }
}

/// The labels, in the order of `table::TRAFFIC`.
pub(super) fn key(family: Family, parties: &Parties, flag: ResponseFlag) -> Key {
    let source = Labels::new(&parties.source);
    let destination = Labels::new(&parties.destination);
    let service = parties.service.as_deref();
    let of = |field: fn(&Service) -> &str| label(service.map_or("", field));
    let security = match parties.security {
        Security::MutualTls => "mutual_tls",
        Security::Plaintext => "unknown",
    };
    let labels = [
        reporter(parties.direction).into(),
        source.workload,
        source.service.clone(),
        source.revision.clone(),
        source.namespace,
        source.principal,
        source.service,
        source.revision,
        source.cluster,
        of(|s| s.hostname.as_str()),
        of(|s| s.namespace.as_str()),
        of(|s| &s.name),
        destination.workload,
        destination.service.clone(),
        destination.revision.clone(),
        destination.namespace,
        destination.principal,
        destination.service,
        destination.revision,
        destination.cluster,
        "tcp".into(),
        flag.as_str().into(),
        security.into(),
        source.region,
        source.zone,
        destination.region,
        destination.zone,
    ];
    Key { family, labels: labels.into() }
}

/// The labels, in the order of `table::ON_DEMAND_DNS`.
pub(super) fn on_demand_dns(source: &Side, hostname: &Hostname) -> Key {
    let source = Labels::new(source);
    let labels = [
        source.workload,
        source.service.clone(),
        source.revision.clone(),
        source.namespace,
        source.principal,
        source.service,
        source.revision,
        source.cluster,
        label(hostname.as_str()),
    ];
    Key { family: Family::OnDemandDns, labels: labels.into() }
}

struct Labels {
    workload: Arc<str>,
    service: Arc<str>,
    revision: Arc<str>,
    namespace: Arc<str>,
    principal: Arc<str>,
    cluster: Arc<str>,
    region: Arc<str>,
    zone: Arc<str>,
}

impl Labels {
    fn new(side: &Side) -> Self {
        let workload = side.workload.as_deref();
        let of = |field: fn(&Workload) -> &str| label(workload.map_or("", field));
        Self {
            workload: of(|w| &w.workload_name),
            service: of(|w| &w.canonical_name),
            revision: of(|w| &w.canonical_revision),
            namespace: of(|w| w.namespace.as_str()),
            principal: label(&side.identity.as_ref().map(ToString::to_string).unwrap_or_default()),
            cluster: of(|w| &w.cluster_id),
            region: of(|w| &w.locality.region),
            zone: of(|w| &w.locality.zone),
        }
    }
}
