//! A policy refuses a workload by its identity, says so, and reaches connections that are already open.

use std::fs;

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{LONG, Mesh, wait_for};

#[test]
fn an_intruder_is_refused_and_why_names_the_policy() -> Result<()> {
    let mesh = Mesh::new()?;
    let url = format!("http://{}/", mesh.vip());
    mesh.intruder.curl(&url).context("there is no policy yet")?;
    mesh.deny("no-intruders", &["intruder"])?;
    wait_for("the intruder is refused", LONG, || mesh.intruder.curl(&url).is_err().then_some(()))?;
    for pod in &mesh.web {
        let refused = mesh.intruder.curl(&format!("http://{}/", pod.v4()));
        ensure!(refused.is_err(), "{} answered {refused:?}", pod.name());
        mesh.client.curl(&format!("http://{}/", pod.v4()))?;
    }
    let why = mesh.near.weft(&["why", "default/intruder", "web.default:80"])?;
    ensure!(why.contains("no-intruders"), "why said:\n{why}");
    mesh.is_sound()
}

#[test]
fn a_policy_edit_cuts_a_live_connection() -> Result<()> {
    let mesh = Mesh::new()?;
    for (n, pod) in mesh.web.iter().enumerate() {
        let url = format!("http://{}/drip", pod.v4());
        let file = mesh.lab.dir().join(format!("drip-{n}"));
        let path = file.display().to_string();
        let mut drip =
            mesh.client.start(&format!("drip-{n}"), "curl", &["-sSN", "-o", &path, &url])?;
        let lines = || fs::read_to_string(&file).unwrap_or_default().lines().count();
        wait_for("the server drips", LONG, || (lines() > 3).then_some(()))?;
        mesh.deny("no-clients", &["client"])?;
        let status = drip.exit(LONG).context("the live connection was not cut")?;
        ensure!(!status.success(), "the connection ended as if it were complete");
        mesh.lab.manifests().delete("no-clients")?;
        let let_in = || mesh.client.curl(&format!("http://{}/", pod.v4())).ok();
        wait_for("the client is let in again", LONG, let_in)?;
    }
    mesh.is_sound()
}

#[test]
fn a_policy_that_cannot_be_read_leaves_the_last_good_one_in_force() -> Result<()> {
    let mesh = Mesh::new()?;
    let url = format!("http://{}/", mesh.vip());
    mesh.deny("no-intruders", &["intruder"])?;
    wait_for("the intruder is refused", LONG, || mesh.intruder.curl(&url).is_err().then_some(()))?;
    mesh.lab.manifests().apply(
        "no-intruders",
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-intruders, namespace: default}
spec: {action: DENY, rules: [{from: [{source: {principals: 7}}]}]}
",
    )?;
    wait_for("the control plane complains of the file", LONG, || {
        mesh.control.log().contains("no-intruders.yaml").then_some(())
    })?;
    ensure!(mesh.intruder.curl(&url).is_err(), "a broken policy let the intruder in");
    mesh.client.curl(&url)?;
    Ok(())
}
