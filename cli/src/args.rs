//! What can be asked.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Inspects a Weft mesh, explains its decisions, and checks what would be in it.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    after_help = "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 found something (a refusal, a problem)."
)]
pub struct Cli {
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub within: Within,
    /// Tables are for people, the others for programs.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration of a proxy is read from. The proxy of this machine unless one is said, and where there is
/// none, those of the cluster.
#[derive(Debug, Args)]
pub struct Source {
    /// Admin address of the proxy, such as `http://127.0.0.1:15000`.
    #[arg(long, global = true, value_name = "URL", conflicts_with_all = ["node", "all_nodes"])]
    pub admin: Option<String>,
    /// A dump in a file (JSON or YAML) instead; `-` is standard input.
    #[arg(long, global = true, value_name = "DUMP", conflicts_with_all = ["admin", "node", "all_nodes"])]
    pub file: Option<PathBuf>,
    /// The proxy of this node of the cluster, to which the API server forwards.
    #[arg(long, global = true)]
    pub node: Option<String>,
    /// The proxies of all nodes of the cluster.
    #[arg(long, global = true, conflicts_with = "node")]
    pub all_nodes: bool,
}

/// How a cluster is reached.
#[derive(Debug, Args)]
pub struct Access {
    /// Context of the kubeconfig; its current one unless given.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Kubeconfig file; as kubectl finds it unless given.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace that the mesh is installed in.
    #[arg(long, global = true, value_name = "NAMESPACE", default_value = "weft-system")]
    pub mesh_namespace: String,
}

/// Whose objects are meant.
#[derive(Debug, Args)]
pub struct Within {
    /// Only of this namespace; and the namespace of names without one.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Of all namespaces, which lists are anyway.
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    /// A table with more columns, where there are more.
    Wide,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists what the proxy knows, and the nodes of a cluster.
    Get {
        what: What,
        /// Only of objects with these labels, such as `app=web,tier!=db`, as the API server knows them.
        #[arg(short = 'l', long, value_name = "LABELS")]
        selector: Option<String>,
        #[command(flatten)]
        again: Again,
    },
    /// Explains what happens to a connection, and which policy decides.
    Why {
        /// The client: <namespace>/<pod>, a pod's name with -n, or an IP address.
        src: String,
        /// Whom it calls: an IP address, a service's host name or <name>.<namespace>, or a pod; and a port, if it has
        /// several.
        #[arg(value_name = "DST[:PORT]")]
        dst: String,
    },
    /// Says what the mesh makes of a name or an address: service, addresses, endpoints, and why some are left out.
    Resolve {
        /// As a pod would write it.
        #[arg(value_name = "NAME|IP[:PORT]")]
        name: String,
        /// The pod that asks: <namespace>/<pod>, a pod's name with -n, or its address. Without it, any of the
        /// namespace of -n.
        #[arg(long, value_name = "POD")]
        from: Option<String>,
        /// The cluster's DNS domain.
        #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
        cluster_domain: String,
    },
    /// Sums up the proxy's state and names what is wrong with it.
    Status(Again),
    /// Checks a folder of manifests as the control plane would.
    Validate { dir: PathBuf },
    /// Asks a namespace, or one pod, into the mesh.
    Enroll(Enroll),
    /// Lets a namespace, or one pod, out of the mesh.
    Unenroll(Enroll),
    /// Checks whether the mesh of a cluster is well, or whether a cluster can have one.
    Check {
        /// Before an installation: whether there is all that it needs.
        #[arg(long)]
        pre: bool,
    },
    /// Lists what is wrong with the objects of a cluster or of files, by the control plane's own compiler.
    Analyze {
        /// A file of manifests, or a folder of them, instead of the cluster.
        #[arg(short, long, value_name = "FILE|DIR")]
        filename: Option<PathBuf>,
    },
    /// Compares what a node's proxy holds with what the control plane has for it.
    Diff {
        /// The node, as node/<name>.
        #[arg(value_name = "node/NAME", value_parser = node_named)]
        node: String,
    },
    /// The CA of a cluster's mesh.
    #[command(subcommand)]
    Ca(Ca),
    /// Says which versions run.
    Version {
        /// Only this program's.
        #[arg(long)]
        client: bool,
    },
    /// Writes a script that completes commands in a shell.
    Completion { shell: Shell },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Ca {
    /// Says what is trusted and until when, and how far a change of roots is.
    Status,
    /// Asks for another root; the change then takes its steps by itself.
    Rotate,
}

#[derive(Debug, Args)]
pub struct Again {
    /// Says it again whenever it has changed, until it is interrupted.
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Enroll {
    /// A namespace, or a pod as <namespace>/<pod>.
    #[arg(value_name = "NAMESPACE[/POD]")]
    pub object: String,
    /// Only says what would change; the API server checks it, too.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum What {
    Workloads,
    Services,
    Policies,
    Certs,
    Connections,
    /// Of the cluster, and how far each is.
    Nodes,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

fn node_named(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("node/").filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| "write it as node/<name>".to_owned())
}
