//! Texts that many resources carry, each in memory once.

use std::{collections::HashSet, sync::Arc};

use crate::{Change, GatewayAddress, Service, ServiceName, Workload};

/// Below it nothing is looked through for what nobody uses any more.
const SWEPT_FROM: usize = 1024;

/// Ten thousand workloads have some hundred nodes, namespaces and service accounts between them. Decoded, each
/// would be ten thousand allocations.
#[derive(Debug, Default)]
pub struct Texts {
    known: HashSet<Arc<str>>,
    /// How many there were when it was last swept.
    swept: usize,
}

impl Texts {
    /// Lets a resource that was just made use the texts of those before it, and gives back what its lists have
    /// reserved. One that is shared already is left as it is.
    pub fn share(&mut self, change: &mut Change) {
        match change {
            Change::Workload(workload) => {
                if let Some(workload) = Arc::get_mut(workload) {
                    self.workload(workload);
                }
            }
            Change::Service(service) => {
                if let Some(service) = Arc::get_mut(service) {
                    self.service(service);
                }
            }
            // Few, and unlike.
            Change::Policy(_) | Change::Remove(_) => {}
        }
        if self.known.len() > SWEPT_FROM.max(2 * self.swept) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.swept = self.known.len();
        }
    }

    fn workload(&mut self, w: &mut Workload) {
        w.addresses.shrink_to_fit();
        w.policies.shrink_to_fit();
        // A pod that nobody owns is its own workload.
        for text in [&mut w.canonical_name, &mut w.workload_name] {
            if *text == w.name {
                *text = w.name.clone();
            } else {
                self.one(text);
            }
        }
        let place = &mut w.locality;
        for text in [
            &mut w.node,
            &mut w.canonical_revision,
            &mut w.cluster_id,
            &mut place.region,
            &mut place.zone,
            &mut place.subzone,
        ] {
            self.one(text);
        }
        let Workload { namespace, service_account, trust_domain, network, .. } = w;
        self.one(&mut namespace.0);
        self.one(&mut service_account.0);
        self.one(&mut trust_domain.0);
        self.one(&mut network.0);
        w.waypoint.iter_mut().chain(&mut w.network_gateway).for_each(|g| self.gateway(g));
        w.services.each_key(|name| self.service_name(name));
        for policy in &mut w.policies {
            self.one(&mut policy.namespace);
            self.one(&mut policy.name);
        }
    }

    fn service(&mut self, s: &mut Service) {
        s.vips.shrink_to_fit();
        s.ports.shrink_to_fit();
        self.one(&mut s.name);
        self.one(&mut s.namespace.0);
        self.one(&mut s.hostname.0);
        s.vips.iter_mut().for_each(|vip| self.one(&mut vip.network.0));
        s.waypoint.iter_mut().for_each(|g| self.gateway(g));
    }

    fn gateway(&mut self, gateway: &mut GatewayAddress) {
        match gateway {
            GatewayAddress::Hostname { name, .. } => self.service_name(name),
            GatewayAddress::Address { address, .. } => self.one(&mut address.network.0),
        }
    }

    fn service_name(&mut self, name: &mut ServiceName) {
        self.one(&mut name.namespace.0);
        self.one(&mut name.hostname.0);
    }

    fn one(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.known.get(text) {
            *text = known.clone();
        } else {
            self.known.insert(text.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Namespace, ServiceAccountName, WorkloadUid};

    fn workload(name: &str, node: &str) -> Workload {
        let uid = WorkloadUid::new(&format!("K//Pod/shop/{name}")).unwrap();
        let account = ServiceAccountName::new("web").unwrap();
        let mut w = Workload::new(uid, name, Namespace::new("shop").unwrap(), account);
        w.node = node.into();
        w
    }

    fn shared(texts: &mut Texts, workload: &Workload) -> Arc<Workload> {
        let mut change = Change::Workload(Arc::new(workload.clone()));
        texts.share(&mut change);
        let Change::Workload(workload) = change else { panic!("{change:?}") };
        workload
    }

    #[test]
    fn equal_texts_of_two_workloads_are_one_and_say_the_same() {
        let mut texts = Texts::default();
        let (a, b) = (workload("a", "node"), workload("b", "node"));
        let (one, other) = (shared(&mut texts, &a), shared(&mut texts, &b));
        assert_eq!((&*one, &*other), (&a, &b));
        assert!(Arc::ptr_eq(&one.node, &other.node));
        assert!(Arc::ptr_eq(&one.namespace.0, &other.namespace.0));
    }

    #[test]
    fn texts_that_nobody_uses_any_more_are_forgotten() {
        let mut texts = Texts::default();
        let stays = shared(&mut texts, &workload("stays", "stays"));
        for n in 0..4 * SWEPT_FROM {
            shared(&mut texts, &workload("goes", &format!("node-{n}")));
        }
        assert!(texts.known.len() <= SWEPT_FROM + 1, "{} are known", texts.known.len());
        assert!(Arc::ptr_eq(texts.known.get("stays").unwrap(), &stays.node));
    }
}
