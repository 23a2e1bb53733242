//! The programs of a control plane, and those that talk to it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

/// Where `cargo xtask setup` builds them.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/kube/bin");

/// Names a folder with other builds of them, as it does for envtest.
const GIVEN: &str = "KUBEBUILDER_ASSETS";

/// One of the programs.
pub(super) fn asset(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os(GIVEN).map_or_else(|| PathBuf::from(BUILT), PathBuf::from);
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not there: run `cargo xtask setup`, or name a folder that has it in {GIVEN}",
        path.display()
    );
    Ok(path)
}

/// A command that dies with the thread that started it, also when the test process is killed.
pub(super) fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
