//! `cargo xtask bench`: an optimised build, then the bench lane's own program.

use std::path::Path;

use anyhow::Result;

use crate::{
    ebpf, setup,
    shell::{cargo, run},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Handed on to `weft-bench`: `--rounds`, `--seconds`, `--idle`, `--workloads`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Bench {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        setup::run_all()?;
        ebpf::build(root)?;
        run(cargo(root).args(["build", "--release", "--workspace", "--bins"]))?;
        run(cargo(root)
            .args(["run", "--quiet", "--release", "--bin", "weft-bench", "--"])
            .args(&self.args))
    }
}
