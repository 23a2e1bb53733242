//! Rust from `xds/proto`. The result is committed, so that a build needs neither protoc nor a build script.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use prost_build::Config;

const PROTOS: [&str; 6] = [
    "status.proto",
    "discovery.proto",
    "workload.proto",
    "security.proto",
    "ca.proto",
    "zds.proto",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Codegen {
    /// Write nothing; fail if the committed code is not what the .proto files say.
    #[arg(long)]
    pub(crate) check: bool,
}

impl Codegen {
    /// Writes `xds/src/proto`, or compares it.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let committed = root.join("xds/src/proto");
        let fresh = root.join("target/codegen");
        generate(&root.join("xds/proto"), &fresh)?;
        let (new, old) = (generated(&fresh)?, generated(&committed)?);
        if self.check {
            return compare(&new, &old, &fresh, &committed);
        }
        for name in old.iter().filter(|name| !new.contains(name)) {
            fs::remove_file(committed.join(name))?;
        }
        for name in &new {
            fs::copy(fresh.join(name), committed.join(name))?;
        }
        Ok(())
    }
}

fn generate(protos: &Path, out: &Path) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let descriptors = protox::compile(PROTOS, [protos]).context("compile xds/proto")?;
    let mut config = Config::new();
    // Sorted maps: encoding one value twice gives the same bytes, and versions are hashes of them.
    config.btree_map(["."]).bytes(["."]);
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .compile_fds_with_config(descriptors, config)
        .context("generate from xds/proto")
}

fn generated(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let name = PathBuf::from(entry?.file_name());
        if name.extension().is_some_and(|e| e == "rs") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn compare(new: &[PathBuf], old: &[PathBuf], fresh: &Path, committed: &Path) -> Result<()> {
    let mut differ = Vec::new();
    for name in new.iter().chain(old.iter().filter(|n| !new.contains(n))) {
        if fs::read(fresh.join(name)).ok() != fs::read(committed.join(name)).ok() {
            differ.push(name.display().to_string());
        }
    }
    if !differ.is_empty() {
        bail!("xds/src/proto is not what xds/proto says: {differ:?}; run `cargo xtask codegen`");
    }
    Ok(())
}
