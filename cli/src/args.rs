//! What can be asked.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Inspects a Weft proxy, explains its decisions, and checks manifests.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    after_help = "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 found something (a refusal, a problem)."
)]
pub struct Cli {
    #[command(flatten)]
    pub source: Source,
    /// Tables are for people, the others for programs.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration is read from.
#[derive(Debug, Args)]
pub struct Source {
    /// Admin address of the proxy.
    #[arg(long, global = true, default_value = "http://127.0.0.1:15000", value_name = "URL")]
    pub admin: String,
    /// A dump in a file (JSON or YAML) instead; `-` is standard input.
    #[arg(long, global = true, value_name = "DUMP", conflicts_with = "admin")]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists what the proxy knows.
    Get {
        what: What,
        /// Only of this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// Explains what happens to a connection, and which policy decides.
    Why {
        /// The client: <namespace>/<pod>, a pod's name with -n, or an IP address.
        src: String,
        /// Whom it calls: an IP address, a service's host name or <name>.<namespace>, or a pod; and a port.
        #[arg(value_name = "DST:PORT")]
        dst: String,
        /// Of a name without one.
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// Sums up the proxy's state and names what is wrong with it.
    Status,
    /// Checks a folder of manifests as the control plane would.
    Validate { dir: PathBuf },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum What {
    Workloads,
    Services,
    Policies,
    Certs,
    Connections,
}
