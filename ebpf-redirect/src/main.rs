//! `weft-redirect`: the privileged process of a node.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "what a command has to say is its output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use tracing::error;
use tracing_subscriber::EnvFilter;
use weft_redirect::agent::{self, ProxyUser, Settings};
use weft_redirect::{Machine, Node, NodeConfig, PodUid, ProbeExemption, Severity, pod_counters};

/// Captures pods' traffic by eBPF and hands their sockets to the proxy.
#[derive(Debug, Parser)]
#[command(name = "weft-redirect")]
struct Cli {
    /// What is logged, as `info` or `weft_redirect=debug`.
    #[arg(long, env = "WEFT_LOG", default_value = "info", global = true)]
    log: EnvFilter,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node's agent. Pods stay captured when it ends.
    Run(Run),
    /// Release all pods, take all programs and pins away.
    Cleanup {
        /// The folder that `run` was told.
        #[arg(long, default_value = "/sys/fs/bpf/weft")]
        bpffs: PathBuf,
    },
    /// Say what the programs have counted since they were loaded.
    Counters {
        /// The folder that `run` was told.
        #[arg(long, default_value = "/sys/fs/bpf/weft")]
        bpffs: PathBuf,
    },
    /// Say what this machine lacks.
    Check {
        /// The cgroup to attach to.
        #[arg(long, default_value = "/sys/fs/cgroup")]
        cgroup: PathBuf,
        /// Our folder in a BPF file system.
        #[arg(long, default_value = "/sys/fs/bpf/weft")]
        bpffs: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The node's name.
    #[arg(long)]
    node: String,
    /// The host's network namespace, whose processes may probe.
    #[arg(long, default_value = "/proc/1/ns/net")]
    host_netns: PathBuf,
    /// The cgroup (version 2) below which all pods, the host's processes and this agent are.
    #[arg(long, default_value = "/sys/fs/cgroup")]
    cgroup: PathBuf,
    /// The proxy's cgroup; with those below it. May be given several times.
    #[arg(long, required = true)]
    proxy_cgroup: Vec<PathBuf>,
    /// Only processes of the host in this cgroup may probe. Default: all of the host's namespace.
    #[arg(long)]
    probe_cgroup: Option<PathBuf>,
    /// Our folder in a BPF file system.
    #[arg(long, default_value = "/sys/fs/bpf/weft")]
    bpffs: PathBuf,
    /// The socket that the proxy dials.
    #[arg(long)]
    zds: PathBuf,
    /// The folder of enrolled pods.
    #[arg(long)]
    pods: PathBuf,
    /// The user that the proxy runs as, who owns the socket.
    #[arg(long, default_value_t = 0)]
    proxy_uid: u32,
    /// Its group.
    #[arg(long, default_value_t = 0)]
    proxy_gid: u32,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(cli.log)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Run(run) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("no runtime")?;
                runtime.block_on(agent::run(run.settings()))?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Cleanup { bpffs } => {
                agent::cleanup(&bpffs)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Counters { bpffs } => {
                counters(&bpffs)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Check { cgroup, bpffs } => Ok(check(cgroup, bpffs)),
        }
    }
}

impl Run {
    fn settings(self) -> Settings {
        Settings {
            node: self.node,
            programs: NodeConfig {
                bpffs: self.bpffs,
                cgroup: self.cgroup,
                proxy_cgroups: self.proxy_cgroup,
                host_netns: self.host_netns,
                probes: self.probe_cgroup.map_or(ProbeExemption::Host, ProbeExemption::Cgroup),
            },
            zds: self.zds,
            pods: self.pods,
            proxy: ProxyUser { uid: self.proxy_uid, gid: self.proxy_gid },
        }
    }
}

/// One line each: where, what, how often.
fn counters(bpffs: &Path) -> Result<()> {
    let Some(node) = Node::pinned(bpffs)? else {
        bail!("nothing is pinned in {}", bpffs.display());
    };
    for (counter, count) in node.counters()? {
        println!("node {} {count}", counter.label());
    }
    for name in node.pinned_pods()? {
        let uid = PodUid::parse(&name)?;
        for (counter, count) in pod_counters(&node, &uid)? {
            println!("{uid} {} {count}", counter.label());
        }
    }
    Ok(())
}

fn check(cgroup: PathBuf, bpffs: PathBuf) -> ExitCode {
    let lacks = Machine { cgroup, bpffs, btf: "/sys/kernel/btf/vmlinux".into() }.lacks();
    for lack in &lacks {
        println!("{lack}");
    }
    if lacks.iter().any(|lack| lack.severity() == Severity::Fatal) {
        return ExitCode::FAILURE;
    }
    println!("this machine can redirect");
    ExitCode::SUCCESS
}
