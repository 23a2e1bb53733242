//! The proxy's own ports are no way around it, into it, or in circles through it.

use anyhow::{Result, ensure};
use weft_tests::lab::{LONG, Mesh, Pod, wait_for};

const PORTS: [u16; 7] = [15000, 15001, 15006, 15008, 15020, 15021, 15053];

#[test]
fn no_pod_gets_an_answer_from_a_proxy_port_of_any_pod() -> Result<()> {
    let mesh = Mesh::new()?;
    mesh.strict()?;
    let url = format!("http://{}/", mesh.web[1].v4());
    wait_for("legacy is refused", LONG, || mesh.legacy.curl(&url).is_err().then_some(()))?;
    for from in [&mesh.client, &mesh.legacy] {
        for to in [&mesh.client, &mesh.web[0], &mesh.web[1]] {
            silent(from, to.v4())?;
            silent(from, &format!("[{}]", to.v6()))?;
        }
    }
    silent(&mesh.client, "127.0.0.1")?;
    silent(&mesh.client, "[::1]")?;
    mesh.client.curl(&url)?;
    mesh.is_sound()
}

/// Each port ends the connection by itself, without an answer, well before curl gives up.
fn silent(from: &Pod, address: &str) -> Result<()> {
    for port in PORTS {
        let url = format!("http://{address}:{port}/config_dump");
        let output = from.run("curl", &["-sS", "-m", "30", &url])?;
        let code = output.status.code();
        ensure!(
            !output.status.success() && output.stdout.is_empty() && code != Some(28),
            "{} got from {url}: {code:?} {}{}",
            from.name(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
