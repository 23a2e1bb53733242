//! Random views from a seed: small worlds, so that names and addresses meet. Every field takes every kind of
//! value. Shared by the crates that must hold for any view.

use std::{net::IpAddr, sync::Arc};

use weft_model::{
    Action, AppProtocol, ApplicationTunnel, Authorization, Change, Clause, Field, GatewayAddress,
    Health, HealthPolicy, Hostname, IpFamilies, LoadBalancing, Locality, Match, Mode, Namespace,
    Network, NetworkAddress, NetworkCidr, NetworkMode, PolicyName, PortName, Ports, RoutingScope,
    Rule, Scope, Service, ServiceAccountMatch, ServiceAccountName, ServiceName, ServicePort,
    StringMatch, TrustDomain, TunnelProtocol, View, Visibility, WeightedWaypoint, Workload,
    WorkloadType, WorkloadUid,
};

#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// True once in `of` times.
    pub(crate) fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub(crate) fn up_to<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.once_in(4) { Some(make(self)) } else { None }
    }

    pub(crate) fn view(&mut self) -> View {
        let mut changes = Vec::new();
        for i in 0..self.below(7) {
            changes.push(Change::Service(self.service(i).into()));
        }
        for i in 0..=self.below(9) {
            changes.push(Change::Workload(self.workload(i).into()));
        }
        for i in 0..self.below(7) {
            changes.push(Change::Policy(self.policy(i).into()));
        }
        changes.into_iter().collect()
    }

    pub(crate) fn namespace(&mut self) -> Namespace {
        Namespace::new(self.pick(&["shop", "zoo", "bank"])).unwrap()
    }

    pub(crate) fn account(&mut self) -> ServiceAccountName {
        ServiceAccountName::new(self.pick(&["default", "web"])).unwrap()
    }

    pub(crate) fn network(&mut self) -> Network {
        Network::new(self.pick(&["", "", "", "east"])).unwrap()
    }

    pub(crate) fn ip(&mut self) -> IpAddr {
        let low = self.below(12);
        let text = if self.once_in(4) { format!("fd00::{low:x}") } else { format!("10.0.0.{low}") };
        text.parse().unwrap()
    }

    pub(crate) fn vip(&mut self) -> IpAddr {
        let low = self.below(6);
        let text =
            if self.once_in(4) { format!("fd00:1::{low:x}") } else { format!("10.1.0.{low}") };
        text.parse().unwrap()
    }

    pub(crate) fn port(&mut self) -> u16 {
        self.pick(&[80, 81, 8080, 15008])
    }

    fn hostname(&mut self) -> Hostname {
        let n = self.below(6);
        Hostname::new(&format!("svc{n}.mesh.internal")).unwrap()
    }

    fn service_name(&mut self) -> ServiceName {
        ServiceName { namespace: self.namespace(), hostname: self.hostname() }
    }

    fn policy_name(&mut self) -> PolicyName {
        let name = format!("p{}", self.below(7));
        PolicyName::new(self.pick(&["", "shop", "zoo"]), &name).unwrap()
    }

    fn text(&mut self) -> Arc<str> {
        self.pick(&["", "a", "b"]).into()
    }

    fn gateway(&mut self) -> GatewayAddress {
        let hbone_port = self.pick(&[15008, 15443, 80]);
        if self.once_in(2) {
            GatewayAddress::Hostname { name: self.service_name(), hbone_port }
        } else {
            let ip = if self.once_in(3) { self.vip() } else { self.ip() };
            let address = NetworkAddress::new(self.network(), ip);
            GatewayAddress::Address { address, hbone_port }
        }
    }

    pub(crate) fn workload(&mut self, i: usize) -> Workload {
        let namespace = self.namespace();
        let kind = self.pick(&["Kubernetes//Pod", "Kubernetes/networking.istio.io/WorkloadEntry"]);
        let name = format!("w{i}");
        let uid = WorkloadUid::new(&format!("{kind}/{namespace}/{name}")).unwrap();
        let mut w = Workload::new(uid, &name, namespace, self.account());
        if self.once_in(5) {
            w.trust_domain = TrustDomain::new("other.org").unwrap();
        }
        w.network = self.network();
        w.addresses = self.up_to(2, Self::ip);
        w.hostname = self.maybe(Self::hostname);
        w.tunnel = self.pick(&[TunnelProtocol::Hbone, TunnelProtocol::Hbone, TunnelProtocol::None]);
        w.native_tunnel = self.once_in(6);
        w.application_tunnel = self.maybe(|r| {
            let port = r.maybe(Self::port);
            if r.once_in(2) {
                ApplicationTunnel::None { port }
            } else {
                ApplicationTunnel::Proxy { port }
            }
        });
        if self.once_in(8) {
            w.waypoint = Some(self.gateway());
        }
        w.network_gateway = self.maybe(Self::gateway);
        if self.once_in(8) {
            w.network_mode = NetworkMode::HostNetwork;
        }
        w.node = self.text();
        w.canonical_name = self.text();
        w.canonical_revision = self.text();
        w.workload_type = self.pick(&[
            WorkloadType::Deployment,
            WorkloadType::CronJob,
            WorkloadType::Pod,
            WorkloadType::Job,
        ]);
        w.workload_name = self.text();
        w.cluster_id = self.text();
        w.locality = Locality { region: self.text(), zone: self.text(), subzone: self.text() };
        if self.once_in(4) {
            w.health = Health::Unhealthy;
        }
        w.capacity = self.pick(&[0, 1, 1, 2, 7]);
        let serves = self.up_to(4, |r| (r.service_name(), r.ports()));
        w.services = serves.into_iter().collect();
        w.policies = self.up_to(2, Self::policy_name);
        w
    }

    fn ports(&mut self) -> Ports {
        let target = |r: &mut Self| r.pick(&[0, 80, 8080, 9090, 15006]);
        self.up_to(3, |r| (r.port(), target(r))).into_iter().collect()
    }

    fn service(&mut self, i: usize) -> Service {
        let mut s = Service::new(&format!("svc{i}"), self.namespace(), self.hostname());
        s.vips = self.up_to(2, |r| NetworkAddress::new(r.network(), r.vip()));
        s.cidr_vips = self.up_to(1, |r| {
            let cidr = r.pick(&["10.1.0.0/16", "10.1.0.0/30", "fd00:1::/64"]).parse().unwrap();
            NetworkCidr { network: r.network(), cidr }
        });
        let protocols = [
            AppProtocol::Unknown,
            AppProtocol::Http11,
            AppProtocol::Http2,
            AppProtocol::Grpc,
            AppProtocol::Tcp,
            AppProtocol::Tls,
        ];
        let ports = self.ports().into_iter().map(|(service_port, target_port)| ServicePort {
            name: self.once_in(2).then(|| PortName::new(self.pick(&["http", "grpc-web"])).unwrap()),
            service_port,
            target_port,
            app_protocol: self.pick(&protocols),
        });
        s.ports = ports.collect();
        s.subject_alt_names = self.up_to(1, |r| {
            weft_model::Identity::new(TrustDomain::default(), r.namespace(), r.account())
        });
        if self.once_in(6) {
            s.waypoint = Some(self.gateway());
        }
        if self.once_in(8) {
            s.weighted_waypoints = self.up_to(2, |r| WeightedWaypoint {
                destination: r.gateway(),
                weight: r.pick(&[0, 1, 9]),
            });
        }
        s.load_balancing = self.load_balancing();
        s.ip_families = self.pick(&[
            IpFamilies::Automatic,
            IpFamilies::Ipv4Only,
            IpFamilies::Ipv6Only,
            IpFamilies::Dual,
        ]);
        s.canonical = self.once_in(3);
        s.ingress_use_waypoint = self.once_in(3);
        if self.once_in(5) {
            s.visibility = Visibility::Namespace;
        }
        s
    }

    fn load_balancing(&mut self) -> LoadBalancing {
        let scopes = [
            RoutingScope::Region,
            RoutingScope::Zone,
            RoutingScope::Subzone,
            RoutingScope::Node,
            RoutingScope::Cluster,
            RoutingScope::Network,
        ];
        LoadBalancing {
            routing_preference: self.up_to(3, |r| r.pick(&scopes)),
            mode: self.pick(&[
                Mode::Any,
                Mode::Any,
                Mode::Strict,
                Mode::Failover,
                Mode::Passthrough,
            ]),
            health: self.pick(&[HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]),
        }
    }

    pub(crate) fn policy(&mut self, i: usize) -> Authorization {
        let scope = self.pick(&[Scope::Global, Scope::Namespace, Scope::Workload]);
        let namespace = self.pick(&["", "shop", "zoo"]);
        Authorization {
            name: PolicyName::new(namespace, &format!("p{i}")).unwrap(),
            scope,
            action: self.pick(&[Action::Allow, Action::Deny]),
            rules: self.up_to(3, |r| Rule {
                clauses: r.up_to(2, |r| Clause { matches: r.up_to(2, Self::policy_match) }),
            }),
            dry_run: self.once_in(5),
        }
    }

    fn policy_match(&mut self) -> Match {
        let ranges = ["10.0.0.0/29", "10.0.0.3/32", "fd00::/16", "0.0.0.0/0"];
        Match {
            namespaces: self.field(Self::string),
            principals: self.field(Self::string),
            service_accounts: self.field(|r| ServiceAccountMatch {
                namespace: r.namespace(),
                service_account: r.account(),
            }),
            source_ips: self.field(|r| r.pick(&ranges).parse().unwrap()),
            destination_ips: self.field(|r| r.pick(&ranges).parse().unwrap()),
            destination_ports: self.field(Self::port),
        }
    }

    /// Mostly silent, or no policy would ever match.
    fn field<T>(&mut self, mut value: impl FnMut(&mut Self) -> T) -> Field<T> {
        let mut some =
            |r: &mut Self| if r.once_in(5) { r.up_to(2, &mut value) } else { Vec::new() };
        let any_of = some(self);
        Field { any_of, none_of: some(self) }
    }

    fn string(&mut self) -> StringMatch {
        let text: Arc<str> = self
            .pick(&["shop", "zoo", "", "cluster.local/ns/shop/sa/web", "cluster.local/", "/sa/web"])
            .into();
        match self.below(4) {
            0 => StringMatch::Exact(text),
            1 => StringMatch::Prefix(text),
            2 => StringMatch::Suffix(text),
            _ => StringMatch::Presence,
        }
    }
}
