//! Scripts for shells, from the same definition as the commands.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell as Language, generate};

use crate::{Cli, args::Shell};

pub(crate) fn completion(shell: Shell, out: &mut impl Write) -> Result<()> {
    let language = match shell {
        Shell::Bash => Language::Bash,
        Shell::Zsh => Language::Zsh,
        Shell::Fish => Language::Fish,
    };
    // It panics where it cannot write, as into a pipe that nobody reads any more.
    let mut script = Vec::new();
    generate(language, &mut Cli::command(), "weft", &mut script);
    Ok(out.write_all(&script)?)
}
