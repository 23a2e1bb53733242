//! Who signs certificates, and who says whose a token is: a data folder, or the mesh's namespace in a cluster.

use std::{pin::Pin, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    attest::Attestor,
    clock,
    compile::Mesh,
    data::Data,
    heard::Heard,
    lease::{Lease, Pace, while_held},
    metrics::Metrics,
    review::{NodeAccounts, Reviewer},
    signing::{Signing, fixed},
    stop::Stop,
    trust::{CaSource, LostRoot, Trust},
    watch::{self, Access},
};

/// The Lease of whoever writes the CA's Secrets.
const DUTY: &str = "weft-ca";

/// Where keys are kept, and how nodes prove themselves.
#[derive(Debug, Clone)]
pub enum Keys {
    /// In the data folder; tokens are made by `weft-control token`.
    DataFolder,
    /// In Secrets of the mesh's namespace; tokens are those of the nodes' service accounts.
    Cluster { access: Access, accounts: NodeAccounts, ca: CaSource, lost_root: LostRoot },
}

/// What was opened, and the work behind it.
pub(crate) struct Credentials {
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) signing: Signing,
    /// In a cluster only.
    pub(crate) trust: Option<Arc<Trust>>,
    pub(crate) tasks: Vec<(&'static str, Task)>,
}

/// Ends when it is told to stop.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) async fn open(
    keys: Keys,
    data: &Data,
    mesh: &Mesh,
    heard: Arc<Heard>,
    metrics: Arc<Metrics>,
    stop: &Stop,
) -> Result<Credentials> {
    let Keys::Cluster { access, accounts, ca, lost_root } = keys else {
        return of_folder(data, mesh);
    };
    let client = watch::connect(&access).await?;
    let namespace = accounts.namespace.clone();
    let domain = &mesh.trust_domain;
    let opened =
        Trust::open(client.clone(), &namespace, domain, ca, lost_root, heard, metrics).await;
    let (trust, signing) =
        opened.with_context(|| format!("there is no CA in namespace {namespace}"))?;
    let (lease, held) = Lease::new(client.clone(), &namespace, DUTY, &holder()?, Pace::default());
    let attestor = Arc::new(Attestor::Kubernetes(Box::new(Reviewer::new(client, accounts))));

    let (followed, tended) = (trust.clone(), trust.clone());
    let (mut follow, mut tend, mut compete) = (stop.clone(), stop.clone(), stop.clone());
    let follow = async move {
        tokio::select! {
            // Biased: a stop must win.
            biased;
            () = follow.stopped() => {}
            () = followed.follow() => {}
        }
    };
    let tend = async move {
        tokio::select! {
            // Biased: a stop must win.
            biased;
            () = tend.stopped() => {}
            () = while_held(held, || tended.tend()) => {}
        }
    };
    let compete = async move { lease.run(compete.stopped()).await };
    Ok(Credentials {
        attestor,
        signing,
        trust: Some(trust),
        tasks: vec![
            ("the watch of the CA", Box::pin(follow)),
            ("the care of the CA", Box::pin(tend)),
            ("the lease of the CA", Box::pin(compete)),
        ],
    })
}

fn of_folder(data: &Data, mesh: &Mesh) -> Result<Credentials> {
    let signing = fixed(data.authority(&mesh.trust_domain, clock::now())?);
    let attestor = Arc::new(Attestor::Own(Box::new(data.tokens()?)));
    Ok(Credentials { attestor, signing, trust: None, tasks: Vec::new() })
}

/// This process and no other, not even an earlier life of its pod.
pub(crate) fn holder() -> Result<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).context("no random bytes")?;
    Ok(format!("{}-{:016x}", host.trim(), u64::from_ne_bytes(bytes)))
}
