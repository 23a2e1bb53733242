//! The whole proxy: wired from its configuration, watched over, and stopped in order.
//!
//! ```text
//!   control runtime (this thread)                                       workers (one thread each)
//!     feed      control plane, file, disk -> Views ------------------------> decide by it
//!     renewer   certificate service, disk -> Identities -------------------> tunnels
//!     zds       node agent -> pods --------------- orders, listeners ------> accept
//!     signals   SIGTERM, SIGINT -> drain --------- orders -----------------> finish, GOAWAY
//! ```
//!
//! If one of the control tasks ends, the process ends: half a proxy would look healthy and go stale.

use std::{num::NonZeroUsize, sync::Arc, time::SystemTime};

use anyhow::{Context, Result, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    admin::{self, Listeners, PodState, PodStatus},
    config::{Config, Switch},
    descriptors::Descriptors,
    dns,
    identity::{
        CaSettings, CertificateService, Counted, Identities, NodeCertificate, NodeRenewer, Options,
        Store,
    },
    memory::{self, Pressure},
    pods::{Means, Pods},
    state::{self, Readiness, Views},
    telemetry::{Logging, Telemetry},
    threads::{Equipment, Threads},
    tunnel::hbone::Settings,
    zds::{Knowledge, Phase, Zds},
};

/// Runs the proxy until a signal stops it. `env` is the process's environment.
///
/// Errors: something that it cannot do without failed, at the start or later.
pub async fn run(config: Config, env: Vec<(String, String)>, logging: Arc<Logging>) -> Result<()> {
    let descriptors = Descriptors::raise().context("the limit on open files cannot be raised")?;
    let listeners = Listeners::bind(&config.listen).await?;
    let count = workers(&config);
    let telemetry = Telemetry::new(&config.metrics, count, Some(logging.clone()));
    let mut tasks = JoinSet::new();

    let (node, node_renewer) = node_certificate(&config);
    let settings = state::Settings::of(&config, env, node.clone())
        .context("the node's metadata is not valid")?;
    let (views, feed) = state::open(settings, telemetry.control());
    tasks.spawn(async move {
        feed.run().await;
    });

    let identities = identities(&config, &telemetry, node, &mut tasks)?;
    if let Some(renewer) = node_renewer {
        let identities = identities.clone();
        tasks.spawn(async move { match renewer.run(identities).await {} });
    }

    let pressure = memory_watched(&config, &telemetry, &mut tasks);
    let equipment = Equipment {
        views: views.clone(),
        identities: identities.clone(),
        telemetry: telemetry.clone(),
        settings: Settings { h2: config.h2.clone(), timeouts: config.timeouts.clone() },
        limits: config.limits.clone(),
        tcp: config.tcp.clone(),
        pressure,
        descriptors: descriptors.clone(),
    };
    let threads = Arc::new(Threads::start(count, &equipment).context("workers cannot be started")?);
    let (needs, asked) = mpsc::unbounded_channel();
    let pods = Pods::new(Means {
        threads: threads.clone(),
        needs,
        identities: identities.clone(),
        names: names(&config, &views, &telemetry, &descriptors),
        recorder: telemetry.control(),
        views: views.clone(),
        network: config.node.network.clone(),
        trust_domain: config.node.trust_domain.clone(),
        tcp: config.tcp.clone(),
        descriptors,
    });
    let roster = pods.roster();
    let zds = Zds::new(&config.zds.socket, pods, asked);
    let stop = Arc::new(Notify::new());
    let shown = Shown { views, identities, roster, knowledge: zds.knowledge() };
    let service = shown.service(&config, telemetry, logging, stop.clone());
    let admin = tasks.spawn(admin::serve(service, listeners, config.limits.admin_connections));
    let (phase, phases) = watch::channel(Phase::Serving);
    tasks.spawn_local(zds.run(phases));

    tracing::info!(node = config.node.name, workers = count, "proxy started");
    let stopped = until_stopped(&mut tasks, &threads, &stop).await;
    // Its addresses are for the next proxy, and nobody may find this one ready.
    admin.abort();
    // All else goes on until the last connection is finished: an accepted one still needs a socket of its pod
    // and a certificate, and a policy may still cut it. It ends with `tasks`.
    phase.send_replace(Phase::Draining);
    tracing::info!(within_ms = config.timeouts.drain.as_millis(), "draining");
    threads.drain(Instant::now() + config.timeouts.drain).await;
    tracing::info!("proxy stopped");
    stopped
}

