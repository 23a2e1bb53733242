use std::collections::BTreeMap;

use weft_model::{
    ApplicationTunnel, Change, Health, HealthPolicy, Locality, NetworkAddress, Ports, RoutingScope,
    WeightedWaypoint,
};

use super::*;
use crate::{Hop, LeftOut, fixture::*, hop::Carrier, next_hop};

/// How often each workload is picked over 4000 draws.
fn picks(view: &View, load: &Load, tried: &[WorkloadUid]) -> BTreeMap<String, u32> {
    let permit = permit(view, captured("10.1.0.1:80")).unwrap();
    let mut picks = BTreeMap::new();
    for draw in 0..4000 {
        let endpoint = balance(view, &permit, load, tried, Draw(draw)).unwrap();
        *picks.entry(endpoint.workload().unwrap().name.to_string()).or_default() += 1;
    }
    picks
}

fn idle(view: &View) -> BTreeMap<String, u32> {
    picks(view, &Load::default(), &[])
}

fn names(picks: &BTreeMap<String, u32>) -> Vec<&str> {
    picks.keys().map(String::as_str).collect()
}

fn refused(view: &View) -> Refusal {
    endpoint(view, "10.1.0.1:80", 0).unwrap_err()
}

fn none_left(reasons: &[(LeftOut, usize)]) -> Refusal {
    Refusal::NoEndpoint { service: web_service().key(), left_out: reasons.to_vec() }
}

/// `web-0` and `web-1`, changed.
fn webs(change: impl Fn(usize, &mut Workload)) -> Vec<Change> {
    let webs = [web("web-0", "10.0.0.2,fd00::2"), web("web-1", "10.0.0.3,fd00::3")];
    let changed = webs.into_iter().enumerate().map(|(i, mut web)| {
        change(i, &mut web);
        workload(web)
    });
    changed.collect()
}

fn balanced(change: impl Fn(&mut Service)) -> Change {
    let mut web = web_service();
    change(&mut web);
    service(web)
}

fn within(count: u32, of: u32, percent: u32) -> bool {
    // 4000 draws: five standard deviations of a fair coin are 158.
    count.abs_diff(of * percent / 100) < 160
}

#[test]
fn idle_endpoints_are_picked_by_their_capacities() {
    let even = idle(&mesh([]));
    assert!(within(even["web-0"], 4000, 50), "{even:?}");
    let uneven = idle(&mesh(webs(|i, w| w.capacity = [1, 3][i])));
    assert!(within(uneven["web-0"], 4000, 25), "{uneven:?}");
}

#[test]
fn the_same_draw_picks_the_same_endpoint() {
    let view = mesh([]);
    for draw in 0..50 {
        assert_eq!(endpoint(&view, "10.1.0.1:80", draw), endpoint(&view, "10.1.0.1:80", draw));
    }
}

#[test]
fn of_two_endpoints_the_less_loaded_for_its_capacity_is_picked() {
    let mut load = Load::default();
    load.opened(&web("web-0", "10.0.0.2").uid);
    assert_eq!(names(&picks(&mesh([]), &load, &[])), ["web-1"]);
    // One connection of a capacity of three is less than one of a capacity of one.
    load.opened(&web("web-1", "10.0.0.3").uid);
    let view = mesh(webs(|i, w| w.capacity = [3, 1][i]));
    assert_eq!(names(&picks(&view, &load, &[])), ["web-0"]);
}

#[test]
fn power_of_two_choices_keeps_many_endpoints_within_a_few_connections() {
    let many = (0..50).map(|i| workload(web(&format!("web-{i}"), &format!("10.0.1.{i}"))));
    let view = mesh(many);
    let permit = permit(&view, captured("10.1.0.1:80")).unwrap();
    let mut load = Load::default();
    for draw in 0..1000 {
        let endpoint = balance(&view, &permit, &load, &[], Draw(draw)).unwrap();
        load.opened(endpoint.uid().unwrap());
    }
    let open: Vec<_> =
        view.endpoints(&web_service().key()).map(|e| load.open(&e.workload.uid)).collect();
    // The mean is 20. By chance alone the fullest would have about 32; two choices leave a few above it.
    assert!(open.iter().all(|n| (15..=24).contains(n)), "{open:?}");
}

