//! Addresses for ServiceEntries that have none, so that a client can tell them apart by address.
//!
//! A function of the set of entries alone, so that every replica and every restart gives the same. An older
//! entry keeps its address when a newer one wants the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use weft_model::{Namespace, ServiceName};
use xxhash_rust::xxh64::xxh64;

use crate::objects::{Name, Resolution, ServiceEntry};
use crate::store::{Store, hosts_of};

/// The first of 240.240.0.0/16, Istio's range for this.
const RANGE: u32 = u32::from_be_bytes([240, 240, 0, 0]);
/// Neither the network's own address nor its last one is given.
const ADDRESSES: u32 = 65_534;

/// Assigns anew if the entries have changed; returns the services whose address is another than before.
pub(super) fn assign(store: &mut Store) -> Vec<ServiceName> {
    if !std::mem::take(&mut store.vips_stale) {
        return Vec::new();
    }
    let mut wanted: BTreeSet<(Arc<str>, Name, ServiceName)> = BTreeSet::new();
    for entry in store.service_entries.all().filter(|entry| wants(entry)) {
        let Ok(namespace) = Namespace::new(&entry.metadata.namespace) else { continue };
        for hostname in hosts_of(entry).filter(|host| !host.as_str().starts_with('*')) {
            let name = ServiceName { namespace: namespace.clone(), hostname };
            let in_force = store.entries_of(&name).first().is_some_and(|e| Arc::ptr_eq(e, entry));
            if in_force {
                let (since, by) = entry.metadata.age();
                wanted.insert((since, by, name));
            }
        }
    }
    let mut taken = HashSet::new();
    let mut vips = BTreeMap::new();
    for (_, _, name) in wanted {
        if let Some(offset) = free(&name, &mut taken) {
            vips.insert(name, Ipv4Addr::from_bits(RANGE + offset));
        }
    }
    let before = std::mem::replace(&mut store.vips, vips);
    let names = before.keys().chain(store.vips.keys());
    names.filter(|name| before.get(name) != store.vips.get(name)).cloned().collect()
}

fn wants(entry: &ServiceEntry) -> bool {
    entry.spec.addresses.is_empty()
        && entry.status.addresses.is_empty()
        && entry.spec.resolution != Resolution::None
}

fn free(name: &ServiceName, taken: &mut HashSet<u32>) -> Option<u32> {
    let hash = xxh64(name.to_string().as_bytes(), 0) % u64::from(ADDRESSES);
    let first = u32::try_from(hash).ok()?;
    (0..ADDRESSES).map(|step| (first + step) % ADDRESSES + 1).find(|offset| taken.insert(*offset))
}
