//! Which exact connections to a local pod `sk_lookup` lets pass, and for how long.
//!
//! An exemption begins after the source port was chosen and before the first packet leaves, and ends as
//! soon as the connection leaves the established state: later the application's own end may be gone, and
//! whoever then sent a packet with this very tuple from outside would meet the application's listener.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_TCP_ESTABLISHED, BPF_TCP_SYN_SENT, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use weft_redirect_abi::{CAPTURE_MARK, Flow, MARK_MASK, NodeCounter};

use crate::address::{self, read, read_words};
use crate::{EXEMPT, HOST, POD_OF, count};

/// Processes of the host's namespace that connect to an enrolled local pod: the kubelet's probes.
///
/// Attached at the root, or at one cgroup (the kubelet's) where only that may be exempt.
#[sock_ops]
pub fn probe(ctx: SockOpsContext) -> u32 {
    exempt(ctx.ops, NodeCounter::ProbeExempted)
}

/// The proxy's deliveries to the application, from inside the pod, with the client's address as source.
///
/// Known by the mark, in the very namespace that owns the destination. A privileged program in the pod
/// can do the same, and reaches only its own pod by it.
#[sock_ops]
pub fn deliver(ctx: SockOpsContext) -> u32 {
    exempt(ctx.ops, NodeCounter::DeliveryExempted)
}

#[inline(always)]
fn exempt(ops: *mut bpf_sock_ops, why: NodeCounter) -> u32 {
    let op = read!((*ops).op);
    if op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_STATE_CB {
        return 0;
    }
    let mut flow = flow(ops);
    // SAFETY: the entry is a plain integer.
    let Some(pod) = (unsafe { POD_OF.get(&flow.server) }) else {
        return 0;
    };
    flow.netns = *pod;
    if op == BPF_SOCK_OPS_STATE_CB {
        end(ops, &flow);
        return 0;
    }
    // SAFETY: a helper that takes the context.
    let netns = unsafe { bpf_get_netns_cookie(ops.cast::<c_void>()) };
    let ours = match why {
        NodeCounter::DeliveryExempted => netns == flow.netns && is_marked(ops),
        _ => HOST.get(0) == Some(&netns),
    };
    if ours {
        begin(ops, &flow, why);
    }
    0
}

#[inline(always)]
fn is_marked(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: the verifier checks each access to the context.
    let sock = unsafe { (*ops).__bindgen_anon_2.sk };
    // SAFETY: checked for null.
    !sock.is_null() && unsafe { (*sock).mark } & MARK_MASK == CAPTURE_MARK
}

#[inline(always)]
fn begin(ops: *mut bpf_sock_ops, flow: &Flow, why: NodeCounter) {
    // SAFETY: no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    // A full map drops the oldest exemption: its connection is captured, never the reverse.
    if EXEMPT.insert(flow, &now, 0).is_err() {
        count(NodeCounter::ExemptFailed);
        return;
    }
    // Others (a load balancer, TCP tuning) may have asked for callbacks too.
    let flags = read!((*ops).bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: a helper that takes the context.
    unsafe { bpf_sock_ops_cb_flags_set(ops, flags as i32) };
    count(why);
}

#[inline(always)]
fn end(ops: *mut bpf_sock_ops, flow: &Flow) {
    // SAFETY: a state callback has the old state and the new one.
    let state = unsafe { (*ops).__bindgen_anon_1.args[1] };
    if state != BPF_TCP_SYN_SENT && state != BPF_TCP_ESTABLISHED && EXEMPT.remove(flow).is_ok() {
        count(NodeCounter::ExemptEnded);
    }
}

#[inline(always)]
fn flow(ops: *mut bpf_sock_ops) -> Flow {
    let family = read!((*ops).family);
    let (local_word, remote_word) = (read!((*ops).local_ip4), read!((*ops).remote_ip4));
    let local_words = read_words!((*ops).local_ip6);
    let remote_words = read_words!((*ops).remote_ip6);
    Flow {
        netns: 0,
        client: address::of_family(family, local_word, local_words),
        server: address::of_family(family, remote_word, remote_words),
        client_port: read!((*ops).local_port) as u16,
        // The context has this one in network order, in the upper half on the wire.
        server_port: u32::from_be(read!((*ops).remote_port)) as u16,
        zero: 0,
    }
}
