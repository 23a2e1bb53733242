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
    attest::Attestor,
    ca::Certificates,
    clock,
    compile::Mesh,
    data::Data,
    dir::{Folder, Watcher},
    listen::{self, Certificate, Routes},
    mesh::Known,
    metrics::Metrics,
    serve::Discovery,
    signing::signing,
    stop::{Stop, Stopper, stop},
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
    /// The folder of manifests.
    pub dir: PathBuf,
    /// Where keys are kept and the root's certificate is written.
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// Names besides the address that nodes reach us by.
    pub server_names: Vec<String>,
    pub admin: SocketAddr,
    pub mesh: Mesh,
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

/// Reads the folder, opens the root, listens. Errors: what cannot be read, made or bound.
pub async fn start(options: Options) -> Result<Running> {
    let data = Data::open(&options.data)?;
    let (_signer, signing) = signing(data.authority(&options.mesh.trust_domain, clock::now())?);
    let attestor = Arc::new(Attestor::Own(Box::new(data.tokens()?)));
    let known = Known::new(options.mesh.clone());
    let metrics = Arc::new(Metrics::default());
    let (stopper, stop) = stop();

    let watcher = Watcher::new(&options.dir)?;
    let folder = Folder::new(&options.dir).remembering(data.last_good()?);
    let folder = look(folder, &known).await?;

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
    };
    let certificates = Certificates::new(known.clone(), attestor, signing, metrics.clone());
    let routes = Routes {
        discovery: AggregatedDiscoveryServiceServer::new(discovery)
            .max_decoding_message_size(DISCOVERY_BYTES_MAX),
        certificates: IstioCertificateServiceServer::new(certificates)
            .max_decoding_message_size(REQUEST_BYTES_MAX),
    };
    let mut tasks = JoinSet::new();
    let nodes = listen::serve(listener, certificate.clone(), routes, stop.clone());
    task(&mut tasks, "the listener of nodes", nodes);
    let pages = Pages { known: known.clone(), metrics };
    task(&mut tasks, "the admin server", admin::serve(admin_listener, pages, stop.clone()));
    let kept = stop.clone();
    let keep = async move { or_stopped(certificate.keep(), kept).await };
    task(&mut tasks, "the renewal of the listener's certificate", keep);
    let follow = or_stopped(follow(folder, watcher, known), stop);
    task(&mut tasks, "the watch of the folder", follow);
    info!(%listen, %admin, dir = %options.dir.display(), "serving");
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

async fn or_stopped(task: impl Future<Output = ()>, mut stop: Stop) {
    tokio::select! {
        // Biased: a stop must win.
        biased;
        () = stop.stopped() => {}
        () = task => {}
    }
}

/// Looks at the folder whenever something may have changed; ends only when it can look no more.
async fn follow(mut folder: Folder, mut watcher: Watcher, known: Arc<Known>) {
    let mut readable = true;
    loop {
        watcher.changed().await;
        let root = folder.root().to_owned();
        let (back, result) = look_once(folder, &known).await;
        let Some(back) = back else { return };
        folder = back;
        if let Err(error) = &result
            && readable
        {
            let root = root.display();
            warn!(%root, error = %error, "folder cannot be read: its last good state stays");
        }
        readable = result.is_ok();
    }
}

async fn look(folder: Folder, known: &Arc<Known>) -> Result<Folder> {
    let root = folder.root().to_owned();
    let (folder, result) = look_once(folder, known).await;
    result.with_context(|| format!("cannot read the folder {}", root.display()))?;
    folder.context("reading the folder has failed")
}

/// On a thread that may block. `None`: it panicked, and the folder with it.
async fn look_once(
    mut folder: Folder,
    known: &Arc<Known>,
) -> (Option<Folder>, std::io::Result<()>) {
    let known = known.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let result = folder.read().map(|difference| known.take(&difference, &folder));
        (folder, result)
    });
    match looked.await {
        Ok((folder, result)) => (Some(folder), result),
        Err(error) => (None, Err(std::io::Error::other(error))),
    }
}

/// A token for a node, made with the key in the data folder.
pub fn node_token(data: &Path, node: &str, ttl: Duration) -> Result<String> {
    Ok(Data::open(data)?.tokens()?.issue(node, ttl, clock::now())?)
}
