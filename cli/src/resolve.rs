//! `weft resolve`: what the mesh makes of a name or an address, by its DNS and its picture of services.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;
use weft_model::{
    Health, Hostname, Mode, Namespace, Network, NetworkAddress, OriginalDst, Service,
    ServiceAccountName, ServiceName, View, Workload, WorkloadUid, dump::Dump,
};
use ztunnel_core::{
    Choice, LeftOut, choices,
    names::{self, Asker},
};

use crate::ends::{AskError, client, split};

mod shown;
pub(crate) use shown::show;

/// Names with fewer dots than this are completed before they are asked as they are, as in each pod of Kubernetes.
const NDOTS: usize = 5;

pub(crate) struct Question<'a> {
    /// A name or an address, and maybe a port.
    pub(crate) text: &'a str,
    /// The pod that asks; else nobody in particular of the namespace does.
    pub(crate) from: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) cluster_domain: &'a str,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resolution {
    asked: String,
    /// The pod that asked, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<WorkloadUid>,
    namespace: Namespace,
    network: Network,
    #[serde(flatten)]
    found: Found,
    /// Why a connection would fail, or go where nobody knows who is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "is")]
enum Found {
    Service {
        service: ServiceName,
        /// As which it was found, where a name was asked.
        name: Option<Hostname>,
        addresses: Vec<IpAddr>,
        /// From service port to target port; 0 is one that each endpoint says for itself.
        ports: BTreeMap<u16, u16>,
        endpoints: Vec<Row>,
    },
    Workload {
        name: Option<Hostname>,
        addresses: Vec<IpAddr>,
        endpoints: Vec<Row>,
    },
    Unknown,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    workload: WorkloadUid,
    addresses: Vec<IpAddr>,
    health: Health,
    node: Arc<str>,
    region: Arc<str>,
    zone: Arc<str>,
    subzone: Arc<str>,
    /// By service port, why it is never picked.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    left_out: BTreeMap<u16, LeftOut>,
}

/// The node whose proxy answers the pod that asks.
pub(crate) fn decider(dump: Dump, from: Option<&str>, namespace: Option<&str>) -> Option<String> {
    let view = crate::source::view(dump).ok()?;
    let node = client(&view, from?, namespace).ok()?.node.to_string();
    Some(node).filter(|node| !node.is_empty())
}

pub(crate) fn resolve(view: &View, question: &Question<'_>) -> Result<Resolution, AskError> {
    let asker = match question.from {
        Some(from) => client(view, from, question.namespace)?.clone(),
        None => Arc::new(somebody(view, question.namespace.unwrap_or("default"))?),
    };
    let (text, port) = split(question.text)?;
    let look = Look { view, asker: &asker, port, cluster_domain: question.cluster_domain };
    let (found, problem) = match text.parse::<IpAddr>() {
        Ok(ip) => look.at(ip),
        Err(_) => look.named(text)?,
    };
    Ok(Resolution {
        asked: question.text.to_owned(),
        from: question.from.map(|_| asker.uid.clone()),
        namespace: asker.namespace.clone(),
        network: asker.network.clone(),
        found,
        problem,
    })
}

/// A client without a place, in the network of its neighbours.
fn somebody(view: &View, namespace: &str) -> Result<Workload, AskError> {
    let wrong = |source| AskError::Name { text: namespace.to_owned(), source };
    let namespace = Namespace::new(namespace).map_err(wrong)?;
    let (uid, account) = (WorkloadUid::new("somebody"), ServiceAccountName::new("default"));
    let mut somebody =
        Workload::new(uid.map_err(wrong)?, "somebody", namespace.clone(), account.map_err(wrong)?);
    let neighbour = view.workloads().min_by_key(|it| (it.namespace != namespace, it.uid.clone()));
    if let Some(neighbour) = neighbour {
        somebody.network = neighbour.network.clone();
    }
    Ok(somebody)
}

/// What a client sees.
struct Look<'a> {
    view: &'a View,
    asker: &'a Arc<Workload>,
    port: Option<u16>,
    cluster_domain: &'a str,
}

/// And why a connection would fail, or go where nobody knows who is there.
type Seen = (Found, Option<String>);

