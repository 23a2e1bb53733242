//! What changes about a pod that stays in the mesh: nothing of it goes out in the clear meanwhile.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use super::app::{ask, serve};
use super::tap::Tap;
use super::tests;
use super::world::{Who, World, at, ip, ip_says, until};

tests![
    a_pod_whose_settings_change_stays_captured,
    a_pod_whose_change_fails_stays_captured,
    a_pod_whose_file_cannot_be_read_stays_captured,
    a_pod_that_is_known_by_a_process_stays_captured_when_that_ends,
    a_pod_whose_namespace_lost_its_name_stays_captured_while_a_process_is_in_it,
    a_pod_that_an_agent_without_descriptors_cannot_look_for_stays_captured,
];

/// Tells a thread to stop when it goes.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has pod A call pod C, connection after connection, while `change` goes on.
fn refuse_gaps(world: &World, change: impl FnOnce(&dyn Fn())) {
    world.inside(Who::C, || serve(8080));
    let tap = Tap::open(world);
    let (netns, to) = (world.netns(Who::A), at(Who::C.v4(), 8080));
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures: Vec<String> = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut failures = Vec::new();
            while failures.is_empty() && !stop.load(Ordering::Relaxed) {
                match netns.run(|| ask(to)).unwrap() {
                    Ok(line) if line.starts_with("outbound") => {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(line) => failures.push(line),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            failures
        });
        // Also when a look panics: the scope waits for its threads.
        let _stopping = Stopping(&stop);
        let served_more = || {
            let before = served.load(Ordering::Relaxed);
            until("connections are served", || {
                (served.load(Ordering::Relaxed) > before + 3 || client.is_finished()).then_some(())
            });
        };
        served_more();
        change(&served_more);
        served_more();
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(tap.from(world, Who::A.v4()), []);
}

fn a_pod_whose_settings_change_stays_captured() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let lookups_are_captured = || {
        let rules = ip_says(&format!("-n {} rule", world.name(Who::A)));
        rules.lines().filter(|rule| rule.starts_with("91:")).count()
    };
    assert_eq!(lookups_are_captured(), 1);
    refuse_gaps(&world, |served_more| {
        for round in 0..10 {
            let (dns, rules) = if round % 2 == 0 { (false, 0) } else { (true, 1) };
            world.ask_to_enroll_with(Who::A, &json!({ "dnsCapture": dns }));
            until("the pod's lookups are captured as they should be", || {
                (lookups_are_captured() == rules).then_some(())
            });
            served_more();
        }
    });
}

fn a_pod_whose_change_fails_stays_captured() {
    let world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    refuse_gaps(&world, |served_more| {
        world.ask_to_enroll_with(Who::A, &json!({ "addresses": ["10.77.0.99"] }));
        world.reaches(Who::A, "kept");
        served_more();
        world.ask_to_enroll(Who::A);
        world.reaches(Who::A, "ready");
        world.ask_to_enroll_with(Who::A, &json!({ "addresses": ["10.77.0.99"] }));
        world.reaches(Who::A, "kept");
    });
    world.unenroll(Who::A);
    world.forgets(Who::A);
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert_eq!(line, format!("app {}", Who::A.v4()));
}

fn a_pod_whose_file_cannot_be_read_stays_captured() {
    let mut world = World::new();
    world.enroll(Who::A);
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let told = |world: &World| world.agent_log().matches("is not what it should be").count();
    refuse_gaps(&world, |served_more| {
        world.spoil_file(Who::A);
        until("the file was looked at", || (told(&world) > 0).then_some(()));
        served_more();
        // The next one has been followed after it.
        world.enroll(Who::B);
        served_more();
    });
    let before = told(&world);
    world.kill_agent();
    world.start_agent();
    // Nor does the next agent, which never saw it whole, let it go.
    until("the file was looked at again", || (told(&world) > before).then_some(()));
    world.unenroll(Who::B);
    world.forgets(Who::B);
    assert!(world.pins(Who::A).exists(), "{}", world.agent_log());
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
    world.ask_to_enroll(Who::A);
    world.reaches(Who::A, "ready");
    world.unenroll(Who::A);
    world.forgets(Who::A);
}

/// Ends with the test.
struct Process(Child);

