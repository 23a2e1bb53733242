//! Whatever an application does to connect, the proxy gets it, with the destination that was asked for.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Protocol, Socket};

use super::app::{Talk, ask, ask_with, serve, tcp};
use super::tap::Tap;
use super::tests;
use super::world::{Who, World, at};

tests![
    both_families_and_mapped_addresses_are_captured,
    no_socket_option_leads_around_the_capture,
    a_program_without_privileges_is_captured,
    inbound_connections_are_delivered_with_the_clients_address,
    tunnelled_traffic_has_its_own_listener,
    name_lookups_are_answered_by_the_proxy_as_the_resolver_that_was_asked,
    the_proxys_own_sockets_leave_the_pod,
    a_pod_may_keep_its_name_lookups,
    a_pod_without_ipv6_is_captured,
    a_program_that_has_our_port_keeps_it,
];

type Way = fn(SocketAddr) -> std::io::Result<String>;

const MSG_FASTOPEN: i32 = 0x2000_0000;
const IPPROTO_MPTCP: i32 = 262;

fn says(what: &str, to: SocketAddr, from: IpAddr) -> impl Fn(&str) -> bool {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let start = format!("{what} {to} ");
    let from = from.to_string();
    move |line| line.starts_with(&start) && line[start.len()..].contains(&from)
}

fn both_families_and_mapped_addresses_are_captured() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let tap = Tap::open(&world);
    for (ip, from) in [
        (Who::C.v4(), Who::A.v4()),
        (Who::C.v6(), Who::A.v6()),
        (Who::C.mapped(), Who::A.v4()),
        ("203.0.113.7".parse().unwrap(), Who::A.v4()),
        ("2001:db8::7".parse().unwrap(), Who::A.v6()),
    ] {
        let to = at(ip, 8080);
        let line = world.inside(Who::A, || ask(to)).unwrap();
        assert!(says("outbound", to, from)(&line), "{to}: {line}");
    }
    assert_eq!(tap.from(&world, Who::A.v4()), []);
    assert_eq!(tap.from(&world, Who::A.v6()), []);
}

fn no_socket_option_leads_around_the_capture() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let tap = Tap::open(&world);
    let to = at(Who::C.v4(), 8080);
    let ways: [(&str, Way); 7] = [
        ("bound to a device", |to| {
            let socket = tcp(to);
            socket.bind_device(Some(b"eth0"))?;
            ask_with(socket, to)
        }),
        ("with a mark of its own", |to| {
            let socket = tcp(to);
            socket.set_mark(0x539)?;
            ask_with(socket, to)
        }),
        ("with a source of its own", |to| {
            let socket = tcp(to);
            socket.bind(&at(Who::A.v4(), 0).into())?;
            ask_with(socket, to)
        }),
        ("without blocking", |to| {
            let socket = tcp(to);
            socket.set_nonblocking(true)?;
            ask_with(socket, to)
        }),
        ("by fast open", |to| {
            let socket = tcp(to);
            socket.send_to_with_flags(b"early\n", &to.into(), MSG_FASTOPEN)?;
            let mut talk = Talk::new(socket.into())?;
            let line = talk.line()?;
            assert_eq!(talk.line()?, "early");
            Ok(line)
        }),
        ("by multipath TCP", |to| {
            let protocol = Some(Protocol::from(IPPROTO_MPTCP));
            let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, protocol);
            // A kernel without it has no way around by it.
            let socket = socket.unwrap_or_else(|_| tcp(to));
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            ask_with(socket, to)
        }),
        ("a second time on one socket", |to| {
            let socket = tcp(to);
            // Refused: nobody listens there.
            let refused = socket.connect(&at("127.0.0.1".parse().unwrap(), 1).into());
            assert!(refused.is_err());
            ask_with(socket, to)
        }),
    ];
    for (how, way) in ways {
        let line = world.inside(Who::A, || way(to));
        let line = line.unwrap_or_else(|error| panic!("{how}: {error}"));
        assert!(says("outbound", to, Who::A.v4())(&line), "{how}: {line}");
    }
    assert_eq!(tap.from(&world, Who::A.v4()), []);
}

