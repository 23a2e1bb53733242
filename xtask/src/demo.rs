//! `cargo xtask demo`: builds, then hands over to the demo's own program.

use std::path::Path;

use anyhow::Result;

use crate::{
    ebpf, setup,
    shell::{cargo, run},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Leave the mesh up at the end, to be played with, and print how.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        setup::run_all()?;
        ebpf::build(root)?;
        run(cargo(root).args(["build", "--workspace", "--bins"]))?;
        let mut demo = cargo(root);
        // No --package: cargo then resolves the same features as above and builds nothing twice.
        demo.args(["run", "--quiet", "--bin", "weft-demo", "--"]);
        if self.keep {
            demo.arg("--keep");
        }
        run(&mut demo)
    }
}
