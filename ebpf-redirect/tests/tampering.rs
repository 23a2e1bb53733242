//! Somebody changes the pod's network under us.

use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use rustix::process::{Pid, Signal, kill_process};

use super::app::{ask, serve};
use super::tap::Tap;
use super::tests;
use super::world::{Who, World, at, ip, ip_says, until};

tests![
    flushed_rules_are_guarded_and_come_back_within_a_second,
    a_flushed_table_is_refused_by_the_kernel_and_comes_back,
    an_address_that_comes_later_is_the_pods_own,
    an_interface_that_comes_later_is_guarded,
    a_full_map_keeps_a_pod_out_and_is_named,
];

fn stop_agent(world: &World, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(world.agent_pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn flush_rules(world: &World, who: Who) {
    let pod = world.name(who);
    for family in ["-4", "-6"] {
        for preference in [89, 90, 91, 95] {
            ip(&format!("-n {pod} {family} rule del pref {preference}"));
        }
    }
}

fn flushed_rules_are_guarded_and_come_back_within_a_second() {
    let world = World::new();
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let tap = Tap::open(&world);
    let to = at(Who::C.v4(), 8080);
    // The agent cannot repair while it is stopped: what holds is in the kernel.
    stop_agent(&world, Signal::STOP);
    flush_rules(&world, Who::A);
    let lost = world.inside(Who::A, || {
        let socket = super::app::tcp(to);
        socket.connect_timeout(&to.into(), Duration::from_millis(300))
    });
    lost.expect_err("nobody answers what the guard dropped");
    assert!(world.counter("pod-a", "guarded") > 0);
    assert_eq!(tap.from(&world, Who::A.v4()), []);

    stop_agent(&world, Signal::CONT);
    let since = Instant::now();
    let rules = format!("-n {} rule", world.name(Who::A));
    until("the rules are back", || ip_says(&rules).contains("95:").then_some(()));
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let line = world.inside(Who::A, || ask(to)).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
    assert_eq!(tap.from(&world, Who::A.v4()), []);
    assert!(world.agent_log().contains("somebody removed rules"), "{}", world.agent_log());
}

fn a_flushed_table_is_refused_by_the_kernel_and_comes_back() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let (pod, to) = (world.name(Who::A), at(Who::C.v4(), 8080));
    stop_agent(&world, Signal::STOP);
    ip(&format!("-n {pod} route flush table 100"));
    let refused = world.inside(Who::A, || ask(to)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    stop_agent(&world, Signal::CONT);
    until("the route is back", || {
        world.inside(Who::A, || ask(to)).ok().filter(|line| line.starts_with("outbound"))
    });
}

fn an_address_that_comes_later_is_the_pods_own() {
    let world = World::new();
    world.inside(Who::A, || serve(8080));
    world.enroll(Who::A);
    let _proxy = world.proxy();
    ip(&format!("-n {} addr add 10.77.0.99/24 dev eth0", world.name(Who::A)));
    let to = at("10.77.0.99".parse().unwrap(), 8080);
    until("the pod reaches itself directly", || {
        world.inside(Who::A, || ask(to)).ok().filter(|line| line.starts_with("app "))
    });
    until("others are delivered to", || {
        world.inside(Who::C, || ask(to)).ok().filter(|line| *line == format!("app {}", Who::C.v4()))
    });
    assert!(world.counter("pod-a", "inbound_plaintext") > 0);
}

fn an_interface_that_comes_later_is_guarded() {
    let world = World::new();
    world.enroll(Who::A);
    let pod = world.name(Who::A);
    ip(&format!("-n {pod} link add net1 type bridge"));
    let index = ip_says(&format!("-n {pod} -o link show net1"));
    let index = index.split(':').next().unwrap().to_owned();
    until("it has a guard", || {
        world.pins(Who::A).join(format!("guard-{index}")).exists().then_some(())
    });
}

fn a_full_map_keeps_a_pod_out_and_is_named() {
    let world = World::new();
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::B);
    let pin = world.bpffs().join("v1/maps/PODS");
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let mut pods: HashMap<_, u64, u32> = map.try_into().unwrap();
    let full = (1 << 40..1 << 41).find(|cookie| pods.insert(cookie, 1, 0).is_err()).unwrap();
    world.ask_to_enroll(Who::A);
    let status = world.reaches(Who::A, "failed");
    let error = status["error"].as_str().unwrap();
    assert!(error.contains("map PODS"), "{error}");
    // Those that are in stay in; the one that is out is as it was, and said so.
    let refused = world.inside(Who::B, || ask(at(Who::C.v4(), 8080)));
    assert!(refused.is_err(), "{refused:?}");
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert_eq!(line, format!("app {}", Who::A.v4()));
    let rules = ip_says(&format!("-n {} rule", world.name(Who::A)));
    assert!(!rules.contains("lookup 100"), "{rules}");

    for cookie in 1 << 40..full {
        pods.remove(&cookie).unwrap();
    }
    world.reaches(Who::A, "captured");
}
