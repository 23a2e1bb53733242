//! Driven by our agent, the proxy runs as another user than root, without a capability and without a way to one.

use std::fs;

use anyhow::{Context, Result};
use weft_tests::lab::Mesh;

#[test]
fn a_proxy_that_carries_traffic_has_no_capability() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.client.curl(&format!("http://{}/", mesh.web[1].v4()))?;
    for node in [&mut mesh.near, &mut mesh.far] {
        let status = fs::read_to_string(format!("/proc/{}/status", node.proxy()?.pid()))?;
        let of = |name: &str| -> Result<String> {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            let value = line.with_context(|| format!("{name} is not in /proc"))?;
            Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let nobody = "65534 65534 65534 65534";
        assert_eq!((of("Uid")?.as_str(), of("Gid")?.as_str()), (nobody, nobody));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(of(set)?, "0000000000000000", "{set}");
        }
        assert_eq!(of("NoNewPrivs")?, "1");
        assert_eq!(of("Groups")?, "");
    }
    Ok(())
}