impl Process {
    fn of(world: &World, who: Who) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &world.name(who), "sleep", "600"]);
        let process = Self(command.spawn().unwrap());
        let inside = world.netns(who).file_identity().1;
        until("the process is in the pod", || {
            let link = std::fs::read_link(process.netns()).ok()?;
            (link.to_str()? == format!("net:[{inside}]")).then_some(())
        });
        process
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_pod_that_is_known_by_a_process_stays_captured_when_that_ends() {
    let world = World::new();
    let mut processes = [Process::of(&world, Who::A), Process::of(&world, Who::A)];
    let netns = processes[0].netns();
    world.ask_to_enroll_with(Who::A, &json!({ "netns": netns }));
    world.reaches(Who::A, "captured");
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let [first, second] = &mut processes;
    refuse_gaps(&world, |_| {
        first.end();
        let other = second.netns();
        until("the agent looks at another process", || {
            world.agent_log().contains(&other).then_some(())
        });
    });
    world.reaches(Who::A, "ready");
    // Nobody is left who could speak, and whoever comes is closed until it is found.
    second.end();
    world.reaches(Who::A, "failed");
    until("its proxy has let go", || {
        let asked = world.inside(Who::A, || ask(at(Who::C.v4(), 8080)));
        asked.map(|line| assert!(line.starts_with("outbound"), "{line}")).is_err().then_some(())
    });
    let _third = Process::of(&world, Who::A);
    world.ask_to_enroll(Who::A);
    world.reaches(Who::A, "ready");
    let line = world.inside(Who::A, || ask(at(Who::C.v4(), 8080))).unwrap();
    assert!(line.starts_with("outbound"), "{line}");
    world.unenroll(Who::A);
    world.forgets(Who::A);
    assert!(!world.pins(Who::A).exists());
}

fn a_pod_whose_namespace_lost_its_name_stays_captured_while_a_process_is_in_it() {
    let mut world = World::new();
    let mut process = Process::of(&world, Who::A);
    world.enroll(Who::A);
    let proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let inside = world.netns(Who::A);
    refuse_gaps(&world, |served_more| {
        ip(&format!("netns del {}", world.name(Who::A)));
        let by = process.netns();
        until("the agent knows it by its process", || {
            world.agent_log().contains(&by).then_some(())
        });
        served_more();
    });
    world.reaches(Who::A, "ready");
    // Nor does the next agent let it go, which has only the name and what the last one wrote down.
    world.kill_agent();
    proxy.kill();
    world.start_agent();
    world.reaches(Who::A, "kept");
    let asked = inside.run(|| ask(at(Who::C.v4(), 8080))).unwrap();
    asked.expect_err("it is captured, and nobody serves it");
    process.end();
    world.unenroll(Who::A);
    world.forgets(Who::A);
    assert!(!world.pins(Who::A).exists());
}

fn a_pod_that_an_agent_without_descriptors_cannot_look_for_stays_captured() {
    let world = World::new();
    let mut processes = [Process::of(&world, Who::A), Process::of(&world, Who::A)];
    world.ask_to_enroll_with(Who::A, &json!({ "netns": processes[0].netns() }));
    world.reaches(Who::A, "captured");
    let _proxy = world.proxy();
    world.reaches(Who::A, "ready");
    let [first, second] = &mut processes;
    refuse_gaps(&world, |served_more| {
        let agent = Pid::from_raw(i32::try_from(world.agent_pid()).unwrap());
        let limit = getrlimit(Resource::Nofile);
        let none = Rlimit { current: Some(0), maximum: limit.maximum };
        prlimit(agent, Resource::Nofile, none).unwrap();
        first.end();
        let unseen = "whether the pod is there cannot be told";
        until("the agent has looked", || {
            let log = world.agent_log();
            [unseen, "namespace is gone"].iter().any(|said| log.contains(said)).then_some(())
        });
        served_more();
        prlimit(agent, Resource::Nofile, limit).unwrap();
        let other = second.netns();
        until("the agent looks at another process", || {
            world.agent_log().contains(&other).then_some(())
        });
        assert_eq!(world.agent_log().matches(unseen).count(), 1, "{}", world.agent_log());
    });
    world.reaches(Who::A, "ready");
}
