//! Control plane and certificate service die, and the mesh goes on: also through a restart of the proxy.

use anyhow::{Context, Result};
use weft_tests::lab::{LONG, Mesh, wait_for};

#[test]
fn a_proxy_killed_and_restarted_without_any_control_plane_serves() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let urls = mesh.web.each_ref().map(|pod| format!("http://{}/", pod.v4()));
    mesh.deny("no-intruders", &["intruder"])?;
    for url in &urls {
        mesh.client.curl(url)?;
        wait_for("the intruder is refused", LONG, || {
            mesh.intruder.curl(url).is_err().then_some(())
        })?;
    }
    mesh.near.keeps("no-intruders")?;
    mesh.far.keeps("no-intruders")?;
    mesh.control.kill()?;
    mesh.near.kill_proxy()?;
    mesh.far.kill_proxy()?;
    mesh.near.start_proxy()?;
    mesh.far.start_proxy()?;
    for url in &urls {
        mesh.client.curl(url).context("served from what was kept on disk")?;
        assert!(mesh.intruder.curl(url).is_err(), "policy was forgotten");
    }
    mesh.is_sound()
}

#[test]
fn what_changed_while_the_control_plane_was_away_arrives_when_it_is_back() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let url = format!("http://{}/", mesh.vip());
    mesh.intruder.curl(&url).context("it has its certificate")?;
    mesh.control.kill()?;
    mesh.deny("no-intruders", &["intruder"])?;
    mesh.intruder.curl(&url).context("nobody has told the proxies yet")?;
    mesh.control.start()?;
    wait_for("the intruder is refused", LONG, || mesh.intruder.curl(&url).is_err().then_some(()))?;
    mesh.client.curl(&url)?;
    mesh.is_sound()
}
