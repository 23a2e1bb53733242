//! UDP and ICMP of enrolled pods pass untouched.

use anyhow::{Result, ensure};
use weft_tests::lab::{Mesh, binary};

#[test]
fn udp_and_icmp_between_enrolled_pods_pass() -> Result<()> {
    let mesh = Mesh::new()?;
    let app = binary("weft-app")?.display().to_string();
    for pod in &mesh.web {
        for to in [format!("{}:80", pod.v4()), format!("[{}]:80", pod.v6())] {
            let output = mesh.client.run(&app, &["ask", "--to", &to, "--text", "hello"])?;
            let answer = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(answer, format!("{to} hello\n"));
        }
        for address in [pod.v4(), pod.v6()] {
            let ping = mesh.client.run("ping", &["-n", "-c", "1", "-W", "5", address])?;
            ensure!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
        }
    }
    Ok(())
}
