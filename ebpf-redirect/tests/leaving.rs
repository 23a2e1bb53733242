//! Into the mesh and out of it, with connections open.

use serde_json::json;

use super::app::{Talk, ask, serve};
use super::tap::Tap;
use super::tests;
use super::world::{Who, World, at, ip_says};

tests![
    connections_from_before_enrolment_survive_it,
    unenrolment_lets_captured_connections_end_by_themselves,
    pods_leave_in_any_order,
    cleanup_leaves_nothing_behind,
    a_namespace_that_is_deleted_is_let_go,
    another_namespace_under_the_same_name_is_another_pod,
    a_namespace_without_the_pods_addresses_is_left_alone,
    a_pod_may_come_back_while_it_drains,
    an_agent_that_is_asked_to_stop_leaves_pods_captured,
];

fn connections_from_before_enrolment_survive_it() {
    let world = World::new();
    world.inside(Who::C, || serve(8080));
    world.inside(Who::A, || serve(8080));
    let mut out = world.inside(Who::A, || Talk::open(at(Who::C.v4(), 8080))).unwrap();
    let mut inward = world.inside(Who::C, || Talk::open(at(Who::A.v6(), 8080))).unwrap();
    assert!(out.line().unwrap().starts_with("app"));
    assert!(inward.line().unwrap().starts_with("app"));
    world.enroll(Who::A);
    let _proxy = world.proxy();
    out.echo("still there").unwrap();
    inward.echo("still there").unwrap();
    world.unenroll(Who::A);
    world.forgets(Who::A);
    out.echo("and now").unwrap();
    inward.echo("and now").unwrap();
}

fn unenrolment_lets_captured_connections_end_by_themselves() {
    let world = World::new();
    world.inside(Who::C, || serve(8080));
    world.inside(Who::A, || serve(8080));
    world.enroll(Who::A);
    let proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let tap = Tap::open(&world);
    let to = at(Who::C.v4(), 8080);
    let mut out = world.inside(Who::A, || Talk::open(to)).unwrap();
    assert!(out.line().unwrap().starts_with("outbound"));
    let mut inward = world.inside(Who::C, || Talk::open(at(Who::A.v4(), 8080))).unwrap();
    assert!(inward.line().unwrap().starts_with("app"));

    world.unenroll(Who::A);
    world.reaches(Who::A, "draining");
    let line = world.inside(Who::A, || ask(to)).unwrap();
    assert_eq!(line, format!("app {}", Who::A.v4()), "new connections are direct");
    out.echo("still through the proxy").unwrap();
    inward.echo("still through the proxy").unwrap();
    let port = out.local_port();
    let on_wire = tap.from(&world, Who::A.v4());
    assert!(!on_wire.iter().any(|seen| seen.from.port() == port), "{on_wire:?}");

    drop((out, inward));
    proxy.stop();
    world.forgets(Who::A);
    let (a, rules) = (world.name(Who::A), "0:\tfrom all lookup local");
    let left: Vec<String> = ip_says(&format!("-n {a} rule")).lines().map(str::to_owned).collect();
    assert_eq!((left.len(), left[0].as_str()), (3, rules), "{left:?}");
    assert!(!world.pins(Who::A).exists());
}

fn pods_leave_in_any_order() {
    let world = World::new();
    world.inside(Who::C, || serve(8080));
    for order in [[Who::A, Who::B], [Who::B, Who::A]] {
        world.enroll(Who::A);
        world.enroll(Who::B);
        let proxy = world.proxy();
        for who in order {
            world.unenroll(who);
            world.forgets(who);
            let line = world.inside(who, || ask(at(Who::C.v4(), 8080))).unwrap();
            assert_eq!(line, format!("app {}", who.v4()));
            if who == order[0] {
                let line = world.inside(order[1], || ask(at(Who::C.v4(), 8080))).unwrap();
                assert!(line.starts_with("outbound"), "{line}");
            }
        }
        proxy.stop();
    }
}

fn cleanup_leaves_nothing_behind() {
    let mut world = World::new();
    world.inside(Who::C, || serve(8080));
    let look = |world: &World| {
        let a = world.name(Who::A);
        let sysctl = world.inside(Who::A, || {
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept").unwrap()
        });
        let said = ["rule", "-6 rule", "route show table all", "-6 route show table all"];
        (sysctl, said.map(|what| ip_says(&format!("-n {a} {what}"))))
    };
    let before = look(&world);
    world.enroll(Who::A);
    assert_ne!(look(&world), before);
    world.kill_agent();
    world.cleanup();
    assert_eq!(look(&world), before);
    assert!(!world.bpffs().join("v1").exists());
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert_eq!(line, format!("app {}", Who::A.v4()));
}

fn a_namespace_that_is_deleted_is_let_go() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let mut open = world.inside(Who::A, || Talk::open(at(Who::C.v4(), 8080))).unwrap();
    assert!(open.line().unwrap().starts_with("outbound"));
    world.unwire_pod(Who::A);
    world.reaches(Who::A, "failed");
    assert!(!world.pins(Who::A).exists());
    world.unenroll(Who::A);
    world.forgets(Who::A);
}

fn another_namespace_under_the_same_name_is_another_pod() {
    let world = World::new();
    world.enroll(Who::A);
    let first = world.netns(Who::A).cookie();
    world.unwire_pod(Who::A);
    world.wire_pod(Who::A);
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    super::world::until("the new namespace is captured", || {
        let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080)));
        line.ok().filter(|line| line.starts_with("outbound"))
    });
    assert_ne!(world.netns(Who::A).cookie(), first);
}

fn a_namespace_without_the_pods_addresses_is_left_alone() {
    let world = World::new();
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::B);
    let other = format!("/run/netns/{}", world.name(Who::B));
    let fields = json!({ "netns": other, "addresses": [Who::B.v4(), Who::A.v4()] });
    world.ask_to_enroll_with(Who::A, &fields);
    let status = world.reaches(Who::A, "failed");
    let error = status["error"].as_str().unwrap();
    let expected = format!("network namespace {other} has not the pod's address {}", Who::A.v4());
    assert_eq!(error, expected);
    // Whose it is stays captured, and has nothing of the other's.
    let refused = world.inside(Who::B, || ask(at(Who::C.v4(), 8080)));
    assert!(refused.is_err(), "{refused:?}");
    assert!(!world.pins(Who::A).exists());
    world.ask_to_enroll_with(Who::A, &json!({ "addresses": [Who::A.v6(), Who::A.v4()] }));
    world.reaches(Who::A, "captured");
}

fn a_pod_may_come_back_while_it_drains() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let mut open = world.inside(Who::A, || Talk::open(at(Who::C.v4(), 8080))).unwrap();
    assert!(open.line().unwrap().starts_with("outbound"));
    world.unenroll(Who::A);
    world.reaches(Who::A, "draining");
    world.ask_to_enroll(Who::A);
    world.reaches(Who::A, "ready");
    open.echo("all the while").unwrap();
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
}

fn an_agent_that_is_asked_to_stop_leaves_pods_captured() {
    let mut world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    world.stop_agent();
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
    assert!(world.agent_log().contains("enrolled pods stay captured"), "{}", world.agent_log());
}
