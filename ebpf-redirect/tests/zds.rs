//! What proxies are told, by a peer that speaks ZDS by hand.

use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use serde_json::json;
use weft_xds::zds::workload_request::Payload;
use weft_xds::zds::workload_response::Payload as Response;
use weft_xds::zds::{Ack, NeedSockets, SocketKind, Version, ZdsHello};

use super::proxy::{acknowledge, dial, dial_with, receive, respond};
use super::tests;
use super::world::{LONG, Who, World, ip, until};

tests![
    a_stock_ztunnel_gets_the_namespace_alone,
    a_proxy_that_takes_sockets_gets_listeners_with_their_options,
    the_newest_proxy_hears_of_new_pods_and_all_hear_of_their_end,
    a_proxy_that_becomes_the_newest_hears_what_it_missed,
    a_pod_that_is_captured_no_more_is_taken_from_proxies,
    pins_that_cannot_be_listed_are_not_taken_for_none,
    a_proxy_that_drains_gets_sockets_and_no_pod_is_left_to_it,
    sockets_are_made_in_bounded_batches,
    a_proxy_that_cannot_serve_is_heard,
    a_proxy_that_does_not_answer_is_cut_off,
    rubbish_and_strangers_are_turned_away,
];

fn next(socket: &OwnedFd) -> (Payload, Vec<OwnedFd>) {
    receive(socket).unwrap().expect("the agent is there")
}

/// Takes the snapshot of a world with pod A in it.
fn join(world: &World, takes_fds: bool) -> (OwnedFd, Vec<OwnedFd>) {
    let socket = dial(&world.zds(), takes_fds).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LONG)).unwrap();
    let mut all = Vec::new();
    loop {
        let (request, descriptors) = next(&socket);
        acknowledge(&socket).unwrap();
        all.extend(descriptors);
        if matches!(request, Payload::SnapshotSent(_)) {
            return (socket, all);
        }
    }
}

fn a_stock_ztunnel_gets_the_namespace_alone() {
    let world = World::new();
    world.enroll(Who::A);
    let socket = dial(&world.zds(), false).unwrap();
    let (request, descriptors) = next(&socket);
    let Payload::Add(add) = request else { panic!("{request:?}") };
    assert_eq!((add.uid.as_str(), descriptors.len()), ("pod-a", 1));
    assert_eq!((add.listeners.len(), add.netns_cookie, add.sockets_offered), (0, 0, false));
    let info = add.workload_info.unwrap();
    assert_eq!(
        (info.name.as_str(), info.namespace.as_str(), info.service_account.as_str()),
        ("a", "default", "account")
    );
    let named = std::fs::metadata(format!("/run/netns/{}", world.name(Who::A))).unwrap();
    let passed = rustix::fs::fstat(&descriptors[0]).unwrap();
    assert_eq!(passed.st_ino, std::os::unix::fs::MetadataExt::ino(&named));
}

fn a_proxy_that_takes_sockets_gets_listeners_with_their_options() {
    let world = World::new();
    world.enroll(Who::A);
    let socket = dial(&world.zds(), true).unwrap();
    let (request, descriptors) = next(&socket);
    let Payload::Add(add) = request else { panic!("{request:?}") };
    assert_eq!(add.netns_cookie, world.netns(Who::A).cookie());
    assert!(add.sockets_offered);
    assert_eq!(descriptors.len(), 1 + add.listeners.len());
    assert_eq!(add.listeners.len(), 10);
    for (kind, listener) in add.listeners().zip(&descriptors[1..]) {
        if matches!(kind, SocketKind::DnsUdpV4 | SocketKind::DnsUdpV6) {
            continue;
        }
        assert!(sockopt::socket_acceptconn(listener).unwrap(), "{kind:?}");
        assert!(sockopt::tcp_nodelay(listener).unwrap(), "{kind:?}");
        assert!(sockopt::socket_keepalive(listener).unwrap(), "{kind:?}");
    }
}

