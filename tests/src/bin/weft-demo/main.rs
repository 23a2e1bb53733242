//! The tour of the mesh on one machine: each step shows something, and fails the demo if it is not so.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "what a program has to say is its output")]

mod acts;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weft_tests::lab::{Lab, Mesh, sweep};

use story::Story;

/// The prefix of everything that the demo makes, so that it can be found again.
const PREFIX: &str = "weft-demo";

#[derive(Debug, Parser)]
struct Args {
    /// Leave everything up at the end, and print how to play with it.
    #[arg(long)]
    keep: bool,
    /// Tear down what a demo with --keep left up, and do nothing else.
    #[arg(long)]
    down: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.down {
        sweep(PREFIX);
        return ExitCode::SUCCESS;
    }
    match play(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &Args) -> Result<()> {
    let lab = Lab::named(PREFIX)?;
    if args.keep {
        lab.keep();
    }
    let story = &mut Story::default();
    let played = Mesh::cast(lab).and_then(|mut mesh| {
        acts::all(story, &mut mesh)?;
        if args.keep {
            acts::farewell(&mesh)?;
        }
        Ok(())
    });
    if args.keep && played.is_err() {
        sweep(PREFIX);
    }
    played
}