#[test]
fn what_was_just_tried_is_left_out_until_nothing_is_left() {
    let view = mesh([]);
    let [a, b] = ["web-0", "web-1"].map(|name| web(name, "10.0.0.2").uid);
    assert_eq!(names(&picks(&view, &Load::default(), std::slice::from_ref(&a))), ["web-1"]);
    let permit = permit(&view, captured("10.1.0.1:80")).unwrap();
    let refusal = balance(&view, &permit, &Load::default(), &[a, b], Draw(0)).unwrap_err();
    assert_eq!(refusal, none_left(&[(LeftOut::Tried, 2)]));
}

#[test]
fn unhealthy_endpoints_are_left_out_unless_the_service_takes_all() {
    let sick = |i: usize, w: &mut Workload| {
        if i == 0 {
            w.health = Health::Unhealthy;
        }
    };
    assert_eq!(names(&idle(&mesh(webs(sick)))), ["web-1"]);
    let all_sick = mesh(webs(|_, w| w.health = Health::Unhealthy));
    assert_eq!(refused(&all_sick), none_left(&[(LeftOut::Unhealthy, 2)]));
    let mut tolerant = webs(sick);
    tolerant.push(balanced(|s| s.load_balancing.health = HealthPolicy::AllowAll));
    assert_eq!(names(&idle(&mesh(tolerant))), ["web-0", "web-1"]);
}

#[test]
fn an_endpoint_that_cannot_serve_is_left_out_by_its_reason() {
    let name = web_service().key();
    let one = |change: &dyn Fn(&mut Workload)| {
        refused(&mesh(webs(|i, w| if i == 0 { change(w) } else { w.capacity = 0 })))
    };
    let with = |reason| none_left(&[(reason, 1), (LeftOut::NoCapacity, 1)]);
    assert_eq!(one(&|w| w.addresses.clear()), with(LeftOut::NoAddress));
    assert_eq!(
        one(&|w| w.network = weft_model::Network::new("east").unwrap()),
        with(LeftOut::NoGateway)
    );
    let zero = |w: &mut Workload| {
        w.services.insert(name.clone(), Ports::from([(80, 0)]));
    };
    assert_eq!(one(&zero), with(LeftOut::NoPort));
    assert_eq!(
        endpoint(&mesh([]), "10.1.0.1:81", 0),
        Err(Refusal::NoPort { service: web_service().key(), port: 81 })
    );
}

#[test]
fn a_service_without_endpoints_is_refused_and_never_passed_through() {
    let empty = mesh(webs(|_, w| w.services.clear()));
    assert_eq!(refused(&empty), none_left(&[]));
}

fn located(region: &str, zone: &str) -> Locality {
    Locality { region: region.into(), zone: zone.into(), subzone: "".into() }
}

fn local_mesh(mode: Mode, scopes: &[RoutingScope]) -> View {
    let mut client = pod("client", "10.0.0.1");
    client.locality = located("r1", "z1");
    let mut changes =
        webs(|i, w| w.locality = [located("r1", "z1"), located("r1", "z2")][i].clone());
    let mut far = web("web-2", "10.0.0.4");
    far.locality = located("r2", "z1");
    changes.extend([workload(client), workload(far)]);
    changes.push(balanced(|s| {
        s.load_balancing.mode = mode;
        s.load_balancing.routing_preference = scopes.to_vec();
    }));
    mesh(changes)
}

#[test]
fn locality_ranks_endpoints() {
    use RoutingScope::{Network, Region, Zone};
    let table: [(Mode, &[RoutingScope], &[&str]); 6] = [
        (Mode::Any, &[Region, Zone], &["web-0", "web-1", "web-2"]),
        (Mode::Failover, &[Region, Zone], &["web-0"]),
        (Mode::Failover, &[Region], &["web-0", "web-1"]),
        // A zone of the same name in another region is found only when regions are not asked for first.
        (Mode::Failover, &[Zone], &["web-0", "web-2"]),
        (Mode::Strict, &[Region, Zone], &["web-0"]),
        (Mode::Strict, &[Network], &["web-0", "web-1", "web-2"]),
    ];
    for (mode, scopes, expected) in table {
        assert_eq!(names(&idle(&local_mesh(mode, scopes))), expected, "{mode:?} {scopes:?}");
    }
}

