//! What a pod's namespace has and gets by netlink: addresses, links, rules, routes, marked sockets.
//!
//! Everything here acts on the namespace of the calling thread; call it inside [`crate::netns::Netns::run`].
//! Raw messages, since there is little of it, and never `ip`, which a node may not have.

mod diag;
mod monitor;
mod socket;
mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;

pub use diag::marked_connections;
pub use monitor::Monitor;

use socket::Socket;
use weft_redirect_abi::{BYPASS_MARK, CAPTURE_MARK, DNS_PORT, MARK_MASK};
use wire::Message;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_LOOPBACK: u32 = 8;
const SCOPE_UNIVERSE: u8 = 0;

const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_IP_PROTO: u16 = 22;
const FRA_DPORT_RANGE: u16 = 24;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_PROHIBIT: u8 = 8;

const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTN_LOCAL: u8 = 2;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const LOOPBACK_INDEX: u32 = 1;

const TABLE_MAIN: u32 = 254;
/// The table that delivers to loopback whatever is sent to it. The number is Istio's.
const TABLE_CAPTURE: u32 = 100;

/// An interface of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// An address of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address itself.
    pub ip: IpAddr,
    /// Whether others may know the pod by it (not link-local, not on loopback).
    pub reach: Reach,
}

/// From where an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// From anywhere: it names the pod.
    Global,
    /// Only on its link, or inside the pod: other pods may have the same.
    Local,
}

/// Whether name lookups are captured too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsCapture {
    /// UDP and TCP to port 53 of anybody go to the proxy.
    On,
    /// Left alone.
    Off,
}

/// The interfaces of the namespace, loopback apart.
pub fn links() -> io::Result<Vec<Link>> {
    let request = Message::dump(RTM_GETLINK, &[0; 16]);
    let mut links = Vec::new();
    for reply in Socket::route()?.dump(request)? {
        let Some(link) = reply.of_kind(RTM_NEWLINK, 16) else { continue };
        let (index, flags) = (link.u32_at(4), link.u32_at(8));
        let name = link.attribute(IFLA_IFNAME).unwrap_or_default();
        if flags & IFF_LOOPBACK == 0 {
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            links.push(Link { index, name: String::from_utf8_lossy(name).into_owned() });
        }
    }
    Ok(links)
}

/// The addresses of the namespace, those of loopback apart.
pub fn addresses() -> io::Result<Vec<Address>> {
    let request = Message::dump(RTM_GETADDR, &[0; 8]);
    let mut addresses = Vec::new();
    for reply in Socket::route()?.dump(request)? {
        let Some(address) = reply.of_kind(RTM_NEWADDR, 8) else { continue };
        let (scope, index) = (address.u8_at(3), address.u32_at(4));
        // On a point-to-point link IFA_ADDRESS is the peer's.
        let bytes = address.attribute(IFA_LOCAL).or_else(|| address.attribute(IFA_ADDRESS));
        let Some(ip) = bytes.and_then(wire::ip) else { continue };
        if index == LOOPBACK_INDEX && ip.is_loopback() {
            continue;
        }
        let reach = if scope == SCOPE_UNIVERSE && index != LOOPBACK_INDEX {
            Reach::Global
        } else {
            Reach::Local
        };
        addresses.push(Address { ip, reach });
    }
    Ok(addresses)
}

/// One line of `ip rule` that capture needs.
#[derive(Debug, Clone, Copy)]
struct Rule {
    preference: u32,
    what: Match,
    then: Then,
}

#[derive(Debug, Clone, Copy)]
enum Match {
    Mark(u32),
    DnsOverUdp,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    Lookup(u32),
    Prohibit,
}

/// Delivers what is captured to loopback; and where the table was flushed, answers EACCES.
const CAPTURE_RULES: [Rule; 2] = [
    Rule { preference: 90, what: Match::Mark(CAPTURE_MARK), then: Then::Lookup(TABLE_CAPTURE) },
    Rule { preference: 95, what: Match::Mark(CAPTURE_MARK), then: Then::Prohibit },
];
/// Delivers queries to loopback, but for those of the proxy, which would come back to it.
const DNS_RULES: [Rule; 2] = [
    Rule { preference: 89, what: Match::Mark(BYPASS_MARK), then: Then::Lookup(TABLE_MAIN) },
    Rule { preference: 91, what: Match::DnsOverUdp, then: Then::Lookup(TABLE_CAPTURE) },
];
const FAMILIES: [u8; 2] = [wire::AF_INET, wire::AF_INET6];

