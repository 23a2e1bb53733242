//! Makes load, serves it, or relays it: the moving parts of the bench lane, each a process of its own.

#![allow(clippy::print_stdout, reason = "the result, as one line of JSON, is the output")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::net::TcpListener;
use weft_tests::bench::{
    load::{self, Kind},
    relay, server,
};

#[derive(Debug, Parser)]
enum Command {
    /// Answer requests on an address.
    Serve { listen: SocketAddr },
    /// Copy every connection to an address onward to another: the floor.
    Relay { listen: SocketAddr, to: SocketAddr },
    /// Make load for a while and print what was seen as JSON.
    Load {
        to: SocketAddr,
        #[arg(long)]
        seconds: f64,
        /// The kind of traffic, as JSON: `{"Bulk":{"streams":1}}`
        #[arg(long)]
        kind: String,
    },
    /// Hold idle connections until standard input closes.
    Hold { to: SocketAddr, count: usize },
    /// Ask once on each of many connections and print when each was answered.
    Call { to: SocketAddr, count: usize },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match Command::parse() {
            Command::Serve { listen } => Ok(server::serve(bind(listen).await?).await?),
            Command::Relay { listen, to } => Ok(relay::relay(bind(listen).await?, to).await?),
            Command::Load { to, seconds, kind } => {
                let kind: Kind = serde_json::from_str(&kind).context("--kind")?;
                let seen = load::run(kind, to, Duration::from_secs_f64(seconds)).await;
                println!("{}", serde_json::to_string(&seen)?);
                Ok(())
            }
            Command::Hold { to, count } => load::hold(to, count).await,
            Command::Call { to, count } => load::call(to, count).await,
        }
    })
}

async fn bind(at: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| format!("bind {at}"))
}