#[test]
fn failover_goes_to_the_next_rank_and_strict_refuses() {
    let scopes = [RoutingScope::Region, RoutingScope::Zone];
    let near = [web("web-0", "10.0.0.2").uid];
    let failover = picks(&local_mesh(Mode::Failover, &scopes), &Load::default(), &near);
    assert_eq!(names(&failover), ["web-1"]);
    let strict = local_mesh(Mode::Strict, &scopes);
    let permit = permit(&strict, captured("10.1.0.1:80")).unwrap();
    assert_eq!(
        balance(&strict, &permit, &Load::default(), &near, Draw(0)),
        Err(none_left(&[(LeftOut::Tried, 1), (LeftOut::NotLocal, 2)]))
    );
}

#[test]
fn when_the_network_comes_first_any_endpoint_of_ours_outranks_any_beyond() {
    let mut client = pod("client", "10.0.0.1");
    client.locality = located("r1", "z1");
    let gateway_address =
        NetworkAddress::new(weft_model::Network::default(), "10.0.0.9".parse().unwrap());
    let mut changes = webs(|i, w| {
        w.locality = [located("r9", "z9"), located("r1", "z1")][i].clone();
        if i == 1 {
            w.network = weft_model::Network::new("east").unwrap();
            w.network_gateway = Some(GatewayAddress::Address {
                address: gateway_address.clone(),
                hbone_port: 15008,
            });
        }
    });
    changes.extend([workload(client), workload(pod("gateway", "10.0.0.9"))]);
    changes.push(balanced(|s| {
        s.load_balancing.mode = Mode::Failover;
        s.load_balancing.routing_preference =
            vec![RoutingScope::Network, RoutingScope::Region, RoutingScope::Zone];
    }));
    let view = mesh(changes);
    assert_eq!(names(&idle(&view)), ["web-0"]);
    let near = [web("web-0", "10.0.0.2").uid];
    assert_eq!(names(&picks(&view, &Load::default(), &near)), ["web-1"]);
}

#[test]
fn passthrough_goes_where_it_was_asked_to() {
    let view = mesh([balanced(|s| s.load_balancing.mode = Mode::Passthrough)]);
    assert_eq!(endpoint(&view, "10.1.0.1:80", 0), Ok(Endpoint::Outside { to: at("10.1.0.1:80") }));
}

#[test]
fn an_endpoint_is_reached_by_the_family_that_was_dialled_if_it_has_one() {
    let only_one = mesh(webs(|i, w| {
        if i == 0 {
            w.addresses.truncate(1);
        } else {
            w.capacity = 0;
        }
    }));
    for (dst, view, expected) in [
        ("10.1.0.1:80", &mesh(webs(|i, w| w.capacity = [1, 0][i])), "10.0.0.2:8080"),
        ("[fd00:1::1]:80", &mesh(webs(|i, w| w.capacity = [1, 0][i])), "[fd00::2]:8080"),
        ("[fd00:1::1]:80", &only_one, "10.0.0.2:8080"),
    ] {
        let Ok(Endpoint::Workload { at: reach, .. }) = endpoint(view, dst, 0) else { panic!() };
        assert_eq!(reach, Reach::At(at(expected)), "{dst}");
    }
}

#[test]
fn an_endpoint_with_a_host_name_only_is_left_to_dns() {
    let view = mesh(webs(|i, w| {
        w.capacity = [1, 0][i];
        w.addresses.clear();
        w.tunnel = weft_model::TunnelProtocol::None;
        w.hostname = Some(Hostname::new("db.example.com").unwrap());
    }));
    assert_eq!(
        hop(&view, captured("10.1.0.1:80")),
        Ok(Hop::Plaintext {
            to: Reach::Named {
                hostname: Hostname::new("db.example.com").unwrap(),
                families: IpFamilies::Automatic,
                port: 8080,
            }
        })
    );
}

#[test]
fn an_endpoint_may_prove_its_own_identity_or_one_of_the_services() {
    let mut changes = webs(|i, w| w.capacity = [1, 0][i]);
    changes.push(balanced(|s| s.subject_alt_names = vec![identity("blue")]));
    let Ok(Hop::Hbone { expect, authority, .. }) = hop(&mesh(changes), captured("10.1.0.1:80"))
    else {
        panic!()
    };
    assert_eq!(expect, [identity("web"), identity("blue")]);
    assert_eq!(authority.to_string(), "10.0.0.2:8080");
}