fn the_newest_proxy_hears_of_new_pods_and_all_hear_of_their_end() {
    let world = World::new();
    world.enroll(Who::A);
    let (old, _) = join(&world, true);
    let (new, _) = join(&world, true);
    world.ask_to_enroll(Who::B);
    let (request, _) = next(&new);
    assert!(matches!(&request, Payload::Add(add) if add.uid == "pod-b"), "{request:?}");
    acknowledge(&new).unwrap();
    world.unenroll(Who::A);
    for proxy in [&old, &new] {
        let (request, _) = next(proxy);
        assert!(matches!(&request, Payload::Del(del) if del.uid == "pod-a"), "{request:?}");
        acknowledge(proxy).unwrap();
    }
}

fn a_proxy_that_becomes_the_newest_hears_what_it_missed() {
    let world = World::new();
    world.enroll(Who::A);
    let (old, _) = join(&world, true);
    let (new, _) = join(&world, true);
    world.ask_to_enroll(Who::B);
    next(&new);
    acknowledge(&new).unwrap();
    world.reaches(Who::B, "ready");
    drop(new);
    let (request, descriptors) = next(&old);
    assert!(matches!(&request, Payload::Add(add) if add.uid == "pod-b"), "{request:?}");
    assert_eq!(descriptors.len(), 11);
}

fn a_pod_that_is_captured_no_more_is_taken_from_proxies() {
    let world = World::new();
    world.enroll(Who::A);
    let (proxy, _) = join(&world, true);
    world.reaches(Who::A, "ready");
    // Its namespace is said to be another one, which cannot be captured: what was captured is released for that.
    let other = world.name(Who::B);
    ip(&format!("-n {other} link del eth0"));
    world.ask_to_enroll_with(Who::A, &json!({ "netns": format!("/run/netns/{other}") }));
    world.reaches(Who::A, "failed");
    let (request, _) = next(&proxy);
    assert!(matches!(&request, Payload::Del(del) if del.uid == "pod-a"), "{request:?}");
}

fn pins_that_cannot_be_listed_are_not_taken_for_none() {
    let mut world = World::new();
    world.enroll(Who::A);
    world.kill_agent();
    // The next agent cannot take it up for a while: proxies are not told that they know all.
    world.ask_to_enroll_with(Who::A, &json!({ "addresses": ["10.77.0.99"] }));
    world.start_agent();
    world.reaches(Who::A, "kept");
    let proxy = dial(&world.zds(), true).unwrap();
    sockopt::set_socket_timeout(&proxy, sockopt::Timeout::Recv, Some(LONG)).unwrap();
    let pods = world.bpffs().join("v1/pods");
    let aside = world.bpffs().join("v1/aside");
    std::fs::rename(&pods, &aside).unwrap();
    world.spoil_file(Who::C);
    until("pins are not found", || {
        world.agent_log().contains("pinned pods cannot be listed").then_some(())
    });
    std::fs::rename(&aside, &pods).unwrap();
    world.ask_to_enroll(Who::B);
    let (request, _) = next(&proxy);
    assert!(matches!(&request, Payload::Add(add) if add.uid == "pod-b"), "{request:?}");
    acknowledge(&proxy).unwrap();
    world.ask_to_enroll(Who::A);
    let (request, _) = next(&proxy);
    assert!(matches!(&request, Payload::Add(add) if add.uid == "pod-a"), "{request:?}");
    acknowledge(&proxy).unwrap();
    assert!(matches!(next(&proxy).0, Payload::SnapshotSent(_)));
}

