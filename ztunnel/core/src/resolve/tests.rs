use weft_model::{Change, Network, Ports, ResourceKey, ServiceAccountName, Visibility};

use super::*;
use crate::{Retry, fixture::*};

fn target(view: &View, dst: &str) -> Result<String, Refusal> {
    Ok(match resolve(view, captured(dst))? {
        Resolved::Outbound(outbound) => match outbound.target {
            Target::Service(service) => service.key().to_string(),
            Target::Workload(workload) => workload.name.to_string(),
            Target::Outside => "outside".to_owned(),
        },
        Resolved::Inbound(_) => "inbound".to_owned(),
    })
}

fn inbound(view: &View, arrival: impl Into<Arrival>) -> Result<Inbound, Refusal> {
    match resolve(view, arrival)? {
        Resolved::Inbound(inbound) => Ok(inbound),
        Resolved::Outbound(_) => panic!("outbound"),
    }
}

#[test]
fn an_address_is_a_workload_or_else_a_service_or_else_outside() {
    let view = mesh([]);
    for (dst, expected) in [
        ("10.0.0.2:80", "web-0"),
        ("[fd00::3]:80", "web-1"),
        ("10.1.0.1:80", "shop/web.shop.svc.cluster.local"),
        ("[fd00:1::1]:80", "shop/web.shop.svc.cluster.local"),
        ("192.0.2.1:80", "outside"),
        ("127.0.0.1:80", "outside"),
    ] {
        assert_eq!(target(&view, dst).as_deref(), Ok(expected), "{dst}");
    }
}

#[test]
fn the_address_of_a_pod_that_left_the_mesh_is_not_dialled_in_the_clear() {
    let mut view = mesh([]);
    let uid = view.workload_at(&vip("10.0.0.2")).unwrap().uid.clone();
    view.apply(Change::Remove(ResourceKey::Workload(uid)));
    let refusal = resolve(&view, captured("10.0.0.2:80")).unwrap_err();
    assert_eq!(refusal, Refusal::Retired { address: vip("10.0.0.2") });
    assert_eq!(refusal.retry(), Retry::NewerView);
}

#[test]
fn a_service_that_the_client_may_not_see_is_outside() {
    let mut hidden = web_service();
    hidden.namespace = Namespace::new("zoo").unwrap();
    hidden.vips = vec![vip("10.1.0.9")];
    hidden.visibility = Visibility::Namespace;
    assert_eq!(target(&mesh([service(hidden)]), "10.1.0.9:80").as_deref(), Ok("outside"));
}

#[test]
fn an_address_of_another_network_is_not_confused_with_ones_own() {
    let mut far = pod("far", "10.0.0.7");
    far.network = Network::new("east").unwrap();
    assert_eq!(target(&mesh([workload(far)]), "10.0.0.7:80").as_deref(), Ok("outside"));
}

#[test]
fn a_pod_that_is_not_known_waits_for_a_newer_view() {
    let mut view = mesh([]);
    view.apply(Change::Remove(ResourceKey::Workload(pod("client", "10.0.0.1").uid)));
    let refusal = resolve(&view, captured("10.1.0.1:80")).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownPod { pod: announced("client") });
    assert_eq!(refusal.retry(), Retry::NewerView);
    assert_eq!(refusal.http_status(), 503);
}

#[test]
fn a_pod_of_the_same_name_and_another_account_is_another_pod() {
    let mut stale = pod("client", "10.0.0.1");
    stale.service_account = ServiceAccountName::new("admin").unwrap();
    let refusal = resolve(&mesh([workload(stale)]), captured("10.1.0.1:80")).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownPod { pod: announced("client") });
}

#[test]
fn who_calls_is_never_told_by_an_address() {
    // The client's address belongs to another workload by now; the listener still says who it is.
    let thief = pod("thief", "10.0.0.1");
    let view = mesh([workload(pod("client", "10.0.0.8")), workload(thief)]);
    let Ok(Resolved::Outbound(outbound)) = resolve(&view, captured("10.1.0.1:80")) else {
        panic!()
    };
    assert_eq!(&*outbound.source.name, "client");
    let arrived = inbound(&view, tunnelled("10.0.0.2:80")).unwrap();
    assert_eq!(arrived.peer, Peer::Proven(identity("client")));
    assert_eq!(inbound(&view, plain("10.0.0.2:80")).unwrap().peer, Peer::Unauthenticated);
}

#[test]
fn the_proxy_is_never_a_destination_of_its_own_pod() {
    let view = mesh([]);
    for port in PROXY_PORTS {
        let refused = Refusal::ProxyPort { port };
        for own in ["10.0.0.1", "127.0.0.1"] {
            assert_eq!(target(&view, &format!("{own}:{port}")), Err(refused.clone()));
        }
        let authority = format!("10.0.0.2:{port}");
        assert_eq!(inbound(&view, tunnelled(&authority)), Err(refused.clone()));
        assert_eq!(inbound(&view, plain(&authority)), Err(refused));
    }
    assert_eq!(target(&view, "10.0.0.1:8080").as_deref(), Ok("client"));
}