/// A waypoint service with one pod, `wp-0`.
fn waypoint() -> Vec<Change> {
    let mut wp = web_service();
    wp.name = "wp".into();
    wp.hostname = Hostname::new("wp.shop.svc.cluster.local").unwrap();
    wp.vips = vec![vip("10.1.0.2")];
    wp.ports = vec![weft_model::ServicePort {
        name: None,
        service_port: 15008,
        target_port: 15008,
        app_protocol: weft_model::AppProtocol::default(),
    }];
    wp.subject_alt_names = vec![identity("gate")];
    let mut pod = pod("wp-0", "10.0.0.5");
    pod.services.insert(wp.key(), Ports::new());
    vec![workload(pod), service(wp)]
}

fn by_name() -> GatewayAddress {
    GatewayAddress::Hostname { name: service_name("wp.shop.svc.cluster.local"), hbone_port: 15008 }
}

fn through_waypoint(authority: &str, expect: Vec<Identity>) -> Hop {
    Hop::Hbone {
        carrier: Carrier::Tcp,
        via: Reach::At(at("10.0.0.5:15008")),
        authority: authority.parse().unwrap(),
        expect,
    }
}

#[test]
fn a_service_or_workload_with_a_waypoint_is_called_through_it_by_what_was_dialled() {
    let by_vip = GatewayAddress::Address { address: vip("10.1.0.2"), hbone_port: 15008 };
    let by_pod = GatewayAddress::Address { address: vip("10.0.0.5"), hbone_port: 15008 };
    let both = vec![identity("gate"), identity("wp")];
    for (gateway, expect) in
        [(by_name(), both.clone()), (by_vip, both.clone()), (by_pod, vec![identity("wp")])]
    {
        let mut changes = waypoint();
        changes.push(balanced(|s| s.waypoint = Some(gateway.clone())));
        let through = through_waypoint("10.1.0.1:80", expect);
        assert_eq!(hop(&mesh(changes), captured("10.1.0.1:80")), Ok(through));
    }
    let mut changes = waypoint();
    changes.extend(webs(|_, w| w.waypoint = Some(by_name())));
    let view = mesh(changes);
    let through = through_waypoint("10.0.0.2:9", both);
    assert_eq!(hop(&view, captured("10.0.0.2:9")), Ok(through));
    // Through the service, a workload's own waypoint is not asked.
    let Ok(Endpoint::Workload { .. }) = endpoint(&view, "10.1.0.1:80", 0) else { panic!() };
}

#[test]
fn a_waypoint_calls_directly() {
    let mut changes = waypoint();
    changes.push(balanced(|s| s.waypoint = Some(by_name())));
    let mut client = pod("client", "10.0.0.1");
    client.services.insert(service_name("wp.shop.svc.cluster.local"), Ports::new());
    changes.push(workload(client));
    let endpoint = endpoint(&mesh(changes), "10.1.0.1:80", 0).unwrap();
    assert!(endpoint.workload().unwrap().name.starts_with("web-"), "{endpoint:?}");
}

#[test]
fn weighted_waypoints_share_by_weight_and_come_before_the_single_one() {
    let mut changes = waypoint();
    let mut canary = pod("canary-0", "10.0.0.6");
    canary.application_tunnel = Some(ApplicationTunnel::None { port: None });
    changes.push(workload(canary));
    let direct = |ip: &str| GatewayAddress::Address { address: vip(ip), hbone_port: 15008 };
    changes.push(balanced(|s| {
        s.waypoint = Some(direct("10.0.0.99"));
        s.weighted_waypoints = vec![
            WeightedWaypoint { destination: direct("10.0.0.6"), weight: 1 },
            WeightedWaypoint { destination: by_name(), weight: 9 },
        ];
    }));
    let picks = idle(&mesh(changes));
    assert_eq!(names(&picks), ["canary-0", "wp-0"]);
    assert!(within(picks["canary-0"], 4000, 10), "{picks:?}");
}

