//! The node's maps, typed.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use weft_redirect_abi::{CAPTURED, Flow, NodeCounter, OwnAddress};

use super::NodeError;
use crate::netlink::{Address, Reach};
use crate::objects::{ObjectError, check_layout};

const MAPS: [&str; 7] = ["PODS", "OWN", "POD_OF", "EXEMPT", "PROXY", "HOST", "NODE_COUNT"];

/// Where each map is pinned.
pub(super) fn pins(root: &Path) -> Vec<(&'static str, PathBuf)> {
    MAPS.map(|map| (map, pin(root, map))).to_vec()
}

/// Where a map of the node is pinned.
pub(crate) fn pin(root: &Path, map: &str) -> PathBuf {
    root.join("maps").join(map)
}

pub(super) fn check_layouts(root: &Path) -> Result<(), ObjectError> {
    check_layout::<u64, u32>(&pin(root, "PODS"))?;
    check_layout::<OwnAddress, u32>(&pin(root, "OWN"))?;
    check_layout::<[u8; 16], u64>(&pin(root, "POD_OF"))?;
    check_layout::<Flow, u64>(&pin(root, "EXEMPT"))?;
    check_layout::<u64, u32>(&pin(root, "PROXY"))?;
    check_layout::<u32, u64>(&pin(root, "HOST"))?;
    check_layout::<u32, u64>(&pin(root, "NODE_COUNT"))
}

/// Open maps of the node.
pub(crate) struct NodeMaps {
    pods: HashMap<MapData, u64, u32>,
    own: HashMap<MapData, OwnAddress, u32>,
    pod_of: HashMap<MapData, [u8; 16], u64>,
    proxy: HashMap<MapData, u64, u32>,
    host: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for NodeMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMaps").finish_non_exhaustive()
    }
}

impl NodeMaps {
    pub(super) fn open(root: &Path) -> Result<Self, NodeError> {
        Ok(Self {
            pods: open(root, "PODS")?,
            own: open(root, "OWN")?,
            pod_of: open(root, "POD_OF")?,
            proxy: open(root, "PROXY")?,
            host: open(root, "HOST")?,
            counters: open(root, "NODE_COUNT")?,
        })
    }

    pub(super) fn set_host(&mut self, cookie: u64) -> Result<(), NodeError> {
        self.host.set(0, cookie, 0).map_err(failed("HOST"))
    }

    /// Ids of cgroups are never reused, so those of proxies that went would fill the map.
    pub(super) fn exempt_exactly(&mut self, ids: &[u64]) -> Result<(), NodeError> {
        let known = self.proxy.keys().filter_map(Result::ok);
        for gone in known.filter(|id| !ids.contains(id)).collect::<Vec<_>>() {
            absent_is_fine(self.proxy.remove(&gone)).map_err(failed("PROXY"))?;
        }
        ids.iter().try_for_each(|id| self.proxy.insert(id, 1, 0)).map_err(failed("PROXY"))
    }

    /// From here on the pod's connections are captured.
    pub(crate) fn capture(&mut self, cookie: u64) -> Result<(), NodeError> {
        self.pods.insert(cookie, CAPTURED, 0).map_err(failed("PODS"))
    }

    /// From here on the pod's connections are its own again.
    pub(crate) fn release(&mut self, cookie: u64) -> Result<(), NodeError> {
        absent_is_fine(self.pods.remove(&cookie)).map_err(failed("PODS"))
    }

    pub(super) fn captures(&self, cookie: u64) -> Result<bool, NodeError> {
        match self.pods.get(&cookie, 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(failed("PODS")(error)),
        }
    }

    /// Makes the pod's addresses exactly these.
    pub(crate) fn set_addresses(
        &mut self,
        cookie: u64,
        addresses: &[Address],
    ) -> Result<(), NodeError> {
        for address in addresses {
            let bytes = mapped(address.ip);
            let own = OwnAddress { netns: cookie, address: bytes };
            self.own.insert(own, 1, 0).map_err(failed("OWN"))?;
            if address.reach == Reach::Global {
                self.pod_of.insert(bytes, cookie, 0).map_err(failed("POD_OF"))?;
            }
        }
        let keep: Vec<[u8; 16]> = addresses.iter().map(|address| mapped(address.ip)).collect();
        self.forget_addresses_but(cookie, &keep)
    }

    /// Forgets all addresses of the pod.
    pub(crate) fn forget_addresses(&mut self, cookie: u64) -> Result<(), NodeError> {
        self.forget_addresses_but(cookie, &[])
    }

    fn forget_addresses_but(&mut self, cookie: u64, keep: &[[u8; 16]]) -> Result<(), NodeError> {
        let stale: Vec<OwnAddress> = self
            .own
            .keys()
            .filter_map(Result::ok)
            .filter(|own| own.netns == cookie && !keep.contains(&own.address))
            .collect();
        for own in stale {
            absent_is_fine(self.own.remove(&own)).map_err(failed("OWN"))?;
        }
        // Another pod may have the address by this time: only our own entries are taken away.
        let stale: Vec<[u8; 16]> = self
            .pod_of
            .iter()
            .filter_map(Result::ok)
            .filter(|(address, pod)| *pod == cookie && !keep.contains(address))
            .map(|(address, _)| address)
            .collect();
        for address in stale {
            absent_is_fine(self.pod_of.remove(&address)).map_err(failed("POD_OF"))?;
        }
        Ok(())
    }

    pub(super) fn counters(&self) -> Result<Vec<(NodeCounter, u64)>, NodeError> {
        NodeCounter::ALL
            .iter()
            .map(|counter| {
                let per_cpu =
                    self.counters.get(&(*counter as u32), 0).map_err(failed("NODE_COUNT"))?;
                Ok((*counter, per_cpu.iter().sum()))
            })
            .collect()
    }
}

/// An address as the programs have it.
pub(crate) fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn open<T: TryFrom<Map, Error = MapError>>(root: &Path, map: &'static str) -> Result<T, NodeError> {
    typed(&pin(root, map)).map_err(failed(map))
}

/// Opens a pinned map as what it is.
pub(crate) fn typed<T: TryFrom<Map, Error = MapError>>(pin: &Path) -> Result<T, MapError> {
    T::try_from(Map::from_map_data(MapData::from_pin(pin)?)?)
}

fn failed(map: &'static str) -> impl Fn(MapError) -> NodeError {
    move |source| NodeError::Map { map, source }
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}
