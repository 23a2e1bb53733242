use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{Action, Network, NetworkMode, Rule, ServiceAccountName};

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn at(ip: &str) -> NetworkAddress {
    NetworkAddress::new(Network::default(), ip.parse().unwrap())
}

fn pod(name: &str, ip: &str) -> Workload {
    let uid = WorkloadUid::new(&format!("Kubernetes//Pod/shop/{name}")).unwrap();
    let account = ServiceAccountName::new("web").unwrap();
    let mut pod = Workload::new(uid, name, namespace("shop"), account);
    pod.addresses = vec![ip.parse().unwrap()];
    pod
}

fn service(ns: &str, vip: &str) -> Service {
    let hostname = Hostname::new("web.shop.svc.cluster.local").unwrap();
    let mut service = Service::new("web", namespace(ns), hostname);
    service.vips = vec![at(vip)];
    service
}

fn policy(namespace: &str, name: &str, scope: Scope) -> Authorization {
    Authorization {
        name: PolicyName::new(namespace, name).unwrap(),
        scope,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
    }
}

fn view(changes: impl IntoIterator<Item = Change>) -> View {
    changes.into_iter().collect()
}

#[test]
fn a_reused_address_belongs_to_the_pod_and_then_to_what_speaks_hbone() {
    let mut entry = pod("vm", "10.0.0.1");
    entry.uid = WorkloadUid::new("Kubernetes/networking.istio.io/WorkloadEntry/shop/vm").unwrap();
    entry.tunnel = TunnelProtocol::Hbone;
    let old = pod("old", "10.0.0.1");
    let mut new = pod("new", "10.0.0.1");
    let both = view([Change::Workload(entry.clone().into()), Change::Workload(old.into())]);
    assert_eq!(&*both.workload_at(&at("10.0.0.1")).unwrap().name, "old");
    new.tunnel = TunnelProtocol::Hbone;
    let mut three = both.clone();
    three.apply(Change::Workload(new.clone().into()));
    assert_eq!(&*three.workload_at(&at("10.0.0.1")).unwrap().name, "new");
    three.apply(Change::Remove(ResourceKey::Workload(new.uid)));
    assert_eq!(&*three.workload_at(&at("10.0.0.1")).unwrap().name, "old");
}

#[test]
fn a_pod_on_the_hosts_network_is_not_found_by_the_hosts_address() {
    let mut agent = pod("agent", "10.0.0.9");
    agent.network_mode = NetworkMode::HostNetwork;
    let view = view([Change::Workload(agent.into())]);
    assert!(view.workload_at(&at("10.0.0.9")).is_none());
    assert!(view.pod(&namespace("shop"), "agent").is_some());
}

#[test]
fn an_address_moves_with_its_workload() {
    let mut view = view([Change::Workload(pod("web-0", "10.0.0.1").into())]);
    view.apply(Change::Workload(pod("web-0", "10.0.0.2").into()));
    assert!(view.workload_at(&at("10.0.0.1")).is_none());
    assert!(view.workload_at(&at("10.0.0.2")).is_some());
}

#[test]
fn a_workload_is_found_by_its_host_name_while_it_has_it() {
    let name = Hostname::new("vm.example.com").unwrap();
    let mut vm = pod("vm", "10.0.0.1");
    vm.hostname = Some(name.clone());
    let mut view = view([Change::Workload(vm.clone().into())]);
    assert_eq!(view.workload_named(&name).map(|w| &w.uid), Some(&vm.uid));
    vm.hostname = None;
    view.apply(Change::Workload(vm.into()));
    assert!(view.workload_named(&name).is_none());
}

#[test]
fn the_address_of_a_pod_that_left_the_mesh_is_retired_until_somebody_comes_to_it() {
    let mut web = pod("web-0", "10.0.0.1");
    web.tunnel = TunnelProtocol::Hbone;
    let mut view = view([Change::Workload(web.clone().into())]);
    assert!(!view.is_retired(&at("10.0.0.1")));
    view.apply(Change::Remove(ResourceKey::Workload(web.uid)));
    assert!(view.is_retired(&at("10.0.0.1")));
    view.apply(Change::Workload(pod("plain", "10.0.0.1").into()));
    assert!(!view.is_retired(&at("10.0.0.1")));
    view.apply(Change::Remove(ResourceKey::Workload(pod("plain", "10.0.0.1").uid)));
    assert!(
        !view.is_retired(&at("10.0.0.1")),
        "a pod outside of the mesh leaves nothing to protect"
    );
}

