//! `weft-control`: serves a cluster, or a folder of manifests, to the nodes of a mesh, and signs their certificates.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use weft_control::{
    CaSource, Keys, LostRoot, Mesh, NodeAccounts, Options, Source, node_token, start, watch::Access,
};
use weft_model::TrustDomain;

#[derive(Parser)]
#[command(version, about = "The control plane of Weft")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve configuration and certificates to the nodes.
    Run(Box<Run>),
    /// Print a token with which a node's proxy may ask for configuration and certificates.
    Token(Token),
}

#[derive(clap::Args)]
struct Run {
    #[command(flatten)]
    source: From,
    /// The kubeconfig file with which the API server is reached. Without it: the service account's in a pod, or
    /// what kubectl would use.
    #[arg(long, requires = "kubernetes", conflicts_with = "dir")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
    /// Where the keys are kept; the root's certificate is written to root-cert.pem in it.
    #[arg(long)]
    data: PathBuf,
    /// Address for nodes.
    #[arg(long, default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// A name that nodes reach this by, besides the address; may be repeated.
    #[arg(long = "server-name")]
    server_names: Vec<String>,
    /// The mesh's trust domain.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// The cluster that the manifests are of.
    #[arg(long, default_value = "Kubernetes")]
    cluster_id: String,
    /// How often what is served is compared with everything compiled anew.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    self_check_seconds: u64,
    /// Address for readiness, metrics and what is served.
    #[arg(long, default_value = "127.0.0.1:15014")]
    admin: SocketAddr,
}

#[derive(clap::Args)]
struct Cluster {
    /// The mesh's own namespace. With it, the CA's keys are kept in its Secrets, and nodes prove themselves with
    /// their service account's tokens; without it, all that is in the data folder.
    #[arg(long, requires = "kubernetes", conflicts_with = "dir")]
    mesh_namespace: Option<String>,
    /// A service account of the nodes' proxies, in the mesh's namespace; may be repeated.
    #[arg(long = "node-account", default_value = "weft-node", requires = "mesh_namespace")]
    node_accounts: Vec<String>,
    /// What the nodes' tokens must be made for.
    #[arg(long, default_value = "weft-ca", requires = "mesh_namespace")]
    token_audience: String,
    /// A Secret with a CA that others keep: Istio's `cacerts`, or one of cert-manager's.
    #[arg(long, requires = "mesh_namespace")]
    ca_secret: Option<String>,
    /// Begin with a new root though the old one is lost, or with a CA of others that nodes do not know. Every node
    /// must be given its root.
    #[arg(long, requires = "mesh_namespace")]
    reset_trust: bool,
}

impl Cluster {
    fn keys(self, access: &Access) -> Keys {
        let Some(namespace) = self.mesh_namespace else { return Keys::DataFolder };
        let (names, audience) = (self.node_accounts, self.token_audience);
        Keys::Cluster {
            access: access.clone(),
            accounts: NodeAccounts { namespace, names, audience },
            ca: self.ca_secret.map_or(CaSource::Own, CaSource::Secret),
            lost_root: if self.reset_trust { LostRoot::Replace } else { LostRoot::Refuse },
        }
    }
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct From {
    /// The folder of Kubernetes manifests; it is watched.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Watch a Kubernetes API server.
    #[arg(long)]
    kubernetes: bool,
}

#[derive(clap::Args)]
struct Token {
    /// The data folder of the control plane.
    #[arg(long)]
    data: PathBuf,
    /// The node's name.
    #[arg(long)]
    node: String,
    /// How long it is good for, in seconds.
    #[arg(long, default_value_t = 24 * 3600)]
    ttl_seconds: u64,
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Run(args) => run(*args),
        Command::Token(args) => {
            let ttl = Duration::from_secs(args.ttl_seconds);
            let token = node_token(&args.data, &args.node, ttl)?;
            #[expect(clippy::print_stdout, reason = "the token is what was asked for")]
            {
                println!("{token}");
            }
            Ok(())
        }
    }
}

fn run(args: Run) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "configuration is read here, in main")]
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter)
        .with_context(|| format!("RUST_LOG: `{filter}` is not a filter"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let access = args.kubeconfig.map_or(Access::Found, Access::Kubeconfig);
    let options = Options {
        keys: args.cluster.keys(&access),
        source: match args.source.dir {
            Some(dir) => Source::Folder(dir),
            None => Source::Kubernetes(access),
        },
        data: args.data,
        listen: args.listen,
        server_names: args.server_names,
        admin: args.admin,
        mesh: Mesh::new(&args.cluster_id, args.trust_domain),
        self_check: Duration::from_secs(args.self_check_seconds),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stopped = async {
            tokio::select! {
                // Biased by chance only: either means the same.
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        start(options).await?.until(stopped).await
    })
}
