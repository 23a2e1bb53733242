//! Certificates are renewed while traffic runs, and no connection notices.

use anyhow::Result;
use weft_tests::lab::{LONG, Mesh};

const THREE_RENEWALS: u32 = 3;

#[test]
fn a_renewal_under_load_fails_no_connection() -> Result<()> {
    let mesh = Mesh::new()?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.vip()), 2, "x")?;
    load.answered(1, LONG)?;
    let mut serial = mesh.near.serial("client")?;
    for _ in 0..THREE_RENEWALS {
        serial = mesh.near.renewed("client", &serial)?;
    }
    load.stop()?.refuse_failures()?;
    mesh.is_sound()
}
