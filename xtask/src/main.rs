//! The front door.

mod codegen;

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Debug, Parser)]
enum Command {
    /// Generate Rust from `xds/proto`.
    Codegen(codegen::Codegen),
}

fn main() -> Result<()> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    match Command::parse() {
        Command::Codegen(codegen) => codegen.run(root),
    }
}
