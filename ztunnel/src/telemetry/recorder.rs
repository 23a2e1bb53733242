//! What a thread says has happened.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use weft_model::Hostname;
use ztunnel_core::{Carrier, Direction, End, Finish, Outcome, Parties, Side};

use super::{
    access,
    carried::Carried,
    connections::Connections,
    registry::{Cells, Key, Shard, label},
    table::{Family, Id},
    traffic::{self, Pairs},
};

/// Records for one thread. Clones share that thread's numbers.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shard: Shard,
    pairs: Mutex<Pairs>,
    connections: Arc<Connections>,
}

/// Which end of a tunnel we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelSide {
    Client,
    Server,
}

/// How something that was asked for went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    Success,
    Failure,
}

/// Over what a DNS query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsTransport {
    Udp,
    Tcp,
}

/// Who asked, and what, as the DNS metrics tell queries apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsQuery {
    /// A known type's name, or `other`: the number is the client's to choose.
    pub kind: &'static str,
    pub transport: DnsTransport,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
}

impl Recorder {
    pub(super) fn new(shard: Shard, connections: Arc<Connections>) -> Self {
        Self(Arc::new(Inner { shard, pairs: Mutex::default(), connections }))
    }

    fn cells(&self, family: Family, labels: &[&str]) -> Arc<Cells> {
        debug_assert_eq!(labels.len(), family.labels().len());
        let labels = labels.iter().map(|text| label(text)).collect();
        self.0.shard.cells(&Key { family, labels })
    }

    fn add(&self, family: Family, labels: &[&str], id: Id, n: u64) {
        self.cells(family, labels).add(self.0.shard.index, id, n);
    }

    /// An accepted connection. It counts as open until the value is dropped.
    #[must_use]
    pub fn accepted(&self, direction: Direction) -> Accepted {
        let cells = self.cells(Family::Sockets, &[traffic::reporter(direction)]);
        cells.add(self.0.shard.index, Id::SocketsOpen, 1);
        Accepted { recorder: self.clone(), cells }
    }

    /// A connection whose parties are known. `pod` is the node agent's uid of ours, `original` what was asked
    /// for, `carried` what is counted while it is open.
    #[must_use]
    pub fn open(
        &self,
        pod: Arc<str>,
        original: SocketAddr,
        parties: &Parties,
        carried: Arc<Carried>,
    ) -> Live {
        let mut pairs = self.0.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let cells = pairs.cells(&self.0.shard, parties);
        drop(pairs);
        cells.add(self.0.shard.index, Id::Opened, 1);
        access::opened(parties);
        let counts = (carried, cells.clone());
        let id = self.0.connections.open(self.0.shard.index, pod, original, parties, counts);
        Live { recorder: self.clone(), cells, id }
    }

    /// The end of a connection that was never opened: [`Live::ended`] is for one that was.
    pub fn ended(&self, outcome: &Outcome) {
        match &outcome.end {
            End::Carried(_) => {}
            End::Refused(refusal) => {
                let reporter = traffic::reporter(outcome.parties.direction);
                let labels = [reporter, traffic::fault(refusal.fault())];
                self.add(Family::Refused, &labels, Id::Refused, 1);
                self.failed(outcome);
            }
            End::Failed(_) => self.failed(outcome),
        }
        access::ended(outcome);
    }

    /// A name that an endpoint is known by is looked up for a connection of `source`.
    pub fn looked_up(&self, source: &Side, hostname: &Hostname) {
        let cells = self.0.shard.cells(&traffic::on_demand_dns(source, hostname));
        cells.add(self.0.shard.index, Id::OnDemandDns, 1);
    }

    fn failed(&self, outcome: &Outcome) {
        let key = traffic::key(Family::Failed, &outcome.parties, outcome.end.flag());
        self.0.shard.cells(&key).add(self.0.shard.index, Id::Failed, 1);
    }

    /// A tunnel that is ready for streams, and how long that took.
    pub fn handshake(&self, carrier: Carrier, side: TunnelSide, took: Duration) {
        let carrier = match carrier {
            Carrier::Tcp => "tcp",
        };
        let side = match side {
            TunnelSide::Client => "client",
            TunnelSide::Server => "server",
        };
        let cells = self.cells(Family::Handshake, &[carrier, side]);
        cells.observe(self.0.shard.index, Id::Handshake, took);
    }

