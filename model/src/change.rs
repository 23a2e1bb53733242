//! One step from a View to the next.

use std::sync::Arc;

use crate::{Authorization, PolicyName, Service, ServiceName, Workload, WorkloadUid};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
    Policy(Arc<Authorization>),
    Remove(ResourceKey),
}

/// What a change is about.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ResourceKey {
    Workload(WorkloadUid),
    Service(ServiceName),
    Policy(PolicyName),
}

impl Change {
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::Workload(w) => ResourceKey::Workload(w.uid.clone()),
            Self::Service(s) => ResourceKey::Service(s.key()),
            Self::Policy(p) => ResourceKey::Policy(p.name.clone()),
            Self::Remove(key) => key.clone(),
        }
    }
}
