//! What is left alone, and how exactly.

use std::net::{IpAddr, SocketAddr};

use super::app::{Talk, ask, serve, tcp};
use super::tests;
use super::world::{Who, World, at, until};

tests![
    a_pod_that_talks_to_itself_is_left_alone,
    nobody_reaches_the_proxys_listeners_but_by_being_captured,
    a_probe_of_the_host_is_exempt_by_its_exact_tuple,
    a_spoofed_source_is_captured,
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

fn nobody_reaches_the_proxys_listeners_but_by_being_captured() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    for port in [15001, 15006, 15008, 15053] {
        for ip in ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), Who::A.v4(), Who::A.v6()] {
            let refused = world.inside(Who::A, || ask(at(ip, port))).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{ip} {port}");
        }
    }
    // The address that they are bound to is a destination like any other.
    let bound = "192.0.2.150:15001".parse::<SocketAddr>().unwrap();
    let line = world.inside(Who::A, || ask(bound)).unwrap();
    assert!(line.starts_with(&format!("outbound {bound} ")), "{line}");
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