impl Look<'_> {
    /// As the proxy looks up what was dialled: a pod's own address before a service's.
    fn at(&self, ip: IpAddr) -> Seen {
        let address = NetworkAddress::new(self.asker.network.clone(), ip.to_canonical());
        if let Some(workload) = self.view.workload_at(&address) {
            return of_workload(workload, None, vec![ip]);
        }
        if let Some(service) = self.view.service_at(&address, &self.asker.namespace) {
            return self.service(service, None, vec![ip]);
        }
        let why = "the mesh knows nobody there: connections go there in the clear";
        (Found::Unknown, Some(why.to_owned()))
    }

    /// As a pod's resolver asks, and the mesh's DNS answers.
    fn named(&self, text: &str) -> Result<Seen, AskError> {
        let asker = Asker { namespace: &self.asker.namespace, network: &self.asker.network };
        let completed = self.completed(text)?;
        let tried = completed
            .iter()
            .flat_map(|it| names::candidates(it, asker.namespace, self.cluster_domain));
        for candidate in tried {
            match names::find(self.view, asker, &candidate) {
                Some(found @ names::Found::Service { service, .. }) => {
                    let addresses = found.addresses();
                    if let Some(service) = self.view.service(&service.key()) {
                        return Ok(self.service(service, Some(candidate), addresses));
                    }
                }
                Some(names::Found::Workload { workload, addresses }) => {
                    return Ok(of_workload(workload, Some(candidate), addresses));
                }
                None => {}
            }
        }
        let why = "the mesh has no address for it: the pod's own resolver is asked";
        Ok((Found::Unknown, Some(why.to_owned())))
    }

    /// What a pod's resolver asks for, one after another.
    fn completed(&self, text: &str) -> Result<Vec<Hostname>, AskError> {
        let wrong = |source| AskError::Name { text: text.to_owned(), source };
        let name = Hostname::new(text.trim_end_matches('.')).map_err(wrong)?;
        if text.ends_with('.') {
            return Ok(vec![name]);
        }
        let (namespace, domain) = (&self.asker.namespace, self.cluster_domain);
        let domains =
            [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        let longer = domains.iter().filter_map(|it| Hostname::new(&format!("{name}.{it}")).ok());
        let mut all: Vec<_> = longer.collect();
        let place = if text.matches('.').count() < NDOTS { all.len() } else { 0 };
        all.insert(place, name);
        Ok(all)
    }

    fn service(
        &self,
        service: &Arc<Service>,
        name: Option<Hostname>,
        addresses: Vec<IpAddr>,
    ) -> Seen {
        let meant = |port: u16| self.port.is_none_or(|asked| asked == port);
        let ports = service.ports.iter().filter(|it| meant(it.service_port));
        let ports: BTreeMap<_, _> = ports.map(|it| (it.service_port, it.target_port)).collect();
        let key = service.key();
        let endpoints = self.view.endpoints(&key);
        let mut rows: BTreeMap<_, _> =
            endpoints.map(|it| (it.workload.uid.clone(), Row::of(it.workload))).collect();
        let ip = addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mut problem = None;
        let asked = self.port.map_or_else(|| ports.keys().copied().collect(), |port| vec![port]);
        for port in asked {
            let dst = OriginalDst::new(SocketAddr::new(ip, port));
            match choices(self.view, self.asker, service, dst) {
                Ok(all) => {
                    if !can_serve(service, &all) {
                        problem = Some(format!("no endpoint can serve port {port}"));
                    }
                    for choice in all {
                        let row = rows.get_mut(&choice.workload.uid);
                        if let (Some(row), Some(reason)) = (row, choice.left_out) {
                            row.left_out.insert(port, reason);
                        }
                    }
                }
                Err(refusal) => problem = Some(refusal.to_string()),
            }
        }
        let endpoints = rows.into_values().collect();
        (Found::Service { service: key, name, addresses, ports, endpoints }, problem)
    }
}

/// What passes all through goes to the address that was dialled, whoever is there.
fn can_serve(service: &Service, all: &[Choice<'_>]) -> bool {
    service.load_balancing.mode == Mode::Passthrough || all.iter().any(|it| it.left_out.is_none())
}

fn of_workload(workload: &Workload, name: Option<Hostname>, addresses: Vec<IpAddr>) -> Seen {
    (Found::Workload { name, addresses, endpoints: vec![Row::of(workload)] }, None)
}

impl Row {
    fn of(workload: &Workload) -> Self {
        Self {
            workload: workload.uid.clone(),
            addresses: workload.addresses.clone(),
            health: workload.health,
            node: workload.node.clone(),
            region: workload.locality.region.clone(),
            zone: workload.locality.zone.clone(),
            subzone: workload.locality.subzone.clone(),
            left_out: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
