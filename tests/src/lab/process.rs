//! A process in a namespace and a cgroup, with its log in a file.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, kill_process};

use super::{Cgroup, Ground, Namespace, wait_for};

/// As whom a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Root,
    /// Not root, without any capability and without a way to get one.
    Nobody,
}

/// The user id of [`User::Nobody`].
pub(super) const NOBODY: u32 = 65534;

/// What can be sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Term,
    Kill,
    Stop,
    Continue,
}

/// Where a process is put: its sockets are of this namespace and this cgroup from the first one on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) ground: &'a Arc<Ground>,
    pub(super) namespace: &'a Namespace,
    pub(super) cgroup: &'a Cgroup,
    pub(super) user: User,
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ground: Arc<Ground>,
}

impl Place<'_> {
    /// The command that puts itself in place and then becomes `program`.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.cgroup.path().join("cgroup.procs"))
            .args(self.namespace.entry())
            .arg("setpriv");
        if !self.ground.is_kept() {
            command.args(["--pdeathsig", "KILL"]);
        }
        match self.user {
            User::Root => {}
            User::Nobody => {
                let id = NOBODY.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
                command.args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
            }
        }
        command.arg("--").arg(program);
        command
    }

    /// Starts a program with its output in `<name>.log` of the lab's folder; it may be given more by `with`.
    pub(super) fn start(
        &self,
        name: &str,
        program: &str,
        with: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        Process::start(self.ground, name, self.command(program), with)
    }

    /// Runs a program to its end and returns what it wrote.
    pub(super) fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::null());
        command.output().with_context(|| format!("run {program} {}", args.join(" ")))
    }
}

impl Process {
    /// Starts a command with its output in `<name>.log` of the ground's folder; it may be given more by `with`.
    pub(crate) fn start(
        ground: &Arc<Ground>,
        name: &str,
        mut command: Command,
        with: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let log = ground.dir.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log);
        let file = open().with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        with(&mut command);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log, ground: ground.clone() })
    }

    /// Its process id, as the host counts.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it reads from, if it was asked for.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it writes, if it was asked for.
    pub(super) fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let signal = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
            Signal::Stop => rustix::process::Signal::STOP,
            Signal::Continue => rustix::process::Signal::CONT,
        };
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("signal {} ({pid:?})", self.name))
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// Waits for its end.
    pub fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait_for(&what, within, || self.child.try_wait().ok().flatten())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ground.is_kept() {
            let _ = self.kill();
        }
    }
}