    /// One message of the control plane.
    pub fn xds_message(&self, type_url: &str, bytes: usize) {
        let cells = self.cells(Family::XdsMessage, &[type_url]);
        cells.add(self.0.shard.index, Id::XdsMessages, 1);
        cells.add(self.0.shard.index, Id::XdsBytes, bytes as u64);
    }

    /// The end of a stream from the control plane. `reason` is one of few words, never an error's text.
    pub fn xds_terminated(&self, reason: &'static str) {
        self.add(Family::XdsStream, &[reason], Id::XdsTerminated, 1);
    }

    /// The picture of the mesh that is in use.
    pub fn view(&self, generation: u64) {
        let cells = self.cells(Family::Proxy, &[]);
        cells.set(self.0.shard.index, Id::ViewGeneration, generation);
    }

    /// Seconds since the control plane last confirmed the configuration in use; 0 while it is connected.
    pub fn config_age(&self, seconds: u64) {
        self.cells(Family::Proxy, &[]).set(self.0.shard.index, Id::ConfigAge, seconds);
    }

    /// New connections wait from now on: there is no memory for them.
    pub fn memory_full(&self) {
        self.add(Family::Proxy, &[], Id::MemoryFull, 1);
    }

    pub fn pod_started(&self) {
        self.add(Family::Pods, &[], Id::PodsStarted, 1);
        self.add(Family::Pods, &[], Id::PodsActive, 1);
    }

    pub fn pod_stopped(&self) {
        self.add(Family::Pods, &[], Id::PodsStopped, 1);
        self.add(Family::Pods, &[], Id::PodsActive, 1u64.wrapping_neg());
    }

    /// How many pods could not be served yet, as the one thread that knows says it.
    pub fn pods_pending(&self, pods: usize) {
        self.cells(Family::Pods, &[]).set(self.0.shard.index, Id::PodsPending, pods as u64);
    }

    pub fn certificate(&self, answered: Answered) {
        let result = match answered {
            Answered::Success => "success",
            Answered::Failure => "failure",
        };
        self.add(Family::Identity, &[result], Id::Certificates, 1);
    }

    fn dns(&self, query: &DnsQuery) -> Arc<Cells> {
        let transport = match query.transport {
            DnsTransport::Udp => "udp",
            DnsTransport::Tcp => "tcp",
        };
        let source = [&*query.canonical_service, &*query.canonical_revision];
        self.cells(Family::Dns, &[query.kind, transport, source[0], source[1]])
    }

    pub fn dns_request(&self, query: &DnsQuery) {
        self.dns(query).add(self.0.shard.index, Id::DnsRequests, 1);
    }

    pub fn dns_dropped(&self, query: &DnsQuery) {
        self.dns(query).add(self.0.shard.index, Id::DnsDropped, 1);
    }

    pub fn dns_forwarded(&self, query: &DnsQuery, answered: Answered, took: Duration) {
        let cells = self.dns(query);
        cells.add(self.0.shard.index, Id::DnsUpstream, 1);
        match answered {
            Answered::Success => cells.observe(self.0.shard.index, Id::DnsUpstreamTime, took),
            Answered::Failure => cells.add(self.0.shard.index, Id::DnsUpstreamFailures, 1),
        }
    }

    /// Sets a number of this process that is read when metrics are.
    pub(super) fn sample(&self, id: Id, n: u64) {
        self.cells(Family::Proxy, &[]).set(self.0.shard.index, id, n);
    }
}

/// Counts one accepted connection as open until dropped.
#[derive(Debug)]
pub struct Accepted {
    recorder: Recorder,
    cells: Arc<Cells>,
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.cells.add(self.recorder.0.shard.index, Id::SocketsOpen, 1u64.wrapping_neg());
    }
}

/// One open connection: in the table of connections until it is dropped.
#[derive(Debug)]
pub struct Live {
    recorder: Recorder,
    cells: Arc<Cells>,
    id: u64,
}

impl Live {
    /// The one end of the connection.
    pub fn ended(self, outcome: &Outcome) {
        match &outcome.end {
            End::Carried(carried) => {
                if carried.finish == Finish::Shed {
                    self.recorder.add(Family::Proxy, &[], Id::Shed, 1);
                }
                access::ended(outcome);
            }
            End::Refused(_) | End::Failed(_) => self.recorder.ended(outcome),
        }
    }
}

impl Drop for Live {
    /// Also when a task was cancelled before it could say how it ended: the table must not keep it.
    fn drop(&mut self) {
        self.recorder.0.connections.close(self.recorder.0.shard.index, self.id);
        self.cells.add(self.recorder.0.shard.index, Id::Closed, 1);
    }
}
