//! `cargo xtask bench`: an optimised build, then the bench lane's own program.

use std::path::Path;

use anyhow::Result;

use crate::{
    ebpf, setup,
    shell::{cargo, run},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// What is measured.
    #[arg(value_enum, long, default_value = "mesh")]
    of: Of,
    /// Handed on to the program, as `--rounds` and `--seconds`; `--help` says which there are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Of {
    /// The way of connections, beside no mesh at all.
    Mesh,
    /// The control plane of a large cluster.
    Control,
}

impl Of {
    fn program(self) -> &'static str {
        match self {
            Self::Mesh => "weft-bench",
            Self::Control => "weft-control-bench",
        }
    }
}

impl Bench {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        setup::run_all()?;
        ebpf::build(root)?;
        run(cargo(root).args(["build", "--release", "--workspace", "--bins"]))?;
        run(cargo(root)
            .args(["run", "--quiet", "--release", "--bin", self.of.program(), "--"])
            .args(&self.args))
    }
}
