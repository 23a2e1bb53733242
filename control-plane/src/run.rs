//! The process: every long task in one set, and when one ends the process ends.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{net::TcpListener, task::JoinSet, time};
use tracing::{info, warn};
use weft_xds::proto::{
    auth::istio_certificate_service_server::IstioCertificateServiceServer,
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};

use crate::{
    admin::{self, Pages},
    ca::Certificates,
    check, clock,
    compile::Mesh,
    credentials::{self, Credentials, Keys},
    data::Data,
    heard::Heard,
    listen::{self, Certificate, Routes},
    mesh::Known,
    metrics::Metrics,
    serve::Discovery,
    source::{self, Source},
    status,
    stop::{Stop, Stopper, stop},
    streams::Streams,
    watch::Watches,
};

/// How long streams may end after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// A CSR and a name; a request of a node is not much more.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// A node that reconnects names every resource that it has.
const DISCOVERY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the process is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the objects come from.
    pub source: Source,
    /// What is kept over a restart; also keys and the root's certificate, unless a cluster keeps them.
    pub data: PathBuf,
    pub keys: Keys,
    pub listen: SocketAddr,
    /// Names besides the address that nodes reach us by.
    pub server_names: Vec<String>,
    pub admin: SocketAddr,
    pub mesh: Mesh,
    /// How often what is served is compared with everything compiled anew.
    pub self_check: Duration,
}

/// A control plane that listens.
#[derive(Debug)]
pub struct Running {
    listen: SocketAddr,
    admin: SocketAddr,
    tasks: JoinSet<&'static str>,
    stop: Stopper,
}

impl Running {
    /// Where nodes connect to: the port is chosen by the system if 0 was asked for.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Runs until `stopped`; then open streams are told and may end. A task that ends before is an error.
    pub async fn until(mut self, stopped: impl Future<Output = ()>) -> Result<()> {
        tokio::select! {
            // Biased: a stop that was asked for is no failure, whatever it makes end.
            biased;
            () = stopped => {}
            ended = self.tasks.join_next() => match ended {
                Some(Ok(task)) => bail!("{task} has ended"),
                Some(Err(error)) => return Err(error).context("a task has failed"),
                None => bail!("nothing runs"),
            },
        }
        info!("stopping");
        self.stop.stop();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if time::timeout(STOP_TIMEOUT, drained).await.is_err() {
            warn!("streams are still open: cut off");
        }
        Ok(())
    }
}

/// Opens the root, begins to read, listens. Nodes are served once everything has been read for the first time.
/// Errors: what cannot be read, made or bound.
pub async fn start(options: Options) -> Result<Running> {
    let data = Data::open(&options.data)?;
    let known = Known::new(options.mesh.clone());
    let metrics = Arc::new(Metrics::default());
    let (stopper, stop) = stop();
    let heard = Arc::new(Heard::default());
    let streams = Arc::new(Streams::default());
    let statuses =
        status::open(&options.keys, known.clone(), streams.clone(), metrics.clone(), &stop).await?;
    let (keys, mesh) = (options.keys, &options.mesh);
    let opened = credentials::open(keys, &data, mesh, heard.clone(), metrics.clone(), &stop);
    let Credentials { attestor, signing, trust, tasks: of_the_ca } = opened.await?;

    let watches = Arc::new(Watches::default());
    let (feed_name, feed) =
        source::begin(&options.source, &data, known.clone(), watches.clone()).await?;

    let bind = |address: SocketAddr| async move {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    let (listener, admin_listener) = (bind(options.listen).await?, bind(options.admin).await?);
    let (listen, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
    let names = listen::server_names(listen, &options.server_names);
    let certificate = Arc::new(Certificate::new(signing.clone(), names)?);

    let discovery = Discovery {
        known: known.clone(),
        attestor: attestor.clone(),
        metrics: metrics.clone(),
        stop: stop.clone(),
        streams: streams.clone(),
    };
    let certificates = Certificates::new(known.clone(), attestor, signing, metrics.clone(), heard);
    let routes = Routes {
        discovery: AggregatedDiscoveryServiceServer::new(discovery)
            .max_decoding_message_size(DISCOVERY_BYTES_MAX),
        certificates: IstioCertificateServiceServer::new(certificates)
            .max_decoding_message_size(REQUEST_BYTES_MAX),
    };
    let mut tasks = JoinSet::new();
    for (name, one) in of_the_ca.into_iter().chain(statuses) {
        task(&mut tasks, name, one);
    }
    let nodes = listen::serve(listener, certificate.clone(), routes, stop.clone());
    task(&mut tasks, "the listener of nodes", when_complete(known.clone(), stop.clone(), nodes));
    let check = check::keep(known.clone(), metrics.clone(), options.self_check);
    task(&mut tasks, "the self-check", or_stopped(check, stop.clone()));
    let pages = Pages { known, metrics, streams, watches, trust };
    task(&mut tasks, "the admin server", admin::serve(admin_listener, pages, stop.clone()));
    let kept = stop.clone();
    let keep = async move { or_stopped(certificate.keep(), kept).await };
    task(&mut tasks, "the renewal of the listener's certificate", keep);
    task(&mut tasks, feed_name, or_stopped(feed, stop));
    info!(%listen, %admin, "listening");
    Ok(Running { listen, admin, tasks, stop: stopper })
}

fn task(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await;
        name
    });
}

/// Begins a task when everything was read once: pods without the policies that guard them would be open.
async fn when_complete(known: Arc<Known>, mut stop: Stop, task: impl Future<Output = ()>) {
    tokio::select! {
        // Biased: a stop must win.
        biased;
        () = stop.stopped() => return,
        () = known.complete() => {}
    }
    info!("everything is read: nodes are served");
    task.await;
}

async fn or_stopped(task: impl Future<Output = ()>, mut stop: Stop) {
    tokio::select! {
        // Biased: a stop must win.
        biased;
        () = stop.stopped() => {}
        () = task => {}
    }
}

/// A token for a node, made with the key in the data folder.
pub fn node_token(data: &Path, node: &str, ttl: Duration) -> Result<String> {
    Ok(Data::open(data)?.tokens()?.issue(node, ttl, clock::now())?)
}
