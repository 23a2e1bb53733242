//! A pod's programs and maps, pinned in a folder of its own.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError, PerCpuArray, SockMap};
use aya::programs::{SchedClassifier, SkLookup};
use weft_redirect_abi::{PodCounter, PodRecord};

use super::guard::{self, GUARD, Linkless};
use super::{PodError, PodUid};
use crate::attach::{AttachError, attach_or_replace};
use crate::netlink::{DnsCapture, Link};
use crate::netns::Netns;
use crate::node;
use crate::objects::{Constant, Object, check_layout};
use crate::sockets::Listener;

/// `bpf(2)`: only where nothing is.
const BPF_NOEXIST: u64 = 1;
/// Where it is said whose the pins are.
pub(super) const RECORD: &str = "RECORD";
const MAPS: [&str; 3] = ["SOCKS", RECORD, "POD_COUNT"];
const SHARED: [&str; 2] = ["OWN", "EXEMPT"];

/// How long the path of a pod's namespace may be, in bytes.
pub(super) const PATH_MAX: usize = 128;

/// Where the pod's hold on `sk_lookup` is pinned. Its absence says that the pod is draining.
pub(super) const STEER: &str = "steer";

/// A pod's programs and open maps.
pub(super) struct PodPrograms {
    folder: PathBuf,
    object: Ebpf,
    socks: SockMap<MapData>,
    record: Array<MapData, PodRecord>,
    counters: PerCpuArray<MapData, u64>,
    linkless: Linkless,
}

impl fmt::Debug for PodPrograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodPrograms").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl PodPrograms {
    /// Creates or takes over the pod's maps, readies its programs, and records whose they are.
    pub(super) fn open(
        root: &Path,
        uid: &PodUid,
        netns: &Netns,
        dns: DnsCapture,
    ) -> Result<Self, PodError> {
        let folder = super::pins(root, uid);
        fs::create_dir_all(&folder)
            .map_err(|source| PodError::Pin { path: folder.clone(), source })?;
        check_layout::<u32, PodRecord>(&folder.join(RECORD))?;
        check_layout::<u32, u64>(&folder.join("POD_COUNT"))?;
        let own = MAPS.map(|map| (map, folder.join(map)));
        let shared = SHARED.map(|map| (map, node::pin(root, map)));
        let constants = [
            ("POD_NETNS", Constant::U64(netns.cookie())),
            ("DNS_CAPTURE", Constant::U32(u32::from(dns == DnsCapture::On))),
        ];
        let pins: Vec<_> = own.into_iter().chain(shared).collect();
        let object = Object::Pod.load(&pins, &constants)?;
        let mut programs = Self {
            object,
            socks: node::typed(&folder.join("SOCKS")).map_err(failed("SOCKS"))?,
            record: node::typed(&folder.join(RECORD)).map_err(failed(RECORD))?,
            counters: node::typed(&folder.join("POD_COUNT")).map_err(failed("POD_COUNT"))?,
            linkless: Linkless::new(),
            folder,
        };
        programs.write_record(netns)?;
        Ok(programs)
    }

    /// Says whose the pins are.
    pub(super) fn write_record(&mut self, netns: &Netns) -> Result<(), PodError> {
        let before = self.record.get(&0, 0).map_err(failed(RECORD))?;
        let (device, inode) = netns.file_identity();
        let path = recordable(netns.path())?;
        let sysctls_turned_on = before.sysctls_turned_on;
        let record = PodRecord { netns: netns.cookie(), device, inode, sysctls_turned_on, path };
        self.record.set(0, record, 0).map_err(failed(RECORD))
    }

    /// Remembers which sysctls were off before us, across agents.
    pub(super) fn record_sysctls(&mut self, turned_on: u64) -> Result<(), PodError> {
        if turned_on == 0 {
            return Ok(());
        }
        let mut record = self.record.get(&0, 0).map_err(failed(RECORD))?;
        record.sysctls_turned_on |= turned_on;
        self.record.set(0, record, 0).map_err(failed(RECORD))
    }

    /// Connections go to these listeners where no open one is steered to. One that an earlier agent opened and a
    /// proxy still holds stays: if this agent died before a proxy had the new one, the slot would be empty.
    pub(super) fn fill_listeners(&mut self, listeners: &[Listener]) -> Result<(), PodError> {
        for listener in listeners {
            let index = listener.slot().index(listener.family());
            match self.socks.set(index, listener, BPF_NOEXIST) {
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
                done => done.map_err(failed("SOCKS"))?,
            }
        }
        Ok(())
    }

    /// From this instant, connections go to these listeners; each slot changes hands at once.
    pub(super) fn set_listeners(&mut self, listeners: &[Listener]) -> Result<(), PodError> {
        for listener in listeners {
            let index = listener.slot().index(listener.family());
            self.socks.set(index, listener, 0).map_err(failed("SOCKS"))?;
        }
        Ok(())
    }

    /// Attaches `steer` to the namespace: from here on inbound connections are captured.
    pub(super) fn attach_steer(&mut self, netns: &Netns) -> Result<(), AttachError> {
        let failed = |source| AttachError::Program { program: STEER, source };
        let missing = AttachError::Missing { program: STEER };
        let program: &mut SkLookup =
            self.object.program_mut(STEER).ok_or(missing)?.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(failed)?;
        attach_or_replace(STEER, &self.folder.join(STEER), &fd, || {
            let id = program.attach(netns).map_err(failed)?;
            Ok(program.take_link(id).map_err(failed)?.into())
        })
    }

    /// Attaches the guard to all interfaces that do not have it yet.
    pub(super) fn attach_guards(&mut self, netns: &Netns, links: &[Link]) -> Result<(), PodError> {
        let failed = |source| AttachError::Program { program: GUARD, source };
        let missing = AttachError::Missing { program: GUARD };
        let program: &mut SchedClassifier =
            self.object.program_mut(GUARD).ok_or(missing)?.try_into().map_err(failed)?;
        if program.fd().is_err() {
            program.load().map_err(failed)?;
        }
        let (folder, linkless) = (&self.folder, &mut self.linkless);
        netns.run(|| guard::attach(program, folder, links, linkless))?
    }

    /// Packets that the guard has dropped.
    pub(super) fn guarded(&self) -> Result<u64, PodError> {
        sum(&self.counters, PodCounter::Guarded)
    }
}

