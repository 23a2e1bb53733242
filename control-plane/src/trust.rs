//! The mesh's CA on Kubernetes: roots and issuing CA in Secrets, the roots for all to read in a ConfigMap.
//!
//! ```text
//!   weft-root-ca (Secret)     the root, and during a change the next or the one before     rotation, stored
//!   weft-issuing-ca (Secret)  what signs leaves; renewed at half its life
//!   weft-trust-bundle         what nodes trust, and the wish for another root (annotation)
//!   weft-node-trust           what nodes have said to trust                                  nodes
//!   any Secret                a CA that others keep                                          plugin
//! ```
//!
//! Every replica reads and signs; one at a time writes, and each write names the version that it replaces.
//! A root is made once. Where one is missing that was there, nobody makes another without being told to.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::time;
use tracing::{debug, error, info, warn};
use weft_certs::{Authority, BundleError, IssueError};
use weft_model::TrustDomain;

use crate::{
    clock,
    heard::Heard,
    signing::{Signer, Signing, signing},
};

mod nodes;
mod place;
mod plugin;
mod rotation;
mod stored;

use nodes::Nodes;
use place::{ISSUING, Place, ROOT, api_error};
use plugin::PlugInError;
use rotation::{Due, Stage, Wish};
use stored::{StoredError, seconds};

/// Between two looks of the replica that writes.
const TEND_EVERY: Duration = Duration::from_secs(5);
/// Between two reports of a replica of what it heard.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Whose CA signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// Our own, made when the mesh is.
    Own,
    /// That of a Secret, which others keep: `cacerts` or one of cert-manager's.
    Secret(String),
}

