//! Hands the command to ourselves, built with the compiler of .proto files.

use std::path::Path;

use anyhow::Result;

use crate::shell::{cargo, run};

#[derive(Debug, clap::Args)]
pub(crate) struct Codegen {
    /// Write nothing; fail if what is committed is not what it is made from.
    #[arg(long)]
    pub(crate) check: bool,
}

impl Codegen {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let mut again = cargo(root);
        again.args(["run", "--quiet", "--package", "xtask", "--features", "codegen", "--"]);
        again.arg("codegen");
        if self.check {
            again.arg("--check");
        }
        run(&mut again)
    }
}
