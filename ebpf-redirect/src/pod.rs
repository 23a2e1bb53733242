//! A pod's way into the mesh and out of it.
//!
//! Enrolment ends with what changes the pod's traffic, and un-enrolment begins with it:
//!
//! ```text
//!   enroll:     record, listeners, addresses, routes and rules, guard ──> steer ──> capture
//!   un-enroll:  capture off ──> steer off, DNS rules off ──> (captured connections end) ──> all the rest
//! ```

mod drain;
mod guard;
mod programs;
mod sysctl;
mod uid;

#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use tracing::{info, warn};
use weft_redirect_abi::PodCounter;

use crate::attach::AttachError;
use crate::netlink::{self, Address, DnsCapture, Link, Monitor, Reach, Repaired};
use crate::netns::{Known, Netns, NetnsError, Verdict};
use crate::node::{Node, NodeError};
use crate::objects::ObjectError;
use crate::sockets::Listener;

pub(crate) use drain::Capture;
use drain::Remains;
pub use drain::{Drained, Draining};
use programs::PodPrograms;
pub use uid::{PodUid, UidError};

/// Why a pod is not (or no longer) as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Its namespace cannot be used, or is another one by now.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The node's maps cannot be used; full ones are named.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The programs cannot be had.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A program is not at its hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map of the pod cannot be read or written.
    #[error("map {map} of the pod cannot be used")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// Something inside its namespace failed.
    #[error("{what} in network namespace {netns} failed")]
    Inside {
        /// What was done.
        what: &'static str,
        /// Where.
        netns: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has no address by which others could know it; retried when it has.
    #[error("network namespace {netns} has no address yet")]
    NoAddress {
        /// Where.
        netns: PathBuf,
    },
    /// It lacks an address that the pod has: it is another pod's. Nothing was done to it.
    #[error("network namespace {netns} has not the pod's address {address}")]
    Stranger {
        /// Where.
        netns: PathBuf,
        /// What it lacks.
        address: IpAddr,
    },
    /// Its namespace's path does not fit into the pod's record.
    #[error("network namespace {netns} has a path of more than {} bytes", programs::PATH_MAX)]
    LongPath {
        /// Where.
        netns: PathBuf,
    },
    /// A pin cannot be made or removed.
    #[error("pin {path} cannot be changed")]
    Pin {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PodError {
    /// What it says of the pod's namespace, where that was known.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Netns(error) => error.verdict(),
            Self::Node(_)
            | Self::Object(_)
            | Self::Attach(_)
            | Self::Map { .. }
            | Self::Inside { .. }
            | Self::NoAddress { .. }
            | Self::Stranger { .. }
            | Self::LongPath { .. }
            | Self::Pin { .. } => Verdict::Unseen,
        }
    }
}

/// What it takes to enroll a pod.
#[derive(Debug)]
pub struct Enrolment {
    /// Which pod.
    pub uid: PodUid,
    /// Its namespace.
    pub netns: Netns,
    /// Whether its name lookups are captured.
    pub dns: DnsCapture,
    /// Addresses that the namespace must have, or it is another pod's (istio#61211).
    pub addresses: Vec<IpAddr>,
}

/// An enrolled pod.
#[derive(Debug)]
pub struct Pod {
    uid: PodUid,
    netns: Netns,
    dns: DnsCapture,
    programs: PodPrograms,
    monitor: Monitor,
    guarded: u64,
}

impl Pod {
    /// Captures the pod's traffic. What an earlier agent left of it is taken over without a gap.
    ///
    /// On an error the pod is as it was: uncaptured, or captured by what was pinned before.
    pub fn enroll(
        node: &mut Node,
        enrolment: Enrolment,
        listeners: &[Listener],
    ) -> Result<Self, PodError> {
        let Enrolment { uid, mut netns, dns, addresses } = enrolment;
        programs::recordable(netns.path())?;
        netns.verify()?;
        check_addresses(&netns, &addresses)?;
        let taken_over = drain::forget_other_namespace(node, &uid, &netns)?;
        let monitor = inside(&netns, "watching the network", Monitor::open)?;
        let programs = PodPrograms::open(node.root(), &uid, &netns, dns)?;
        let mut pod = Self { uid, netns, dns, programs, monitor, guarded: 0 };
        if let Err(cause) = pod.capture(node, listeners) {
            if taken_over == Remains::Nothing
                && let Err(error) = drain::undo(node, &pod.uid, pod.netns)
            {
                warn!(pod = %pod.uid, %error, "a failed enrolment was not undone completely");
            }
            return Err(cause);
        }
        pod.guarded = pod.programs.guarded()?;
        Ok(pod)
    }

    fn capture(&mut self, node: &mut Node, listeners: &[Listener]) -> Result<(), PodError> {
        self.programs.fill_listeners(listeners)?;
        let surroundings = Surroundings::look(&self.netns)?;
        node.maps().set_addresses(self.netns.cookie(), &surroundings.addresses)?;
        // Lookups are delivered only while they are steered: those of a pod that keeps its own from here on ...
        if self.dns == DnsCapture::Off {
            self.settle_lookups()?;
        }
        self.settle(&surroundings)?;
        self.programs.attach_steer(&self.netns)?;
        // ... are let go before, and those of the others are taken behind.
        if self.dns == DnsCapture::On {
            self.settle_lookups()?;
        }
        // The name may lead to another pod by this time: then what was done is undone.
        self.verify()?;
        node.maps().capture(self.netns.cookie())?;
        Ok(())
    }

