//! The node's own probes reach its pods, also strict ones; nobody else gets in by their door.

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{LONG, Mesh, wait_for};

#[test]
fn a_probe_of_the_node_reaches_a_strict_pod_and_another_node_s_does_not() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.strict()?;
    let url = format!("http://{}/", mesh.web[0].v4());
    wait_for("legacy is refused", LONG, || mesh.legacy.curl(&url).is_err().then_some(()))?;
    let (code, body) = mesh.near.curl(&url).context("the kubelet's probe was refused")?;
    assert_eq!((code.as_str(), body.as_str()), ("200", "web-1 10.1.1.1\n"));
    ensure!(mesh.far.curl(&url).is_none(), "another node's process got in");
    mesh.is_sound()
}
