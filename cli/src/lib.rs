//! `weft` inspects a proxy, explains its decisions, and checks manifests.
//!
//! ```text
//!   args ──> source  (a proxy's /config_dump, or a file of it) ──> Dump ──> get, status     as it is
//!                                                                    └──> View ──> why      by ztunnel-core
//!   args ──> validate (a folder of manifests, by weft-control)
//! ```
//!
//! It decides nothing itself: what it says is what the proxy's own code says about the same View.
//! Exit codes: 0 fine, 1 error, 2 wrong usage, 3 found something (a refusal, a problem).

#![forbid(unsafe_code)]

use std::{io::Write, process::ExitCode};

use anyhow::Result;

mod args;
mod get;
mod output;
mod source;
mod status;
mod validate;
pub mod why;

pub use args::Cli;
use args::Command;
pub use source::{SourceError, read};

/// How it ended, as scripts see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Fine,
    Error,
    Usage,
    /// The answer is no, or something is wrong.
    Found,
}

impl End {
    /// Help and version were asked for, and are no error.
    pub fn of_usage(error: &clap::Error) -> Self {
        if error.use_stderr() { Self::Usage } else { Self::Fine }
    }
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Fine => 0,
            End::Error => 1,
            End::Usage => 2,
            End::Found => 3,
        })
    }
}

/// Does what was asked and writes to `out`.
pub async fn run(cli: Cli, out: &mut impl Write) -> Result<End> {
    let format = cli.output;
    match cli.command {
        Command::Validate { dir } => validate::validate(&dir, format, out),
        Command::Get { what, namespace } => {
            let dump = cli.source.load().await?;
            get::get(&dump, what, namespace.as_deref(), format, out)?;
            Ok(End::Fine)
        }
        Command::Status => status::status(&cli.source.load().await?, format, out),
        Command::Why { src, dst, namespace } => {
            let view = source::view(cli.source.load().await?)?;
            let explanation = why::explain(&view, &src, &dst, namespace.as_deref())?;
            why::show(&explanation, format, out)
        }
    }
}