    /// A proxy has these listeners: from this instant, connections go to them.
    pub fn hand_over(&mut self, listeners: &[Listener]) -> Result<(), PodError> {
        self.programs.set_listeners(listeners)
    }

    /// Where a listener has gone with the process that held it, ours takes its place.
    pub fn fill(&mut self, listeners: &[Listener]) -> Result<(), PodError> {
        self.programs.fill_listeners(listeners)
    }

    /// Puts back whatever of the pod's capture is missing, and follows its addresses and interfaces.
    pub fn repair(&mut self, node: &mut Node) -> Result<Repaired, PodError> {
        // Before looking, so that what changes meanwhile is news again.
        self.monitor.drain();
        self.verify()?;
        let surroundings = Surroundings::look(&self.netns)?;
        node.maps().set_addresses(self.netns.cookie(), &surroundings.addresses)?;
        let lookups = self.settle_lookups()?;
        let Repaired { rules, routes } = self.settle(&surroundings)?;
        Ok(Repaired { rules: rules + lookups, routes })
    }

    /// Whether its namespace is still there.
    pub fn verify(&mut self) -> Result<(), PodError> {
        match self.netns.verify()? {
            Known::AsBefore => Ok(()),
            Known::ByAProcess => {
                let netns = self.netns.path().display();
                info!(pod = %self.uid, %netns, "what led to the pod's namespace went; a process is in it");
                self.programs.write_record(&self.netns)
            }
        }
    }

    /// How many rules were missing that take name lookups.
    fn settle_lookups(&self) -> Result<u32, PodError> {
        inside(&self.netns, "routing lookups", || match self.dns {
            DnsCapture::On => netlink::ensure_dns_rules(),
            DnsCapture::Off => netlink::remove_dns_rules().map(|()| 0),
        })
    }

    fn settle(&mut self, surroundings: &Surroundings) -> Result<Repaired, PodError> {
        let sources = surroundings.sources();
        let repaired = inside(&self.netns, "routing", || netlink::ensure_routing(&sources))?;
        let turned_on = inside(&self.netns, "setting sysctls", sysctl::turn_on)?;
        self.programs.record_sysctls(turned_on)?;
        self.programs.attach_guards(&self.netns, &surroundings.links)?;
        Ok(repaired)
    }

    /// How many packets the guard has dropped since this was last asked. Any: repair at once.
    pub fn newly_guarded(&mut self) -> Result<u64, PodError> {
        let before = std::mem::replace(&mut self.guarded, self.programs.guarded()?);
        Ok(self.guarded.saturating_sub(before))
    }

    /// Ends the capture of new connections; captured ones go on until they end by themselves.
    pub fn unenroll(self, node: &mut Node) -> Result<Draining, PodError> {
        Draining::begin(node, self.uid, self.netns)
    }

    /// Which pod.
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// Readable when something about the pod's network changed: time to repair.
impl AsFd for Pod {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

/// What a pod's namespace has of its own.
#[derive(Debug)]
struct Surroundings {
    addresses: Vec<Address>,
    links: Vec<Link>,
}

impl Surroundings {
    fn look(netns: &Netns) -> Result<Self, PodError> {
        let addresses = inside(netns, "listing addresses", netlink::addresses)?;
        if !addresses.iter().any(|address| address.reach == Reach::Global) {
            return Err(PodError::NoAddress { netns: netns.path().to_owned() });
        }
        let links = inside(netns, "listing interfaces", netlink::links)?;
        Ok(Self { addresses, links })
    }

    /// The addresses that the pod speaks from, the first of each family first.
    fn sources(&self) -> Vec<IpAddr> {
        let global = |address: &&Address| address.reach == Reach::Global;
        self.addresses.iter().filter(global).map(|address| address.ip).collect()
    }
}

/// Whether the namespace is that of the pod with these addresses.
pub(crate) fn check_addresses(netns: &Netns, addresses: &[IpAddr]) -> Result<(), PodError> {
    if addresses.is_empty() {
        return Ok(());
    }
    let there = inside(netns, "listing addresses", netlink::addresses)?;
    let lacks = |ip: &&IpAddr| !there.iter().any(|address| address.ip == **ip);
    match addresses.iter().find(lacks) {
        Some(address) => {
            Err(PodError::Stranger { netns: netns.path().to_owned(), address: *address })
        }
        None => Ok(()),
    }
}

/// What the programs of a pinned pod have counted since it was enrolled.
pub fn counters(node: &Node, uid: &PodUid) -> Result<Vec<(PodCounter, u64)>, PodError> {
    programs::counters(&pins(node.root(), uid))
}

/// Does something inside the namespace and says what failed.
fn inside<T: Send>(
    netns: &Netns,
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T, PodError> {
    netns.run(work)?.map_err(|source| PodError::Inside {
        what,
        netns: netns.path().to_owned(),
        source,
    })
}

/// Where a pod's pins are.
fn pins(root: &Path, uid: &PodUid) -> PathBuf {
    root.join("pods").join(uid.as_str())
}