/// What this node proves itself with to the control plane, and the work behind it.
fn node_certificate(config: &Config) -> (NodeCertificate, Option<NodeRenewer>) {
    match (CaSettings::of(config), config.ca.node_certificate) {
        (Some(settings), Switch::On) => {
            let of_xds = config.xds.address.as_ref().map(|_| config.xds.root.clone());
            let files = [config.ca.root.clone()].into_iter().chain(of_xds).collect();
            let (certificate, renewer) = NodeCertificate::new(settings, &config.node.name, files);
            (certificate, Some(renewer))
        }
        (Some(_), Switch::Off) | (None, _) => (NodeCertificate::none(), None),
    }
}

/// The certificates of the node's pods, renewed from now on.
fn identities(
    config: &Config,
    telemetry: &Telemetry,
    node: NodeCertificate,
    tasks: &mut JoinSet<()>,
) -> Result<Identities> {
    let store = Store::open(&config.node.state_dir.join("identities"))
        .context("certificates cannot be kept")?;
    let options = Options::new(Some(store), config.timeouts.certificate_wait);
    let service = CertificateService::new(CaSettings::of(config), node);
    let (identities, renewer) =
        Identities::new(options, Counted::new(service, telemetry.control()));
    tasks.spawn(renewer.run());
    Ok(identities)
}

/// How much memory is left, from now on.
fn memory_watched(
    config: &Config,
    telemetry: &Telemetry,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<Pressure> {
    let (watched, pressure) = watch::channel(Pressure::Normal);
    if config.limits.memory.0 > 0 {
        tasks.spawn(memory::watch_over(config.limits.memory.0, watched, telemetry.control()));
    }
    pressure
}

/// Completes with a signal, or with the first part that ended by itself.
async fn until_stopped(tasks: &mut JoinSet<()>, threads: &Threads, stop: &Notify) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened to")?;
    tokio::select! {
        // Biased: being told to stop is no failure, whatever else ends with it.
        biased;
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = stop.notified() => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Err(error)) => Err(error).context("a part of the proxy failed"),
            Some(Ok(())) | None => bail!("a part of the proxy ended"),
        },
        () = threads.crippled() => bail!("a worker thread ended"),
    }
}

/// What admin and the kubelet are shown.
struct Shown {
    views: Views,
    identities: Identities,
    roster: watch::Receiver<Vec<PodState>>,
    knowledge: watch::Receiver<Knowledge>,
}

impl Shown {
    fn service(
        self,
        config: &Config,
        telemetry: Arc<Telemetry>,
        logging: Arc<Logging>,
        stop: Arc<Notify>,
    ) -> admin::Service {
        let Self { views, identities, roster, knowledge } = self;
        let (dumped, open, pods) = (views.clone(), telemetry.clone(), roster.clone());
        admin::Service {
            config: config.to_json(),
            dump: Arc::new(move || {
                let (identities, connections) = (identities.all(), open.connections());
                let now = SystemTime::now();
                admin::dump(&dumped.current(), &identities, &pods.borrow(), &connections, now)
            }),
            logging,
            telemetry,
            pending: Arc::new(move || pending(&views, &roster, &knowledge)),
            // A permit is kept if nobody waits yet, so a stop during the start is not lost.
            stop: Arc::new(move || stop.notify_one()),
        }
    }
}

/// What is still waited for, in words.
fn pending(
    views: &Views,
    roster: &watch::Receiver<Vec<PodState>>,
    knowledge: &watch::Receiver<Knowledge>,
) -> Vec<String> {
    let mut pending = Vec::new();
    match views.readiness() {
        Readiness::Ready => {}
        Readiness::Pending(what) => pending.push(what.to_owned()),
    }
    match *knowledge.borrow() {
        Knowledge::Complete => {}
        Knowledge::Incomplete => pending.push("node agent: pods not told yet".to_owned()),
    }
    let unserved = roster.borrow().iter().filter(|pod| pod.status == PodStatus::Pending).count();
    if unserved > 0 {
        pending.push(format!("{unserved} pods cannot be served"));
    }
    pending
}

fn names(
    config: &Config,
    views: &Views,
    telemetry: &Telemetry,
    descriptors: &Descriptors,
) -> dns::Service {
    // Read once: a node's own resolver changes with a reboot, and it is only asked when a pod's cannot be told.
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let views = views.clone();
    dns::Service {
        config: config.dns.clone(),
        fallback: dns::resolvers(&resolv_conf),
        view: Arc::new(move || views.current()),
        recorder: telemetry.control(),
        descriptors: descriptors.clone(),
    }
}

fn workers(config: &Config) -> usize {
    match config.node.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        count => count.into(),
    }
}
