//! What is left alone, and how exactly.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::app::{Talk, ask, serve, tcp};
use super::world::{Who, World, at, ip, until};
use super::{tests, world};

tests![
    a_pod_that_talks_to_itself_is_left_alone,
    a_pod_reaches_its_own_tunnel_by_its_own_address,
    nobody_reaches_the_proxys_listeners_but_by_being_captured,
    a_probe_of_the_host_is_exempt_by_its_exact_tuple,
    a_spoofed_source_is_captured,
    only_the_kubelet_may_probe_where_its_cgroup_is_told,
];

fn a_pod_that_talks_to_itself_is_left_alone() {
    let world = World::new();
    world.inside(Who::A, || serve(8080));
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let loopback = ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"];
    let own = [Who::A.v4(), Who::A.v6(), Who::A.mapped()];
    for ip in loopback.map(|text| text.parse::<IpAddr>().unwrap()).into_iter().chain(own) {
        let line = world.inside(Who::A, || ask(at(ip, 8080))).unwrap();
        assert!(line.starts_with("app "), "{ip}: {line}");
    }
    assert_eq!(world.counter("pod-a", "outbound"), 0);
}

/// As by a service that it is an endpoint of. The tunnel asks for a certificate, also of the pod itself.
fn a_pod_reaches_its_own_tunnel_by_its_own_address() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    for ip in [Who::A.v4(), Who::A.v6()] {
        let line = world.inside(Who::A, || ask(at(ip, 15008))).unwrap();
        assert!(line.starts_with("hbone "), "{ip}: {line}");
    }
}

fn nobody_reaches_the_proxys_listeners_but_by_being_captured() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let loopback = ["127.0.0.1", "::1"].map(|text| text.parse().unwrap());
    let own = [Who::A.v4(), Who::A.v6()];
    for (port, ip) in [15001, 15006, 15053]
        .iter()
        .flat_map(|port| loopback.iter().chain(&own).map(move |ip| (*port, *ip)))
        .chain(loopback.map(|ip| (15008, ip)))
    {
        let refused = world.inside(Who::A, || ask(at(ip, port))).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{ip} {port}");
    }
    // Neither where they are bound, nor if the pod gives itself that address, nor from outside.
    let own =
        |world: &World| ip(&format!("-n {} addr add 192.0.2.150/32 dev eth0", world.name(Who::A)));
    for take in [|_: &World| (), own] {
        take(&world);
        for bound in ["192.0.2.150:15001", "[100::150]:15006"] {
            let bound = bound.parse::<SocketAddr>().unwrap();
            let refused = world.inside(Who::A, || ask(bound)).unwrap_err();
            assert!(refused.kind() != std::io::ErrorKind::UnexpectedEof, "{bound}: {refused}");
        }
    }
    let bound = at("192.0.2.150".parse().unwrap(), 15001);
    ip(&format!("-n {} route add 192.0.2.150/32 via {}", world.name(Who::C), Who::A.v4()));
    let lost = world
        .inside(Who::C, || tcp(bound).connect_timeout(&bound.into(), Duration::from_millis(300)));
    lost.expect_err("nothing answers there");
    assert_eq!(world.counter("pod-a", "outbound"), 0);
}

fn a_probe_of_the_host_is_exempt_by_its_exact_tuple() {
    let world = World::new();
    world.inside(Who::B, || serve(8080));
    world.enroll(Who::B);
    // No proxy at all: a probe does not need one.
    for (to, node) in
        [(Who::B.v4(), "10.77.0.1"), (Who::B.v6(), "fd77::1"), (Who::B.mapped(), "10.77.0.1")]
    {
        let mut talk = world.on_node(|| Talk::open(at(to, 8080))).unwrap();
        assert_eq!(talk.line().unwrap(), format!("app {node}"));
        talk.echo("alive").unwrap();
    }
    assert_eq!(world.counter("pod-b", "inbound_plaintext"), 0);
    assert_eq!(world.counter("pod-b", "exempt"), 3);
    until("exemptions end with their connections", || {
        (world.counter("node", "exempt_ended") == 3).then_some(())
    });
}

/// Another pod sends with the host's address, from the very port of a probe that has just ended.
fn a_spoofed_source_is_captured() {
    let world = World::new();
    world.inside(Who::B, || serve(8080));
    world.enroll(Who::B);
    let to = at(Who::B.v4(), 8080);
    let mut probe = world.on_node(|| Talk::open(to)).unwrap();
    assert_eq!(probe.line().unwrap(), "app 10.77.0.1");
    let port = probe.local_port();
    drop(probe);
    until("the exemption ended", || (world.counter("node", "exempt_ended") == 1).then_some(()));
    let captured = world.counter("pod-b", "inbound_plaintext");
    world.inside(Who::C, || {
        let socket = tcp(to);
        socket.set_ip_transparent_v4(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&at("10.77.0.1".parse().unwrap(), port).into()).unwrap();
        // Its answer goes to the real host: the handshake never ends.
        let _ = socket.connect(&to.into());
        until("the spoofed packet is captured", || {
            (world.counter("pod-b", "inbound_plaintext") > captured).then_some(())
        });
    });
    assert_eq!(world.counter("pod-b", "exempt"), 1);
}

fn only_the_kubelet_may_probe_where_its_cgroup_is_told() {
    let mut world = World::new();
    world.inside(Who::B, || serve(8080));
    // We play another process of the host: our cgroup is not the proxy's, here in the kubelet's place.
    world.stop_agent();
    world.start_agent_with(&["--probe-cgroup", world::group("proxy").to_str().unwrap()]);
    world.enroll(Who::B);
    let _proxy = world.proxy();
    world.reaches(Who::B, "ready");
    let line = world.on_node(|| ask(at(Who::B.v4(), 8080))).unwrap();
    assert_eq!(line, "app 10.77.0.1", "delivered by the proxy");
    assert_eq!(world.counter("node", "probe_exempted"), 0);
    assert_eq!(world.counter("pod-b", "inbound_plaintext"), 1);
}
