//! `cargo xtask fuzz`: every parser that reads a stranger's bytes, guided by coverage, for a while each.
//!
//! libFuzzer on the stable compiler: the instrumentation flags are LLVM's own. cargo-fuzz would need a nightly.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::shell::{cargo, run};

const FOLDER: &str = "tests/fuzz";
/// Named, so that the flags below do not reach build scripts and macros, which link no libFuzzer.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const INSTRUMENT: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

#[derive(Debug, clap::Args)]
pub(crate) struct Fuzz {
    /// Only this target; all of them without.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

impl Default for Fuzz {
    fn default() -> Self {
        Self { target: None, seconds: 20 }
    }
}

impl Fuzz {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let folder = root.join(FOLDER);
        let known = targets(&folder)?;
        let chosen: Vec<_> = match &self.target {
            Some(one) => known.iter().filter(|name| *name == one).collect(),
            None => known.iter().collect(),
        };
        ensure!(!chosen.is_empty(), "no such target; there are: {}", known.join(", "));
        let built = root.join("target/fuzz");
        run(cargo(&folder).env("RUSTFLAGS", INSTRUMENT).env("CARGO_TARGET_DIR", &built).args([
            "build",
            "--release",
            "--bins",
            "--target",
            TARGET,
        ]))?;
        for name in chosen {
            self.hunt(&built, name)?;
        }
        Ok(())
    }

    /// What was found before is kept in the corpus, and the hunt goes on from there.
    fn hunt(&self, built: &Path, name: &str) -> Result<()> {
        let corpus = built.join("corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
        let binary: PathBuf =
            [built, Path::new(TARGET), Path::new("release"), Path::new(name)].iter().collect();
        let crashes = format!("-artifact_prefix={}/crash-{name}-", built.display());
        let long = format!("-max_total_time={}", self.seconds);
        run(std::process::Command::new(binary)
            .arg(corpus)
            .args([&long, &crashes])
            .args(["-max_len=4096", "-rss_limit_mb=1024", "-timeout=5", "-verbosity=0"])
            .args(["-print_final_stats=1"]))
        .with_context(|| format!("{name}: the input is in {}/crash-{name}-*", built.display()))
    }
}

/// Each file in `targets` is one target.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let dir = folder.join("targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
