//! A pod that is enrolled while no proxy runs is closed until one does.

use anyhow::{Result, ensure};
use weft_tests::lab::{LONG, Lab, Mesh};

const MARKER: &str = "secret-19aa";

#[test]
fn connections_of_a_pod_enrolled_without_a_proxy_wait_for_one_and_leak_nothing() -> Result<()> {
    let mut mesh = Mesh::cast(Lab::new()?)?;
    mesh.serve()?;
    mesh.near.kill_proxy()?;
    mesh.client.capture()?;
    mesh.web[1].enroll()?;
    // What the control plane does not know yet, it cannot tell the proxy that starts.
    mesh.far.knows("client", "HBONE")?;
    mesh.far.knows("web-2", "HBONE")?;
    let watch = mesh.watch(MARKER)?;
    let url = format!("http://{}/{MARKER}", mesh.web[1].v4());
    let mut waiting = mesh.client.start("waiting", "curl", &["-sS", "-m", "60", &url])?;
    mesh.near.launch_proxy()?;
    let status = waiting.exit(LONG)?;
    ensure!(status.success(), "the connection did not wait: {}", waiting.log());
    assert_eq!(waiting.log(), format!("web-2 {}\n", mesh.client.v4()));
    watch.refuse_clear_text()?;
    mesh.is_sound()
}
