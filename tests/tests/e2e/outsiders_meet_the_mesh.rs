//! Pods outside of the mesh call in and are called, as far as the mesh lets them; pods come and go.

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{LONG, Mesh, wait_for};

const MARKER: &str = "secret-b21c";

#[test]
fn an_outsider_is_let_in_while_permissive_and_refused_when_strict() -> Result<()> {
    let mesh = Mesh::new()?;
    let urls = mesh.web.each_ref().map(|pod| format!("http://{}/", pod.v4()));
    for url in &urls {
        mesh.legacy.curl(url).context("permissive is the default")?;
    }
    mesh.strict()?;
    for url in &urls {
        wait_for("legacy is refused", LONG, || mesh.legacy.curl(url).is_err().then_some(()))?;
        mesh.client.curl(url).context("the mesh itself is not refused")?;
    }
    mesh.lab.manifests().delete("strict")?;
    for url in &urls {
        wait_for("legacy is let in again", LONG, || mesh.legacy.curl(url).ok())?;
    }
    mesh.is_sound()
}

#[test]
fn a_pod_of_the_mesh_calls_an_outsider_directly() -> Result<()> {
    let mesh = Mesh::new()?;
    let body = mesh.client.curl(&format!("http://{}/", mesh.legacy.v4()))?;
    assert!(body.starts_with("legacy "), "answered {body:?}");
    let body = mesh.client.curl(&format!("http://[{}]/", mesh.legacy.v6()))?;
    assert!(body.starts_with("legacy "), "answered {body:?}");
    Ok(())
}

#[test]
fn an_un_enrolled_pod_is_called_directly_again() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let url = format!("http://{}/{MARKER}", mesh.web[1].v4());
    mesh.client.curl(&url)?;
    mesh.web[1].unenroll()?;
    mesh.near.knows("web-2", "TCP")?;
    let watch = mesh.watch(MARKER)?;
    mesh.client.curl(&url)?;
    let wire = watch.stop()?.pop().context("the wire was watched")?;
    ensure!(wire.marked > 0, "still encrypted after it left the mesh");
    mesh.client.unenroll()?;
    mesh.near.kill_proxy()?;
    mesh.far.kill_proxy()?;
    mesh.client.curl(&url).context("no proxy is needed between pods outside of the mesh")?;
    Ok(())
}

#[test]
fn a_connection_opened_before_enrolment_survives_enrolment_and_un_enrolment() -> Result<()> {
    let mut mesh = Mesh::cast(weft_tests::lab::Lab::new()?)?;
    mesh.serve()?;
    let file = mesh.lab.dir().join("drip");
    let path = file.display().to_string();
    let url = format!("http://{}/drip", mesh.web[1].v4());
    let mut drip = mesh.client.start("drip", "curl", &["-sSN", "-o", &path, &url])?;
    let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    let goes_on = |what: &str| {
        let now = lines();
        wait_for(what, LONG, || (lines() > now + 5).then_some(()))
    };
    goes_on("it drips before enrolment")?;
    mesh.enroll()?;
    goes_on("it drips after enrolment")?;
    mesh.client.unenroll()?;
    mesh.web[1].unenroll()?;
    goes_on("it drips after un-enrolment")?;
    ensure!(drip.is_running(), "curl ended: {}", drip.log());
    mesh.is_sound()
}

#[test]
fn a_namespace_deleted_under_open_connections_takes_nothing_else_with_it() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.web[0].v4()), 2, "x")?;
    load.answered(20, LONG)?;
    // The order in which a container runtime does it: the processes, then the namespace, then the agent is told.
    mesh.servers.clear();
    mesh.web[0].namespace().delete();
    mesh.web[0].unenroll()?;
    let again = mesh.web[1].serve(81)?;
    for _ in 0..10 {
        mesh.client.curl(&format!("http://{}:81/", mesh.web[1].v4()))?;
    }
    drop((load, again));
    ensure!(mesh.near.proxy()?.is_running() && mesh.near.agent()?.is_running(), "a process died");
    mesh.is_sound()
}
