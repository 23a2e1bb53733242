//! How a pod leaves: its captured connections end by themselves, then nothing of us is left in it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use weft_redirect_abi::PodRecord;

use super::programs::{self, STEER};
use super::{PodError, PodUid, guard, inside, pins, sysctl};
use crate::netlink;
use crate::netns::{Netns, NetnsError, Verdict};
use crate::node::Node;

/// Whether an earlier agent left something of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    /// Pins of this very namespace: they are taken over.
    Ours,
    /// Nothing, or what was there belonged to another namespace and is gone.
    Nothing,
}

/// Whether the kernel captures a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    Stands,
    /// It does not, or nothing is left that it could capture.
    None,
}

/// A pod that was un-enrolled: new connections are direct, captured ones still run through the proxy.
///
/// Its marked packets must stay in the pod until the last of them, so rules, routes and guard stay too.
#[derive(Debug)]
pub struct Draining {
    uid: PodUid,
    netns: Netns,
    turned_on: u64,
}

/// How far a pod has drained.
#[derive(Debug)]
pub enum Drained {
    /// Nothing of us is left in it.
    Completely,
    /// That many connections are still captured; ask again.
    Not {
        /// The pod.
        pod: Draining,
        /// Sockets that carry our mark.
        connections: usize,
    },
}

impl Draining {
    /// Ends the capture of new connections.
    pub(super) fn begin(node: &mut Node, uid: PodUid, netns: Netns) -> Result<Self, PodError> {
        let folder = pins(node.root(), &uid);
        let turned_on = read_record(&folder)?.map_or(0, |record| record.sysctls_turned_on);
        node.maps().release(netns.cookie())?;
        remove_pin(&folder.join(STEER))?;
        node.maps().forget_addresses(netns.cookie())?;
        // The listeners' slots: what is in the backlog is accepted and served by whoever has a copy.
        remove_pin(&folder.join("SOCKS"))?;
        inside(&netns, "removing DNS rules", netlink::remove_dns_rules)?;
        Ok(Self { uid, netns, turned_on })
    }

    /// Takes up a pod that an earlier agent left and that is not to be enrolled any more.
    ///
    /// `None`: its namespace is gone, and so is everything of us.
    ///
    /// Errors: also when it cannot be told whether the namespace is there. Then all of it is as it was.
    pub fn resume(node: &mut Node, uid: &PodUid) -> Result<Option<Self>, PodError> {
        let Some(record) = read_record(&pins(node.root(), uid))? else {
            remove_all_pins(node.root(), uid)?;
            return Ok(None);
        };
        let Some(netns) = recorded(&record)? else {
            forget(node, uid, record.netns)?;
            return Ok(None);
        };
        Ok(Some(Self::begin(node, uid.clone(), netns)?))
    }

    /// The namespace of a pod that an earlier agent left. `None`: it is gone.
    pub(crate) fn look(node: &Node, uid: &PodUid) -> Result<Option<Netns>, PodError> {
        match read_record(&pins(node.root(), uid))? {
            Some(record) => Ok(recorded(&record)?),
            None => Ok(None),
        }
    }

    /// Whether what is pinned of a pod captures it.
    pub(crate) fn capture(node: &Node, uid: &PodUid) -> Result<Capture, PodError> {
        match Self::look(node, uid)? {
            Some(netns) if node.captures(netns.cookie())? => Ok(Capture::Stands),
            Some(_) | None => Ok(Capture::None),
        }
    }

    /// Removes what is left, once no connection is captured any more.
    pub fn finish(mut self, node: &mut Node) -> Result<Drained, PodError> {
        match self.netns.verify() {
            Ok(_) => {}
            Err(error) if error.verdict() == Verdict::Gone => {
                forget(node, &self.uid, self.netns.cookie())?;
                return Ok(Drained::Completely);
            }
            Err(error) => return Err(error.into()),
        }
        let marked = inside(&self.netns, "counting connections", netlink::marked_connections)?;
        if marked > 0 {
            return Ok(Drained::Not { pod: self, connections: marked });
        }
        self.finish_now(node)?;
        Ok(Drained::Completely)
    }

    /// Removes what is left at once; connections that are still captured break.
    pub fn finish_now(self, node: &mut Node) -> Result<(), PodError> {
        let turned_on = self.turned_on;
        inside(&self.netns, "removing routes", netlink::remove_routing)?;
        inside(&self.netns, "restoring sysctls", || sysctl::restore(turned_on))?;
        // The guard last: while a rule is missing, it is what keeps captured packets in the pod.
        if !guard::has_links(&pins(node.root(), &self.uid)) {
            inside(&self.netns, "removing guards", || {
                let removed = |link| guard::remove_filter(link).map_err(io::Error::other);
                netlink::links()?.iter().try_for_each(removed)
            })?;
        }
        remove_all_pins(node.root(), &self.uid)
    }

    /// Which pod.
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }
}

/// Forgets what an earlier agent pinned of a pod of this name in another namespace.
pub(super) fn forget_other_namespace(
    node: &mut Node,
    uid: &PodUid,
    netns: &Netns,
) -> Result<Remains, PodError> {
    match read_record(&pins(node.root(), uid))? {
        Some(record) if record.netns == netns.cookie() => Ok(Remains::Ours),
        Some(record) => {
            forget(node, uid, record.netns)?;
            Ok(Remains::Nothing)
        }
        None => Ok(Remains::Nothing),
    }
}

/// Undoes an enrolment that failed half way. What cannot be undone is reported with the cause.
pub(super) fn undo(node: &mut Node, uid: &PodUid, netns: Netns) -> Result<(), PodError> {
    Draining::begin(node, uid.clone(), netns)?.finish_now(node)
}

fn forget(node: &mut Node, uid: &PodUid, cookie: u64) -> Result<(), PodError> {
    node.maps().release(cookie)?;
    node.maps().forget_addresses(cookie)?;
    remove_all_pins(node.root(), uid)
}

/// `None`: there is none, or nothing was written to it yet.
fn read_record(folder: &Path) -> Result<Option<PodRecord>, PodError> {
    let Some(map) = programs::record(folder)? else { return Ok(None) };
    let record =
        map.get(&0, 0).map_err(|source| PodError::Map { map: programs::RECORD, source })?;
    Ok((record.netns != 0).then_some(record))
}

/// The namespace, unless it is gone.
fn recorded(record: &PodRecord) -> Result<Option<Netns>, NetnsError> {
    let end = record.path.iter().position(|byte| *byte == 0).unwrap_or(record.path.len());
    let path = Path::new(OsStr::from_bytes(record.path.get(..end).unwrap_or_default()));
    Netns::find(path, (record.device, record.inode), record.netns)
}

fn remove_pin(path: &Path) -> Result<(), PodError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PodError::Pin { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn remove_all_pins(root: &Path, uid: &PodUid) -> Result<(), PodError> {
    let folder = pins(root, uid);
    match fs::remove_dir_all(&folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PodError::Pin { path: folder, source })
        }
        _ => Ok(()),
    }
}
