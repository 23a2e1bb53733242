//! An address that was a pod's and is another's is never taken for the first one.

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{LONG, Mesh, PodSpec};

const ROUNDS: u8 = 6;
/// Beyond those that a node gives out by itself.
const HOST: u8 = 99;

#[test]
fn a_new_pod_at_an_old_address_is_never_called_for_the_old_one() -> Result<()> {
    let mesh = Mesh::new()?;
    let load = mesh.client.hammer_for(&format!("{}:80", mesh.vip()), 3, "x", "web-")?;
    for round in 0..ROUNDS {
        let name = format!("web-{}", 10 + round);
        let web =
            mesh.far.pod_at(PodSpec { name: &name, service_account: "web", app: "web" }, HOST)?;
        let _server = web.serve(80)?;
        web.enroll()?;
        mesh.near.knows(&name, "HBONE")?;
        // It is one of three: many of these are its own, and some are on their way when it goes.
        load.answered(load.so_far() + 50, LONG)?;
        web.delete()?;
        let name = format!("thief-{round}");
        let spec = PodSpec { name: &name, service_account: "thief", app: "thief" };
        let thief = mesh.far.pod_at(spec, HOST)?;
        let _server = thief.serve(80)?;
        thief.enroll()?;
        load.answered(load.so_far() + 100, LONG).with_context(|| format!("after {name}"))?;
        thief.delete()?;
    }
    let tally = load.stop()?;
    ensure!(tally.wrong == 0, "{tally:?}");
    mesh.is_sound()
}
