//! Other programs, run from the root of the repository, shown as they are run.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// `cargo` as it runs us, to be given arguments.
pub(crate) fn cargo(root: &Path) -> Command {
    // The toolchain of rust-toolchain.toml is chosen by rustup's shim, and inherited from there.
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root);
    command
}

/// Prints the command, runs it with our own input and output, and fails if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    println!("\x1b[2m$ {shown}\x1b[0m");
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}

/// Whether the command can be started and succeeds, all output dropped.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

fn shown(command: &Command) -> String {
    let mut words = vec![short(command.get_program())];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn short(program: &std::ffi::OsStr) -> String {
    let program = Path::new(program);
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}
