//! `cargo xtask test`: every lane, in the order in which they fail fastest.

use std::{path::Path, time::Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    codegen, ebpf, envoy, fuzz, kube, setup,
    shell::{cargo, run},
    tidy,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    /// Run only these lanes.
    #[arg(long = "lane", value_enum)]
    lanes: Vec<Lane>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lane {
    /// rustfmt
    Fmt,
    /// clippy, warnings are errors
    Clippy,
    /// the rules of the house that no compiler knows
    Tidy,
    /// what is generated equals what it is made from
    Codegen,
    /// each crate's own tests
    Unit,
    /// every parser that reads a stranger's bytes, 20 seconds each
    Fuzz,
    /// the mesh as a whole, between network namespaces (needs root)
    E2e,
    /// the mesh on Kubernetes, with a real API server (needs root)
    Kube,
}

impl Test {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        setup::programs(setup::BUILD)?;
        if self.lanes.is_empty() {
            // Before the long lanes: whoever lacks something learns it at once.
            setup::run_all()?;
        }
        let lanes = if self.lanes.is_empty() { Lane::value_variants() } else { &self.lanes };
        let mut failed = Vec::new();
        for lane in lanes {
            let started = Instant::now();
            println!("\x1b[1m== {}\x1b[0m", lane.name());
            let result = lane.run(root);
            let verdict = if result.is_ok() { "passed" } else { "FAILED" };
            println!("\x1b[1m== {} {verdict} in {:.0?}\x1b[0m", lane.name(), started.elapsed());
            if let Err(error) = result {
                println!("{error:#}");
                failed.push(lane.name());
            }
        }
        println!("{} passed, {} failed", lanes.len() - failed.len(), failed.len());
        if !failed.is_empty() {
            bail!("lanes failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

impl Lane {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self, root: &Path) -> Result<()> {
        match self {
            Self::Fmt => run(cargo(root).args(["fmt", "--all", "--check"])),
            Self::Clippy => run(cargo(root).args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--features",
                "xtask/codegen",
                "--",
                "-D",
                "warnings",
            ])),
            Self::Tidy => tidy::run(root),
            Self::Codegen => codegen::Codegen { check: true }.run(root),
            Self::Unit => unit(root),
            Self::Fuzz => fuzz::Fuzz::default().run(root),
            Self::E2e => lab(root, "e2e"),
            Self::Kube => on_kubernetes(root),
        }
    }
}

/// Also those of the redirect, which needs its programs, and of the proxy against Envoy.
fn unit(root: &Path) -> Result<()> {
    ebpf::build(root)?;
    envoy::fetch(root)?;
    run(cargo(root).args(["test", "--workspace", "--exclude", "weft-tests"]))
}

fn on_kubernetes(root: &Path) -> Result<()> {
    kube::build(root)?;
    lab(root, "kube")
}

/// Tests that run the binaries of the workspace between network namespaces.
fn lab(root: &Path, tests: &str) -> Result<()> {
    setup::run_all()?;
    ebpf::build(root)?;
    run(cargo(root).args(["build", "--workspace", "--bins"]))?;
    let logs = root.join("target/lab-logs");
    println!("logs of each test are kept in {}", logs.display());
    let test = ["test", "--workspace", "--test", tests];
    run(cargo(root).env("WEFT_LAB_LOGS", logs).args(test))
}