#[test]
fn a_tunnel_delivers_to_the_address_it_came_to_and_to_no_other() {
    let view = mesh([]);
    assert_eq!(inbound(&view, tunnelled("10.0.0.2:9")).unwrap().to, at("10.0.0.2:9"));
    for other in ["10.0.0.3:9", "127.0.0.1:9", "[fd00::2]:9", "10.1.0.1:80"] {
        let refusal = inbound(&view, tunnelled(other)).unwrap_err();
        let authority = other.parse().unwrap();
        assert_eq!(refusal, Refusal::WrongAuthority { authority, local: at("10.0.0.2:15008") });
        assert_eq!(refusal.http_status(), 400);
    }
}

#[test]
fn a_waypoint_and_a_gateway_in_the_pod_may_stand_for_others() {
    let mut behind = pod("behind", "10.0.0.7");
    behind.waypoint = Some(GatewayAddress::Address { address: vip("10.0.0.2"), hbone_port: 15008 });
    let view = mesh([workload(behind)]);
    assert_eq!(inbound(&view, tunnelled("10.0.0.7:9")).unwrap().to, at("10.0.0.2:9"));

    let mut fronted = web_service();
    fronted.hostname = Hostname::new("fronted.shop.svc").unwrap();
    fronted.vips = vec![vip("10.1.0.7")];
    let name = web_service().key();
    fronted.waypoint = Some(GatewayAddress::Hostname { name, hbone_port: 15008 });
    let view = mesh([service(fronted)]);
    assert_eq!(inbound(&view, tunnelled("10.1.0.7:9")).unwrap().to, at("10.0.0.2:9"));

    let mut gateway = web("web-0", "10.0.0.2");
    gateway.application_tunnel = Some(ApplicationTunnel::None { port: None });
    let view = mesh([workload(gateway)]);
    assert_eq!(inbound(&view, tunnelled("10.0.0.9:9")).unwrap().to, at("10.0.0.2:9"));
}

#[test]
fn a_host_name_leads_to_the_port_of_the_endpoint_or_else_of_the_service() {
    let view = mesh([]);
    let host = "web.shop.svc.cluster.local:80";
    let by_service = inbound(&view, tunnelled(host)).unwrap();
    assert_eq!(by_service.to, at("10.0.0.2:8080"));
    assert_eq!(by_service.service.map(|s| s.key()), Some(web_service().key()));

    let mut own = web("web-0", "10.0.0.2");
    own.services.insert(web_service().key(), Ports::from([(80, 9090)]));
    let view = mesh([workload(own)]);
    assert_eq!(inbound(&view, tunnelled(host)).unwrap().to, at("10.0.0.2:9090"));

    let refusal = inbound(&view, tunnelled("web.shop.svc.cluster.local:81")).unwrap_err();
    assert_eq!(refusal, Refusal::NoPort { service: web_service().key(), port: 81 });
    let refusal = inbound(&view, tunnelled("other.shop.svc:80")).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::UnknownHost { hostname: Hostname::new("other.shop.svc").unwrap() }
    );
    assert_eq!(refusal.http_status(), 503);
}

#[test]
fn an_application_tunnel_changes_the_port_and_tells_what_was_meant() {
    let mut gateway = web("web-0", "10.0.0.2");
    gateway.application_tunnel = Some(ApplicationTunnel::Proxy { port: Some(15088) });
    let view = mesh([workload(gateway)]);
    let arrived = inbound(&view, tunnelled("web.shop.svc.cluster.local:80")).unwrap();
    assert_eq!(arrived.to, at("10.0.0.2:15088"));
    assert_eq!(arrived.delivery, Delivery::ProxyHeader { destination: at("10.1.0.1:80") });
    let arrived = inbound(&view, tunnelled("10.0.0.9:81")).unwrap();
    assert_eq!(arrived.delivery, Delivery::ProxyHeader { destination: at("10.0.0.9:81") });
}

#[test]
fn a_forwarded_host_names_the_service_and_moves_nothing() {
    let view = mesh([]);
    let mut tunnelled = tunnelled("10.0.0.2:9");
    tunnelled.forwarded_host = Some(Hostname::new("web.shop.svc.cluster.local").unwrap());
    let arrived = inbound(&view, tunnelled.clone()).unwrap();
    assert_eq!(arrived.to, at("10.0.0.2:9"));
    assert_eq!(arrived.service.map(|s| s.key()), Some(web_service().key()));
    tunnelled.forwarded_host = Some(Hostname::new("nobody.knows").unwrap());
    assert_eq!(inbound(&view, tunnelled).unwrap().service, None);
}
