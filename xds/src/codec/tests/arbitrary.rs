//! Any value of the model that the wire can say.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};
use weft_model::*;

pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        workload().prop_map(|w| Change::Workload(Arc::new(w))),
        service().prop_map(|s| Change::Service(Arc::new(s))),
        policy().prop_map(|p| Change::Policy(Arc::new(p))),
    ]
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zA-Z0-9 /:._é-]{0,12}".prop_map(Arc::from)
}

fn namespace() -> impl Strategy<Value = Namespace> {
    "[a-z][a-z0-9-]{0,8}".prop_map(|s| Namespace::new(&s).unwrap())
}

fn account() -> impl Strategy<Value = ServiceAccountName> {
    "[a-z][a-z0-9.-]{0,8}".prop_map(|s| ServiceAccountName::new(&s).unwrap())
}

fn network() -> impl Strategy<Value = Network> {
    "([a-z][a-z0-9-]{0,6})?".prop_map(|s| Network::new(&s).unwrap())
}

fn hostname() -> impl Strategy<Value = Hostname> {
    r"(\*\.)?[a-z][a-z0-9_-]{0,6}(\.[a-z]{1,4}){0,2}".prop_map(|s| Hostname::new(&s).unwrap())
}

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z][a-z0-9._-]{0,8}".prop_map(|s| TrustDomain::new(&s).unwrap())
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (namespace(), hostname()).prop_map(|(namespace, hostname)| ServiceName { namespace, hostname })
}

fn policy_name() -> impl Strategy<Value = PolicyName> {
    ("([a-z][a-z0-9-]{0,5})?", "[a-z][a-z0-9._-]{0,8}")
        .prop_map(|(ns, name)| PolicyName::new(&ns, &name).unwrap())
}

fn identity() -> impl Strategy<Value = Identity> {
    (trust_domain(), namespace(), account()).prop_map(|(t, n, a)| Identity::new(t, n, a))
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)).to_canonical()),
    ]
}

fn cidr() -> impl Strategy<Value = IpNet> {
    (ip(), 0..=128u8).prop_map(|(address, prefix)| {
        let max = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, prefix.min(max)).unwrap()
    })
}

fn network_address() -> impl Strategy<Value = NetworkAddress> {
    (network(), ip()).prop_map(|(network, ip)| NetworkAddress::new(network, ip))
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    prop_oneof![
        (service_name(), any::<u16>())
            .prop_map(|(name, hbone_port)| GatewayAddress::Hostname { name, hbone_port }),
        (network_address(), any::<u16>())
            .prop_map(|(address, hbone_port)| GatewayAddress::Address { address, hbone_port }),
    ]
}