/// What to do when the root is gone that nodes may trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostRoot {
    /// Refuse to start and say so.
    Refuse,
    /// Begin with another one. Every node must be given it.
    Replace,
}

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("cannot {doing} {name}")]
    Api {
        doing: &'static str,
        name: String,
        #[source]
        // Boxed: it is large, and every other error would be as large.
        source: Box<kube::Error>,
    },
    #[error(
        "Secret {ROOT} is missing but {sign} is there: nodes may trust the root that was in it. Restore the Secret, \
         or, to begin with a new root that every node must be given, start once with --reset-trust"
    )]
    Lost { sign: &'static str },
    #[error("Secret {name} is missing")]
    Missing { name: String },
    #[error("Secret {name} is not usable")]
    Stored {
        name: &'static str,
        #[source]
        source: StoredError,
    },
    #[error("Secret {name} is no CA")]
    PlugIn {
        name: String,
        #[source]
        source: PlugInError,
    },
    #[error("the roots in Secret {ROOT} are not usable")]
    Bundle(#[from] BundleError),
    #[error("the CA is not usable")]
    Issue(#[from] Box<IssueError>),
}

impl From<IssueError> for TrustError {
    fn from(error: IssueError) -> Self {
        Self::Issue(Box::new(error))
    }
}

/// The CA of a mesh on Kubernetes.
pub(crate) struct Trust {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    domain: TrustDomain,
    source: CaSource,
    signer: Signer,
    /// What the authority in force was made of.
    in_force: Mutex<String>,
    nodes: Nodes,
    status: ArcSwap<Value>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Trust {
    /// The CA that is kept, or the first one of the mesh. Errors: it cannot be had, or is not usable; then
    /// nothing may be signed.
    pub(crate) async fn open(
        client: Client,
        namespace: &str,
        domain: &TrustDomain,
        source: CaSource,
        lost: LostRoot,
        heard: Arc<Heard>,
    ) -> Result<(Arc<Self>, Signing), TrustError> {
        let secrets = Api::namespaced(client.clone(), namespace);
        let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
        let place = Place { secrets, maps: maps.clone(), domain: domain.clone() };
        let opened = match &source {
            CaSource::Own => place.first(lost).await?,
            CaSource::Secret(name) => place.plugged_in(name).await?,
        };
        let (signer, signing) = signing(opened.authority);
        let nodes = Nodes::new(maps, heard);
        let Place { secrets, maps, domain } = place;
        let trust = Self {
            secrets,
            maps,
            domain,
            source,
            signer,
            in_force: Mutex::new(opened.made_of),
            nodes,
            status: ArcSwap::default(),
        };
        Ok((Arc::new(trust), signing))
    }

    /// For `weft ca status`: where a change of roots is, and whom it waits for. Told by the replica that writes.
    pub(crate) fn status(&self) -> Arc<Value> {
        self.status.load_full()
    }

    /// Takes up what the Secrets hold whenever they change, and writes what nodes said. Never ends.
    pub(crate) async fn follow(&self) {
        let names = match &self.source {
            CaSource::Own => vec![ROOT, ISSUING],
            CaSource::Secret(name) => vec![name.as_str()],
        };
        let mut changes = stream::select_all(names.into_iter().map(|name| self.changes(name)));
        let mut report = time::interval(REPORT_EVERY);
        loop {
            tokio::select! {
                // Biased: another CA is rarer, and counts more.
                biased;
                Some(()) = changes.next() => self.reload().await,
                _ = report.tick() => if let Err(error) = self.nodes.write().await {
                    debug!(error = %error, "what nodes trust is not written");
                },
            }
        }
    }

    fn changes(&self, name: &str) -> impl Stream<Item = ()> + Unpin + Send + use<> {
        let changes = watch_object(self.secrets.clone(), name).default_backoff();
        Box::pin(changes.filter_map(async |found| match found {
            Ok(_) => Some(()),
            Err(error) => {
                debug!(error = %error, "the watch of a CA's Secret is broken");
                None
            }
        }))
    }

    async fn reload(&self) {
        match self.place().kept(&self.source).await {
            Ok(opened) => {
                let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
                if *in_force != opened.made_of {
                    *in_force = opened.made_of;
                    self.signer.replace(opened.authority);
                    info!("another CA is in force");
                }
            }
            Err(error) => {
                error!(error = chain(&error), "the CA is not usable: the last good one stays");
            }
        }
    }

    /// What one replica does: issues the issuing CA anew, changes roots step by step, publishes them. Never ends.
    pub(crate) async fn tend(&self) {
        let mut every = time::interval(TEND_EVERY);
        let mut well = true;
        loop {
            every.tick().await;
            let tended = match &self.source {
                CaSource::Own => self.tend_own().await,
                CaSource::Secret(name) => self.tend_plugged_in(name).await,
            };
            match &tended {
                Err(error) if well => warn!(error = chain(error), "the CA is not tended"),
                Err(_) | Ok(()) => {}
            }
            well = tended.is_ok();
        }
    }

    async fn tend_plugged_in(&self, name: &str) -> Result<(), TrustError> {
        let opened = self.place().plugged_in(name).await?;
        let place = self.place();
        place.publish(opened.authority.bundle()).await?;
        self.status.store(Arc::new(json!({
            "source": name,
            "bundle": opened.authority.bundle().fingerprint(),
            "issuing": validity(&opened.authority),
        })));
        Ok(())
    }

    async fn tend_own(&self) -> Result<(), TrustError> {
        let (place, now) = (self.place(), clock::now());
        let (secret, roots) = place.roots().await?;
        let issuing = place.issuing(&roots, now).await?;
        let bundle = roots.bundle()?;
        let wish = place.publish(&bundle).await?;
        if wish == Wish::Rotate && roots.stage != Stage::Settled {
            place.granted().await?;
        }
        let failed = |source| api_error("read or write", "what nodes trust", source);
        self.nodes.write().await.map_err(failed)?;
        let nodes = self.nodes.all(now).await.map_err(failed)?;
        let due = roots.due(wish, &nodes, &bundle.fingerprint(), now);
        self.status.store(Arc::new(json!({
            "source": "own",
            "stage": stage(&roots.stage),
            "bundle": bundle.fingerprint(),
            "nodes": nodes.len(),
            "waiting": if let Due::Nodes(names) = &due { names.as_slice() } else { &[] },
            "root": validity(&roots.authority(&self.domain)?),
            "issuing": validity(&issuing.authority),
        })));
        let next = match due {
            Due::Nothing | Due::Nodes(_) => return Ok(()),
            Due::Prepare => roots.prepared(&self.domain, now)?,
            Due::Activate => roots.activated(now),
            Due::Retire => roots.retired(now),
        };
        info!(stage = %stage(&next.stage), "the change of roots goes on");
        place.replace(ROOT, secret, stored::of_roots(&next)).await
    }

    fn place(&self) -> Place {
        let (secrets, maps) = (self.secrets.clone(), self.maps.clone());
        Place { secrets, maps, domain: self.domain.clone() }
    }
}

fn stage(stage: &Stage) -> Value {
    match stage {
        Stage::Settled => json!({"name": "settled"}),
        Stage::Preparing { since, .. } => json!({"name": "preparing", "since": seconds(*since)}),
        Stage::Retiring { until, .. } => json!({"name": "retiring", "until": seconds(*until)}),
    }
}

fn validity(authority: &Authority) -> Value {
    json!({
        "notBefore": seconds(authority.not_before()),
        "notAfter": seconds(authority.not_after()),
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
