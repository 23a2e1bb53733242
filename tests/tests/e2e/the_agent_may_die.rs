//! The agent is killed and started again: what is captured stays captured, and traffic flows on.

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{LONG, Lab, Mesh, wait_for};

const MARKER: &str = "secret-e07b";
const KILLS: u64 = 5;
const ENROLMENTS: usize = 6;

#[test]
fn a_killed_agent_changes_nothing_for_traffic() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let watch = mesh.watch(MARKER)?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.vip()), 2, MARKER)?;
    load.answered(20, LONG)?;
    for round in 0..KILLS {
        let node = if round % 2 == 0 { &mut mesh.near } else { &mut mesh.far };
        // Meanwhile connections are made of the sockets in stock, and wait when it is empty.
        node.kill_agent()?;
        node.start_agent()?;
        load.answered(load.so_far() + 10, LONG)?;
    }
    load.stop()?.refuse_failures()?;
    watch.refuse_clear_text()?;
    mesh.is_sound()
}

#[test]
fn without_agent_and_proxy_a_pod_is_closed_and_never_open() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let url = format!("http://{}/{MARKER}", mesh.web[1].v4());
    let watch = mesh.watch(MARKER)?;
    mesh.near.kill_agent()?;
    mesh.near.kill_proxy()?;
    ensure!(mesh.client.curl(&url).is_err(), "a captured pod got out without a proxy");
    ensure!(mesh.legacy.curl(&format!("http://{}/", mesh.web[0].v4())).is_err(), "a way in");
    mesh.near.start_agent()?;
    mesh.near.start_proxy()?;
    wait_for("the pod is served again", LONG, || mesh.client.curl(&url).ok())?;
    watch.refuse_clear_text()?;
    mesh.is_sound()
}

#[test]
fn agent_and_proxy_killed_together_under_load_leak_nothing() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let watch = mesh.watch(MARKER)?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.vip()), 2, MARKER)?;
    load.answered(20, LONG)?;
    for _ in 0..3 {
        mesh.near.kill_agent()?;
        mesh.near.kill_proxy()?;
        mesh.near.start_agent()?;
        mesh.near.start_proxy()?;
        load.answered(load.so_far() + 10, LONG)?;
    }
    load.stop()?;
    watch.refuse_clear_text().context("while agent and proxy were dead")?;
    mesh.is_sound()
}

#[test]
fn an_agent_killed_in_the_middle_of_an_enrolment_finishes_it_when_it_is_back() -> Result<()> {
    let mut mesh = Mesh::cast(Lab::new()?)?;
    mesh.serve()?;
    for n in 0..ENROLMENTS {
        mesh.client.announce()?;
        if n % 2 == 0 {
            // Half of them when the agent has begun, half before or after.
            wait_for("the enrolment has begun", LONG, || mesh.client.status().map(|_| ()))?;
        }
        mesh.near.kill_agent()?;
        mesh.near.start_agent()?;
        mesh.client.is_ready()?;
        mesh.client.unenroll()?;
        mesh.near.kill_agent()?;
        mesh.near.start_agent()?;
        let body = mesh.client.curl(&format!("http://{}/", mesh.legacy.v4()))?;
        assert!(body.starts_with("legacy "), "answered {body:?}");
    }
    mesh.enroll()?;
    let watch = mesh.watch(MARKER)?;
    mesh.client.curl(&format!("http://{}/{MARKER}", mesh.web[1].v4()))?;
    watch.refuse_clear_text()?;
    mesh.is_sound()
}