fn a_proxy_that_drains_gets_sockets_and_no_pod_is_left_to_it() {
    let world = World::new();
    world.enroll(Who::A);
    let (serving, _) = join(&world, true);
    world.reaches(Who::A, "ready");
    let hello = ZdsHello { version: Version::V1.into(), takes_fds: true, draining: true };
    let draining = dial_with(&world.zds(), hello).unwrap();
    let decline = || respond(&draining, Response::Ack(Ack { error: "it drains".into() })).unwrap();
    let (request, descriptors) = next(&draining);
    assert!(matches!(&request, Payload::Add(add) if add.uid == "pod-a"), "{request:?}");
    assert_eq!(descriptors.len(), 1, "it needs no listeners");
    decline();
    assert!(matches!(next(&draining).0, Payload::SnapshotSent(_)));
    acknowledge(&draining).unwrap();

    let need = NeedSockets { uid: "pod-a".into(), kind: SocketKind::ConnectV4.into(), count: 2 };
    respond(&draining, Response::Need(need)).unwrap();
    assert_eq!(next(&draining).1.len(), 2);

    // Said hello last, and yet it is the other one that a new pod is for.
    world.ask_to_enroll(Who::B);
    let (request, descriptors) = next(&serving);
    assert!(matches!(&request, Payload::Add(add) if add.uid == "pod-b"), "{request:?}");
    assert_eq!(descriptors.len(), 11);
    next(&draining);
    decline();
    acknowledge(&serving).unwrap();
    for who in [Who::A, Who::B] {
        assert!(world.reaches(who, "ready")["error"].is_null());
    }
}

fn sockets_are_made_in_bounded_batches() {
    let world = World::new();
    world.enroll(Who::A);
    let (proxy, _) = join(&world, true);
    let ask = |uid: &str, kind: SocketKind, count| {
        let need = NeedSockets { uid: uid.into(), kind: kind.into(), count };
        respond(&proxy, Response::Need(need)).unwrap();
        let (request, descriptors) = next(&proxy);
        let Payload::Sockets(sockets) = request else { panic!("{request:?}") };
        assert_eq!((sockets.uid.as_str(), sockets.kind()), (uid, kind));
        assert_eq!(sockets.count as usize, descriptors.len());
        descriptors.len()
    };
    for kind in [
        SocketKind::ConnectV4,
        SocketKind::ConnectV6,
        SocketKind::DeliverV4,
        SocketKind::DeliverV6,
        SocketKind::UdpV4,
        SocketKind::UdpV6,
        SocketKind::DnsReplyV4,
        SocketKind::DnsReplyV6,
    ] {
        assert_eq!(ask("pod-a", kind, 3), 3, "{kind:?}");
    }
    assert_eq!(ask("pod-a", SocketKind::ConnectV4, 100_000), 64);
    assert_eq!(ask("pod-a", SocketKind::OutboundV4, 1), 0);
    assert_eq!(ask("pod-nobody", SocketKind::ConnectV4, 1), 0);
}

fn a_proxy_that_cannot_serve_is_heard() {
    let world = World::new();
    world.enroll(Who::A);
    let socket = dial(&world.zds(), true).unwrap();
    next(&socket);
    respond(&socket, Response::Ack(Ack { error: "out of threads".into() })).unwrap();
    let status = until("the error is told", || {
        world.status(Who::A).filter(|status| status["error"].is_string())
    });
    assert_eq!(
        (status["state"].as_str(), status["error"].as_str()),
        (Some("captured"), Some("out of threads"))
    );
}

fn a_proxy_that_does_not_answer_is_cut_off() {
    let world = World::new();
    world.enroll(Who::A);
    let socket = dial(&world.zds(), true).unwrap();
    next(&socket);
    assert!(receive(&socket).unwrap().is_none());
    assert!(world.agent_log().contains("nothing came within 5s"), "{}", world.agent_log());
}

fn rubbish_and_strangers_are_turned_away() {
    use rustix::net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send,
        socket_with,
    };
    let world = World::new();
    let raw = |packet: &[u8]| {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(world.zds()).unwrap()).unwrap();
        send(&socket, packet, SendFlags::NOSIGNAL).unwrap();
        receive(&socket)
    };
    for packet in [&b"\xff\xff\xff\xff"[..], &[8, 7], &[0; 1500]] {
        assert!(!matches!(raw(packet), Ok(Some(_))), "{packet:?}");
    }
    let connected = std::process::Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups", "/usr/bin/python3", "-c"])
        .arg("import socket, sys; socket.socket(1, 5).connect(sys.argv[1])")
        .arg(world.zds())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&connected.stderr);
    assert!(said.contains("Permission denied"), "{said}");
    // And it still serves.
    world.enroll(Who::A);
    join(&world, true);
}
