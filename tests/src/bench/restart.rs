//! What a pod's new connections wait for when their proxy was killed: the start of the next one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::lab::{LONG, Node, Sandbox, binary, wait_for};

/// Where a pod's outgoing connections wait for a proxy.
const OUTBOUND: u16 = 15001;

/// Kills a node's proxy, lets `count` connections of one of its pods wait in their listener, and starts the next
/// proxy. From that start to each connection's answer by a [`super::server`] at `to`, shortest first.
pub fn waits(node: &mut Node, client: &Sandbox, to: &str, count: usize) -> Result<Vec<Duration>> {
    node.kill_proxy()?;
    let program = binary("weft-load")?;
    let args = ["call", to, &count.to_string()];
    let mut calls = client.start("call", &program.to_string_lossy(), &args)?;
    wait_for("all connections wait for a proxy", LONG, || {
        (client.backlog(OUTBOUND) >= count).then_some(())
    })
    .with_context(|| calls.log())?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?;
    node.start_proxy()?;
    let ended = calls.exit(LONG)?;
    let log = calls.log();
    ensure!(ended.success(), "connections that waited failed: {log}");
    let answered: Vec<u64> = serde_json::from_str(log.lines().last().unwrap_or_default())
        .with_context(|| format!("read when connections were answered: {log}"))?;
    ensure!(answered.len() == count, "{} of {count} were answered", answered.len());
    let mut waits: Vec<_> =
        answered.into_iter().map(|at| Duration::from_micros(at).saturating_sub(started)).collect();
    waits.sort_unstable();
    Ok(waits)
}

/// The value that so many of a hundred do not pass, of some that are sorted.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}
