//! Agent and proxy may stop, crash and come back at any moment; nothing goes out in the clear.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use weft_redirect::{Draining, Node, PodUid};

use super::app::{Talk, ask, serve};
use super::tap::Tap;
use super::tests;
use super::world::{Who, World, at, until};

tests![
    connections_wait_for_a_proxy_that_is_not_there_yet,
    no_connection_is_refused_in_fifty_proxy_restarts,
    twenty_kills_of_the_proxy_refuse_nobody_and_leak_nothing,
    a_killed_agent_changes_nothing_for_a_proxy_that_serves,
    with_agent_and_proxy_dead_everything_is_refused,
    an_agent_that_comes_back_takes_over_without_a_gap,
    a_pod_that_went_while_the_agent_was_dead_is_released,
    a_pod_that_could_not_be_taken_up_is_released_when_it_is_not_wanted_any_more,
    what_cannot_be_read_of_a_pod_for_want_of_descriptors_releases_nothing,
    the_agent_may_have_as_many_descriptors_as_there_are_for_it,
];

fn connections_wait_for_a_proxy_that_is_not_there_yet() {
    let world = World::new();
    world.enroll(Who::A);
    let first = world.proxy();
    let tap = Tap::open(&world);
    first.kill();
    let to = at(Who::C.v4(), 8080);
    let mut waiting = world.inside(Who::A, || Talk::open(to)).unwrap();
    let _second = world.proxy();
    assert!(waiting.line().unwrap().starts_with("outbound"));
    assert_eq!(tap.from(&world, Who::A.v4()), []);
}

