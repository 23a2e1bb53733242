//! Looping clients in a pod, and what became of each of their connections.

use std::{
    io::Read,
    process::{ChildStdout, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{LONG, Process, Sandbox, binary, wait_for};

/// What looping clients counted: each connection once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tally {
    pub ok: u64,
    pub refused: u64,
    pub reset: u64,
    pub timed_out: u64,
    /// Answered by another than was meant.
    pub wrong: u64,
    pub other: u64,
    /// The slowest connection that was answered.
    pub slowest_ms: u64,
    /// The first errors, in words.
    pub errors: Vec<String>,
}

/// Clients that open connection after connection.
#[derive(Debug)]
pub struct Loop {
    process: Process,
    output: ChildStdout,
}

impl Sandbox {
    /// Starts `threads` clients that connect to an address, again and again, until [`Loop::stop`].
    pub fn hammer(&self, to: &str, threads: u8, marker: &str) -> Result<Loop> {
        self.hammer_for(to, threads, marker, "")
    }

    /// As [`Sandbox::hammer`]; an answer must begin with `from`.
    pub fn hammer_for(&self, to: &str, threads: u8, marker: &str, from: &str) -> Result<Loop> {
        // A log of its own: how many were answered is read from it.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-loop-{}", self.name(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (program, threads) = (binary("weft-app")?, threads.to_string());
        let args = ["loop", "--to", to, "--threads", &threads, "--marker", marker, "--from", from];
        let mut process = self.place().start(&name, &program.to_string_lossy(), |command| {
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let output = process.output().context("the loop has an output")?;
        Ok(Loop { process, output })
    }
}

impl Loop {
    /// How many connections were answered until here.
    pub fn so_far(&self) -> u64 {
        let log = self.process.log();
        let ok = log.lines().rev().find_map(|line| line.strip_prefix("ok ")?.parse().ok());
        ok.unwrap_or(0)
    }

    /// Waits until at least `count` connections were answered.
    pub fn answered(&self, count: u64, within: Duration) -> Result<()> {
        wait_for(&format!("{count} connections are answered"), within, || {
            (self.so_far() >= count).then_some(())
        })
    }

    /// Ends it and returns what it counted.
    pub fn stop(mut self) -> Result<Tally> {
        drop(self.process.input());
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        self.process.exit(LONG)?;
        serde_json::from_str(&text).with_context(|| format!("read the loop's tally: {text:?}"))
    }
}

impl Tally {
    /// Errors: any connection that was not answered.
    pub fn refuse_failures(&self) -> Result<()> {
        if self.refused + self.reset + self.timed_out + self.wrong + self.other > 0 || self.ok == 0
        {
            bail!("connections failed: {self:?}");
        }
        Ok(())
    }
}