#[test]
fn a_change_of_a_pod_that_keeps_its_address_retires_nothing() {
    let mut web = pod("web-0", "10.0.0.1");
    web.tunnel = TunnelProtocol::Hbone;
    let mut view = view([Change::Workload(web.clone().into())]);
    web.capacity = 7;
    view.apply(Change::Workload(web.into()));
    assert!(!view.is_retired(&at("10.0.0.1")));
}

#[test]
fn the_oldest_retired_address_is_forgotten_beyond_the_bound() {
    let mut view = View::default();
    let bound = u32::try_from(RETIRED_MAX).unwrap();
    let ip = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n);
    for n in 0..=bound {
        let mut web = pod("web-0", &ip(n).to_string());
        web.tunnel = TunnelProtocol::Hbone;
        view.apply(Change::Workload(web.into()));
    }
    let retired = |n| view.is_retired(&NetworkAddress::new(Network::default(), ip(n).into()));
    assert!(retired(0) && retired(bound - 1) && !retired(bound), "the last one is in use");
    view.apply(Change::Remove(ResourceKey::Workload(pod("web-0", "10.0.0.0").uid)));
    let retired = |n| view.is_retired(&NetworkAddress::new(Network::default(), ip(n).into()));
    assert!(!retired(0) && retired(1) && retired(bound));
}

#[test]
fn a_vip_means_the_service_of_the_clients_own_namespace_first() {
    let mut private = service("shop", "240.0.0.1");
    private.visibility = Visibility::Namespace;
    let public = service("zoo", "240.0.0.1");
    let view = view([Change::Service(private.into()), Change::Service(public.into())]);
    let seen_by = |ns: &str| view.service_at(&at("240.0.0.1"), &namespace(ns)).unwrap().key();
    assert_eq!(seen_by("shop").namespace.as_str(), "shop");
    assert_eq!(seen_by("other").namespace.as_str(), "zoo");
}

#[test]
fn the_longest_range_wins_and_an_exact_vip_wins_over_any() {
    let range = |ns: &str, cidr: &str| {
        let mut s = service(ns, "192.0.2.1");
        s.vips.clear();
        s.cidr_vips =
            vec![NetworkCidr { network: Network::default(), cidr: cidr.parse().unwrap() }];
        Change::Service(s.into())
    };
    let mut view = view([range("wide", "10.0.0.0/8"), range("narrow", "10.1.0.0/16")]);
    let found = |view: &View| {
        view.service_at(&at("10.1.2.3"), &namespace("x")).unwrap().namespace.to_string()
    };
    assert_eq!(found(&view), "narrow");
    view.apply(Change::Service(service("exact", "10.1.2.3").into()));
    assert_eq!(found(&view), "exact");
}

#[test]
fn a_wildcard_service_is_found_by_any_name_below_it_and_after_an_exact_one() {
    let mut wild = service("shop", "240.0.0.1");
    wild.hostname = Hostname::new("*.example.com").unwrap();
    let mut exact = service("shop", "240.0.0.2");
    exact.hostname = Hostname::new("a.example.com").unwrap();
    let view = view([Change::Service(wild.into()), Change::Service(exact.into())]);
    let named = |h: &str| {
        view.service_named(&Hostname::new(h).unwrap(), &namespace("x")).map(|s| s.hostname.clone())
    };
    assert_eq!(named("a.example.com").unwrap().as_str(), "a.example.com");
    assert_eq!(named("x.y.example.com").unwrap().as_str(), "*.example.com");
    assert_eq!(named("example.com"), None);
}

#[test]
fn an_endpoint_may_arrive_before_its_service_and_leaves_with_its_workload() {
    let name = service("shop", "240.0.0.1").key();
    let mut web = pod("web-0", "10.0.0.1");
    web.services = crate::Table::from([(name.clone(), Ports::from([(80, 8080)]))]);
    let mut view = view([Change::Workload(web.clone().into())]);
    let ports: Vec<_> = view.endpoints(&name).map(|e| e.ports.clone()).collect();
    assert_eq!(ports, [Ports::from([(80, 8080)])]);
    view.apply(Change::Remove(ResourceKey::Workload(web.uid)));
    assert_eq!(view.endpoints(&name).count(), 0);
}