/// A path as it is recorded. One for which there is no room would be found nowhere by the next agent, and its pod
/// taken for gone.
pub(super) fn recordable(path: &Path) -> Result<[u8; PATH_MAX], PodError> {
    let bytes = path.as_os_str().as_bytes();
    let mut recorded = [0; PATH_MAX];
    let room = recorded.get_mut(..bytes.len());
    let room = room.ok_or_else(|| PodError::LongPath { netns: path.to_owned() })?;
    room.copy_from_slice(bytes);
    Ok(recorded)
}

/// All counters, from a pod's pins.
pub(super) fn counters(folder: &Path) -> Result<Vec<(PodCounter, u64)>, PodError> {
    let counters = node::typed(&folder.join("POD_COUNT")).map_err(failed("POD_COUNT"))?;
    PodCounter::ALL.iter().map(|counter| Ok((*counter, sum(&counters, *counter)?))).collect()
}

fn sum(counters: &PerCpuArray<MapData, u64>, counter: PodCounter) -> Result<u64, PodError> {
    let per_cpu = counters.get(&(counter as u32), 0).map_err(failed("POD_COUNT"))?;
    Ok(per_cpu.iter().sum())
}

/// The pod's record, from its pins. `None`: it has none.
pub(super) fn record(folder: &Path) -> Result<Option<Array<MapData, PodRecord>>, PodError> {
    match node::typed(&folder.join(RECORD)) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        map => Ok(Some(map.map_err(failed(RECORD))?)),
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> PodError {
    move |source| PodError::Map { map, source }
}
