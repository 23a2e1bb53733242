//! What all other proofs stand on: a lab that shows clear text where there is some, and leaves nothing behind.

use std::path::Path;

use anyhow::{Result, ensure};
use weft_tests::lab::{Capture, Lab, PodSpec, SHORT, sweep, wait_for};

const fn plain(name: &str) -> PodSpec<'_> {
    PodSpec { name, service_account: name, app: name }
}

#[test]
fn traffic_between_pods_without_a_mesh_is_seen_in_the_clear() -> Result<()> {
    let lab = Lab::new()?;
    let (near, far) = (lab.bare_node(1)?, lab.bare_node(2)?);
    let (client, server) = (near.pod(plain("client"))?, far.pod(plain("server"))?);
    let _server = server.serve(80)?;
    let marker = "a-secret-in-the-clear";
    let capture = Capture::start(lab.wire(), marker)?;
    let v4 = client.curl(&format!("http://{}/{marker}", server.v4()))?;
    let v6 = client.curl(&format!("http://[{}]/{marker}", server.v6()))?;
    let captured = capture.stop()?;
    assert_eq!(v4, format!("server {}\n", client.v4()));
    assert_eq!(v6, format!("server {}\n", client.v6()));
    ensure!(captured.marked > 0, "{} packets, none with the marker", captured.packets);
    ensure!(captured.refuse_clear_text().is_err(), "the capture did not complain");
    Ok(())
}

#[test]
fn looping_clients_are_counted_each_connection_once() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.bare_node(1)?;
    let (client, server) = (node.pod(plain("client"))?, node.pod(plain("server"))?);
    let mut process = server.serve(80)?;
    let clients = client.hammer(&format!("{}:80", server.v4()), 2, "x")?;
    clients.answered(50, SHORT)?;
    process.kill()?;
    wait_for("a refusal is noted", SHORT, || {
        client.curl(&format!("http://{}/", server.v4())).is_err().then_some(())
    })?;
    let tally = clients.stop()?;
    ensure!(tally.ok >= 50 && tally.refused > 0, "{tally:?}");
    ensure!(tally.refuse_failures().is_err(), "refusals were not failures: {tally:?}");
    Ok(())
}

#[test]
fn a_dropped_lab_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.bare_node(1)?;
    let pod = node.pod(plain("server"))?;
    let server = pod.serve(80)?;
    let places = [lab.dir().to_owned(), pod.namespace().path(), node.namespace().path()];
    ensure!(places.iter().all(|place| place.exists()), "{places:?}");
    drop((server, pod, node, lab));
    ensure!(!places.iter().any(|place| place.exists()), "{places:?}");
    Ok(())
}

#[test]
fn a_lab_that_nobody_dropped_is_swept_by_its_prefix() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.bare_node(1)?;
    let pod = node.pod(plain("server"))?;
    let server = pod.serve(80)?;
    let places = [lab.dir().to_owned(), pod.namespace().path(), node.namespace().path()];
    let (pid, prefix) = (server.pid().to_string(), lab.prefix().to_owned());
    std::mem::forget((server, pod, node, lab));
    sweep(&prefix);
    ensure!(!places.iter().any(|place| place.exists()), "{places:?}");
    // It is a zombie of ours, and has no command line any more.
    let line = std::fs::read(Path::new("/proc").join(pid).join("cmdline"));
    ensure!(line.map_or(true, |line| line.is_empty()), "the server still runs");
    Ok(())
}
