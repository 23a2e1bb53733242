//! `ztunnel [--config FILE]`: the node proxy.

use std::{io, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::task::LocalSet;
use ztunnel::{app, config::Config, memory, telemetry::Logging};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The node proxy: carries the traffic of this node's pods with identity, mutual TLS and policy.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// A YAML file; docs/configuration.md has every field. Istio's environment variables go over it.
    #[arg(long)]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be there yet, or the reason why it is not.
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let arguments = Arguments::parse();
    let env: Vec<_> = std::env::vars().collect();
    let config = Config::load(arguments.config.as_deref(), env.clone())?;
    let (logging, dispatch) =
        Logging::new(&config.log, io::stdout()).context("the log cannot be started")?;
    let logging = Arc::new(logging);
    tracing::dispatcher::set_global_default(dispatch).context("the log is started twice")?;
    memory::give_back_soon();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the control runtime cannot be started")?;
    let ran = LocalSet::new().block_on(&runtime, app::run(config, env, logging.clone()));
    logging.flush();
    ran
}
