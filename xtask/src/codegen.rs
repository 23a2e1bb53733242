//! What is generated, and committed, so that a build needs neither protoc nor a build script, and a chart no build.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use prost_build::Config;

use crate::shell::{cargo, run};

const PROTOS: [&str; 6] = [
    "status.proto",
    "discovery.proto",
    "workload.proto",
    "security.proto",
    "ca.proto",
    "zds.proto",
];

/// Files of one folder that are made from something else.
struct Generated {
    place: &'static str,
    ending: &'static str,
    from: &'static str,
    /// From the repository's root into an empty folder.
    make: fn(&Path, &Path) -> Result<()>,
}

const ALL: [Generated; 2] = [
    Generated { place: "xds/src/proto", ending: "rs", from: "xds/proto", make: rust },
    Generated {
        place: "manifests/weft/definitions",
        ending: "yaml",
        from: "control-plane/src/objects",
        make: definitions,
    },
];

#[derive(Debug, clap::Args)]
pub(crate) struct Codegen {
    /// Write nothing; fail if what is committed is not what it is made from.
    #[arg(long)]
    pub(crate) check: bool,
}

impl Codegen {
    /// Writes all that is generated, or compares it.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        ALL.iter().try_for_each(|generated| self.one(generated, root))
    }

    fn one(&self, generated: &Generated, root: &Path) -> Result<()> {
        let committed = root.join(generated.place);
        let fresh = root.join("target/codegen").join(generated.place);
        if fresh.exists() {
            fs::remove_dir_all(&fresh).with_context(|| format!("empty {}", fresh.display()))?;
        }
        fs::create_dir_all(&fresh).with_context(|| format!("make {}", fresh.display()))?;
        (generated.make)(root, &fresh)?;
        let files = |dir| files(dir, generated.ending);
        let (new, old) = (files(&fresh)?, files(&committed)?);
        if self.check {
            return generated.compare(&new, &old, &fresh, &committed);
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

fn rust(root: &Path, out: &Path) -> Result<()> {
    let protos = root.join("xds/proto");
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

/// By a program that has the types.
fn definitions(root: &Path, out: &Path) -> Result<()> {
    let program = ["run", "--quiet", "--package", "weft-control", "--example", "definitions"];
    run(cargo(root).args(program).arg("--").arg(out))
}

fn files(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let name = PathBuf::from(entry?.file_name());
        if name.extension().is_some_and(|e| e == ending) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Generated {
    fn compare(
        &self,
        new: &[PathBuf],
        old: &[PathBuf],
        fresh: &Path,
        committed: &Path,
    ) -> Result<()> {
        let mut differ = Vec::new();
        for name in new.iter().chain(old.iter().filter(|n| !new.contains(n))) {
            if fs::read(fresh.join(name)).ok() != fs::read(committed.join(name)).ok() {
                differ.push(name.display().to_string());
            }
        }
        let Self { place, from, .. } = self;
        if !differ.is_empty() {
            bail!("{place} is not what {from} says: {differ:?}; run `cargo xtask codegen`");
        }
        Ok(())
    }
}