fn a_program_without_privileges_is_captured() {
    let world = World::new();
    world.enroll(Who::A);
    let proxy = world.proxy();
    let to = at(Who::C.v4(), 8080);
    // The proxy's own process has no capability either; that it serves at all is the other half.
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let script = format!(
        "import socket; s = socket.create_connection(('{}', {}), 5); print(s.makefile().readline())",
        to.ip(),
        to.port()
    );
    let output = world.inside(Who::A, || {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
        command.args(["--inh-caps=-all", "/usr/bin/python3", "-c", &script]).output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(says("outbound", to, Who::A.v4())(said.trim()), "{said}{complaint}");
}

fn inbound_connections_are_delivered_with_the_clients_address() {
    let world = World::new();
    world.inside(Who::B, || serve(8080));
    world.enroll(Who::B);
    let _proxy = world.proxy();
    for (to, from) in [(Who::B.v4(), Who::C.v4()), (Who::B.v6(), Who::C.v6())] {
        let mut talk = world.inside(Who::C, || Talk::open(at(to, 8080))).unwrap();
        assert_eq!(talk.line().unwrap(), format!("app {from}"));
        talk.echo("hello").unwrap();
    }
    assert_eq!(world.counter("pod-b", "inbound_plaintext"), 2);
    assert_eq!(world.counter("node", "delivery_exempted"), 2);
}

fn tunnelled_traffic_has_its_own_listener() {
    let world = World::new();
    world.enroll(Who::B);
    let _proxy = world.proxy();
    for (to, from) in [(Who::B.v4(), Who::C.v4()), (Who::B.v6(), Who::C.v6())] {
        let to = at(to, 15008);
        let line = world.inside(Who::C, || ask(to)).unwrap();
        assert!(says("hbone", to, from)(&line), "{line}");
    }
}

fn name_lookups_are_answered_by_the_proxy_as_the_resolver_that_was_asked() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let resolvers = ["192.0.2.53:53", "10.77.0.1:53", "[2001:db8::53]:53"];
    for resolver in resolvers.map(|text| text.parse::<SocketAddr>().unwrap()) {
        let here = if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        for connected in [false, true] {
            let (answer, from) = world.inside(Who::A, || {
                let socket = UdpSocket::bind(here).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                if connected {
                    socket.connect(resolver).unwrap();
                    socket.send(b"query").unwrap();
                } else {
                    socket.send_to(b"query", resolver).unwrap();
                }
                let mut bytes = [0; 200];
                let (length, from) = socket.recv_from(&mut bytes).unwrap();
                (String::from_utf8_lossy(&bytes[..length]).into_owned(), from)
            });
            assert_eq!((answer, from), (format!("dns {resolver}"), resolver));
        }
        let line = world.inside(Who::A, || ask(resolver)).unwrap();
        assert!(line.starts_with(&format!("dns {resolver} ")), "{line}");
    }
}

fn the_proxys_own_sockets_leave_the_pod() {
    let world = World::new();
    world.inside(Who::C, || serve(7777));
    world.enroll(Who::A);
    let _proxy = world.proxy();
    for (to, from) in [(Who::C.v4(), Who::A.v4()), (Who::C.v6(), Who::A.v6())] {
        let line = world.inside(Who::A, || ask(at(to, 7777))).unwrap();
        assert_eq!(line, format!("app {from}"));
    }
    assert_eq!(world.counter("node", "proxy"), 2);
}

fn a_pod_may_keep_its_name_lookups() {
    let world = World::new();
    world.ask_to_enroll_with(Who::A, &serde_json::json!({"dnsCapture": false}));
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let resolver = world.inside(Who::C, || UdpSocket::bind(at(Who::C.v4(), 53)).unwrap());
    resolver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    world.inside(Who::A, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"query", at(Who::C.v4(), 53)).unwrap();
    });
    let (_, from) = resolver.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from.ip(), Who::A.v4());
    // Over TCP it is a connection as any.
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 53))).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
}

fn a_pod_without_ipv6_is_captured() {
    let world = World::new();
    world.inside(Who::A, || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    });
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let to = at(Who::C.v4(), 8080);
    let line = world.inside(Who::A, || ask(to)).unwrap();
    assert!(says("outbound", to, Who::A.v4())(&line), "{line}");
    world.inside(Who::A, || ask(at(Who::C.v6(), 8080))).expect_err("there is no IPv6");
}

fn a_program_that_has_our_port_keeps_it() {
    let world = World::new();
    for port in [15001, 15006, 15008, 15053] {
        world.inside(Who::A, || serve(port));
    }
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let to = at(Who::C.v4(), 8080);
    let line = world.inside(Who::A, || ask(to)).unwrap();
    assert!(says("outbound", to, Who::A.v4())(&line), "{line}");
    let line = world.inside(Who::A, || ask(at(Who::A.v4(), 15001))).unwrap();
    assert!(line.starts_with("app "), "{line}");
    let line = world.inside(Who::C, || ask(at(Who::A.v4(), 15008))).unwrap();
    assert!(line.starts_with("hbone "), "{line}");
}