#[test]
fn a_workload_is_governed_by_the_mesh_its_namespace_and_what_it_lists() {
    let mut web = pod("web-0", "10.0.0.1");
    let missing = PolicyName::new("shop", "missing").unwrap();
    web.policies = vec![PolicyName::new("shop", "listed").unwrap(), missing.clone()];
    let view = view([
        Change::Policy(policy("istio-system", "mesh", Scope::Global).into()),
        Change::Policy(policy("shop", "ns", Scope::Namespace).into()),
        Change::Policy(policy("zoo", "other", Scope::Namespace).into()),
        Change::Policy(policy("shop", "listed", Scope::Workload).into()),
        Change::Policy(policy("shop", "unlisted", Scope::Workload).into()),
    ]);
    let names: Vec<_> = view.policies_of(&web).map(|p| p.map(|p| p.name.to_string())).collect();
    let known = |n: &str| Ok(n.to_owned());
    assert_eq!(
        names,
        [known("istio-system/mesh"), known("shop/ns"), known("shop/listed"), Err(&missing)]
    );
}

#[test]
fn an_equal_resource_is_no_change() {
    let mut view = view([Change::Workload(pod("a", "10.0.0.1").into())]);
    view.apply(Change::Workload(pod("a", "10.0.0.1").into()));
    assert_eq!(view.generation(), 1);
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = (0..4u8).prop_map(|n| format!("w{n}"));
    let ip = (0..4u8).prop_map(|n| format!("10.0.0.{n}"));
    let scope = prop_oneof![Just(Scope::Global), Just(Scope::Namespace), Just(Scope::Workload)];
    prop_oneof![
        (name.clone(), ip.clone(), any::<bool>()).prop_map(|(name, ip, serves)| {
            let mut pod = pod(&name, &ip);
            if serves {
                pod.hostname = Some(Hostname::new(&format!("{name}.example.com")).unwrap());
                pod.services.insert(service("shop", "240.0.0.1").key(), Ports::new());
            }
            Change::Workload(pod.into())
        }),
        name.clone().prop_map(|n| Change::Remove(ResourceKey::Workload(pod(&n, "10.0.0.0").uid))),
        (ip, any::<bool>()).prop_map(|(ip, canonical)| {
            let mut service = service("shop", &ip);
            service.canonical = canonical;
            Change::Service(service.into())
        }),
        Just(Change::Remove(ResourceKey::Service(service("shop", "10.0.0.0").key()))),
        (name, scope).prop_map(|(n, scope)| Change::Policy(policy("shop", &n, scope).into())),
    ]
}

proptest! {
    /// Whatever led to it, a view answers as one made from scratch from the same resources.
    #[test]
    fn history_leaves_no_trace(changes in proptest::collection::vec(any_change(), 0..60)) {
        let grown = view(changes.clone());
        let mut last = BTreeMap::new();
        for change in changes {
            last.insert(change.key(), change);
        }
        let fresh = view(last.into_values().rev());
        prop_assert_eq!(&grown, &fresh);
        prop_assert_eq!(&grown.workloads_by_address, &fresh.workloads_by_address);
        prop_assert_eq!(&grown.workloads_by_name, &fresh.workloads_by_name);
        prop_assert_eq!(&grown.workloads_by_hostname, &fresh.workloads_by_hostname);
        prop_assert_eq!(&grown.services_by_vip, &fresh.services_by_vip);
        prop_assert_eq!(&grown.services_by_hostname, &fresh.services_by_hostname);
        prop_assert_eq!(&grown.endpoints, &fresh.endpoints);
        prop_assert_eq!(&grown.policies_by_namespace, &fresh.policies_by_namespace);
    }
}

#[test]
fn views_agree_on_a_workload_until_it_or_any_policy_changes() {
    let before = view([
        Change::Workload(pod("a", "10.0.0.1").into()),
        Change::Policy(policy("shop", "p", Scope::Namespace).into()),
    ]);
    let with = |change: Change| {
        let mut after = before.clone();
        after.apply(change);
        after
    };
    let (a, b) = (pod("a", "10.0.0.1").uid, pod("b", "10.0.0.2"));
    let uid = b.uid.clone();
    assert!(before.agrees_on(&with(Change::Workload(b.into())), &a));
    assert!(!before.agrees_on(&before, &uid), "nothing is said about one that is not known");
    let moved = Change::Workload(pod("a", "10.0.0.9").into());
    let gone = Change::Remove(ResourceKey::Workload(a.clone()));
    let stricter = Change::Policy(policy("shop", "q", Scope::Global).into());
    for change in [moved, gone, stricter] {
        assert!(!before.agrees_on(&with(change.clone()), &a), "{change:?}");
    }
}
