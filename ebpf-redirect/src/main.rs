//! `weft-redirect`: the privileged process of a node.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "what a command has to say is its output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use weft_redirect::agent::{self, KubernetesSettings, ProxyUser, Settings, SourceSettings};
use weft_redirect::cni::{Entry, Installation};
use weft_redirect::{Machine, Node, NodeConfig, PodUid, ProbeExemption, Severity, pod_counters};

/// It logs each attempt to reach the API server as an error; we say once that it is away.
const QUIET: &str = "kube_client::client::builder=off";

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
    Run(Box<Run>),
    /// Release all pods, take all programs and pins away, and the CNI plugin.
    Cleanup {
        /// The folder that `run` was told.
        #[arg(long, default_value = "/sys/fs/bpf/weft")]
        bpffs: PathBuf,
        /// Where the CNI plugin's configuration was installed.
        #[arg(long, requires = "cni_bin_dir")]
        cni_conf_dir: Option<PathBuf>,
        /// Where the CNI plugin was installed.
        #[arg(long, requires = "cni_conf_dir")]
        cni_bin_dir: Option<PathBuf>,
        /// Then wait to be stopped, as the pods of a `DaemonSet` must.
        #[arg(long)]
        stay: bool,
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
    /// The proxy's cgroup; with those below it. May be given several times. Default on Kubernetes: the one
    /// above our own, which is our pod's.
    #[arg(long, required_unless_present = "kubernetes")]
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
    #[arg(long, required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    pods: Option<PathBuf>,
    #[command(flatten)]
    kubernetes: OnKubernetes,
    /// The user that the proxy runs as, who owns the socket.
    #[arg(long, default_value_t = 0)]
    proxy_uid: u32,
    /// Its group.
    #[arg(long, default_value_t = 0)]
    proxy_gid: u32,
}

/// Pods as the API server has them.
#[derive(Debug, Args)]
struct OnKubernetes {
    /// Enroll the pods of this node whose labels, or whose namespace's, ask for it.
    #[arg(long)]
    kubernetes: bool,
    /// How to reach the API server. Default: as a pod does, or by `$KUBECONFIG`.
    #[arg(long, conflicts_with = "pods")]
    kubeconfig: Option<PathBuf>,
    /// Where the CNI plugin asks; the same path here and on the host.
    #[arg(long, default_value = "/run/weft-cni/agent.sock")]
    cni_socket: PathBuf,
    /// The node's CNI configurations. With it, the plugin is installed.
    #[arg(long, conflicts_with = "pods", requires = "cni_bin_dir")]
    cni_conf_dir: Option<PathBuf>,
    /// The node's CNI plugins.
    #[arg(long, requires = "cni_conf_dir")]
    cni_bin_dir: Option<PathBuf>,
    /// The plugin to install. Default: `weft-cni` beside this program.
    #[arg(long)]
    cni_plugin: Option<PathBuf>,
    /// Pods of these namespaces start also while this agent is away.
    #[arg(long, value_delimiter = ',', default_value = "kube-system")]
    cni_exempt_namespaces: Vec<String>,
    /// The mesh's own namespace, which is exempt too.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// The container runtime's socket: asked where pods are that were there before. The first that is there.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "/run/containerd/containerd.sock,/run/k3s/containerd/containerd.sock,/run/crio/crio.sock"
    )]
    runtime_endpoints: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(cli.log.add_directive(QUIET.parse().expect("it is a directive")))
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
                raise_descriptors();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("no runtime")?;
                runtime.block_on(agent::run(run.settings()?))?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Cleanup { bpffs, cni_conf_dir, cni_bin_dir, stay } => {
                // The plugin first: once it is gone, nobody is turned away for want of an agent.
                if let (Some(conf_dir), Some(bin_dir)) = (cni_conf_dir, cni_bin_dir) {
                    Installation::remove(&conf_dir, &bin_dir)?;
                }
                agent::cleanup(&bpffs)?;
                info!("nothing of the mesh is left");
                if stay {
                    loop {
                        // A signal ends it, and there is nothing to be done then.
                        thread::park();
                    }
                }
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

/// A pod takes some 26 descriptors: the soft limit of old would be reached by forty pods.
fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

impl Run {
    fn settings(self) -> Result<Settings> {
        let proxy_cgroups = if self.proxy_cgroup.is_empty() {
            vec![weft_redirect::cgroup_above_ours().context("no --proxy-cgroup is given")?]
        } else {
            self.proxy_cgroup
        };
        let source = match self.pods {
            Some(pods) => SourceSettings::Folder(pods),
            None => {
                SourceSettings::Kubernetes(Box::new(self.kubernetes.settings(&self.host_netns)?))
            }
        };
        Ok(Settings {
            node: self.node,
            programs: NodeConfig {
                bpffs: self.bpffs,
                cgroup: self.cgroup,
                proxy_cgroups,
                host_netns: self.host_netns,
                probes: self.probe_cgroup.map_or(ProbeExemption::Host, ProbeExemption::Cgroup),
            },
            zds: self.zds,
            source,
            proxy: ProxyUser { uid: self.proxy_uid, gid: self.proxy_gid },
        })
    }
}

impl OnKubernetes {
    fn settings(self, host_netns: &Path) -> Result<KubernetesSettings> {
        let installation = match (self.cni_conf_dir, self.cni_bin_dir) {
            (Some(conf_dir), Some(bin_dir)) => {
                let beside =
                    || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("weft-cni"));
                let plugin = self.cni_plugin.map_or_else(beside, Ok);
                let mut exempt_namespaces = self.cni_exempt_namespaces;
                exempt_namespaces.extend(self.namespace);
                let entry = Entry { socket: self.cni_socket.clone(), exempt_namespaces };
                let plugin = plugin.context("where this program is cannot be told")?;
                Some(Installation { conf_dir, bin_dir, plugin, entry })
            }
            _ => None,
        };
        Ok(KubernetesSettings {
            kubeconfig: self.kubeconfig,
            cni_socket: self.cni_socket,
            installation,
            runtimes: self.runtime_endpoints,
            host_netns: host_netns.to_owned(),
        })
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
