//! The front door: `cargo xtask demo`, `cargo xtask test`, and what they are made of.
//!
//! Each command is a module with an argument struct and one `run(&self, root)`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "what a command has to say is its output")]

mod bench;
#[cfg(feature = "codegen")]
mod codegen;
#[cfg(not(feature = "codegen"))]
#[path = "codegen/elsewhere.rs"]
mod codegen;
mod demo;
mod ebpf;
mod envoy;
mod fuzz;
mod kube;
mod setup;
mod shell;
mod test;
mod tidy;
mod wheel;

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

/// What can be done with this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Show the mesh at work on this machine, narrated (needs root).
    Demo(demo::Demo),
    /// Run everything, from formatting to the end-to-end lane (needs root).
    Test(test::Test),
    /// Check the rules that no compiler knows.
    Tidy,
    /// Measure: direct, a plain relay pair and Weft in one run, as ratios (needs root, optimised build).
    Bench(bench::Bench),
    /// Hunt for crashes in every parser that reads a stranger's bytes.
    Fuzz(fuzz::Fuzz),
    /// Generate Rust from `xds/proto`, and the chart's definitions of kinds from the types that read them.
    Codegen(codegen::Codegen),
    /// Build the programs for the kernel, which weft-redirect's own build then embeds.
    Ebpf,
    /// Find what this machine lacks, and install it or say exactly what to install.
    Setup,
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    match command {
        Command::Demo(demo) => demo.run(root),
        Command::Test(test) => test.run(root),
        Command::Tidy => tidy::run(root),
        Command::Bench(bench) => bench.run(root),
        Command::Fuzz(fuzz) => fuzz.run(root),
        Command::Codegen(codegen) => codegen.run(root),
        Command::Ebpf => ebpf::build(root),
        Command::Setup => setup(root),
    }
}

fn setup(root: &Path) -> Result<()> {
    setup::run_all()?;
    envoy::fetch(root)?;
    kube::build(root)
}
