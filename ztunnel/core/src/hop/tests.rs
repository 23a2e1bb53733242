use weft_model::{ApplicationTunnel, OriginalDst};

use super::*;
use crate::fixture::*;

#[test]
fn a_workload_of_the_mesh_is_reached_by_hbone_at_its_own_address() {
    assert_eq!(
        hop(&mesh([]), captured("10.0.0.2:9")),
        Ok(Hop::Hbone {
            carrier: Carrier::Tcp,
            via: Reach::At(at("10.0.0.2:15008")),
            authority: "10.0.0.2:9".parse().unwrap(),
            expect: vec![identity("web")],
        })
    );
}

#[test]
fn what_is_not_in_the_mesh_is_reached_in_the_clear_where_it_was_asked_for() {
    let to = Reach::At(at("192.0.2.1:443"));
    assert_eq!(hop(&mesh([]), captured("192.0.2.1:443")), Ok(Hop::Plaintext { to }));
    let mut legacy = pod("legacy", "10.0.0.7");
    legacy.tunnel = TunnelProtocol::None;
    let to = Reach::At(at("10.0.0.7:80"));
    assert_eq!(hop(&mesh([workload(legacy)]), captured("10.0.0.7:80")), Ok(Hop::Plaintext { to }));
}

#[test]
fn the_application_sees_the_clients_address() {
    assert_eq!(
        hop(&mesh([]), tunnelled("10.0.0.2:80")),
        Ok(Hop::Deliver {
            to: at("10.0.0.2:80"),
            bind: Bind::Client("10.0.0.1".parse().unwrap()),
            preamble: Preamble::None,
        })
    );
    let mut plain = plain("10.0.0.2:80");
    plain.dst = OriginalDst(socket("[fd00::2]:80"));
    plain.from = at("[fd00::9]:1");
    assert_eq!(
        hop(&mesh([]), plain),
        Ok(Hop::Deliver {
            to: at("[fd00::2]:80"),
            bind: Bind::Client("fd00::9".parse().unwrap()),
            preamble: Preamble::None,
        })
    );
}

#[test]
fn a_pod_that_calls_itself_is_not_bound_to_its_own_address() {
    let mut own = tunnelled("10.0.0.2:80");
    own.from = at("10.0.0.2:40000");
    let Ok(Hop::Deliver { bind, .. }) = hop(&mesh([]), own) else { panic!() };
    assert_eq!(bind, Bind::Any);
}

#[test]
fn a_proxy_header_goes_to_loopback_and_tells_who_called_whom() {
    let mut gateway = web("web-0", "10.0.0.2");
    gateway.application_tunnel = Some(ApplicationTunnel::Proxy { port: Some(15088) });
    assert_eq!(
        hop(&mesh([workload(gateway)]), tunnelled("web.shop.svc.cluster.local:80")),
        Ok(Hop::Deliver {
            to: at("127.0.0.1:15088"),
            bind: Bind::Loopback,
            preamble: Preamble::ProxyV2 {
                source: at("10.0.0.1:40000"),
                destination: at("10.1.0.1:80"),
                identity: Some(identity("client")),
            },
        })
    );
}
