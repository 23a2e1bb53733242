//! One pod, as the node agent tells of it.

use std::{io, os::fd::OwnedFd};

use weft_model::{NameError, Namespace, ServiceAccountName};
use weft_xds::zds::{AddWorkload, SocketKind};

use super::Place;
use crate::uid::PodUid;

/// A request to serve a pod, checked.
#[derive(Debug)]
pub struct Enrolment {
    pub uid: PodUid,
    pub pod: ztunnel_core::Pod,
    pub(super) netns: OwnedFd,
    cookie: u64,
    pub(super) listeners: Vec<(SocketKind, OwnedFd)>,
    pub(super) offered: Offered,
}

/// What the agent is good for after this message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offered {
    /// It makes sockets when asked.
    Sockets,
    /// Nothing: the proxy makes its own in the namespace.
    Namespace,
}

/// Why a pod is not served.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    #[error("pod {uid} came without workload_info")]
    NoInfo { uid: String },
    #[error("pod {uid}: workload_info.{field} is not valid")]
    Name { uid: String, field: &'static str, source: NameError },
    #[error("pod {uid} came without its network namespace")]
    NoNamespace { uid: String },
    #[error("pod {uid} came with {listeners} kinds of listeners and {descriptors} descriptors")]
    Listeners { uid: String, listeners: usize, descriptors: usize },
    #[error("pod {uid} is not known")]
    Unknown { uid: PodUid },
    #[error("pod {uid}: this proxy drains, and leaves it to the next one")]
    Draining { uid: String },
    #[error("pod {uid}: no sockets")]
    Sockets { uid: PodUid, source: io::Error },
}

impl Enrolment {
    /// The first descriptor is the namespace; the others are listeners, in the order of `add.listeners`.
    pub fn read(add: AddWorkload, descriptors: Vec<OwnedFd>) -> Result<Self, EnrolmentError> {
        let kinds: Vec<SocketKind> = add.listeners().collect();
        let uid = add.uid;
        let info = add.workload_info.ok_or_else(|| EnrolmentError::NoInfo { uid: uid.clone() })?;
        let bad = |field| {
            let uid = uid.clone();
            move |source| EnrolmentError::Name { uid, field, source }
        };
        let pod = ztunnel_core::Pod {
            namespace: Namespace::new(&info.namespace).map_err(bad("namespace"))?,
            name: info.name.into(),
            service_account: ServiceAccountName::new(&info.service_account)
                .map_err(bad("service_account"))?,
        };
        let mut descriptors = descriptors.into_iter();
        let netns =
            descriptors.next().ok_or_else(|| EnrolmentError::NoNamespace { uid: uid.clone() })?;
        if kinds.len() != descriptors.len() {
            let (listeners, descriptors) = (kinds.len(), descriptors.len());
            return Err(EnrolmentError::Listeners { uid, listeners, descriptors });
        }
        let listeners = kinds.into_iter().zip(descriptors).collect();
        let offered = if add.sockets_offered { Offered::Sockets } else { Offered::Namespace };
        Ok(Self {
            uid: PodUid(uid.into()),
            pod,
            netns,
            cookie: add.netns_cookie,
            listeners,
            offered,
        })
    }

    pub(super) fn place(&self) -> Result<Place, EnrolmentError> {
        if self.cookie != 0 {
            return Ok(Place::Cookie(self.cookie));
        }
        let stat = rustix::fs::fstat(&self.netns);
        let failed = |error: rustix::io::Errno| EnrolmentError::Sockets {
            uid: self.uid.clone(),
            source: error.into(),
        };
        let stat = stat.map_err(failed)?;
        Ok(Place::Inode(stat.st_dev, stat.st_ino))
    }
}
