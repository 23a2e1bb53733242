//! What a DNS query of a pod is answered with: from the mesh, or by forwarding it untouched.
//!
//! Only A, AAAA and SRV for names that the mesh has an address for are answered. Everything else (other types,
//! classes and opcodes, names that are not ours, messages that do not parse) goes to the resolver that the pod
//! asked, which knows better: a name is never denied here, since an absence from the View proves nothing.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SOA, SRV},
    },
};
use weft_model::{Hostname, PortName, Service, ServicePort, View};
use ztunnel_core::names::{Addresses, Asker, Found, candidates, find, of_families};

use super::wire;
use crate::telemetry::DnsTransport;

/// How names are completed and answers are kept.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    pub cluster_domain: &'a str,
    pub ttl_s: u32,
}

/// What to do with a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Send this message.
    Answer(Vec<u8>),
    /// Pass it on as it is.
    Forward,
    /// Not a query. An answer could make two proxies talk to each other for ever.
    Drop,
}

/// What we are willing to send in one datagram; more is truncated and asked for again over TCP.
const DATAGRAM_BYTES_MAX: u16 = 4096;
/// A name with more addresses than this is answered with as many, others each time.
const RECORDS_MAX: usize = 1000;

/// Decides on one query. `draw` turns lists of addresses, so that clients that take the first spread out.
pub fn decide(
    view: &View,
    asker: Asker<'_>,
    zone: Zone<'_>,
    query: &[u8],
    via: DnsTransport,
    draw: u64,
) -> Decision {
    if query.len() < wire::HEADER_BYTES || wire::is_response(query) {
        return Decision::Drop;
    }
    if !wire::is_single_plain_question(query) {
        return Decision::Forward;
    }
    let Ok(message) = Message::from_vec(query) else { return Decision::Forward };
    let Some(question) = answerable(&message) else { return Decision::Forward };
    let Some(answer) = records(view, asker, zone, question, draw) else {
        return Decision::Forward;
    };
    match encode(&message, question, answer, via) {
        Some(bytes) => Decision::Answer(bytes),
        None => Decision::Forward,
    }
}

/// The question, if it is of a kind that the mesh can answer.
fn answerable(message: &Message) -> Option<&Query> {
    let plain = message.metadata.op_code == OpCode::Query
        && message.signature.is_none()
        && message.edns.as_ref().is_none_or(|edns| edns.version() == 0);
    let question = message.queries.first().filter(|_| plain)?;
    let known = matches!(question.query_type(), RecordType::A | RecordType::AAAA | RecordType::SRV);
    (known && question.query_class() == DNSClass::IN).then_some(question)
}

#[derive(Debug, Default)]
struct Records {
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

fn records(
    view: &View,
    asker: Asker<'_>,
    zone: Zone<'_>,
    question: &Query,
    draw: u64,
) -> Option<Records> {
    let sought = Asked::of(question)?;
    for candidate in candidates(&sought.place, asker.namespace, zone.cluster_domain) {
        let Some(found) = find(view, asker, &candidate) else { continue };
        let mut records = Records::default();
        let mut owner = question.name().clone();
        if candidate != sought.place {
            owner = Name::from_ascii(format!("{}{candidate}.", sought.prefix())).ok()?;
            let alias = RData::CNAME(CNAME(owner.clone()));
            records.answers.push(Record::from_rdata(question.name().clone(), zone.ttl_s, alias));
        }
        let before = records.answers.len();
        match question.query_type() {
            RecordType::SRV => {
                services(&mut records, &found, &owner, &sought.ports, zone.ttl_s, draw)?;
            }
            kind => records.answers.extend(
                turned(&found.addresses(), draw)
                    .map(|ip| address(&owner, zone.ttl_s, ip))
                    .filter(|record| record.record_type() == kind)
                    .take(RECORDS_MAX),
            ),
        }
        if records.answers.len() == before {
            // The name exists and has nothing of this type: said with an SOA, so that it is remembered.
            records.authorities.push(authority(&owner, zone)?);
        }
        return Some(records);
    }
    None
}

/// What of which place is asked.
struct Asked {
    place: Hostname,
    ports: Ports,
}

enum Ports {
    Every,
    /// `_http._tcp.web.shop…`: this one of `web.shop…` (RFC 2782).
    Named(PortName),
}

impl Asked {
    fn of(question: &Query) -> Option<Self> {
        let name = Hostname::new(&question.name().to_ascii()).ok()?;
        let named = match question.query_type() {
            RecordType::SRV => name.as_str().strip_prefix('_').and_then(|n| n.split_once("._tcp.")),
            _ => None,
        };
        Some(match named {
            Some((port, place)) => Self {
                place: Hostname::new(place).ok()?,
                ports: Ports::Named(PortName::new(port).ok()?),
            },
            None => Self { place: name, ports: Ports::Every },
        })
    }

