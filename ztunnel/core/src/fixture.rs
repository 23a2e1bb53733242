//! A small mesh for the decision tables: `client` and two `web` pods in namespace `shop`, one service.

use std::{net::SocketAddr, sync::Arc};

use weft_model::{
    Action, Authorization, Change, Clause, Hostname, Identity, Match, Namespace, Network,
    NetworkAddress, OriginalDst, PeerAddr, PolicyName, Ports, Rule, Scope, Service,
    ServiceAccountName, ServiceName, ServicePort, TunnelProtocol, View, Workload, WorkloadUid,
};

use crate::{
    Captured, Draw, Endpoint, Hop, Load, Permit, Plain, Pod, Refusal, Resolved, Tunnelled,
    authorize, balance, next_hop, resolve,
};

pub(crate) fn pod(name: &str, ip: &str) -> Workload {
    let uid = WorkloadUid::new(&format!("Kubernetes//Pod/shop/{name}")).unwrap();
    let namespace = Namespace::new("shop").unwrap();
    let account = ServiceAccountName::new(name.split('-').next().unwrap()).unwrap();
    let mut pod = Workload::new(uid, name, namespace, account);
    pod.addresses = ip.split(',').map(|ip| ip.parse().unwrap()).collect();
    pod.tunnel = TunnelProtocol::Hbone;
    pod
}

pub(crate) fn web_service() -> Service {
    let hostname = Hostname::new("web.shop.svc.cluster.local").unwrap();
    let mut service = Service::new("web", Namespace::new("shop").unwrap(), hostname);
    service.vips = vec![vip("10.1.0.1"), vip("fd00:1::1")];
    service.ports = vec![ServicePort {
        name: None,
        service_port: 80,
        target_port: 8080,
        app_protocol: weft_model::AppProtocol::default(),
    }];
    service
}

pub(crate) fn vip(ip: &str) -> NetworkAddress {
    NetworkAddress::new(Network::default(), ip.parse().unwrap())
}

pub(crate) fn web(name: &str, ip: &str) -> Workload {
    let mut web = pod(name, ip);
    web.services.insert(web_service().key(), Ports::new());
    web
}

pub(crate) fn service_name(name: &str) -> ServiceName {
    format!("shop/{name}").parse().unwrap()
}

/// The mesh of the module's head, with `more` on top; a workload or service of the same name replaces.
pub(crate) fn mesh(more: impl IntoIterator<Item = Change>) -> View {
    let base = [
        Change::Workload(pod("client", "10.0.0.1,fd00::1").into()),
        Change::Workload(web("web-0", "10.0.0.2,fd00::2").into()),
        Change::Workload(web("web-1", "10.0.0.3,fd00::3").into()),
        Change::Service(web_service().into()),
    ];
    base.into_iter().chain(more).collect()
}

pub(crate) fn workload(workload: Workload) -> Change {
    Change::Workload(Arc::new(workload))
}

pub(crate) fn service(service: Service) -> Change {
    Change::Service(Arc::new(service))
}

pub(crate) fn at(address: &str) -> PeerAddr {
    PeerAddr(socket(address))
}

pub(crate) fn socket(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

pub(crate) fn identity(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

pub(crate) fn announced(name: &str) -> Pod {
    Pod {
        namespace: Namespace::new("shop").unwrap(),
        name: name.into(),
        service_account: ServiceAccountName::new(name.split('-').next().unwrap()).unwrap(),
    }
}

pub(crate) fn captured(dst: &str) -> Captured {
    Captured { source: announced("client"), dst: OriginalDst(socket(dst)) }
}

pub(crate) fn tunnelled(authority: &str) -> Tunnelled {
    Tunnelled {
        target: announced("web-0"),
        peer: identity("client"),
        from: at("10.0.0.1:40000"),
        local: at("10.0.0.2:15008"),
        authority: authority.parse().unwrap(),
        forwarded_host: None,
    }
}

pub(crate) fn plain(dst: &str) -> Plain {
    Plain { target: announced("web-0"), from: at("10.0.0.9:40000"), dst: OriginalDst(socket(dst)) }
}

pub(crate) fn permit(view: &View, arrival: impl Into<crate::Arrival>) -> Result<Permit, Refusal> {
    let resolved: Resolved = resolve(view, arrival)?;
    authorize(view, &resolved)
}

/// All the stairs for one outbound connection of `client`.
pub(crate) fn endpoint(view: &View, dst: &str, draw: u64) -> Result<Endpoint, Refusal> {
    let permit = permit(view, captured(dst))?;
    balance(view, &permit, &Load::default(), &[], Draw(draw))
}

pub(crate) fn hop(view: &View, arrival: impl Into<crate::Arrival>) -> Result<Hop, Refusal> {
    let permit = permit(view, arrival)?;
    let endpoint = balance(view, &permit, &Load::default(), &[], Draw(0))?;
    Ok(next_hop(&permit, &endpoint))
}

pub(crate) fn policy(name: &str, action: Action, rules: Vec<Match>) -> Authorization {
    let one = |m| Rule { clauses: vec![Clause { matches: vec![m] }] };
    Authorization {
        name: PolicyName::new("shop", name).unwrap(),
        scope: Scope::Namespace,
        action,
        rules: rules.into_iter().map(one).collect(),
        dry_run: false,
    }
}