fn no_connection_is_refused_in_fifty_proxy_restarts() {
    let world = World::new();
    world.enroll(Who::A);
    world.enroll(Who::B);
    world.inside(Who::B, || serve(8080));
    let mut proxy = world.proxy();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures: Vec<String> = thread::scope(|scope| {
        let client = |who: Who, to| {
            let (world, stop, served) = (&world, &stop, &served);
            scope.spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let talked = world.inside(who, || -> io::Result<()> {
                        let mut talk = Talk::open(to)?;
                        talk.line()?;
                        talk.echo("hello")
                    });
                    match talked {
                        Ok(()) => {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => failures.push(format!("{who:?} to {to}: {error}")),
                    }
                }
                failures
            })
        };
        let clients = [
            client(Who::A, at(Who::C.v4(), 8080)),
            client(Who::A, at(Who::C.v6(), 8080)),
            client(Who::C, at(Who::B.v4(), 8080)),
        ];
        for _ in 0..50 {
            let before = served.load(Ordering::Relaxed);
            proxy.stop();
            proxy = world.proxy();
            // Each proxy serves somebody, so that it is stopped under load.
            until("connections are served", || {
                (served.load(Ordering::Relaxed) > before + 3).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    println!("     {} connections", served.load(Ordering::Relaxed));
    assert_eq!(failures, Vec::<String>::new());
}

/// Connections that a killed proxy had accepted break; all others wait for the next one.
fn twenty_kills_of_the_proxy_refuse_nobody_and_leak_nothing() {
    let world = World::new();
    world.enroll(Who::A);
    let mut proxy = world.proxy();
    let tap = Tap::open(&world);
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let to = at(Who::C.v4(), 8080);
    let failures: Vec<io::Error> = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match world.inside(Who::A, || ask(to)) {
                    Ok(_) => {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => failures.push(error),
                }
            }
            failures
        });
        for _ in 0..20 {
            let before = served.load(Ordering::Relaxed);
            proxy.kill();
            proxy = world.proxy();
            until("connections are served", || {
                (served.load(Ordering::Relaxed) > before).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    let broken = [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
    let other: Vec<_> = failures.iter().filter(|error| !broken.contains(&error.kind())).collect();
    assert!(other.is_empty(), "{other:?}");
    assert!(failures.len() <= 20, "{} connections broke in 20 kills", failures.len());
    assert_eq!(tap.from(&world, Who::A.v4()), []);
}

fn a_killed_agent_changes_nothing_for_a_proxy_that_serves() {
    let mut world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let to = at(Who::C.v4(), 8080);
    let mut open = world.inside(Who::A, || Talk::open(to)).unwrap();
    open.line().unwrap();
    world.kill_agent();
    open.echo("still there").unwrap();
    let line = world.inside(Who::A, || ask(to)).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
}

fn with_agent_and_proxy_dead_everything_is_refused() {
    let mut world = World::new();
    world.inside(Who::A, || serve(8080));
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::A);
    let proxy = world.proxy();
    let tap = Tap::open(&world);
    world.kill_agent();
    proxy.kill();
    for ip in [Who::C.v4(), Who::C.v6(), Who::C.mapped()] {
        let refused = world.inside(Who::A, || ask(at(ip, 8080))).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{ip}: {refused}");
    }
    let inward = world.inside(Who::C, || ask(at(Who::A.v4(), 8080)));
    inward.expect_err("nothing reaches the pod's program in the clear");
    let refusals = tap.from(&world, Who::A.v4());
    assert!(refusals.iter().all(|seen| seen.from.port() == 8080), "{refusals:?}");
    assert_eq!(tap.from(&world, Who::A.v6()), []);
    // A probe still reaches the pod.
    let line = world.on_node(|| ask(at(Who::A.v4(), 8080))).unwrap();
    assert_eq!(line, "app 10.77.0.1");

    world.start_agent();
    let _proxy = world.proxy();
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
}

fn an_agent_that_comes_back_takes_over_without_a_gap() {
    let mut world = World::new();
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::A);
    let _proxy = world.proxy();
    let tap = Tap::open(&world);
    let to = at(Who::C.v4(), 8080);
    let stop = AtomicBool::new(false);
    let netns = world.netns(Who::A);
    let failures: Vec<String> = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut failures, mut served) = (Vec::new(), 0);
            while !stop.load(Ordering::Relaxed) {
                match netns.run(|| ask(to)).unwrap() {
                    Ok(line) if line.starts_with("outbound") => served += 1,
                    Ok(line) => failures.push(line),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            println!("     {served} connections");
            failures
        });
        for _ in 0..10 {
            world.kill_agent();
            world.start_agent();
            world.reaches(Who::A, "ready");
        }
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(tap.from(&world, Who::A.v4()), []);
}

fn a_pod_that_went_while_the_agent_was_dead_is_released() {
    let mut world = World::new();
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::A);
    world.kill_agent();
    world.unenroll(Who::A);
    world.start_agent();
    world.forgets(Who::A);
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert_eq!(line, format!("app {}", Who::A.v4()));
    assert!(!world.pins(Who::A).exists());
}

fn a_pod_that_could_not_be_taken_up_is_released_when_it_is_not_wanted_any_more() {
    let mut world = World::new();
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::A);
    world.kill_agent();
    world.ask_to_enroll_with(Who::A, &json!({ "addresses": ["10.77.0.99"] }));
    world.start_agent();
    world.reaches(Who::A, "kept");
    assert!(world.pins(Who::A).exists(), "it stays captured");
    world.unenroll(Who::A);
    world.forgets(Who::A);
    until("its pins are gone", || (!world.pins(Who::A).exists()).then_some(()));
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert_eq!(line, format!("app {}", Who::A.v4()));
}

fn what_cannot_be_read_of_a_pod_for_want_of_descriptors_releases_nothing() {
    let mut world = World::new();
    world.inside(Who::C, || serve(8080));
    world.enroll(Who::A);
    world.kill_agent();
    let mut node = Node::pinned(&world.bpffs()).unwrap().unwrap();
    let uid = PodUid::parse(&Who::A.uid()).unwrap();
    let limit = getrlimit(Resource::Nofile);
    // With one descriptor the record can be read, and the namespace not be entered.
    for free in [0, 1] {
        let lowest = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        let current = Some(u64::try_from(lowest).unwrap() + free);
        setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum }).unwrap();
        let resumed = Draining::resume(&mut node, &uid);
        setrlimit(Resource::Nofile, limit).unwrap();
        assert!(resumed.is_err(), "{free}: {resumed:?}");
    }
    assert!(world.pins(Who::A).exists());
    let refused = world.inside(Who::A, || ask(at(Who::C.v4(), 8080)));
    refused.expect_err("it is captured, and nobody serves it");
}

fn the_agent_may_have_as_many_descriptors_as_there_are_for_it() {
    let world = World::new();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", world.agent_pid())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert_ne!(numbers[0], "256", "it is what a runtime begins with");
}
