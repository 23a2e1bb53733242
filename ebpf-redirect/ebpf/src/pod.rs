//! Once a pod, in its network namespace: which listener a packet is for, and what may not leave.
//!
//! `steer` (`sk_lookup`) hands connections and DNS queries to the proxy's listeners; `guard` (tc egress)
//! drops captured traffic that would leave the pod because somebody flushed the pod's rules.

#![no_std]
#![no_main]

#[path = "address.rs"]
mod address;
#[path = "runtime.rs"]
mod runtime;

use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, sk_action};
use aya_ebpf::macros::{classifier, map, sk_lookup};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, SockMap};
use aya_ebpf::programs::{SkLookupContext, TcContext};
use weft_redirect_abi::{
    CAPTURE_MARK, DNS_PORT, Family, Flow, HBONE_PORT, MARK_MASK, OwnAddress, PodCounter, PodRecord,
    Slot,
};

use address::{AF_INET, Address, read, read_words};

const PASS: u32 = sk_action::SK_PASS;
const DROP: u32 = sk_action::SK_DROP;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// The connect hook asks with it whether somebody listens; no connection has it.
const LIVENESS_PORT: u16 = 0;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_UNSPEC: i32 = -1;

#[map]
static SOCKS: SockMap = SockMap::with_max_entries(Slot::COUNT, 0);
#[map]
static RECORD: Array<PodRecord> = Array::with_max_entries(1, 0);
#[map]
static POD_COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(16, 0);
// The node's, by their pins.
#[map]
static OWN: HashMap<OwnAddress, u32> = HashMap::with_max_entries(16384, 0);
#[map]
static EXEMPT: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(65536, 0);

/// The pod's cookie; the loader sets it. `sk_lookup` has no helper that tells.
#[unsafe(no_mangle)]
static POD_NETNS: u64 = 0;
/// Whether name lookups are captured; the loader sets it.
#[unsafe(no_mangle)]
static DNS_CAPTURE: u32 = 0;

struct Packet {
    family: Family,
    protocol: u32,
    local: Address,
    remote: Address,
    local_port: u16,
    remote_port: u16,
}

#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    let (family, protocol) = (read!((*lookup).family), read!((*lookup).protocol));
    let (local_word, remote_word) = (read!((*lookup).local_ip4), read!((*lookup).remote_ip4));
    let local_words = read_words!((*lookup).local_ip6);
    let remote_words = read_words!((*lookup).remote_ip6);
    let packet = Packet {
        family: if family == AF_INET { Family::V4 } else { Family::V6 },
        protocol,
        local: address::of_family(family, local_word, local_words),
        remote: address::of_family(family, remote_word, remote_words),
        local_port: read!((*lookup).local_port) as u16,
        remote_port: u16::from_be(read!((*lookup).remote_port)),
    };
    match packet.protocol {
        IPPROTO_TCP => tcp(&ctx, &packet),
        // Only our policy route brings a query for a foreign resolver here.
        IPPROTO_UDP if captures_dns(&packet) && !is_own(&packet.local) => {
            hand_over(&ctx, &packet, Slot::DnsUdp)
        }
        _ => PASS,
    }
}

#[inline(always)]
fn tcp(ctx: &SkLookupContext, packet: &Packet) -> u32 {
    if address::is_listeners(&packet.local) && packet.local_port != LIVENESS_PORT {
        return DROP;
    }
    if !is_own(&packet.local) {
        // Only our policy route brings a foreign destination here.
        let slot = if captures_dns(packet) { Slot::DnsTcp } else { Slot::Outbound };
        return hand_over(ctx, packet, slot);
    }
    // Not the incoming interface: for local traffic the kernel names the one that owns the destination.
    // To spoof our own source from outside gains nothing: IPv4 drops it as martian, and the answer never
    // leaves the pod.
    // A pod that is an endpoint of the service that it calls comes back by a tunnel, as it would to any other.
    let tunnelled = packet.local_port == HBONE_PORT && !address::is_loopback(&packet.local);
    if is_own(&packet.remote) && !tunnelled {
        count(PodCounter::Local);
        return PASS;
    }
    let flow = Flow {
        netns: runtime::constant(&POD_NETNS),
        client: packet.remote,
        server: packet.local,
        client_port: packet.remote_port,
        server_port: packet.local_port,
        zero: 0,
    };
    // SAFETY: the entry is a plain integer.
    if unsafe { EXEMPT.get(&flow) }.is_some() {
        count(PodCounter::Exempt);
        return PASS;
    }
    let slot = if packet.local_port == HBONE_PORT { Slot::Hbone } else { Slot::InboundPlaintext };
    hand_over(ctx, packet, slot)
}

#[inline(always)]
fn captures_dns(packet: &Packet) -> bool {
    packet.local_port == DNS_PORT && runtime::constant(&DNS_CAPTURE) != 0
}

#[inline(always)]
fn is_own(address: &Address) -> bool {
    let own = OwnAddress { netns: runtime::constant(&POD_NETNS), address: *address };
    // SAFETY: the entry is a plain integer.
    address::is_loopback(address) || unsafe { OWN.get(&own) }.is_some()
}

/// Gives the packet to a listener; with none there, to nobody: what is captured never goes around.
#[inline(always)]
fn hand_over(ctx: &SkLookupContext, packet: &Packet, slot: Slot) -> u32 {
    let index = slot.index(packet.family);
    let flags = u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT);
    if SOCKS.redirect_sk_lookup(ctx, index, flags).is_err() {
        count(PodCounter::NoListener);
        return DROP;
    }
    if packet.local_port != LIVENESS_PORT {
        count(match slot {
            Slot::Outbound => PodCounter::Outbound,
            Slot::InboundPlaintext => PodCounter::InboundPlaintext,
            Slot::Hbone => PodCounter::Hbone,
            Slot::DnsUdp => PodCounter::DnsUdp,
            Slot::DnsTcp => PodCounter::DnsTcp,
        });
    }
    PASS
}

/// Captured traffic stays in the pod, even when all its rules are gone.
#[classifier]
pub fn guard(ctx: TcContext) -> i32 {
    if read!((*ctx.skb.skb).mark) & MARK_MASK == CAPTURE_MARK {
        count(PodCounter::Guarded);
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count(counter: PodCounter) {
    runtime::count(&POD_COUNT, counter as u32);
}
