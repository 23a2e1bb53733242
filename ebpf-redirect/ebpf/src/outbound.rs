//! May this program connect, and is the connection to be captured?

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, bpf_sock_addr, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_set_retval, bpf_setsockopt,
    bpf_sk_release, bpf_skc_lookup_tcp,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use weft_redirect_abi::{CAPTURE_MARK, Family, LISTEN_V4, LISTEN_V6, NodeCounter, OwnAddress};

use crate::address::{self, Address, read, read_words};
use crate::{OWN, PODS, PROXY, count, runtime};

const PASS: i32 = 1;
const REFUSE: i32 = 0;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const ECONNREFUSED: i32 = 111;

const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const SO_MARK: i32 = 36;

/// Whether the kernel has `bpf_set_retval` (5.18); the loader probes.
#[unsafe(no_mangle)]
static HAVE_SET_RETVAL: u32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let address = address::v4(read!((*ctx.sock_addr).user_ip4));
    outbound(ctx.sock_addr, address)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let address = address::v6(read_words!((*ctx.sock_addr).user_ip6));
    outbound(ctx.sock_addr, address)
}

#[inline(always)]
fn outbound(ctx: *mut bpf_sock_addr, destination: Address) -> i32 {
    let protocol = read!((*ctx).protocol);
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return PASS;
    }
    // SAFETY: a helper that takes the context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.cast()) };
    // SAFETY: the entry is a plain integer.
    if unsafe { PODS.get(&netns) }.is_none() {
        return PASS;
    }
    if is_proxy() {
        count(NodeCounter::Proxy);
        return PASS;
    }
    let own = OwnAddress { netns, address: destination };
    // SAFETY: as above.
    if address::is_loopback(&destination) || unsafe { OWN.get(&own) }.is_some() {
        count(NodeCounter::Own);
        return PASS;
    }
    if address::is_listeners(&destination) {
        return refuse(ECONNREFUSED);
    }
    capture(ctx, family(&destination))
}

/// A mapped address travels as IPv4, whatever the socket's own family.
#[inline(always)]
fn family(destination: &Address) -> Family {
    match destination {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..] => Family::V4,
        _ => Family::V6,
    }
}

/// The task that connects, not the socket's cgroup: the agent makes the proxy's sockets for it.
#[inline(always)]
fn is_proxy() -> bool {
    // SAFETY: no argument.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the entry is a plain integer.
    unsafe { PROXY.get(&cgroup) }.is_some()
}

#[inline(always)]
fn capture(ctx: *mut bpf_sock_addr, family: Family) -> i32 {
    if !unbind_device(ctx) {
        count(NodeCounter::MarkFailed);
        return REFUSE;
    }
    if !listener_alive(ctx, family) {
        count(NodeCounter::NoListener);
        return refuse(ECONNREFUSED);
    }
    let mut mark = CAPTURE_MARK;
    if !set_option(ctx, SO_MARK, &mut mark) {
        count(NodeCounter::MarkFailed);
        return REFUSE;
    }
    count(NodeCounter::Captured);
    PASS
}

/// `SO_BINDTODEVICE`, unprivileged since 5.7, would make the route lookup skip our local route.
#[inline(always)]
fn unbind_device(ctx: *mut bpf_sock_addr) -> bool {
    // SAFETY: the verifier checks each access to the context.
    let sock = unsafe { (*ctx).__bindgen_anon_1.sk };
    // SAFETY: checked for null; `lo` is always interface 1, and harmless.
    if sock.is_null() || unsafe { (*sock).bound_dev_if } <= 1 {
        return true;
    }
    count(NodeCounter::Unbound);
    let mut no_device = 0u32;
    set_option(ctx, SO_BINDTODEVICE, &mut no_device)
}

#[inline(always)]
fn set_option(ctx: *mut bpf_sock_addr, name: i32, value: &mut u32) -> bool {
    let value: *mut u32 = value;
    // SAFETY: the value lives across the call and is four bytes.
    unsafe { bpf_setsockopt(ctx.cast(), SOL_SOCKET, name, value.cast(), 4) == 0 }
}

/// Refuses with `errno`; before 5.18 the application sees EPERM.
#[inline(always)]
fn refuse(errno: i32) -> i32 {
    if runtime::constant(&HAVE_SET_RETVAL) != 0 {
        // SAFETY: a helper on integers.
        unsafe { bpf_set_retval(-errno) };
    }
    REFUSE
}

/// Asks the kernel, in the socket's own namespace, whether `sk_lookup` would find the proxy's listener.
///
/// The address is one that only `sk_lookup` answers for, the ports are zero so that it does not count us.
/// So this is exact: a listener's slot empties at the instant at which its last owner closes it.
#[inline(always)]
fn listener_alive(ctx: *mut bpf_sock_addr, family: Family) -> bool {
    // SAFETY: plain data, for which zero is a value.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = match family {
        Family::V4 => {
            let word = u32::from_ne_bytes(LISTEN_V4);
            tuple.__bindgen_anon_1.ipv4.saddr = word;
            tuple.__bindgen_anon_1.ipv4.daddr = word;
            12
        }
        Family::V6 => {
            // SAFETY: both are 16 bytes of plain data.
            let words: [u32; 4] = unsafe { core::mem::transmute(LISTEN_V6) };
            tuple.__bindgen_anon_1.ipv6.saddr = words;
            tuple.__bindgen_anon_1.ipv6.daddr = words;
            36
        }
    };
    let netns = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the tuple is larger than `size`.
    let sock = unsafe { bpf_skc_lookup_tcp(ctx.cast(), &mut tuple, size, netns, 0) };
    if sock.is_null() {
        return false;
    }
    let state = read!((*sock).state);
    // SAFETY: the reference that the lookup took.
    unsafe { bpf_sk_release(sock.cast::<c_void>()) };
    state == BPF_TCP_LISTEN
}
