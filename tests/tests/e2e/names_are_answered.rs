//! A pod asks whatever resolver it likes, and names of the mesh are answered on its node.

use anyhow::Result;
use weft_tests::lab::{LONG, Mesh, binary, wait_for};

/// Nobody is there: only the proxy can answer.
const RESOLVER: &str = "10.0.0.53:53";

#[test]
fn a_name_of_the_mesh_is_answered_in_the_resolver_s_name() -> Result<()> {
    let mesh = Mesh::new()?;
    let app = binary("weft-app")?.display().to_string();
    let ask =
        |name: &str| mesh.client.says(&app, &["resolve", "--server", RESOLVER, "--name", name]);
    let name = "web.default.svc.cluster.local";
    assert_eq!(ask(name)?, format!("{RESOLVER} code 0 {}\n", mesh.vip()));
    let named = ["resolve", "--srv", "--server", RESOLVER, "--name", &format!("_http._tcp.{name}")];
    assert_eq!(mesh.client.says(&app, &named)?, format!("{RESOLVER} code 0 80\n"));
    mesh.lab.manifests().delete("service-web")?;
    wait_for("the name is gone", LONG, || {
        ask(name).is_ok_and(|a| !a.contains(mesh.vip())).then_some(())
    })?;
    mesh.is_sound()
}