    /// What stands before the place's name.
    fn prefix(&self) -> String {
        match &self.ports {
            Ports::Every => String::new(),
            Ports::Named(port) => format!("_{port}._tcp."),
        }
    }
}

impl Ports {
    /// None where the service has no port of this name, or none whose name is known here: a stock control
    /// plane tells none, and the cluster's own resolver knows better.
    fn of<'a>(&self, service: &'a Service) -> Option<Vec<&'a ServicePort>> {
        match self {
            Self::Every => Some(service.ports.iter().collect()),
            Self::Named(name) => {
                let port = service.ports.iter().find(|port| port.name.as_ref() == Some(name))?;
                Some(vec![port])
            }
        }
    }

    /// The name of the place whose ports `owner` names.
    fn place(&self, owner: &Name) -> Name {
        match self {
            Self::Every => owner.clone(),
            Self::Named(_) => owner.base_name().base_name(),
        }
    }
}

/// The list, begun at another place each time.
fn turned<T: Copy>(list: &[T], draw: u64) -> impl Iterator<Item = T> {
    let start = usize::try_from(draw % list.len().max(1) as u64).unwrap_or(0);
    let (head, tail) = list.split_at_checked(start).unwrap_or((list, &[]));
    tail.iter().chain(head).copied()
}

fn address(owner: &Name, ttl_s: u32, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(owner.clone(), ttl_s, data)
}

/// One SRV for each port, or for each port of each endpoint of a service without an address of its own.
fn services(
    records: &mut Records,
    found: &Found<'_>,
    owner: &Name,
    asked: &Ports,
    ttl_s: u32,
    draw: u64,
) -> Option<()> {
    let place = asked.place(owner);
    let mut add = |target: &Name, ports: &mut dyn Iterator<Item = u16>, ips: &[IpAddr]| {
        for port in ports {
            let data = RData::SRV(SRV::new(0, 100, port, target.clone()));
            records.answers.push(Record::from_rdata(owner.clone(), ttl_s, data));
        }
        records.additionals.extend(ips.iter().map(|ip| address(target, ttl_s, *ip)));
    };
    match found {
        Found::Service { service, addresses: Addresses::Vips(vips) } => {
            let ports = asked.of(service)?;
            add(&place, &mut ports.iter().map(|p| p.service_port), vips);
        }
        Found::Service { service, addresses: Addresses::Endpoints(endpoints) } => {
            let ports = asked.of(service)?;
            for endpoint in turned(endpoints, draw).take(RECORDS_MAX / ports.len().max(1)) {
                let target = place.prepend_label(endpoint.label().as_bytes()).ok()?;
                let ips = of_families(&endpoint.workload.addresses, service.ip_families);
                add(&target, &mut ports.iter().map(|p| endpoint.target_port(p)), &ips);
            }
        }
        Found::Workload { .. } => match asked {
            Ports::Every => {}
            Ports::Named(_) => return None,
        },
    }
    Some(())
}

fn authority(owner: &Name, zone: Zone<'_>) -> Option<Record> {
    let name = |host: &str| Name::from_ascii(format!("{host}.{}.", zone.cluster_domain)).ok();
    let soa = SOA::new(name("ns.dns")?, name("hostmaster")?, 1, 7200, 1800, 86_400, zone.ttl_s);
    Some(Record::from_rdata(owner.clone(), zone.ttl_s, RData::SOA(soa)))
}

fn encode(
    query: &Message,
    question: &Query,
    records: Records,
    via: DnsTransport,
) -> Option<Vec<u8>> {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.queries.push(question.clone());
    reply.answers = records.answers;
    reply.authorities = records.authorities;
    reply.additionals = records.additionals;
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_BYTES_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
        reply.edns = Some(edns);
    }
    let limit = match via {
        DnsTransport::Udp => query.max_payload().clamp(512, DATAGRAM_BYTES_MAX),
        DnsTransport::Tcp => u16::MAX,
    };
    fit(reply, usize::from(limit))
}

/// Leaves out additional records first, which nobody misses, then answers, and says so (RFC 2181, 9).
fn fit(mut reply: Message, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = reply.to_vec().ok()?;
    if bytes.len() > limit {
        reply.additionals.clear();
        bytes = reply.to_vec().ok()?;
    }
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.metadata.truncation = true;
    let answers = std::mem::take(&mut reply.answers);
    let (mut fits, mut too_many) = (0, answers.len());
    let mut best = reply.to_vec().ok()?;
    while too_many - fits > 1 {
        let middle = usize::midpoint(fits, too_many);
        reply.answers = answers.get(..middle)?.to_vec();
        let bytes = reply.to_vec().ok()?;
        if bytes.len() > limit {
            too_many = middle;
        } else {
            (fits, best) = (middle, bytes);
        }
    }
    Some(best)
}

/// A type's name where it is one of the usual ones: the number is the client's to choose, and a label's
/// value is not.
pub fn kind(query: &[u8]) -> &'static str {
    match wire::question_type(query) {
        Some(1) => "A",
        Some(2) => "NS",
        Some(5) => "CNAME",
        Some(6) => "SOA",
        Some(12) => "PTR",
        Some(15) => "MX",
        Some(16) => "TXT",
        Some(28) => "AAAA",
        Some(33) => "SRV",
        Some(65) => "HTTPS",
        Some(255) => "ANY",
        Some(_) => "other",
        None => "unknown",
    }
}

#[cfg(test)]
mod tests;
