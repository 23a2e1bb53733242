//! Once a node, at the root of its cgroups: whose connection is to be captured, and which are exempt.
//!
//! `connect4`, `connect6`: an enrolled pod's foreign connection gets the capture mark, or is refused.
//! `probe`, `deliver`: exact tuples that `sk_lookup` in the pod lets pass, for the life of their socket.

#![no_std]
#![no_main]

#[path = "address.rs"]
mod address;
#[path = "exempt.rs"]
mod exempt;
#[path = "outbound.rs"]
mod outbound;
#[path = "runtime.rs"]
mod runtime;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use weft_redirect_abi::{Flow, NodeCounter, OwnAddress};

#[map]
static PODS: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);
#[map]
static OWN: HashMap<OwnAddress, u32> = HashMap::with_max_entries(16384, 0);
#[map]
static POD_OF: HashMap<[u8; 16], u64> = HashMap::with_max_entries(16384, 0);
#[map]
static EXEMPT: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(65536, 0);
#[map]
static PROXY: HashMap<u64, u32> = HashMap::with_max_entries(64, 0);
#[map]
static HOST: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static NODE_COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(16, 0);

#[inline(always)]
fn count(counter: NodeCounter) {
    runtime::count(&NODE_COUNT, counter as u32);
}