#[test]
fn a_waypoint_with_an_application_tunnel_need_not_list_its_port() {
    let mut changes = waypoint();
    let mut wp = web_service();
    wp.hostname = Hostname::new("wp.shop.svc.cluster.local").unwrap();
    wp.vips = Vec::new();
    wp.ports = Vec::new();
    changes.push(service(wp.clone()));
    changes.push(balanced(|s| s.waypoint = Some(by_name())));
    let without = mesh(changes.clone());
    assert_eq!(
        refused(&without),
        Refusal::NoEndpoint { service: wp.key(), left_out: vec![(LeftOut::NoPort, 1)] }
    );
    let mut pod = pod("wp-0", "10.0.0.5");
    pod.services.insert(wp.key(), Ports::new());
    pod.application_tunnel = Some(ApplicationTunnel::Proxy { port: Some(15088) });
    changes.push(workload(pod));
    assert_eq!(
        hop(&mesh(changes), captured("10.1.0.1:80")),
        Ok(through_waypoint("10.1.0.1:80", vec![identity("wp")]))
    );
}

#[test]
fn an_unknown_waypoint_refuses_and_may_yet_arrive() {
    let view = mesh([balanced(|s| s.waypoint = Some(by_name()))]);
    let refusal = refused(&view);
    assert_eq!(refusal, Refusal::UnknownGateway { gateway: by_name() });
    assert_eq!(refusal.retry(), crate::Retry::NewerView);
    assert_eq!(
        refusal.to_string(),
        "gateway shop/wp.shop.svc.cluster.local:15008 is not known in the mesh"
    );
}

/// `web-0` in network `east`, behind a gateway at 192.0.2.9.
fn far_web(change: impl Fn(&mut Service)) -> Vec<Change> {
    let east = weft_model::Network::new("east").unwrap();
    let address = NetworkAddress::new(east.clone(), "192.0.2.9".parse().unwrap());
    let mut changes = webs(|i, w| {
        w.capacity = [1, 0][i];
        w.network = east.clone();
        w.addresses.clear();
        let address = address.clone();
        w.network_gateway = Some(GatewayAddress::Address { address, hbone_port: 15443 });
    });
    let mut gateway = pod("gateway", "192.0.2.9");
    gateway.network = east.clone();
    changes.push(workload(gateway));
    changes.push(balanced(change));
    changes
}

#[test]
fn an_endpoint_of_another_network_is_reached_by_a_tunnel_within_a_tunnel() {
    let nested = |expect| Hop::Nested {
        via: Reach::At(at("192.0.2.9:15443")),
        authority: "web.shop.svc.cluster.local:80".parse().unwrap(),
        expect_gateway: vec![identity("gateway")],
        expect,
    };
    let view = mesh(far_web(|s| s.subject_alt_names = vec![identity("blue")]));
    assert_eq!(hop(&view, captured("10.1.0.1:80")), Ok(nested(vec![identity("blue")])));
    // A service that names no identities does not mean that any will do.
    let view = mesh(far_web(|_| {}));
    assert_eq!(hop(&view, captured("10.1.0.1:80")), Ok(nested(vec![identity("web")])));
}

#[test]
fn a_network_whose_gateway_is_not_known_is_refused() {
    let mut changes = far_web(|_| {});
    changes.push(Change::Remove(weft_model::ResourceKey::Workload(pod("gateway", "10.0.0.1").uid)));
    let refusal = refused(&mesh(changes));
    assert_eq!(refusal, none_left(&[(LeftOut::NoGateway, 1), (LeftOut::NoCapacity, 1)]));
    assert_eq!(refusal.retry(), crate::Retry::NewerView);
}

#[test]
fn what_has_no_other_is_refused_when_it_was_tried() {
    let view = mesh([]);
    let permit = permit(&view, captured("10.0.0.2:80")).unwrap();
    let uid = web("web-0", "10.0.0.2").uid;
    let tried = [uid.clone()];
    assert_eq!(
        balance(&view, &permit, &Load::default(), &tried, Draw(0)),
        Err(Refusal::NoOther { workload: uid })
    );
}

#[test]
fn an_inbound_connection_goes_to_its_own_pod() {
    let view = mesh([]);
    let permit = permit(&view, tunnelled("10.0.0.2:80")).unwrap();
    let endpoint = balance(&view, &permit, &Load::default(), &[], Draw(0)).unwrap();
    assert_eq!(&*endpoint.workload().unwrap().name, "web-0");
    assert!(matches!(next_hop(&permit, &endpoint), Hop::Deliver { .. }));
}