fn application_tunnel() -> impl Strategy<Value = ApplicationTunnel> {
    prop_oneof![
        option::of(1..=u16::MAX).prop_map(|port| ApplicationTunnel::None { port }),
        option::of(1..=u16::MAX).prop_map(|port| ApplicationTunnel::Proxy { port }),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    proptest::collection::btree_map(any::<u16>(), any::<u16>(), 0..3).prop_map(Ports::from)
}

pub(crate) fn workload() -> impl Strategy<Value = Workload> {
    let who = ("[!-~]{1,20}", text(), namespace(), account(), trust_domain(), network());
    let place = (vec(ip(), 0..3), option::of(hostname()), text(), text(), any::<u32>());
    let ways = (option::of(application_tunnel()), option::of(gateway()), option::of(gateway()));
    let refs =
        (proptest::collection::btree_map(service_name(), ports(), 0..3), vec(policy_name(), 0..3));
    let kinds = (
        select(vec![TunnelProtocol::None, TunnelProtocol::Hbone]),
        any::<bool>(),
        select(vec![NetworkMode::Standard, NetworkMode::HostNetwork]),
        select(vec![
            WorkloadType::Deployment,
            WorkloadType::CronJob,
            WorkloadType::Pod,
            WorkloadType::Job,
        ]),
        select(vec![Health::Healthy, Health::Unhealthy]),
    );
    let labels = (text(), text(), text(), "[a-z]{1,5}", (text(), text(), text()));
    (who, place, ways, refs, kinds, labels).prop_map(|(who, place, ways, refs, kinds, labels)| {
        let mut w = Workload::new(WorkloadUid::new(&who.0).unwrap(), &who.1, who.2, who.3);
        (w.trust_domain, w.network) = (who.4, who.5);
        (w.addresses, w.hostname, w.node, w.workload_name, w.capacity) = place;
        (w.application_tunnel, w.waypoint, w.network_gateway) = ways;
        w.services = refs.0.into();
        w.policies = refs.1;
        (w.tunnel, w.native_tunnel, w.network_mode, w.workload_type, w.health) = kinds;
        (w.canonical_name, w.canonical_revision) = (labels.0, labels.1);
        w.cluster_id = labels.3.as_str().into();
        let (region, zone, subzone) = labels.4;
        w.locality = Locality { region, zone, subzone };
        w
    })
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let protocol = select(vec![
        AppProtocol::Unknown,
        AppProtocol::Http11,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
        AppProtocol::Tls,
    ]);
    let name = option::of("[a-z0-9-]{1,15}".prop_map(|name| PortName::new(&name).unwrap()));
    (any::<u16>(), any::<u16>(), protocol, name).prop_map(
        |(service_port, target_port, app_protocol, name)| ServicePort {
            name,
            service_port,
            target_port,
            app_protocol,
        },
    )
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    let scope = select(vec![
        RoutingScope::Region,
        RoutingScope::Zone,
        RoutingScope::Subzone,
        RoutingScope::Node,
        RoutingScope::Cluster,
        RoutingScope::Network,
    ]);
    let mode = select(vec![Mode::Any, Mode::Strict, Mode::Failover, Mode::Passthrough]);
    let health = select(vec![HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]);
    (vec(scope, 0..4), mode, health).prop_map(|(routing_preference, mode, health)| LoadBalancing {
        routing_preference,
        mode,
        health,
    })
}

pub(crate) fn service() -> impl Strategy<Value = Service> {
    let range = (network(), cidr()).prop_map(|(network, cidr)| NetworkCidr { network, cidr });
    let weighted = (gateway(), any::<u32>())
        .prop_map(|(destination, weight)| WeightedWaypoint { destination, weight });
    let families = select(vec![
        IpFamilies::Automatic,
        IpFamilies::Ipv4Only,
        IpFamilies::Ipv6Only,
        IpFamilies::Dual,
    ]);
    let visibility = select(vec![Visibility::Public, Visibility::Namespace]);
    let who = (text(), namespace(), hostname(), vec(identity(), 0..3));
    let addresses = (vec(network_address(), 0..3), vec(range, 0..2), vec(service_port(), 0..3));
    let ways = (option::of(gateway()), vec(weighted, 0..2), load_balancing());
    let rest = (families, any::<bool>(), any::<bool>(), visibility);
    (who, addresses, ways, rest).prop_map(|(who, addresses, ways, rest)| {
        let mut s = Service::new(&who.0, who.1, who.2);
        s.subject_alt_names = who.3;
        (s.vips, s.cidr_vips, s.ports) = addresses;
        (s.waypoint, s.weighted_waypoints, s.load_balancing) = ways;
        (s.ip_families, s.canonical, s.ingress_use_waypoint, s.visibility) = rest;
        s
    })
}

fn field<T: Clone + std::fmt::Debug>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Field<T>> {
    (vec(value.clone(), 0..3), vec(value, 0..2))
        .prop_map(|(any_of, none_of)| Field { any_of, none_of })
}

fn string_match() -> impl Strategy<Value = StringMatch> + Clone {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
    .boxed()
}

fn one_match() -> impl Strategy<Value = Match> {
    let account = (namespace(), account())
        .prop_map(|(namespace, service_account)| ServiceAccountMatch { namespace, service_account })
        .boxed();
    let range = cidr().boxed();
    let texts = (field(string_match()), field(string_match()), field(account));
    (texts, field(range.clone()), field(range), field(any::<u16>())).prop_map(
        |((namespaces, principals, service_accounts), source_ips, destination_ips, ports)| Match {
            namespaces,
            principals,
            service_accounts,
            source_ips,
            destination_ips,
            destination_ports: ports,
        },
    )
}

pub(crate) fn policy() -> impl Strategy<Value = Authorization> {
    let clause = vec(one_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    let scope = select(vec![Scope::Global, Scope::Namespace, Scope::Workload]);
    let action = select(vec![Action::Allow, Action::Deny]);
    (policy_name(), scope, action, vec(rule, 0..3), any::<bool>()).prop_map(
        |(name, scope, action, rules, dry_run)| Authorization {
            name,
            scope,
            action,
            rules,
            dry_run,
        },
    )
}