/// What an [`ensure_routing`] found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Rules that were missing and are there again.
    pub rules: u32,
    /// Routes likewise.
    pub routes: u32,
}

/// Makes the rules and routes of capture, where they are not there yet. Idempotent.
///
/// `sources` are the addresses that the pod speaks from: without a preferred source the kernel picks the
/// destination, and `connect()` fails with ENETUNREACH.
pub fn ensure_routing(sources: &[IpAddr]) -> io::Result<Repaired> {
    let mut socket = Socket::route()?;
    let mut repaired = Repaired::default();
    // Routes first: a rule without its route would let a marked packet through to the next rule.
    for ip in [sources.iter().find(|ip| ip.is_ipv4()), sources.iter().find(|ip| ip.is_ipv6())] {
        let Some(ip) = ip else { continue };
        if socket.create(route(RTM_NEWROUTE, *ip))? {
            repaired.routes += 1;
        }
    }
    repaired.rules = ensure_rules(&mut socket, &CAPTURE_RULES)?;
    Ok(repaired)
}

/// Makes the rules that capture name lookups, and says how many were not there yet. Idempotent.
pub fn ensure_dns_rules() -> io::Result<u32> {
    ensure_rules(&mut Socket::route()?, &DNS_RULES)
}

fn ensure_rules(socket: &mut Socket, rules: &[Rule]) -> io::Result<u32> {
    let mut made = 0;
    for rule in rules {
        for family in FAMILIES {
            if socket.create(rule.message(RTM_NEWRULE, family))? {
                made += 1;
            }
        }
    }
    Ok(made)
}

/// Removes the rules that capture name lookups.
pub fn remove_dns_rules() -> io::Result<()> {
    remove_rules(&DNS_RULES)
}

/// Removes all rules and routes of capture.
pub fn remove_routing() -> io::Result<()> {
    remove_rules(&DNS_RULES)?;
    remove_rules(&CAPTURE_RULES)?;
    let mut socket = Socket::route()?;
    for family in FAMILIES {
        while socket.delete(any_route(family))? {}
    }
    Ok(())
}

fn remove_rules(rules: &[Rule]) -> io::Result<()> {
    let mut socket = Socket::route()?;
    for rule in rules {
        for family in FAMILIES {
            while socket.delete(rule.message(RTM_DELRULE, family))? {}
        }
    }
    Ok(())
}

impl Rule {
    fn message(&self, kind: u16, family: u8) -> Message {
        let (action, table) = match self.then {
            Then::Lookup(table) => (FR_ACT_TO_TBL, table),
            Then::Prohibit => (FR_ACT_PROHIBIT, 0),
        };
        let short_table = u8::try_from(table).unwrap_or_default();
        let header = [family, 0, 0, 0, short_table, 0, 0, action, 0, 0, 0, 0];
        let message = Message::request(kind, &header).with_u32(FRA_PRIORITY, self.preference);
        let message = if table == 0 { message } else { message.with_u32(FRA_TABLE, table) };
        match self.what {
            Match::Mark(mark) => message.with_u32(FRA_FWMARK, mark).with_u32(FRA_FWMASK, MARK_MASK),
            Match::DnsOverUdp => message
                .with(FRA_IP_PROTO, &[wire::IPPROTO_UDP])
                .with(FRA_DPORT_RANGE, &wire::port_range(DNS_PORT, DNS_PORT)),
        }
    }
}

/// `local default dev lo table 100 src <ip>`
fn route(kind: u16, source: IpAddr) -> Message {
    let family = wire::family(source);
    let message = route_header(kind, family).with_u32(RTA_OIF, LOOPBACK_INDEX);
    message.with(RTA_PREFSRC, &wire::ip_bytes(source))
}

/// The route of the capture table, whatever its source.
fn any_route(family: u8) -> Message {
    route_header(RTM_DELROUTE, family)
}

fn route_header(kind: u16, family: u8) -> Message {
    let table = u8::try_from(TABLE_CAPTURE).expect("our table's number is small");
    let header = [family, 0, 0, 0, table, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
    Message::request(kind, &header).with_u32(RTA_TABLE, TABLE_CAPTURE)
}
